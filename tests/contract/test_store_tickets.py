"""store.Tickets, on every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from contract.store_suite import Clock, OpenDatabase, unique
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model import Principal
from nx_signal.store import Database, Tickets

LIFETIME = timedelta(seconds=30)


@pytest.fixture
def tickets(database: Database) -> Tickets:
    return database.tickets


def a_principal(clock: Clock, **changes: Any) -> Principal:
    values: dict[str, Any] = {
        "user_id": unique("user"),
        "token_id": "jti-1",
        "expires_at": clock() + timedelta(hours=1),
        "permissions": frozenset({"Activity.publish", "Member.find"}),
        "roles": frozenset({"signal-operator"}),
    }
    return Principal(**(values | changes))


async def add(tickets: Tickets, hash: str, principal: Principal, purpose: str = "stream") -> datetime:
    return await tickets.add(hash, principal, purpose, LIFETIME, most=3)


async def test_a_ticket_gives_the_principal_that_it_was_made_with_once(
    tickets: Tickets, clock: Clock
) -> None:
    principal, hash = a_principal(clock), unique("hash")
    assert await add(tickets, hash, principal) == clock() + LIFETIME
    assert await tickets.use(hash, "stream") == principal
    assert await tickets.use(hash, "stream") is None


@pytest.mark.parametrize("token_id", [None, "\0", "\ud83d", "ü" * 8_000])
async def test_claims_of_any_characters_come_back_as_they_were(
    tickets: Tickets, clock: Clock, token_id: str | None
) -> None:
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    odd = frozenset({"\0", "\udc00", ""})
    principal, hash = a_principal(clock, token_id=token_id, permissions=odd, expires_at=end), unique("hash")
    await add(tickets, hash, principal)
    assert await tickets.use(hash, "stream") == principal


async def test_an_unknown_ticket_gives_nothing(tickets: Tickets) -> None:
    assert await tickets.use(unique("hash"), "stream") is None


async def test_a_ticket_gives_nothing_once_it_has_expired(tickets: Tickets, clock: Clock) -> None:
    early, late = unique("hash"), unique("hash")
    for hash in (early, late):
        await add(tickets, hash, a_principal(clock))
    clock.tick(29_999)
    assert await tickets.use(early, "stream") is not None
    clock.tick()
    assert await tickets.use(late, "stream") is None


async def test_a_ticket_expires_no_later_than_the_token_it_was_made_with(
    tickets: Tickets, clock: Clock
) -> None:
    principal, hash = a_principal(clock, expires_at=clock() + timedelta(seconds=2)), unique("hash")
    assert await add(tickets, hash, principal) == principal.expires_at
    clock.tick(2_000)
    assert await tickets.use(hash, "stream") is None


async def test_a_ticket_that_is_used_for_another_purpose_is_gone(tickets: Tickets, clock: Clock) -> None:
    hash = unique("hash")
    await add(tickets, hash, a_principal(clock), "events")
    assert await tickets.use(hash, "stream") is None
    assert await tickets.use(hash, "events") is None


async def test_beyond_a_number_those_of_the_same_user_that_expire_first_are_removed(
    tickets: Tickets, clock: Clock
) -> None:
    principal, other = a_principal(clock), a_principal(clock)
    hashes, others = [unique("hash") for _ in range(5)], unique("hash")
    await add(tickets, others, other)
    for hash in hashes:
        clock.tick()
        await add(tickets, hash, principal)
    found = [await tickets.use(hash, "stream") is not None for hash in hashes]
    assert found == [False, False, True, True, True]
    assert await tickets.use(others, "stream") == other


async def test_expired_tickets_are_removed_in_portions_and_no_others(
    tickets: Tickets, database: Database, clock: Clock
) -> None:
    while await tickets.remove_expired(1_000):  # of the tests before
        pass
    clock.tick(-3_600_000)
    for _ in range(5):
        await add(tickets, unique("hash"), a_principal(clock))
    clock.tick(3_600_000)
    principal, hash = a_principal(clock), unique("hash")
    await add(tickets, hash, principal)
    assert [await tickets.remove_expired(3) for _ in range(3)] == [3, 2, 0]
    assert await tickets.use(hash, "stream") == principal


async def test_of_two_instances_that_use_a_ticket_at_once_one_gets_the_principal(
    open_database: OpenDatabase, database: Database, clock: Clock
) -> None:
    async with open_database() as other:
        instances = [database, database if isinstance(database, MemoryDatabase) else other]
        for _ in range(20):
            hash, got = unique("hash"), list[Principal | None]()
            await add(database.tickets, hash, principal := a_principal(clock))

            async def use(each: Database, hash: str, got: list[Principal | None]) -> None:
                got.append(await each.tickets.use(hash, "stream"))

            async with trio.open_nursery() as nursery:
                for each in instances * 2:
                    nursery.start_soon(use, each, hash, got)
            assert sorted(got, key=bool) == [None, None, None, principal]


async def test_additions_at_once_keep_no_more_than_the_number(
    open_database: OpenDatabase, database: Database, clock: Clock
) -> None:
    principal, hashes = a_principal(clock), [unique("hash") for _ in range(24)]
    async with trio.open_nursery() as nursery:
        for hash in hashes:
            nursery.start_soon(add, database.tickets, hash, principal)
    assert [await database.tickets.use(hash, "stream") for hash in hashes].count(principal) == 3
