"""How much a client, a user and an address may do: token buckets. A flood ends its own connections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

import trio

MAX_KEYS = 20_000
"""Users and addresses remembered at once, per kind; the ones idle longest are forgotten first. A
forgotten bucket is a full one, so it is the flooder's, used last, that stays."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, refilled by `per_s`."""

    per_s: float
    burst: float


CLIENT_MESSAGES = Rate(20, 200)
USER_MESSAGES = Rate(200, 2_000)
CLIENT_ROOMS = Rate(5, 200)
USER_ROOMS = Rate(50, 2_000)
USER_HANDSHAKES = Rate(50, 2_000)
ADDRESS_HANDSHAKES = Rate(1_000, 10_000)
"""Many clients share an address behind a proxy, and a deploy brings them all back at once."""


class Bucket:
    """A token bucket on Trio's clock (RFC 2697's idea: a rate and a burst)."""

    __slots__ = ("_at_s", "_rate", "_tokens")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at_s = trio.current_time()

    def take(self, count: int = 1) -> bool:
        now_s = trio.current_time()
        self._tokens = min(self._rate.burst, self._tokens + (now_s - self._at_s) * self._rate.per_s)
        self._at_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    @property
    def left(self) -> float:
        """As of the last `take`."""
        return self._tokens


class Buckets:
    """One bucket per key, at most MAX_KEYS of them."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key: str, count: int = 1) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate)
            if len(self._buckets) > MAX_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(count)

    def left(self, key: str) -> float:
        """As of the last `take` for this key; all of it for a key that is not known."""
        bucket = self._buckets.get(key)
        return self._rate.burst if bucket is None else bucket.left


class Limits:
    """What all connections of one instance share. `factor` scales every rate; 0 lifts them all."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._client_messages = self._scaled(CLIENT_MESSAGES)
        self._client_rooms = self._scaled(CLIENT_ROOMS)
        self._user_messages = Buckets(self._scaled(USER_MESSAGES))
        self._user_rooms = Buckets(self._scaled(USER_ROOMS))
        self._user_handshakes = Buckets(self._scaled(USER_HANDSHAKES))
        self._address_handshakes = Buckets(self._scaled(ADDRESS_HANDSHAKES))

    def _scaled(self, rate: Rate) -> Rate:
        return Rate(rate.per_s * self._factor, rate.burst * self._factor)

    def handshake_from(self, address: str) -> bool:
        return not self._factor or self._address_handshakes.take(address)

    def handshake_of(self, user_id: str) -> bool:
        return not self._factor or self._user_handshakes.take(user_id)

    def client(self) -> ClientLimits:
        return ClientLimits(self)


class ClientLimits:
    """Of one connection, and of its user once that is known."""

    __slots__ = ("_limits", "_messages", "_rooms", "user_id")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages = Bucket(limits._client_messages)
        self._rooms: Bucket | None = None
        self.user_id: str | None = None

    def message(self) -> bool:
        limits = self._limits
        if not limits._factor:
            return True
        return self._messages.take() and (self.user_id is None or limits._user_messages.take(self.user_id))

    def rooms(self, count: int) -> bool:
        limits = self._limits
        if not limits._factor or self.user_id is None:
            return True
        if self._rooms is None:
            self._rooms = Bucket(limits._client_rooms)
        return self._rooms.take(count) and limits._user_rooms.take(self.user_id, count)


Network = IPv4Network | IPv6Network


def client_address(peer: str, forwarded_for: str | None, trusted: Sequence[Network]) -> str:
    """The address that limits apply to: the last hop of X-Forwarded-For that is no trusted proxy, where
    the peer is one; else the peer. IPv6 counts by its /64, which one customer holds whole."""
    address = peer
    if forwarded_for and _within(peer, trusted):
        for hop in reversed(forwarded_for.split(",")):
            address = hop.strip()
            if not _within(address, trusted):
                break
    try:
        ip = ip_address(address)
    except ValueError:
        return peer
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(IPv6Network((int(ip), 64), strict=False))


def _within(address: str, networks: Sequence[Network]) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    return any(ip in network for network in networks)
