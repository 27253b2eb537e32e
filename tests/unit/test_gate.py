"""Who may have a connection: bounds by address, without a token, behind proxies; and what they remember."""

from __future__ import annotations

from ipaddress import ip_network

from trio.testing import MockClock

from nx_signal.server.gate import Caps, Gate, Reason, Refusal, Visit
from nx_signal.server.limits import ADDRESS_REQUESTS, PROBES
from nx_signal.telemetry.metrics import Metrics

PROXY = "10.0.0.1"


def a_gate(connections: int = 100, per_address: int = 3, unauthenticated: int = 50) -> Gate:
    caps = Caps(connections, per_address, unauthenticated)
    return Gate(caps, Metrics(), trusted=[ip_network("10.0.0.0/8")])


def entered(gate: Gate, address: str) -> Visit:
    visit = gate.enter(address)
    assert isinstance(visit, Visit)
    return visit


def reason(refusal: Visit | Refusal | None) -> Reason | None:
    return refusal.reason if isinstance(refusal, Refusal) else None


def sent_by(client: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", client.encode())]


def refused(gate: Gate, by: str) -> float:
    value = gate.metrics.registry.get_sample_value("signal_refused_total", {"reason": by})
    assert value is not None
    return value


async def test_one_address_has_its_share_and_another_its_own(autojump_clock: MockClock) -> None:
    gate = a_gate()
    visits = [entered(gate, "192.0.2.1") for _ in range(3)]
    assert reason(gate.enter("192.0.2.1")) is Reason.ADDRESS
    entered(gate, "192.0.2.2")
    visits[0].leave()
    entered(gate, "192.0.2.1")
    assert refused(gate, "address") == 1


async def test_ipv6_counts_by_its_64_and_a_mapped_ipv4_address_as_itself(autojump_clock: MockClock) -> None:
    gate = a_gate(per_address=2)
    entered(gate, "2001:db8:0:1::1")
    entered(gate, "2001:db8:0:1:ffff::2")
    assert reason(gate.enter("2001:db8:0:1::3")) is Reason.ADDRESS
    entered(gate, "2001:db8:0:2::1")
    entered(gate, "::ffff:192.0.2.1")
    entered(gate, "192.0.2.1")
    assert reason(gate.enter("192.0.2.1")) is Reason.ADDRESS


async def test_those_without_a_token_leave_room_for_those_with_one(autojump_clock: MockClock) -> None:
    gate = a_gate(connections=4, per_address=4, unauthenticated=2)
    first = entered(gate, "192.0.2.1")
    entered(gate, "192.0.2.2")
    assert reason(gate.enter("192.0.2.3")) is Reason.UNAUTHENTICATED
    first.authenticated(request=True)
    first.authenticated(request=True)
    third = entered(gate, "192.0.2.3")
    third.authenticated(request=False)
    entered(gate, "192.0.2.4")
    assert reason(gate.enter("192.0.2.5")) is Reason.CONNECTIONS


async def test_nothing_is_remembered_of_connections_that_are_over(autojump_clock: MockClock) -> None:
    gate = a_gate(connections=10)
    for n in range(1_000):
        visit = entered(gate, f"192.0.2.{n % 250}")
        if n % 2:
            visit.authenticated(request=False)
        visit.leave()
        visit.leave()
    assert (gate._of_address, gate._open, gate._unauthenticated) == ({}, 0, 0)


async def test_behind_a_proxy_each_client_has_its_share_of_requests_and_streams(
    autojump_clock: MockClock,
) -> None:
    gate = a_gate()
    connections = [entered(gate, PROXY) for _ in range(20)]
    for connection in connections[:2]:
        assert connection.begin(sent_by("192.0.2.1"), probe=False) is None
    assert connections[2].begin_stream(sent_by("192.0.2.1")) is None
    assert reason(connections[3].begin(sent_by("192.0.2.1"), probe=False)) is Reason.ADDRESS
    assert reason(connections[3].begin_stream(sent_by("192.0.2.1"))) is Reason.ADDRESS
    assert connections[3].begin(sent_by("192.0.2.2"), probe=False) is None
    connections[0].end()
    assert connections[0].begin(sent_by("192.0.2.1"), probe=False) is None
    connections[2].leave()
    assert connections[4].begin(sent_by("192.0.2.1"), probe=False) is None


async def test_what_a_proxy_sends_for_itself_counts_for_no_address(autojump_clock: MockClock) -> None:
    gate = a_gate()
    for _ in range(20):
        assert entered(gate, PROXY).begin([], probe=True) is None


async def test_whatever_a_client_claims_it_counts_by_its_own_address(autojump_clock: MockClock) -> None:
    gate = a_gate(per_address=1)
    visit = entered(gate, "192.0.2.1")
    assert visit.begin(sent_by("192.0.2.99"), probe=False) is None
    assert reason(gate.enter("192.0.2.1")) is Reason.ADDRESS
    entered(gate, "192.0.2.99")


async def test_requests_without_a_token_have_a_rate_and_those_with_one_do_not_count(
    autojump_clock: MockClock,
) -> None:
    gate = a_gate()
    visit = entered(gate, "192.0.2.1")
    for _ in range(3 * int(ADDRESS_REQUESTS.burst)):
        assert visit.begin([], probe=False) is None
        visit.authenticated(request=True)
        visit.end()
    for _ in range(int(ADDRESS_REQUESTS.burst)):
        assert visit.begin([], probe=False) is None
    refusal = visit.begin([], probe=False)
    assert refusal and refusal.status == 429
    fields = dict(refusal.headers)
    assert fields[b"retry-after"] == b"1" and fields[b"ratelimit-policy"].startswith(b'"address";q=')
    assert entered(gate, "192.0.2.2").begin([], probe=False) is None
    assert refused(gate, "rate") == 1


async def test_probes_of_an_address_over_its_rate_are_answered_within_a_rate_for_all(
    autojump_clock: MockClock,
) -> None:
    gate = a_gate()
    visit = entered(gate, "192.0.2.1")
    while visit.begin([], probe=False) is None:
        pass
    answered = sum(visit.begin([], probe=True) is None for _ in range(1_000))
    assert answered == PROBES.burst


async def test_a_connection_beyond_the_limits_counts_for_none(autojump_clock: MockClock) -> None:
    gate = a_gate(connections=1, per_address=1, unauthenticated=1)
    entered(gate, "192.0.2.1")
    for _ in range(10):
        beyond = gate.beyond("192.0.2.1")
        assert beyond.begin([], probe=True) is None
        beyond.end()
        beyond.leave()
    assert (gate._open, gate._unauthenticated) == (1, 1)


def test_a_share_that_is_not_stated_follows_the_limit() -> None:
    assert Caps.of(20_000) == Caps(20_000, 10_000, 15_000)
    assert Caps.of(1) == Caps(1, 1, 1)
    assert Caps.of(100, 7, 90) == Caps(100, 7, 90)
