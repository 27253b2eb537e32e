"""The inboxes' upkeep over the store in memory: what it announces, and that nothing stops it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import structlog
import trio
from trio.testing import MockClock

from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.inbox import upkeep
from nx_signal.inbox.upkeep import InboxUpkeep
from nx_signal.model import Audit, Change, Deleted, Draft, Drift, Trace
from nx_signal.telemetry.metrics import Metrics

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A store, a clock of days, and what was announced."""

    def __init__(self, retention_days: int) -> None:
        self.time = START
        self.database = MemoryDatabase(lambda: self.time)
        self.metrics = Metrics()
        self.announced: list[Change] = []
        self.upkeep = InboxUpkeep(
            self.database, self._announce, self.metrics, lambda: self.time, retention_days
        )

    def _announce(self, changes: Sequence[Change]) -> None:
        self.announced.extend(changes)

    async def write(self, user: str, n: int) -> None:
        drafts = [
            Draft(user, f"{self.time}-{k}", "T", "o", None, None, "en", "c", "<p>c</p>", None, {})
            for k in range(n)
        ]
        await self.database.inbox.insert(drafts)

    def counted(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.upkeep.run()


async def test_what_is_older_than_the_retention_goes_and_is_announced(autojump_clock: MockClock) -> None:
    world = World(retention_days=30)
    await world.write("old", 700)
    world.time += timedelta(days=10)
    await world.write("old", 1)
    await world.write("young", 1)
    world.time += timedelta(days=20, milliseconds=1)
    await world.run_for(upkeep.EXPIRE_EVERY_S + 60)
    assert [(type(c), c.recipient_id, c.total) for c in world.announced] == [
        (Deleted, "old", 201),
        (Deleted, "old", 1),
    ]
    heads = await world.database.inbox.heads(["old", "young"])
    assert [heads["old"].total, heads["young"].total] == [1, 1]
    assert world.counted("signal_expired_rows_total") == 700


async def test_traces_go_with_the_rows_of_their_time(autojump_clock: MockClock) -> None:
    world = World(retention_days=1)
    trace = Trace("a1", "t/0/1", "T", "org", "rule", 1, "stored", None)
    await world.database.traces.add([trace])
    world.time += timedelta(days=2)
    await world.run_for(upkeep.EXPIRE_EVERY_S + 60)
    assert await world.database.traces.get("a1") is None


async def test_without_a_retention_everything_stays(autojump_clock: MockClock) -> None:
    world = World(retention_days=0)
    await world.write("u", 3)
    world.time += timedelta(days=36_500)
    await world.run_for(3 * upkeep.EXPIRE_EVERY_S)
    assert world.announced == []
    assert (await world.database.inbox.heads(["u"]))["u"].total == 3


async def test_a_store_that_is_away_is_waited_for(autojump_clock: MockClock) -> None:
    world = World(retention_days=1)
    await world.write("u", 1)
    world.time += timedelta(days=2)
    world.database.unavailable = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.upkeep.run)
        await trio.sleep(2 * upkeep.EXPIRE_EVERY_S)
        assert world.announced == []
        world.database.unavailable = False
        await trio.sleep(upkeep.EXPIRE_EVERY_S + 60)
        nursery.cancel_scope.cancel()
    assert len(world.announced) == 1


async def test_a_portion_that_the_store_refuses_stops_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(retention_days=1)
    settled = 0

    async def refuse(*args: object) -> None:
        raise StoreRejected("The counts would fall below zero.")

    async def settle(self: object, limit: int) -> bool:
        nonlocal settled
        settled += 1
        return False

    monkeypatch.setattr(type(world.database.upkeep), "expire", refuse)
    monkeypatch.setattr(type(world.database.upkeep), "settle", settle)
    with structlog.testing.capture_logs() as logs:
        await world.run_for(2 * upkeep.EXPIRE_EVERY_S + 60)
    assert [entry["event"] for entry in logs].count("upkeep_refused") == 2
    assert settled > upkeep.EXPIRE_EVERY_S


async def test_the_sample_goes_round_all_inboxes(autojump_clock: MockClock) -> None:
    world = World(retention_days=0)
    for n in range(2 * upkeep.AUDITED_INBOXES):
        await world.write(f"u{n:03}", 1)
    await world.run_for(5 * upkeep.AUDIT_EVERY_S + 1)
    # from anywhere to the end at first, then all from the beginning
    assert world.counted("signal_audited_inboxes_total") >= 2 * upkeep.AUDITED_INBOXES
    assert world.counted("signal_audit_drift_total") == 0


async def test_a_difference_is_counted_and_logged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(retention_days=0)
    asked: list[str] = []

    async def audit(self: object, after: str, *limits: int) -> Audit:
        asked.append(after)
        if len(asked) == 2:
            raise StoreUnavailable("away")
        return Audit(20, 100, (Drift("u1", "total", 5, 4),), "u1")

    monkeypatch.setattr(type(world.database.upkeep), "audit", audit)
    with structlog.testing.capture_logs() as logs:
        await world.run_for(3 * upkeep.AUDIT_EVERY_S + 1)
    assert asked[1:] == ["u1", "u1"]
    assert world.counted("signal_audit_drift_total") == 2
    assert next(entry for entry in logs if entry["event"] == "audit_drift") == {
        "event": "audit_drift",
        "log_level": "error",
        "recipient_id": "u1",
        "what": "total",
        "held": 5,
        "counted": 4,
    }
