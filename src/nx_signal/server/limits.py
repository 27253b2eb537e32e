"""How much a client, a user and an address may do: token buckets. A client that floods is disconnected.

Frames and bytes are counted as they arrive, whatever they carry; messages and rooms once they are parsed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

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
CLIENT_FRAMES = Rate(50, 400)
"""Twice what messages may be: pings, and messages in a few fragments."""
CLIENT_BYTES = Rate(131_072, 1_048_576)
"""Eight of the largest messages at once; what clients send has some 100 bytes."""
USER_FRAMES = Rate(500, 4_000)
STRANGER_FRAMES = Rate(5, 32)
"""Of a connection that has not authenticated: it needs one message."""
STRANGER_BYTES = Rate(16_384, 262_144)
"""That message may be of the largest."""
CLIENT_ROOMS = Rate(5, 200)
USER_ROOMS = Rate(50, 2_000)
USER_HANDSHAKES = Rate(50, 2_000)
ADDRESS_HANDSHAKES = Rate(1_000, 10_000)
"""Many clients share an address behind a proxy, and a deploy brings them all back at once."""
ADDRESS_TICKETS = Rate(100, 2_000)
"""Tickets on the stream that are not valid: as ADDRESS_REQUESTS, which counts them over HTTP."""
USER_REQUESTS = Rate(100, 1_000)
"""Of REST, for all tokens of a user together: far above what a person's tabs and devices need."""

ADDRESS_REQUESTS = Rate(100, 2_000)
"""Of REST, without a valid token: the documentation, refused tokens, a browser's preflights. Many people may
share an address; a user's own requests do not count."""
PROBES = Rate(20, 40)
"""Those of all addresses that are over ADDRESS_REQUESTS, together."""


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

    def give_back(self) -> None:
        """One of those taken."""
        self._tokens = min(self._rate.burst, self._tokens + 1)

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

    def give_back(self, key: str) -> None:
        if key in self._buckets:
            self._buckets[key].give_back()

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
        self._client_frames, self._client_bytes = self._widened(CLIENT_FRAMES), self._widened(CLIENT_BYTES)
        self._stranger_frames = self._widened(STRANGER_FRAMES)
        self._stranger_bytes = self._widened(STRANGER_BYTES)
        self._user_frames = Buckets(self._widened(USER_FRAMES))
        self._user_messages = Buckets(self._scaled(USER_MESSAGES))
        self._user_rooms = Buckets(self._scaled(USER_ROOMS))
        self._user_handshakes = Buckets(self._scaled(USER_HANDSHAKES))
        self._address_handshakes = Buckets(self._scaled(ADDRESS_HANDSHAKES))
        self._address_tickets = Buckets(self._scaled(ADDRESS_TICKETS))

    def _scaled(self, rate: Rate) -> Rate:
        return Rate(rate.per_s * self._factor, rate.burst * self._factor)

    def _widened(self, rate: Rate) -> Rate:
        """Scaled, but the burst is no smaller: below it a client could not authenticate."""
        return Rate(rate.per_s * self._factor, rate.burst * max(1.0, self._factor))

    def handshake_from(self, address: str) -> bool:
        return not self._factor or self._address_handshakes.take(address)

    def handshake_of(self, user_id: str) -> bool:
        return not self._factor or self._user_handshakes.take(user_id)

    def ticket_from(self, address: str) -> bool:
        return not self._factor or self._address_tickets.take(address)

    def ticket_was_valid(self, address: str) -> None:
        """The last one from there is not to count."""
        self._address_tickets.give_back(address)

    def client(self) -> ClientLimits:
        return ClientLimits(self)


class ClientLimits:
    """Of one connection, and of its user once it is authenticated."""

    __slots__ = ("_bytes", "_frames", "_limits", "_messages", "_rooms", "_user_id")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages = Bucket(limits._client_messages)
        self._frames = Bucket(limits._stranger_frames)
        self._bytes = Bucket(limits._stranger_bytes)
        self._rooms: Bucket | None = None
        self._user_id: str | None = None

    def authenticated(self, user_id: str) -> None:
        """From now on the limits of this user apply as well."""
        self._user_id = user_id
        self._frames = Bucket(self._limits._client_frames)
        self._bytes = Bucket(self._limits._client_bytes)

    def received(self, frames: int, size: int) -> bool:
        """Count what arrived, `size` bytes of it."""
        limits = self._limits
        if not limits._factor:
            return True
        return (
            self._frames.take(frames)
            and self._bytes.take(size)
            and (self._user_id is None or limits._user_frames.take(self._user_id, frames))
        )

    def message(self) -> bool:
        limits = self._limits
        if not limits._factor:
            return True
        return self._messages.take() and (self._user_id is None or limits._user_messages.take(self._user_id))

    def rooms(self, count: int) -> bool:
        limits = self._limits
        if not limits._factor or self._user_id is None:
            return True
        if self._rooms is None:
            self._rooms = Bucket(limits._client_rooms)
        return self._rooms.take(count) and limits._user_rooms.take(self._user_id, count)


@dataclass(frozen=True, slots=True)
class RequestQuota:
    """A user's, or an address's, quota of requests after one of them."""

    requests: int
    """at once"""
    window_s: int
    """refills all of them"""
    left: int
    refill_s: int
    """until all are available again"""
    retry_after_s: int
    """0: the request is within the quota"""

    def fields(self, policy: str) -> Mapping[str, str]:
        """draft-ietf-httpapi-ratelimit-headers-10: `q` and `r` are requests, `w` and `t` the seconds until
        all of them are available again."""
        fields = {
            "RateLimit-Policy": f'"{policy}";q={self.requests};w={self.window_s}',
            "RateLimit": f'"{policy}";r={self.left};t={self.refill_s}',
        }
        return fields | ({"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {})


class RequestLimits:
    """How many REST requests each user, or each address, may send to this instance. `factor` scales the rate;
    0 lifts it."""

    def __init__(self, factor: float, rate: Rate = USER_REQUESTS) -> None:
        self._rate = Rate(rate.per_s * factor, max(1.0, rate.burst * factor))
        self._buckets = Buckets(self._rate) if factor else None

    def take(self, key: str) -> RequestQuota | None:
        """Count a request; None without a limit."""
        if self._buckets is None:
            return None
        rate = self._rate
        allowed, left = self._buckets.take(key), self._buckets.left(key)
        return RequestQuota(
            requests=int(rate.burst),
            window_s=math.ceil(rate.burst / rate.per_s),
            left=int(left),
            refill_s=math.ceil((rate.burst - left) / rate.per_s),
            retry_after_s=0 if allowed else max(1, math.ceil((1 - left) / rate.per_s)),
        )

    def give_back(self, key: str) -> None:
        """The last request that was taken is not to count."""
        if self._buckets is not None:
            self._buckets.give_back(key)


class AddressRequests(RequestLimits):
    """Requests without a valid token, by address. A probe from an address that is over its rate is answered
    all the same, as it may share that address with others, within one rate for all."""

    def __init__(self, factor: float) -> None:
        super().__init__(factor, ADDRESS_REQUESTS)
        self._probes = Buckets(PROBES)

    def take(self, key: str, *, probe: bool = False) -> RequestQuota | None:
        quota = super().take(key)
        return None if quota and quota.retry_after_s and probe and self._probes.take("") else quota
