"""A schema that others use too: what is theirs stays, and what is in the way is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contract.store_suite import a_draft
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.errors import SettingsError
from nx_signal.model import OPERATOR_ROLE, PERMISSIONS, Audience, Memberships
from nx_signal.store.sql import steps
from services import fresh_database, psql


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def url(postgres_server: str) -> str:
    return fresh_database(postgres_server)


def tables(url: str, schema: str = "public") -> set[str]:
    listed = psql(url, f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")  # noqa: S608
    return set(listed.split())


async def migrated(url: str, schema: str | None = None) -> list[str]:
    """The steps taken; then the store is in use."""
    async with open_postgres(url, now, 2, schema) as store:
        taken = list(await store.migrate())
        await store.check()
        assert len(await store.inbox.insert([a_draft("u")])) in (0, 1)
        return taken


OTHERS = {
    "a version table like ours": (
        "CREATE TABLE schema_version (version integer PRIMARY KEY, name text, applied_at timestamptz);"
        "INSERT INTO schema_version SELECT n, 'theirs', now() FROM generate_series(1, 9) n"
    ),
    "a version table of another form": (
        "CREATE TABLE schema_version (version varchar PRIMARY KEY, script varchar, installed timestamp);"
        "INSERT INTO schema_version VALUES ('1.0', 'a.sql', now())"
    ),
    "an empty version table": "CREATE TABLE schema_version (version int, name text, applied_at timestamptz)",
    "both tables of versions": (
        "CREATE TABLE schema_version (id integer); CREATE TABLE schema_addition (id integer)"
    ),
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS.keys())
async def test_another_programs_version_table_is_neither_believed_nor_changed(url: str, others: str) -> None:
    psql(url, others)
    before = psql(url, "SELECT * FROM schema_version")
    assert len(await migrated(url)) == len(steps("postgres"))
    assert psql(url, "SELECT * FROM schema_version") == before
    assert await migrated(url) == []


IN_THE_WAY = {
    "merchant, which lacks organizer_id": "CREATE TABLE merchant (id uuid PRIMARY KEY, name text)",
    "role, which lacks identifier": "CREATE TABLE role (id bigint PRIMARY KEY, name text)",
    "the type role": "CREATE TYPE role AS ENUM ('admin')",
    "organizer": "CREATE TABLE organizer (id text PRIMARY KEY, locale text)",
    "dead_letter; merchant": "CREATE TABLE dead_letter (x integer); CREATE TABLE merchant (id integer)",
    "recipient_head": "CREATE SEQUENCE recipient_head",
    "policy_definition, whose subject_id is no text": (
        "CREATE TABLE policy_definition (variant text, subject_type text, subject_id uuid, target_type text,"
        " target_id text, effect text, domain text)"
    ),
}


@pytest.mark.parametrize(("named", "others"), IN_THE_WAY.items(), ids=IN_THE_WAY.keys())
async def test_what_is_in_the_way_is_named_nothing_is_changed_and_a_schema_of_its_own_works(
    url: str, named: str, others: str
) -> None:
    psql(url, others)
    before = tables(url)
    async with open_postgres(url, now, 2) as store:
        with pytest.raises(SettingsError, match="APP_ENV_DATABASE_SCHEMA") as caught:
            await store.migrate()
    assert named in str(caught.value)
    assert tables(url) == before
    assert len(await migrated(url, "Signal's own")) == len(steps("postgres"))
    assert tables(url) == before
    assert psql(url, 'SELECT count(*) FROM "Signal\'s own".activity_notification') == "1"


PLATFORM = """
    CREATE TABLE merchant (id uuid PRIMARY KEY, organizer_id bigint NOT NULL, name varchar NOT NULL);
    CREATE TABLE role (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), identifier varchar(64) NOT NULL);
    CREATE TABLE permission (id serial PRIMARY KEY, code varchar UNIQUE, scope varchar NOT NULL DEFAULT 'x');
    CREATE TABLE policy_definition (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), variant varchar(10) NOT NULL,
        subject_type varchar NOT NULL, subject_id varchar NOT NULL, target_type varchar NOT NULL,
        target_id varchar NOT NULL, action varchar,
        effect varchar, domain varchar, created_at timestamptz NOT NULL {default}
    );
    INSERT INTO permission (code) VALUES ('Payment.refund'), ('Activity.publish');
    INSERT INTO merchant VALUES ('6f1c36a1-0d6e-4a3c-9f51-000000000001', 7, 'A shop');
    INSERT INTO policy_definition
        (variant, subject_type, subject_id, target_type, target_id, domain, created_at)
    VALUES ('group', 'User', 'ann', 'Role', 'staff', 'Merchant_6f1c36a1-0d6e-4a3c-9f51-000000000001', now())
"""
SHOP = "6f1c36a1-0d6e-4a3c-9f51-000000000001"


@pytest.mark.parametrize("default", ["DEFAULT now()", ""], ids=["writable", "a column without a default"])
async def test_the_platforms_own_tables_are_used_where_they_are(url: str, default: str) -> None:
    for statement in PLATFORM.format(default=default).split(";"):
        psql(url, statement)
    async with open_postgres(url, now, 2) as store:
        taken = await store.migrate()
        assert any("adopted merchant, permission, policy_definition, role" in line for line in taken)
        assert any("created_at" in line for line in taken) is not bool(default)
        await store.check()
        asked = Audience("7"), Audience("7", SHOP), Audience("8", SHOP)
        found = await store.directory.audiences(asked)
        assert [list(found[key]) for key in asked] == [["ann"], ["ann"], []]
        held = await store.directory.memberships(["ann"])
        assert held == {"ann": Memberships(frozenset({"7"}), frozenset({SHOP}))}
        granted = await store.directory.permissions("op", [OPERATOR_ROLE])
        assert granted == (frozenset(PERMISSIONS) if default else frozenset()), "and none of the platform's"
        assert list(await store.migrate()) == []


async def test_an_installation_of_the_release_before_moves_over_and_its_instances_go_on(url: str) -> None:
    known = steps("postgres")
    for step in known[:5]:
        for statement in step.sql.split(";\n"):
            if "".join(line for line in statement.splitlines() if not line.startswith("--")).strip():
                psql(url, statement)
    psql(
        url,
        "CREATE TABLE schema_version (version integer PRIMARY KEY, name text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now())",
    )
    psql(url, "CREATE TABLE schema_addition (version integer PRIMARY KEY, name text NOT NULL)")
    for step in known[:5]:
        table = "schema_addition" if step.additive else "schema_version"
        psql(url, f"INSERT INTO {table} (version, name) VALUES ({step.version}, '{step.name}')")  # noqa: S608
    assert await migrated(url) == [step.name for step in known[5:]]
    assert psql(url, "SELECT max(version) FROM schema_version") == "4"
    assert psql(url, "SELECT max(version) FROM schema_addition") == "5"
    assert psql(url, "SELECT count(*) FROM signal_schema") == str(len(known))
    assert await migrated(url) == []


async def test_a_table_that_was_removed_or_changed_is_noticed_though_every_step_was_taken(url: str) -> None:
    await migrated(url)
    psql(url, "ALTER TABLE dead_letter RENAME COLUMN error TO reason")
    async with open_postgres(url, now, 2) as store:
        for call in (store.check, store.migrate):
            with pytest.raises(Exception, match="does not have the schema of this release"):
                await call()


async def test_an_installation_in_a_schema_of_the_role_is_found_without_the_setting(
    url: str, postgres_server: str
) -> None:
    """Of a release before, which made its tables in the first schema of the search_path."""
    await migrated(url, "signal")
    name = url.rpartition("/")[2]
    psql(postgres_server, f"ALTER DATABASE {name} SET search_path = signal, public")
    assert await migrated(url) == []
    assert tables(url) == set()


async def test_a_schema_that_may_not_be_used_is_a_sentence(url: str) -> None:
    await migrated(url, "signal")
    user = f"u_{url.rpartition('_')[2]}"
    psql(url, f"CREATE ROLE {user} LOGIN")
    async with open_postgres(url.replace("signal@", f"{user}@"), now, 2, "signal") as store:
        with pytest.raises(SettingsError):
            await store.migrate()
