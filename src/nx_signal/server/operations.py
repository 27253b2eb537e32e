"""The operations port: health, readiness and metrics alone, also while the main port takes no more."""

from __future__ import annotations

import trio

from nx_signal.server.accept import accept_all
from nx_signal.server.gate import Gate
from nx_signal.server.http import Http
from nx_signal.server.reserve import Reserve
from nx_signal.supervise import sentence
from nx_signal.telemetry.tally import Tally


class OperationsListener:
    """Its connections count for no bound of `gate`, and it stays open to the end of a drain."""

    def __init__(self, http: Http, gate: Gate) -> None:
        self._reserve = Reserve(http, gate, operations=True)
        self._metrics = gate.metrics
        self._failed = Tally("connection_failed", "info")

    async def run(
        self,
        listeners: list[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as connections:
            await accept_all(listeners, self._handle, connections, self._metrics, task_status)

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            await self._reserve.serve(stream, None)
        except Exception as error:  # a connection's faults are its own
            self._failed.count(error=type(error).__name__, why=sentence(error))
        finally:
            await trio.aclose_forcefully(stream)
