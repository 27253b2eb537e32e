"""Tickets for clients that cannot send a header, or shall not hold a token (CONTRACT §4, Tickets): each
authenticates once, for one purpose, within seconds, at any instance of the store."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import trio

from nx_signal import store
from nx_signal.errors import TokenRejected
from nx_signal.model import Principal
from nx_signal.telemetry.redaction import TICKET_PREFIX
from nx_signal.telemetry.tally import Tally

TicketPurpose: TypeAlias = Literal["events", "stream"]

LIFETIME = timedelta(seconds=30)
MAX_PER_USER = 32
"""Not used and not expired; with one more, the one that expires first is removed."""
SECRET_BYTES = 32

_TICKET = re.compile(rf"{TICKET_PREFIX}[A-Za-z0-9_-]{{43}}", re.ASCII)
_REFUSED = (
    "The ticket is not valid: it is unknown, used, expired or for another purpose; make a new one with POST "
    "/tickets."
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """`text` is the secret: it is stored and logged nowhere."""

    text: str
    expires_at: datetime


class Tickets:
    def __init__(self, tickets: store.Tickets) -> None:
        self._store = tickets
        self._refused = Tally("ticket_refused", "info")

    async def issue(self, principal: Principal, purpose: TicketPurpose) -> Ticket:
        """Raises StoreUnavailable."""
        text = TICKET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        expires_at = await self._store.add(_hash(text), principal, purpose, LIFETIME, MAX_PER_USER)
        return Ticket(text, expires_at)

    async def use(self, text: str, purpose: TicketPurpose) -> Principal:
        """The principal of the token that the ticket was made with. Raises TokenRejected, with the same
        sentence whatever the reason, or StoreUnavailable. A ticket that was given is gone either way.

        It is found by its hash, so the time that takes reveals nothing of a ticket."""
        await trio.lowlevel.checkpoint()
        well_formed = _TICKET.fullmatch(text) is not None
        principal = await self._store.use(_hash(text), purpose) if well_formed else None
        if principal is None:
            self._refused.count(purpose=purpose)
            raise TokenRejected(_REFUSED)
        return principal


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()
