"""The inboxes' maintenance over a store in memory: what it announces, and that no error stops it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import structlog
import trio
from trio.testing import MockClock

from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.inbox import maintenance
from nx_signal.inbox.maintenance import InboxMaintenance
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
        self.maintenance = InboxMaintenance(
            self.database.maintenance,
            self.database.traces,
            self._announce,
            self.metrics,
            lambda: self.time,
            retention_days,
        )

    def _announce(self, changes: Sequence[Change]) -> None:
        self.announced.extend(changes)

    async def write(self, user: str, n: int, expires_at: datetime | None = None) -> None:
        drafts = [
            Draft(
                recipient_id=user,
                activity_id=f"{self.time}-{k}",
                type="T",
                organizer_id="o",
                merchant_id=None,
                subject=None,
                locale="en",
                content="c",
                content_html="<p>c</p>",
                action_url=None,
                data={},
                expires_at=expires_at,
            )
            for k in range(n)
        ]
        await self.database.inbox.insert(drafts)

    def counted(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.maintenance.run()


async def test_what_is_older_than_the_retention_is_removed_and_announced(autojump_clock: MockClock) -> None:
    world = World(retention_days=30)
    await world.write("old", 700)
    world.time += timedelta(days=10)
    await world.write("old", 1)
    await world.write("young", 1)
    world.time += timedelta(days=20, milliseconds=1)
    await world.run_for(maintenance.EXPIRE_EVERY_S + 60)
    assert [(type(c), c.recipient_id, c.total) for c in world.announced] == [
        (Deleted, "old", 201),
        (Deleted, "old", 1),
    ]
    heads = await world.database.inbox.summaries(["old", "young"])
    assert [heads["old"].total, heads["young"].total] == [1, 1]
    assert world.counted("signal_expired_rows_total") == 700


async def test_what_expired_is_removed_and_announced_within_5_s(autojump_clock: MockClock) -> None:
    world = World(retention_days=0)
    await world.write("u", 700, START + timedelta(hours=1))
    await world.write("v", 1, START + timedelta(hours=2))
    await world.run_for(60)
    assert world.announced == []
    world.time += timedelta(hours=1)
    await world.run_for(5)
    assert [(type(c), c.recipient_id, c.total) for c in world.announced] == [
        (Deleted, "u", 200),
        (Deleted, "u", 0),
    ]
    assert (await world.database.inbox.summaries(["v"]))["v"].total == 1
    assert world.counted("signal_expired_rows_total") == 700


async def test_traces_are_removed_with_the_rows_of_their_time(autojump_clock: MockClock) -> None:
    world = World(retention_days=1)
    trace = Trace("a1", "t/0/1", "T", "org", "org", 1, "stored")
    await world.database.traces.add([trace])
    world.time += timedelta(days=2)
    await world.run_for(maintenance.EXPIRE_EVERY_S + 60)
    assert await world.database.traces.get("a1") is None


async def test_without_a_retention_everything_is_kept(autojump_clock: MockClock) -> None:
    world = World(retention_days=0)
    await world.write("u", 3)
    world.time += timedelta(days=36_500)
    await world.run_for(3 * maintenance.EXPIRE_EVERY_S)
    assert world.announced == []
    assert (await world.database.inbox.summaries(["u"]))["u"].total == 3


async def test_an_unavailable_store_is_waited_for(autojump_clock: MockClock) -> None:
    world = World(retention_days=1)
    await world.write("u", 1)
    world.time += timedelta(days=2)
    world.database.driver.unavailable = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.maintenance.run)
        await trio.sleep(2 * maintenance.EXPIRE_EVERY_S)
        assert world.announced == []
        world.database.driver.unavailable = False
        await trio.sleep(maintenance.EXPIRE_EVERY_S + 60)
        nursery.cancel_scope.cancel()
    assert len(world.announced) == 1


async def test_a_portion_that_the_store_refuses_stops_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(retention_days=1)
    applied = 0

    async def refuse(*args: object) -> None:
        raise StoreRejected("The counts would fall below zero.")

    async def apply(self: object, limit: int) -> bool:
        nonlocal applied
        applied += 1
        return False

    monkeypatch.setattr(type(world.database.maintenance), "expire", refuse)
    monkeypatch.setattr(type(world.database.maintenance), "apply_read_all", apply)
    with structlog.testing.capture_logs() as logs:
        await world.run_for(2 * maintenance.EXPIRE_EVERY_S + 60)
    assert [entry["event"] for entry in logs].count("maintenance_refused") == 2
    assert applied > maintenance.EXPIRE_EVERY_S


async def test_the_audit_covers_all_inboxes_in_turn(autojump_clock: MockClock) -> None:
    world = World(retention_days=0)
    for n in range(2 * maintenance.AUDITED_INBOXES):
        await world.write(f"u{n:03}", 1)
    await world.run_for(5 * maintenance.AUDIT_EVERY_S + 1)
    # from anywhere to the end at first, then all from the beginning
    assert world.counted("signal_audited_inboxes_total") >= 2 * maintenance.AUDITED_INBOXES
    assert world.counted("signal_audit_drift_total") == 0


async def test_a_difference_is_counted_and_logged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(retention_days=0)
    starts: list[str] = []

    async def audit(self: object, after: str, *limits: int) -> Audit:
        starts.append(after)
        if len(starts) == 2:
            raise StoreUnavailable("away")
        return Audit(20, 100, (Drift("u1", "total", 5, 4),), "u1")

    monkeypatch.setattr(type(world.database.maintenance), "audit", audit)
    with structlog.testing.capture_logs() as logs:
        await world.run_for(3 * maintenance.AUDIT_EVERY_S + 1)
    assert starts[1:] == ["u1", "u1"]
    assert world.counted("signal_audit_drift_total") == 2
    assert next(entry for entry in logs if entry["event"] == "audit_drift") == {
        "event": "audit_drift",
        "log_level": "error",
        "recipient_id": "u1",
        "what": "total",
        "held": 5,
        "counted": 4,
    }
