"""Gates for tests that are not about their bounds."""

from __future__ import annotations

from typing import Any

from nx_signal.server.gate import Caps, Gate, Visit
from nx_signal.server.http import Http
from nx_signal.server.listener import ConnectionHandler, Listener
from nx_signal.server.reserve import Reserve
from nx_signal.telemetry.metrics import Metrics


def open_gate(connections: int = 1_000, metrics: Metrics | None = None) -> Gate:
    """Any of these connections may be of one address, and without a token."""
    return Gate(Caps(connections, connections, connections), metrics or Metrics(), rate_factor=0)


def a_visit() -> Visit:
    return open_gate().beyond("127.0.0.1")


def a_listener(websocket: ConnectionHandler, http: ConnectionHandler, gate: Gate) -> Listener:
    """It has no probes."""
    return Listener(websocket, http, gate, Reserve(Http(_no_app), gate))


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("No request is expected.")
