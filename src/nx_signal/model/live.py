"""What instances send each other over the relay."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

SharedKind: TypeAlias = Literal["client", "user", "room", "broadcast"]
"""Of CONTRACT §2: sister services send these too."""

TargetKind: TypeAlias = Literal[SharedKind, "inbox", "members", "instance", "instances", "neighbours"]
"""The others are between the instances of one deployment: the log of a user's inbox, an activity for a
members' room; queries to one instance or to all. `neighbours` is for every deployment on the same server."""


class RelayMessage(msgspec.Struct, frozen=True):
    """One send to a client, a user, a room or all: what CONTRACT §2 puts on Redis.

    A struct, because one is made for every push: a frozen dataclass costs 2 µs more. `data` is the raw
    JSON text of the event's data: encoded once, then only copied."""

    kind: TargetKind
    target: str | None
    event: str
    data: bytes
    exclude: frozenset[str] = frozenset()
    server_id: str | None = None
    """the sender, on a received message; None on one of our own that is not sent yet"""
    rev: int | None = None
    """the recipient's revision, on every message of the kind `inbox`"""
    history: str | None = None
    """with `rev`: what identifies this change"""
    after: str | None = None
    """with `rev`: what identifies the change before"""
