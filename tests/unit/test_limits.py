"""Floods are bounded by client, user and address; what is remembered is bounded too."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
import trio
from trio.testing import MockClock

from nx_signal.stream import limits as module
from nx_signal.stream.limits import (
    CLIENT_MESSAGES,
    CLIENT_ROOMS,
    Bucket,
    Buckets,
    Limits,
    Rate,
    client_address,
)

PROXIES = (ip_network("10.0.0.0/8"),)


async def test_a_burst_passes_and_then_the_rate_holds(autojump_clock: MockClock) -> None:
    bucket = Bucket(Rate(per_s=2, burst=5))
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    await trio.sleep(1)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    await trio.sleep(1_000)
    assert bucket.take(5) and not bucket.take(), "no more is saved up than one burst"


async def test_one_key_s_flood_costs_another_nothing(autojump_clock: MockClock) -> None:
    buckets = Buckets(Rate(1, 2))
    assert buckets.take("a") and buckets.take("a") and not buckets.take("a")
    assert buckets.take("b")


async def test_no_number_of_keys_grows_what_is_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 10)
    buckets = Buckets(Rate(1, 1))
    for n in range(1_000):
        buckets.take(f"key{n}")
        buckets.take("flooder")
    assert len(buckets._buckets) <= 10
    assert not buckets.take("flooder")


async def test_a_user_s_clients_share_the_user_s_limit(autojump_clock: MockClock) -> None:
    limits = Limits(1)
    taken = 0
    for _ in range(50):
        client = limits.client()
        client.user_id = "u1"
        taken += sum(client.message() for _ in range(int(CLIENT_MESSAGES.burst)))
    assert taken == module.USER_MESSAGES.burst
    other = limits.client()
    other.user_id = "u2"
    assert other.message()


async def test_rooms_are_limited_by_their_number_not_by_the_request(autojump_clock: MockClock) -> None:
    client = Limits(1).client()
    client.user_id = "u1"
    assert client.rooms(int(CLIENT_ROOMS.burst)) and not client.rooms(1)


async def test_a_factor_of_0_lifts_every_limit(autojump_clock: MockClock) -> None:
    limits = Limits(0)
    client = limits.client()
    assert all(client.message() and limits.handshake_from("a") for _ in range(20_000))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", None, "192.0.2.1"),
    ],
)
def test_the_address_is_what_the_last_trusted_proxy_saw(
    peer: str, forwarded: str | None, address: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address
