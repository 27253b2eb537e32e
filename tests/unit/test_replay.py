"""A replayed dead letter leaves what a first success would have left, once, whatever fails on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources.abc import Traversable
from typing import Any
from unittest.mock import patch

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal.activities import processor as processor_module
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.event_type import MessageArguments
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.processor import ActivityProcessor
from nx_signal.activities.registry import Registry
from nx_signal.activities.replay import Replay
from nx_signal.activities.types import SHIPPED, PaymentData, PaymentSuccess
from nx_signal.adapters.sqlite.memory import MemoryDatabase
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
from nx_signal.ports import Batch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

USERS = ("ann", "binh", "chi", "dung", "actor")
ROSTER = Roster(
    organizers=[Organizer("o1", "vi", ("m1",))],
    members=[Member(user, "o1", "m1", "staff", None) for user in USERS[:4]],
    grants=[],
)


class Faulty(PaymentSuccess):
    """The type in a release with a bug."""

    def message_arguments(self, data: PaymentData, activity: Activity) -> MessageArguments:
        raise RuntimeError("a bug")

    def locales(self) -> Traversable:
        return PaymentSuccess().locales()


FIXED = Registry.shipped()
FAULTY = Registry([Faulty() if type.name == Faulty.name else type for type in SHIPPED])
WITHOUT = Registry([type for type in SHIPPED if type.name != Faulty.name])
RENDERERS = {id(registry): Renderer(registry, "UTC") for registry in (FIXED, FAULTY, WITHOUT)}


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
    """A store and processors for it; drafts of the `refused` (activity, recipient) pairs are refused."""

    def __init__(self) -> None:
        self.time = now()
        self.database = MemoryDatabase(now)
        self.announced: list[Change] = []
        self.refused: set[tuple[str, str]] = set()
        insert = self.database.inbox.insert

        async def fussy(drafts: Sequence[Draft]) -> Sequence[Created]:
            if any((draft.activity_id, draft.recipient_id) in self.refused for draft in drafts):
                raise StoreRejected("a value cannot be stored")
            return await insert(drafts)

        self.database.inbox.insert = fussy  # type: ignore[method-assign]

    def processor(self, registry: Registry) -> ActivityProcessor:
        return compose_activities(
            registry=registry,
            renderer=RENDERERS[id(registry)],
            database=self.database,
            announce=self.announced.extend,
            metrics=Metrics(),
            now=lambda: self.time,
        ).processor

    async def arrive(self, registry: Registry, *records: Record) -> None:
        metrics = Metrics()
        pipeline = Pipeline(
            self.processor(registry), self.database, "p1", Health(("store",), metrics), metrics
        )
        send, batches = trio.open_memory_channel[Batch](1)
        acked = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.run, batches)
            await send.send(Batch(records, acked.set))
            await acked.wait()
            await pipeline.finish()

    def replay(self, registry: Registry) -> Replay:
        return Replay(self.processor(registry), self.database.dead_letters, Metrics())

    async def dead_letters(self) -> Sequence[DeadLetter]:
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


async def test_what_failed_because_of_a_bug_is_replayed_once_the_bug_is_fixed(world: World) -> None:
    await world.arrive(FAULTY, record(7))
    (dead_letter,) = await world.dead_letters()
    assert not await world.rows()
    trace = await world.replay(FIXED).replay(dead_letter.id)
    assert trace is not None
    assert (trace.outcome, trace.recipients) == ("stored", 4)
    assert {activity for _, activity, *_ in await world.rows()} == {"t/3/7"}, "its original position"
    assert await world.dead_letters() == []
    assert {change.recipient_id for change in world.announced} == set(USERS[:4])
    kept = await world.database.traces.get("t/3/7")
    assert kept is not None and (kept.outcome, kept.position, kept.reason) == ("stored", "t/3/7", None)


async def test_what_expired_meanwhile_leaves_the_dead_letters_without_a_notification(world: World) -> None:
    await world.arrive(FAULTY, record(7, "e", expiresAt="2026-01-01T00:00:00.001Z"))
    (dead_letter,) = await world.dead_letters()
    world.time += timedelta(milliseconds=1)
    trace = await world.replay(FIXED).replay(dead_letter.id)
    assert trace is not None and (trace.outcome, trace.recipients) == ("expired", 0)
    assert not await world.rows() and await world.dead_letters() == []
    kept = await world.database.traces.get("e")
    assert kept is not None and kept.outcome == "expired"


async def test_what_was_superseded_meanwhile_leaves_the_dead_letters_too(world: World) -> None:
    key = {"collapseKey": "k"}
    await world.arrive(FAULTY, record(7, "old", **key, occurredAt="2026-01-01T09:00:00Z"))
    await world.arrive(FIXED, record(8, "new", **key))
    (dead_letter,) = await world.dead_letters()
    trace = await world.replay(FIXED).replay(dead_letter.id)
    assert trace is not None and (trace.outcome, trace.recipients) == ("superseded", 4)
    assert {activity for _, activity, *_ in await world.rows()} == {"new"}
    assert await world.dead_letters() == []


async def test_a_dead_letters_event_id_and_header_are_its_identity(world: World) -> None:
    headed = Record(Position("t", 3, 8), None, record(8).value, {"ce_id": b"from-header"})
    await world.arrive(FAULTY, record(7, "from-message"), headed)
    for dead_letter in await world.dead_letters():
        await world.replay(FIXED).replay(dead_letter.id)
    assert {activity for _, activity, *_ in await world.rows()} == {"from-message", "from-header"}


async def test_a_dead_letter_of_a_release_that_refused_its_characters_is_delivered(world: World) -> None:
    letter = record(8, "e\ud83d", data={"payment": {"amount": 1, "subject": "Order \0"}})
    await world.database.dead_letters.add(
        [DeadLetter(0, letter.position, letter.key, letter.value, {}, "eventId must hold no half of …")]
    )
    (kept,) = await world.database.dead_letters.page(10, None)
    trace = await world.replay(FIXED).replay(kept.id)
    assert trace is not None and (trace.activity_id, trace.outcome) == (r"e\ud83d", "stored")
    assert await world.database.dead_letters.page(10, None) == []


async def test_a_replay_that_fails_again_keeps_the_dead_letter_with_the_new_reason(world: World) -> None:
    await world.arrive(FAULTY, record(7))
    (dead_letter,) = await world.dead_letters()
    world.refused = {("t/3/7", "ann")}
    with pytest.raises(MessageRejected, match="a value cannot be stored"):
        await world.replay(FIXED).replay(dead_letter.id)
    (after,) = await world.dead_letters()
    assert (after.id, after.position, after.error) == (
        dead_letter.id,
        dead_letter.position,
        "a value cannot be stored",
    )
    trace = await world.database.traces.get("t/3/7")
    assert trace is not None and trace.reason == "a value cannot be stored"
    assert not await world.rows()


async def test_a_dead_letter_of_a_type_that_is_no_longer_registered_is_kept(world: World) -> None:
    await world.arrive(FAULTY, record(7))
    (dead_letter,) = await world.dead_letters()
    with pytest.raises(MessageRejected, match="PAYMENT_SUCCESS is not known here"):
        await world.replay(WITHOUT).replay(dead_letter.id)
    assert len(await world.dead_letters()) == 1


async def test_a_replay_of_an_unknown_dead_letter_returns_none(world: World) -> None:
    assert await world.replay(FIXED).replay(7) is None


async def test_an_unavailable_store_leaves_the_dead_letter_unchanged(world: World) -> None:
    await world.arrive(FAULTY, record(7))
    (dead_letter,) = await world.dead_letters()
    world.database.driver.unavailable = True
    with pytest.raises(StoreUnavailable):
        await world.replay(FIXED).replay(dead_letter.id)
    world.database.driver.unavailable = False
    assert await world.dead_letters() == [dead_letter]


async def test_two_concurrent_replays_of_one_dead_letter_write_once(world: World) -> None:
    await world.arrive(FAULTY, record(7))
    (dead_letter,) = await world.dead_letters()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(world.replay(FIXED).replay, dead_letter.id)
    assert sum((await world.rows()).values()) == len(world.announced) == 4
    assert await world.dead_letters() == []


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
            database.driver.delay_after = hook
        else:
            database.driver.delay = hook


EVENTS = st.one_of(st.none(), st.sampled_from(["e1", "e2", "e3"]))
TROUBLES = st.lists(
    st.builds(Trouble, at=st.integers(1, 6), after=st.booleans(), cancels=st.booleans()), max_size=4
)


@settings(max_examples=30)  # each makes and compares two databases: 0.1 s
@given(
    events=st.lists(EVENTS, min_size=1, max_size=6),
    ways=st.data(),
    troubles=TROUBLES,
    refused=st.sets(st.tuples(st.sampled_from(["e1", "e2", "t/3/0", "t/3/1"]), st.sampled_from(USERS[:4]))),
)
def test_after_a_fix_and_replays_the_rows_are_those_of_a_first_success(
    events: list[str | None], ways: Any, troubles: list[Trouble], refused: set[tuple[str, str]]
) -> None:
    async def compare() -> None:
        records = [record(offset, event_id) for offset, event_id in enumerate(events)]
        hopeless = Record(Position("t", 3, 100), None, b"not json")

        first = World()
        await first.database.directory.load(ROSTER)
        await first.arrive(FIXED, *records, hopeless)

        second = World()
        await second.database.directory.load(ROSTER)
        second.refused = refused
        split = ways.draw(st.integers(0, len(records)))
        await second.arrive(FAULTY, *records[:split], hopeless)
        if records[split:]:
            await second.arrive(FIXED, *records[split:])
        second.refused = set()

        waiting = list(troubles)
        while dead_letters := [
            each for each in await second.dead_letters() if each.position != hopeless.position
        ]:
            dead_letter = ways.draw(st.sampled_from(dead_letters))
            with trio.CancelScope() as scope:
                if waiting:
                    waiting.pop().arm(second.database, scope)
                with suppress(StoreUnavailable):
                    await second.replay(FIXED).replay(dead_letter.id)
            second.database.driver.delay = second.database.driver.delay_after = None

        assert await second.rows() == await first.rows()
        assert all(count == 1 for count in (await second.rows()).values())
        heads = [
            [
                (head.recipient_id, head.rev, head.total, head.unread)
                for head in (await world.database.inbox.summaries(USERS)).values()
            ]
            for world in (first, second)
        ]
        assert heads[0] == heads[1], "revisions without a gap, and the same counts"
        announced = Counter((change.recipient_id, change.rev) for change in second.announced)
        assert all(count == 1 for count in announced.values()), "nothing is announced twice"
        if not troubles:
            assert len(announced) == sum((await second.rows()).values())
        (left,) = await second.dead_letters()
        with pytest.raises(MessageRejected):
            await second.replay(FIXED).replay(left.id)
        assert [each.id for each in await second.dead_letters()] == [left.id]
        for activity in {activity for _, activity, *_ in await first.rows()}:
            trace = await second.database.traces.get(activity)
            assert trace is not None and trace.outcome in ("stored", "duplicate")

    # An activity is written in two portions; tracebacks on a console take most of the time.
    with patch.object(processor_module, "MAX_DRAFTS", 3), structlog.testing.capture_logs():
        trio.run(compare, clock=MockClock(autojump_threshold=0))
