"""The store behind PgBouncer as it is packaged, in both of its modes, with each way to sign in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
import trio

from contract.store_suite import a_draft
from debian import NoDebian
from nx_signal.adapters.postgres.store import PostgresDriver, open_postgres
from nx_signal.errors import SettingsError, StoreUnavailable, Unsupported
from nx_signal.model import Audience, Roster
from nx_signal.model.access import Member
from nx_signal.store import Database
from pgbouncer import PgBouncer
from services import Postgres, fresh_database, psql


def now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def pooler(
    target: str, pool_mode: str, users: dict[str, str] | None = None, **settings: str
) -> Iterator[PgBouncer]:
    try:
        made = PgBouncer(target, pool_mode, **settings)
    except NoDebian as why:
        pytest.skip(str(why))
    made.users.update(users or {})
    with made:
        yield made


async def write_and_read(url: str, name: str) -> None:
    async with open_postgres(url, now, 4) as database:
        for n in range(5):
            await database.inbox.insert([a_draft(f"u{k}", activity_id=f"{name}-{n}") for k in range(5)])
            await database.inbox.mark_all_read("u0", None, None, None, None)
            await database.inbox.summaries(["u0", "u1"])
            assert await database.directory.audiences([Audience("o1")]) == {Audience("o1"): ["ann"]}
        await database.check()


def is_pooled(database: Database) -> bool | None:
    assert isinstance(database.driver, PostgresDriver)
    return database.driver._pool._connector.pooled


LEFT = """
    SELECT (SELECT count(*) FROM pg_prepared_statements), current_setting('statement_timeout'),
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
               (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


@pytest.mark.parametrize(("pool_mode", "connections"), [("transaction", "3"), ("session", "30")])
async def test_instances_behind_a_pooler_that_they_were_not_told_of_write_and_read(
    postgres_server: str, pool_mode: str, connections: str
) -> None:
    """In transaction mode they share three connections of the server, and leave nothing on them."""
    with pooler(fresh_database(postgres_server), pool_mode, default_pool_size=connections) as bouncer:
        async with open_postgres(bouncer.url(), now, 4) as first:
            await first.migrate()
            await first.check()
            await first.directory.load(Roster((), (Member("ann", "o1", None, "staff", "vi"),), ()))
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for name in "abcd":
                        nursery.start_soon(write_and_read, bouncer.url(), name)
            heads = await first.inbox.summaries([f"u{k}" for k in range(1, 5)])
            assert {head.rev for head in heads.values()} == {20}
            assert is_pooled(first)
        if pool_mode == "transaction":
            assert psql(bouncer.url(), LEFT) == "0|0|0"


async def test_ids_of_instances_behind_a_pooler_and_beside_it_never_repeat(postgres_server: str) -> None:
    """With clocks that stand still, so that only the worker id and what is in the table keep them apart."""

    def stopped() -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    target = fresh_database(postgres_server)
    with pooler(target, "transaction") as bouncer:
        async with (
            open_postgres(target, stopped, 2) as direct,
            open_postgres(bouncer.url(), stopped, 4) as one,
            open_postgres(bouncer.url(), stopped, 4) as two,
        ):
            await one.migrate()

            async def write(database: Database, name: str) -> None:
                for n in range(20):
                    await database.inbox.insert(
                        [a_draft(f"{name}{k}", activity_id=f"a{n}") for k in range(3)]
                    )

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for database, name in ((direct, "x"), (one, "y"), (one, "v"), (two, "z"), (two, "w")):
                        nursery.start_soon(write, database, name)
            assert not is_pooled(direct)
        assert psql(target, "SELECT count(*) FROM activity_notification") == "300"


async def test_a_url_may_state_that_the_pooler_keeps_sessions(postgres_server: str) -> None:
    with pooler(fresh_database(postgres_server), "session", default_pool_size="10") as bouncer:
        async with open_postgres(bouncer.url(parameters="?pool_mode=session"), now, 2) as database:
            await database.migrate()
            assert len(await database.inbox.insert([a_draft("u", activity_id="a")])) == 1
            assert is_pooled(database) is False


@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
async def test_each_way_to_sign_in_works_and_a_wrong_password_is_a_sentence(
    postgres_server: str, auth_type: str
) -> None:
    target = fresh_database(postgres_server)
    with pooler(target, "transaction", {"signal": "p@ss/w#rd%"}, auth_type=auth_type) as bouncer:
        async with open_postgres(bouncer.url("signal:p%40ss%2Fw%23rd%25"), now, 2) as database:
            await database.migrate()
            await database.check()
        async with open_postgres(bouncer.url("signal:wr0ng"), now, 2) as database:
            with pytest.raises(SettingsError, match="Check user, password") as caught:
                await database.check()
        assert "wr0ng" not in str(caught.value)


async def test_statement_mode_ends_with_a_sentence_whatever_is_called(
    postgres_server: str,
) -> None:
    """It cuts the connection at BEGIN, which looks like something that passes."""
    target = fresh_database(postgres_server)
    with pooler(target, "statement") as bouncer:
        async with open_postgres(bouncer.url(), now, 2) as database:
            for call in (database.migrate, database.check, partial(database.inbox.summaries, ["u"])):
                with pytest.raises(Unsupported, match="set its pool_mode to transaction or session"):
                    await call()


async def test_what_a_pooler_refuses_ends_with_a_sentence_and_what_passes_is_waited_for(
    own_postgres: Postgres,
) -> None:
    with pooler(own_postgres.url, "transaction", query_wait_timeout="1") as bouncer:
        for url, words in (
            (f"postgresql://signal@{bouncer.address}/nowhere", "bouncer config error"),
            (bouncer.url(parameters="?options=project%3Dx"), "unsupported startup parameter"),
        ):
            async with open_postgres(url, now, 2) as database:
                with pytest.raises(SettingsError, match=words):
                    await database.check()
        async with open_postgres(bouncer.url(), now, 2) as database:
            await database.migrate()
            await trio.to_thread.run_sync(own_postgres.stop)
            with pytest.raises(StoreUnavailable):
                await database.check()
            async with open_postgres(bouncer.url(), now, 2) as late:
                with pytest.raises(StoreUnavailable):
                    await late.check()
                await trio.to_thread.run_sync(own_postgres.start)
                with trio.fail_after(20):
                    while True:
                        try:
                            await late.check()
                            await database.check()
                            break
                        except StoreUnavailable:
                            await trio.sleep(0.1)
