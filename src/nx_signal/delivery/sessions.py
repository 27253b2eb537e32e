"""Live sessions as operators see them on every instance, and what became of a revision towards each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

Delivery: TypeAlias = Literal[
    "delivered",
    "behind",
    "slow_consumer",
    "not_announced",
    "fetched",
    "not_connected",
    "not_known",
    "no_row",
]
"""The last three are of a recipient, not of a session."""

_BEST_FIRST: tuple[Delivery, ...] = ("delivered", "behind", "slow_consumer", "not_announced", "fetched")


class SessionState(
    msgspec.Struct,
    frozen=True,
    rename={"baseline_rev": "since", "recovering": "behind", "backpressured": "lagging"},
):
    """One live session, as its instance sees it at this moment. Instances send it to each other: the names
    that it is encoded with are those of the first release."""

    client_id: str
    server_id: str
    user_id: str
    connected_at: datetime
    baseline_rev: int
    """the client fetches what was written up to this revision; what comes after it is pushed"""
    rev: int
    """the last revision passed to the transport"""
    recovering: bool
    backpressured: bool
    queued_bytes: int

    def delivery_of(self, rev: int) -> Delivery:
        """What became of this revision towards this client."""
        if rev <= self.baseline_rev:
            return "fetched"
        if rev <= self.rev:
            return "delivered"
        if self.backpressured:
            return "slow_consumer"
        return "behind" if self.recovering else "not_announced"


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """`unanswered`: instances that did not answer in time or could not be asked, so that their sessions are
    missing here."""

    sessions: tuple[SessionState, ...]
    unanswered: tuple[str, ...]


def best_delivery(deliveries: Iterable[Delivery], *, all_asked: bool) -> Delivery:
    """Of one recipient's sessions. `all_asked`: none is missing."""
    found = set(deliveries)
    otherwise: Delivery = "not_connected" if all_asked else "not_known"
    return next((delivery for delivery in _BEST_FIRST if delivery in found), otherwise)
