"""Users, their memberships, and what they are permitted (CONTRACT §4, §5, §6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

PERMISSIONS: tuple[str, ...] = (
    "WebSocketClient.find",
    "WebSocketClient.findById",
    "WebSocketClient.broadcast",
    "WebSocketClient.sendToRoom",
    "WebSocketClient.sendToClient",
    "WebSocketClient.disconnect",
    "Activity.publish",
    "Activity.preview",
    "Activity.explain",
    "DeadLetter.find",
    "DeadLetter.replay",
    "DeadLetter.delete",
    "Member.find",
    "Member.create",
    "Member.replace",
    "Member.delete",
    "Grant.find",
    "Grant.create",
    "Grant.delete",
    "Health.find",
)
"""All permission codes (CONTRACT §4). The migrations seed them; a contract test compares the two."""

OPERATOR_ROLE = "signal-operator"
"""The seeded role that holds all of them."""


@dataclass(frozen=True, slots=True)
class Memberships:
    """Of one user. `organizers` includes those of the merchants that the user is a member of."""

    organizers: frozenset[str]
    merchants: frozenset[str]


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a verified token. `permissions` and `roles` come from the embedded issuer only."""

    user_id: str
    token_id: str | None
    expires_at: datetime
    permissions: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Organizer:
    id: str
    locale: str | None
    merchants: tuple[str, ...]
    time_zone: str | None = None
    """an IANA name; None: the deployment's"""


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """Of a user in an organization; None where nothing is set. `time_zone` is the organization's."""

    locale: str | None
    time_zone: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """`merchant_id` None: a membership in the organization itself."""

    user_id: str
    organizer_id: str
    merchant_id: str | None
    role: str
    locale: str | None


@dataclass(frozen=True, slots=True)
class Grant:
    """Exactly one of `role` and `permission` is set."""

    user_id: str
    role: str | None
    permission: str | None


@dataclass(frozen=True, slots=True)
class Roster:
    """What `nx-signal members load` writes (CONTRACT §6)."""

    organizers: Sequence[Organizer]
    members: Sequence[Member]
    grants: Sequence[Grant]


@dataclass(frozen=True, slots=True)
class Membership:
    """One that exists. `merchant_id` None: in the organization itself. `organizer_id` None: the merchant's
    organizer is not known here. `locale`: the user's own."""

    user_id: str
    organizer_id: str | None
    merchant_id: str | None
    role: str
    locale: str | None


@dataclass(frozen=True, slots=True)
class Holding:
    """Which memberships and grants: those for which all that is given here holds. `organizer_id` covers the
    organization itself and its merchants. With it or `merchant_id` there is no grant, with `permission` no
    membership."""

    user_id: str | None = None
    organizer_id: str | None = None
    merchant_id: str | None = None
    role: str | None = None
    permission: str | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    memberships: Sequence[Membership]
    grants: Sequence[Grant]
