"""Tickets over a store in memory."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal import store
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import TokenRejected
from nx_signal.identity.tickets import LIFETIME, MAX_PER_USER, TicketPurpose, Tickets
from nx_signal.inbox import pruning
from nx_signal.inbox.pruning import KEEP_ALL, Pruning
from nx_signal.model import Principal

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    def __init__(self) -> None:
        self.time = START
        self.database = MemoryDatabase(lambda: self.time)
        self.tickets = Tickets(self.database.tickets)
        self.principal = Principal(
            "u1", "jti-1", START + timedelta(hours=1), frozenset({"Activity.publish"}), frozenset({"staff"})
        )

    async def issue(self, purpose: TicketPurpose = "stream") -> str:
        return (await self.tickets.issue(self.principal, purpose)).text

    async def refusal(self, text: str, purpose: TicketPurpose = "stream") -> str:
        with pytest.raises(TokenRejected) as refused:
            await self.tickets.use(text, purpose)
        return str(refused.value)

    def rows(self) -> list[tuple[object, ...]]:
        return self.database.driver.connection.execute("SELECT * FROM ticket").fetchall()


@pytest.fixture
async def world() -> World:
    world = World()
    await world.database.migrate()
    return world


async def test_a_ticket_stands_in_for_its_token_once(world: World) -> None:
    ticket = await world.tickets.issue(world.principal, "events")
    assert ticket.expires_at == START + LIFETIME
    assert await world.tickets.use(ticket.text, "events") == world.principal
    await world.refusal(ticket.text, "events")


async def test_a_ticket_is_256_random_bits_after_a_prefix(world: World) -> None:
    texts = {await world.issue() for _ in range(MAX_PER_USER)}
    assert len(texts) == MAX_PER_USER
    assert all(re.fullmatch("sgt_[A-Za-z0-9_-]{43}", text) for text in texts)


async def test_the_store_holds_no_ticket(world: World) -> None:
    text = await world.issue()
    (row,) = world.rows()
    assert not any(text[4:16] in str(value) for value in row)


async def test_every_refusal_is_the_same(world: World) -> None:
    used, expired, other = [await world.issue() for _ in range(3)]
    await world.tickets.use(used, "stream")
    refusals = {await world.refusal(used), await world.refusal("sgt_" + "A" * 43)}
    refusals |= {await world.refusal(other, "events"), await world.refusal("nothing of the kind")}
    world.time += LIFETIME
    assert len(refusals | {await world.refusal(expired)}) == 1


async def test_a_ticket_that_was_presented_for_another_purpose_cannot_be_used(world: World) -> None:
    text = await world.issue("events")
    await world.refusal(text, "stream")
    await world.refusal(text, "events")


class _Untouched:
    async def use(self, hash: str, purpose: str) -> None:
        raise AssertionError("The store was asked.")


@given(st.text() | st.from_regex(r"sgt_[A-Za-z0-9_-]{40,46}", fullmatch=True).filter(lambda t: len(t) != 47))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_has_not_the_form_of_a_ticket_costs_no_query(text: str) -> None:
    async def refused() -> None:
        with pytest.raises(TokenRejected):
            await Tickets(cast(store.Tickets, _Untouched())).use(text, "stream")

    trio.run(refused)


async def test_a_user_has_at_most_32_live_tickets_and_the_oldest_goes(world: World) -> None:
    texts = []
    for _ in range(MAX_PER_USER + 1):
        world.time += timedelta(milliseconds=1)
        texts.append(await world.issue())
    assert len(world.rows()) == MAX_PER_USER
    await world.refusal(texts[0])
    for text in texts[1:]:
        assert await world.tickets.use(text, "stream") == world.principal


async def test_expired_tickets_are_removed_within_a_minute(world: World, autojump_clock: MockClock) -> None:
    for _ in range(MAX_PER_USER):
        await world.issue()
    world.time += LIFETIME
    kept = await world.issue()
    database = world.database
    upkeep = Pruning(
        database.dead_letters,
        database.traces,
        database.corrections,
        database.tickets,
        lambda: world.time,
        KEEP_ALL,
    )
    with trio.move_on_after(pruning.TICKETS_EVERY_S + 1):
        await upkeep.run()
    assert len(world.rows()) == 1
    assert await world.tickets.use(kept, "stream") == world.principal


async def test_refusals_are_logged_once_a_minute_without_the_ticket(
    world: World, autojump_clock: MockClock
) -> None:
    text = await world.issue()
    await world.tickets.use(text, "stream")
    with structlog.testing.capture_logs() as logs:
        for _ in range(120):
            await world.refusal(text)
            await trio.sleep(1)
    assert [(line["event"], line["purpose"]) for line in logs] == [("ticket_refused", "stream")] * 2
    assert text not in str(logs)
