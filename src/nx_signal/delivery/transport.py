"""What a session needs from the connection that it pushes through, whatever its protocol."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class FrameKind(Enum):
    """How much of the client's bound a frame may fill; beyond that it is refused. What was taken is sent, in
    order."""

    LOG = "log"
    """all of it: a step of the inbox's log, which the store keeps, and what concerns the connection"""
    EPHEMERAL = "ephemeral"
    """half of it, so that a flood of these leaves room for the log"""


class PushResult(Enum):
    TAKEN = "taken"
    REFUSED = "refused"
    """no room: nothing was queued"""
    CLOSED = "closed"


class CloseReason(Enum):
    """Why the server ends a session: the code and the words of CONTRACT §1, Errors and close codes."""

    GOING_AWAY = (1001, "Server shutting down")
    TOKEN_EXPIRED = (4005, "Token expired")
    DISCONNECTED = (4006, "Disconnected by operator")
    SLOW_CONSUMER = (4008, "Slow consumer")


class Transport(Protocol):
    """Synchronous: nothing here waits for the client.

    A transport calls `Session.drained` when it has refused a push and has room again, and `Session.end` when
    the client takes nothing any more."""

    @property
    def encrypted(self) -> bool:
        """Whether it seals what is pushed, beside TLS."""

    @property
    def queued_bytes(self) -> int:
        """Pushed and not yet with the kernel."""

    def push(self, payload: bytes, kind: FrameKind) -> PushResult:
        """Send the JSON `{"event","data"}`, or queue it within the client's bound."""

    def close(self, reason: CloseReason) -> None:
        """Close the connection soon, from its own task. The first reason counts."""
