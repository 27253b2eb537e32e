"""A replayed dead letter leaves what a first success would have left, once, whatever happens on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources.abc import Traversable
from typing import Any
from unittest.mock import patch

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal.activities import handling as handling_module
from nx_signal.activities.content import Renderer
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.registry import Phrase, Registry
from nx_signal.activities.replay import Replay
from nx_signal.activities.types import SHIPPED, PaymentData, PaymentSuccess
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import MessageRejected, StoreRejected, StoreUnavailable
from nx_signal.model import (
    Activity,
    Change,
    Created,
    DeadLetter,
    Draft,
    InboxFilter,
    Member,
    Organizer,
    Position,
    Record,
    Roster,
)
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

USERS = ("ann", "binh", "chi", "dung", "actor")
ROSTER = Roster(
    organizers=[Organizer("o1", "vi", ("m1",))],
    members=[Member(user, "o1", "m1", "staff", None) for user in USERS[:4]],
    grants=[],
)


class Faulty(PaymentSuccess):
    """As a release with a bug would have it."""

    def phrase(self, data: PaymentData, activity: Activity) -> Phrase:
        raise RuntimeError("a bug")

    def locales(self) -> Traversable:
        return PaymentSuccess().locales()


MENDED = Registry.shipped()
FAULTY = Registry([Faulty() if type.name == Faulty.name else type for type in SHIPPED])
WITHOUT = Registry([type for type in SHIPPED if type.name != Faulty.name])
RENDERERS = {id(registry): Renderer(registry, "UTC") for registry in (MENDED, FAULTY, WITHOUT)}


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def record(offset: int, event_id: str | None = None, **changes: Any) -> Record:
    message = {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "merchant",
        "merchantId": "m1",
        "actorId": "actor",
        "organizerId": "o1",
        "data": {"payment": {"amount": 1250000}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **({} if event_id is None else {"eventId": event_id}),
        **changes,
    }
    return Record(Position("t", 3, offset), "key", json.dumps(message).encode())


class World:
    """A store, and what handles records into it; `refused` (activity, recipient) pairs are not taken."""

    def __init__(self) -> None:
        self.database = MemoryDatabase(now)
        self.announced: list[Change] = []
        self.refused: set[tuple[str, str]] = set()
        insert = self.database.inbox.insert

        async def fussy(drafts: Sequence[Draft]) -> Sequence[Created]:
            if any((draft.activity_id, draft.recipient_id) in self.refused for draft in drafts):
                raise StoreRejected("a value cannot be stored")
            return await insert(drafts)

        self.database.inbox.insert = fussy  # type: ignore[method-assign]

    def pipeline(self, registry: Registry) -> Pipeline:
        metrics = Metrics()
        return Pipeline(
            registry=registry,
            renderer=RENDERERS[id(registry)],
            database=self.database,
            announce=self.announced.extend,
            health=Health(("store",), metrics),
            metrics=metrics,
        )

    async def arrive(self, registry: Registry, *records: Record) -> None:
        await self.pipeline(registry)._handle(records, set())

    def replay(self, registry: Registry) -> Replay:
        return Replay(self.pipeline(registry).handling, self.database, Metrics())

    async def letters(self) -> Sequence[DeadLetter]:
        return await self.database.dead_letters.page(1000, None)

    async def rows(self) -> Counter[Any]:
        """All that a first success and a later one have in common."""
        found: Counter[Any] = Counter()
        for user in USERS:
            for row in (await self.database.inbox.page(user, InboxFilter(), 1000, None, 0)).rows:
                found[user, row.activity_id, row.type, row.locale, row.content, row.action_url] += 1
        return found


@pytest.fixture
async def world() -> World:
    world = World()
    await world.database.directory.load(ROSTER)
    return world


async def test_what_failed_for_a_bug_of_ours_is_replayed_once_the_bug_is_mended(world: World):
    await world.arrive(FAULTY, record(7))
    (letter,) = await world.letters()
    assert not await world.rows()
    trace = await world.replay(MENDED).replay(letter.id)
    assert trace is not None
    assert (trace.outcome, trace.recipients) == ("stored", 4)
    assert {activity for _, activity, *_ in await world.rows()} == {"t/3/7"}, "its original position"
    assert await world.letters() == []
    assert {change.recipient_id for change in world.announced} == set(USERS[:4])
    kept = await world.database.traces.get("t/3/7")
    assert kept is not None and (kept.outcome, kept.position, kept.reason) == ("stored", "t/3/7", None)


async def test_a_letters_event_id_and_header_are_its_identity(world: World):
    headed = Record(Position("t", 3, 8), None, record(8).value, {"ce_id": b"from-header"})
    await world.arrive(FAULTY, record(7, "from-message"), headed)
    for letter in await world.letters():
        await world.replay(MENDED).replay(letter.id)
    assert {activity for _, activity, *_ in await world.rows()} == {"from-message", "from-header"}


async def test_a_replay_that_fails_again_keeps_the_letter_with_the_new_reason(world: World):
    await world.arrive(FAULTY, record(7))
    (letter,) = await world.letters()
    world.refused = {("t/3/7", "ann")}
    with pytest.raises(MessageRejected, match="a value cannot be stored"):
        await world.replay(MENDED).replay(letter.id)
    (after,) = await world.letters()
    assert (after.id, after.position, after.error) == (letter.id, letter.position, "a value cannot be stored")
    trace = await world.database.traces.get("t/3/7")
    assert trace is not None and trace.reason == "a value cannot be stored"
    assert not await world.rows()


async def test_a_letter_of_a_type_that_is_gone_is_not_thrown_away(world: World):
    await world.arrive(FAULTY, record(7))
    (letter,) = await world.letters()
    with pytest.raises(MessageRejected, match="PAYMENT_SUCCESS is not known here"):
        await world.replay(WITHOUT).replay(letter.id)
    assert len(await world.letters()) == 1


async def test_an_unknown_letter_is_none(world: World):
    assert await world.replay(MENDED).replay(7) is None


async def test_a_store_that_is_away_leaves_the_letter_where_it_is(world: World):
    await world.arrive(FAULTY, record(7))
    (letter,) = await world.letters()
    world.database.unavailable = True
    with pytest.raises(StoreUnavailable):
        await world.replay(MENDED).replay(letter.id)
    world.database.unavailable = False
    assert await world.letters() == [letter]


async def test_two_replays_of_one_letter_at_once_write_once(world: World):
    await world.arrive(FAULTY, record(7))
    (letter,) = await world.letters()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(world.replay(MENDED).replay, letter.id)
    assert sum((await world.rows()).values()) == len(world.announced) == 4
    assert await world.letters() == []


@dataclass
class Trouble:
    """The n-th call of the store from now fails: unavailable or cancelled, before or after its effect."""

    at: int
    after: bool
    cancels: bool

    def arm(self, database: MemoryDatabase, scope: trio.CancelScope) -> None:
        left = self.at

        async def hook() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                if not self.cancels:
                    raise StoreUnavailable("trouble")
                scope.cancel()
                await trio.lowlevel.checkpoint()

        if self.after:
            database.delay_after = hook
        else:
            database.delay = hook


EVENTS = st.one_of(st.none(), st.sampled_from(["e1", "e2", "e3"]))
TROUBLES = st.lists(
    st.builds(Trouble, at=st.integers(1, 6), after=st.booleans(), cancels=st.booleans()), max_size=4
)


@given(
    events=st.lists(EVENTS, min_size=1, max_size=6),
    ways=st.data(),
    troubles=TROUBLES,
    refused=st.sets(st.tuples(st.sampled_from(["e1", "e2", "t/3/0", "t/3/1"]), st.sampled_from(USERS[:4]))),
)
def test_after_mending_and_replaying_the_rows_are_those_of_a_first_success(
    events: list[str | None], ways: Any, troubles: list[Trouble], refused: set[tuple[str, str]]
):
    async def compare() -> None:
        records = [record(offset, event_id) for offset, event_id in enumerate(events)]
        hopeless = Record(Position("t", 3, 100), None, b"not json")

        first = World()
        await first.database.directory.load(ROSTER)
        await first.arrive(MENDED, *records, hopeless)

        second = World()
        await second.database.directory.load(ROSTER)
        second.refused = refused
        split = ways.draw(st.integers(0, len(records)))
        await second.arrive(FAULTY, *records[:split], hopeless)
        if records[split:]:
            await second.arrive(MENDED, *records[split:])
        second.refused = set()

        waiting = list(troubles)
        while letters := [each for each in await second.letters() if each.position != hopeless.position]:
            letter = ways.draw(st.sampled_from(letters))
            with trio.CancelScope() as scope:
                if waiting:
                    waiting.pop().arm(second.database, scope)
                with suppress(StoreUnavailable):
                    await second.replay(MENDED).replay(letter.id)
            second.database.delay = second.database.delay_after = None

        assert await second.rows() == await first.rows()
        assert all(count == 1 for count in (await second.rows()).values())
        heads = [await world.database.inbox.heads(USERS) for world in (first, second)]
        assert heads[0] == heads[1], "revisions without a gap, and the same counts"
        told = Counter((change.recipient_id, change.rev) for change in second.announced)
        assert all(count == 1 for count in told.values()), "nothing is announced twice"
        if not troubles:
            assert len(told) == sum((await second.rows()).values())
        (left,) = await second.letters()
        with pytest.raises(MessageRejected):
            await second.replay(MENDED).replay(left.id)
        assert [each.id for each in await second.letters()] == [left.id]
        for activity in {activity for _, activity, *_ in await first.rows()}:
            trace = await second.database.traces.get(activity)
            assert trace is not None and trace.outcome in ("stored", "duplicate")

    # An activity is written in two portions; tracebacks on a console take most of the time.
    with patch.object(handling_module, "MAX_DRAFTS", 3), structlog.testing.capture_logs():
        trio.run(compare, clock=MockClock(autojump_threshold=0))
