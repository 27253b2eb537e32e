"""What the protocol of one connection decides, for its shell to do (protocol.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from nx_signal.websocket.channel import Offer


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Write this event: `sealed` by `Protocol.seal` when it is written, else as a text frame. After one with
    `rekey` comes a new key: it is sealed by `Protocol.seal_and_rekey`."""

    text: bytes
    sealed: bool
    rekey: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; nothing follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hello:
    """Call `choose` with the server's static key."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Resume:
    """The client holds this revision; `history` as the server stated it, None where the client keeps none."""

    rev: int
    history: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, or a ticket that stands in for one; empty where the client sent neither."""

    text: str
    is_ticket: bool = False


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Verify the credential, then call `accept` or `refuse`."""

    credential: Credential
    public_key: object
    resume: Resume | None


@dataclass(frozen=True, slots=True)
class Join:
    """Enter those of the rooms that the user may enter, and send an `error` that names the others.
    `malformed` are not names of rooms."""

    rooms: tuple[str, ...]
    malformed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    rooms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """Verify the credential; the same user continues, another one is refused."""

    credential: Credential


Decision: TypeAlias = SendFrame | Close | Hello | Authenticate | Join | Leave | Resume | Refresh
