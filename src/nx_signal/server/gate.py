"""How many connections are open: all together, of one address, and without a valid token; and how many
requests without one an address may send.

Behind a trusted proxy an address is the client's, and holds what is in progress for it: a stream, or a
request on one of the proxy's connections. Those connections themselves count for no address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Self, TypeAlias

from nx_signal.server.forwarded import Network, client_address, is_confidential, is_within
from nx_signal.server.limits import AddressRequests
from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.tally import Tally

RETRY_AFTER_S = 5
"""Stated to a client that is refused: connections without a token last about that long."""

Headers: TypeAlias = Iterable[tuple[bytes, bytes]]


class Reason(Enum):
    """Why a connection, or a request, is refused. The value is a label of `signal_refused`."""

    CONNECTIONS = "connections"
    ADDRESS = "address"
    UNAUTHENTICATED = "unauthenticated"
    RATE = "rate"


_DETAILS = {
    Reason.CONNECTIONS: "This server has all the connections that it takes; try again shortly.",
    Reason.ADDRESS: "Your address has all the connections that it may have; close some, then try again.",
    Reason.UNAUTHENTICATED: "Too many connections wait to be authenticated; try again shortly.",
    Reason.RATE: "These are too many requests without a valid token; try again shortly.",
}
_ADVICE = {
    Reason.CONNECTIONS: "add instances, or raise APP_ENV_MAX_CONNECTIONS and the limit of open files",
    Reason.ADDRESS: "name a proxy in APP_ENV_TRUSTED_PROXIES; or raise APP_ENV_MAX_CONNECTIONS_PER_ADDRESS",
    Reason.UNAUTHENTICATED: "find out who connects without a token; APP_ENV_MAX_UNAUTHENTICATED is the bound",
    Reason.RATE: "name a proxy in APP_ENV_TRUSTED_PROXIES; APP_ENV_RATE_FACTOR scales the rate",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of the one that was asked for."""

    reason: Reason
    fields: Mapping[str, str] = field(default_factory=lambda: {"Retry-After": str(RETRY_AFTER_S)})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.lower().encode(), value.encode()) for name, value in self.fields.items()]

    @property
    def status(self) -> int:
        return 429 if self.reason in (Reason.ADDRESS, Reason.RATE) else 503

    @property
    def detail(self) -> str:
        return _DETAILS[self.reason]


@dataclass(frozen=True, slots=True)
class Caps:
    """The most connections that are open at once."""

    connections: int
    per_address: int
    unauthenticated: int

    @classmethod
    def of(cls, connections: int, per_address: int | None = None, unauthenticated: int | None = None) -> Self:
        """One address gets a half unless stated, those without a token three quarters: no address alone keeps
        the others from authenticating."""
        return cls(
            connections,
            per_address or max(1, connections // 2),
            unauthenticated or max(1, connections * 3 // 4),
        )


class Gate:
    """Of one instance. Its memory is bounded: by the open connections, and by limits.MAX_KEYS."""

    def __init__(
        self,
        caps: Caps,
        metrics: Metrics,
        *,
        rate_factor: float = 1.0,
        trusted: Sequence[Network] = (),
    ) -> None:
        self._caps = caps
        self.metrics = metrics
        self._requests = AddressRequests(rate_factor)
        self._trusted = trusted
        self._open = 0
        self._unauthenticated = 0
        self._of_address: dict[str, int] = {}
        self._tallies = {reason: Tally("refused") for reason in Reason}

    def enter(self, peer: str) -> Visit | Refusal:
        """Count a connection that was accepted from `peer`. One that is refused is not counted."""
        if self._open >= self._caps.connections:
            return self._refuse(Reason.CONNECTIONS, peer)
        visit = self.beyond(peer)
        visit.by_proxy = is_within(peer, self._trusted)
        if not visit.by_proxy and (refusal := self._claim(visit)):
            return refusal
        visit.counted = True
        self._open += 1
        self.metrics.connections.set(self._open)
        return visit

    def beyond(self, peer: str) -> Visit:
        """A connection that counts for no bound, on which a probe may be answered."""
        return Visit(self, peer, client_address(peer, (), ()))

    def begin_stream(self, visit: Visit, headers: Headers) -> Refusal | None:
        """Its rate has bounds of its own (limits.Limits)."""
        if not visit.by_proxy:
            return None
        address = client_address(visit.peer, headers, self._trusted)
        # A proxy without a client sends for itself, as its health checks do.
        visit.client = None if address == client_address(visit.peer, (), ()) else address
        return self._claim(visit)

    def begin(self, visit: Visit, headers: Headers, *, probe: bool) -> Refusal | None:
        """A request; with a Refusal it has ended as well."""
        if refusal := self.begin_stream(visit, headers):
            return refusal
        quota = visit.client and self._requests.take(visit.client, probe=probe)
        if not quota or not quota.retry_after_s:
            return None
        self.end(visit)
        return self._refuse(Reason.RATE, visit.client or visit.peer, quota.fields("address"))

    def is_confidential(self, visit: Visit, headers: Headers) -> bool:
        return is_confidential(visit.peer, headers, self._trusted)

    def end(self, visit: Visit) -> None:
        """The request is over."""
        if visit.by_proxy:
            self._disclaim(visit)

    def authenticate(self, visit: Visit, *, request: bool) -> None:
        """A valid token came; the request that had it does not count as one without."""
        if request and visit.client is not None:
            self._requests.give_back(visit.client)
        self._settle(visit)

    def leave(self, visit: Visit) -> None:
        if visit.counted:
            visit.counted = False
            self._disclaim(visit)
            self._open -= 1
            self.metrics.connections.set(self._open)

    # --- the counts ---

    def _claim(self, visit: Visit) -> Refusal | None:
        """Count the visit as unauthenticated, and for its client's address where that is known."""
        address = visit.client
        if address is not None and self._of_address.get(address, 0) >= self._caps.per_address:
            return self._refuse(Reason.ADDRESS, address)
        if self._unauthenticated >= self._caps.unauthenticated:
            return self._refuse(Reason.UNAUTHENTICATED, address or visit.peer)
        if address is not None:
            self._of_address[address] = self._of_address.get(address, 0) + 1
        visit.counted_for = address
        self._unauthenticated += 1
        visit.unauthenticated = True
        return None

    def _settle(self, visit: Visit) -> None:
        if visit.unauthenticated:
            visit.unauthenticated = False
            self._unauthenticated -= 1

    def _disclaim(self, visit: Visit) -> None:
        self._settle(visit)
        address, visit.counted_for = visit.counted_for, None
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    def _refuse(self, reason: Reason, address: str, fields: Mapping[str, str] | None = None) -> Refusal:
        self.metrics.refused.labels(reason.value).inc()
        self._tallies[reason].count(reason=reason.value, address=address, advice=_ADVICE[reason])
        return Refusal(reason) if fields is None else Refusal(reason, fields)


class Visit:
    """One open connection, as its gate counts it. `client` is the address of whom the request in hand is,
    None for a proxy's own."""

    __slots__ = ("_gate", "by_proxy", "client", "counted", "counted_for", "peer", "unauthenticated")

    def __init__(self, gate: Gate, peer: str, client: str | None) -> None:
        self._gate = gate
        self.peer = peer
        self.client = client
        self.by_proxy = False
        self.counted = False
        self.counted_for: str | None = None
        self.unauthenticated = False

    def begin_stream(self, headers: Headers) -> Refusal | None:
        return self._gate.begin_stream(self, headers)

    def begin(self, headers: Headers, *, probe: bool) -> Refusal | None:
        return self._gate.begin(self, headers, probe=probe)

    def is_confidential(self, headers: Headers) -> bool:
        """Of a request with these headers: whether no third party reads it, nor its answer."""
        return self._gate.is_confidential(self, headers)

    def end(self) -> None:
        self._gate.end(self)

    def authenticated(self, *, request: bool) -> None:
        self._gate.authenticate(self, request=request)

    def leave(self) -> None:
        self._gate.leave(self)
