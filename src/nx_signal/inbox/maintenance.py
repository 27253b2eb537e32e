"""Maintenance of the inboxes: read-alls applied to their rows, removal of what expired and of what is old, a
slow audit.

Each is a task that runs one portion in the store, pauses, and continues. An unavailable store is tried again
later; a portion that it refuses is logged, and the others continue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar, TypeVarTuple
from uuid import uuid4

import structlog
import trio

from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.model import Change
from nx_signal.ports import Now
from nx_signal.store import Maintenance, Traces
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

APPLY_EVERY_S = 1.0
"""One query of a table that is nearly always empty. No caller waits for it: answers are right before, too."""
REMOVE_EXPIRED_EVERY_S = 2.0
"""One query of an index that has no row of a notification without an expiry."""
EXPIRE_EVERY_S = 600.0
AUDIT_EVERY_S = 10.0

APPLIED_ROWS = 1_000
EXPIRED_ROWS = 500
"""Also the ids in the one frame that a client gets: about 12 KB."""
PRUNED_TRACES = 1_000
AUDITED_INBOXES = 20
AUDITED_ROWS = 2_000
LARGEST_AUDITED = 10_000
"""Larger inboxes are left to `nx-signal audit`: counting one takes long enough to disturb others."""

ANNOUNCED_AT_ONCE = 64
"""A push takes about 15 µs."""

LEAST_PAUSE_S = 0.02


class InboxMaintenance:
    """`announce` gets the removals; `retention_days` 0 keeps everything that has no expiry of its own."""

    def __init__(
        self,
        maintenance: Maintenance,
        traces: Traces,
        announce: Callable[[Sequence[Change]], None],
        metrics: Metrics,
        now: Now,
        retention_days: int,
    ) -> None:
        self._maintenance = maintenance
        self._traces = traces
        self._announce = announce
        self._metrics = metrics
        self._now = now
        self._retention_days = retention_days
        # Anywhere: instances that start often audit other inboxes each time.
        self._audited_to = str(uuid4())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, which may be at any await."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again, APPLY_EVERY_S, self.apply_read_alls)
            nursery.start_soon(again, AUDIT_EVERY_S, self.audit)
            nursery.start_soon(again, REMOVE_EXPIRED_EVERY_S, self.remove_expired)
            if self._retention_days:
                nursery.start_soon(again, EXPIRE_EVERY_S, self.expire)
            task_status.started()

    async def apply_read_alls(self) -> None:
        """Until every read-all is in all its rows."""
        while await paced(self._maintenance.apply_read_all, APPLIED_ROWS):
            pass

    async def remove_expired(self) -> None:
        """Until nothing is left whose expiry has passed."""
        removed = 0
        while True:
            many, changes = await self._maintenance.remove_expired(EXPIRED_ROWS)
            for start in range(0, len(changes), ANNOUNCED_AT_ONCE):
                self._announce(changes[start : start + ANNOUNCED_AT_ONCE])
                await trio.lowlevel.checkpoint()
            if not many:
                break
            removed += many
            self._metrics.expired_rows.inc(many)
            await trio.sleep(LEAST_PAUSE_S)
        if removed:
            log.info("expired", rows=removed)

    async def audit(self) -> None:
        """A portion, going round all inboxes from call to call."""
        audit = await self._maintenance.audit(
            self._audited_to, AUDITED_INBOXES, AUDITED_ROWS, LARGEST_AUDITED
        )
        self._audited_to = audit.next_after or ""
        self._metrics.audited.inc(audit.inboxes)
        self._metrics.audit_drift.inc(len(audit.drifts))
        for drift in audit.drifts:
            log.error(
                "audit_drift",
                recipient_id=drift.recipient_id,
                what=drift.what,
                held=drift.held,
                counted=drift.counted,
            )

    async def expire(self) -> None:
        """Until nothing is left that is older than the retention."""
        before = self._now() - timedelta(days=self._retention_days)
        rows = traces = 0
        while True:
            many, change = await self._maintenance.expire(before, EXPIRED_ROWS)
            if change is not None:
                self._announce((change,))
            if not many:
                break
            rows += many
            self._metrics.expired_rows.inc(many)
            await trio.sleep(LEAST_PAUSE_S)
        while many := await paced(self._traces.prune, before, PRUNED_TRACES):
            traces += many
        if rows or traces:
            log.info("expired", rows=rows, traces=traces, before=before.isoformat())


async def again(every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """For ever; an unavailable store is tried again later."""
    while True:
        await trio.sleep(every_s)
        try:
            await work()
        except StoreUnavailable:
            pass  # reported by the parts that need the store now
        except StoreRejected as error:
            log.error("maintenance_refused", error=str(error))


async def paced(work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Leave others as much time as the portion took."""
    began = trio.current_time()
    result = await work(*args)
    await trio.sleep(max(LEAST_PAUSE_S, trio.current_time() - began))
    return result
