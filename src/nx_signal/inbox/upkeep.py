"""What the inboxes need beside their calls: read-alls written into their rows, removal by age, a slow audit.

Each is a task that asks the store for a portion, pauses, and asks again. One that is away is asked later; a
portion that it refuses is logged, and the others go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TypeVar, TypeVarTuple
from uuid import uuid4

import structlog
import trio

from nx_signal.errors import StoreRejected, StoreUnavailable
from nx_signal.model import Change
from nx_signal.ports import Database, Now
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

SETTLE_EVERY_S = 1.0
"""One look at a table that is empty nearly always. Nobody waits for it: all answers are right before."""
EXPIRE_EVERY_S = 600.0
AUDIT_EVERY_S = 10.0

SETTLED_ROWS = 1_000
EXPIRED_ROWS = 500
"""Also the ids in the one frame that tells a client: about 12 KB."""
PRUNED_TRACES = 1_000
AUDITED_INBOXES = 20
AUDITED_ROWS = 2_000
LARGEST_AUDITED = 10_000
"""Larger inboxes are left to `nx-signal audit`: counting one takes long enough to disturb others."""

LEAST_PAUSE_S = 0.02


class InboxUpkeep:
    """`announce` is told of what goes by age; `retention_days` 0 keeps everything."""

    def __init__(
        self,
        database: Database,
        announce: Callable[[Sequence[Change]], None],
        metrics: Metrics,
        now: Now,
        retention_days: int,
    ) -> None:
        self._database = database
        self._announce = announce
        self._metrics = metrics
        self._now = now
        self._retention_days = retention_days
        # Anywhere: instances that start often audit other inboxes each time.
        self._audited_to = str(uuid4())

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, which may be at any await."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_again, SETTLE_EVERY_S, self.settle)
            nursery.start_soon(_again, AUDIT_EVERY_S, self.audit)
            if self._retention_days:
                nursery.start_soon(_again, EXPIRE_EVERY_S, self.expire)
            task_status.started()

    async def settle(self) -> None:
        """Until every read-all is in all its rows."""
        while await _paced(self._database.upkeep.settle, SETTLED_ROWS):
            pass

    async def audit(self) -> None:
        """A portion, going round all inboxes from call to call."""
        audit = await self._database.upkeep.audit(
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
            many, change = await self._database.upkeep.expire(before, EXPIRED_ROWS)
            if change is not None:
                self._announce((change,))
            if not many:
                break
            rows += many
            self._metrics.expired_rows.inc(many)
            await trio.sleep(LEAST_PAUSE_S)
        while many := await _paced(self._database.traces.prune, before, PRUNED_TRACES):
            traces += many
        if rows or traces:
            log.info("expired", rows=rows, traces=traces, before=before.isoformat())


async def _again(every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await trio.sleep(every_s)
        try:
            await work()
        except StoreUnavailable:
            pass  # those who need the store now say so
        except StoreRejected as error:
            log.error("upkeep_refused", error=str(error))


async def _paced(work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Leave others as much time as the portion took."""
    began = trio.current_time()
    result = await work(*args)
    await trio.sleep(max(LEAST_PAUSE_S, trio.current_time() - began))
    return result
