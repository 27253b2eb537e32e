"""Floods are bounded by client, user and address; the memory for that is bounded too."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from nx_signal.server import limits as module
from nx_signal.server.limits import (
    CLIENT_MESSAGES,
    CLIENT_ROOMS,
    Bucket,
    Buckets,
    Limits,
    Rate,
)


async def test_a_burst_passes_and_then_the_rate_holds(autojump_clock: MockClock) -> None:
    bucket = Bucket(Rate(per_s=2, burst=5))
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    await trio.sleep(1)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    await trio.sleep(1_000)
    assert bucket.take(5) and not bucket.take(), "no more is saved up than one burst"


async def test_a_flood_of_one_key_does_not_affect_another(autojump_clock: MockClock) -> None:
    buckets = Buckets(Rate(1, 2))
    assert buckets.take("a") and buckets.take("a") and not buckets.take("a")
    assert buckets.take("b")


async def test_the_memory_for_keys_is_bounded(
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
        client.authenticated("u1")
        taken += sum(client.message() for _ in range(int(CLIENT_MESSAGES.burst)))
    assert taken == module.USER_MESSAGES.burst
    other = limits.client()
    other.authenticated("u2")
    assert other.message()


async def test_rooms_are_limited_by_their_number_not_by_the_request(autojump_clock: MockClock) -> None:
    client = Limits(1).client()
    client.authenticated("u1")
    assert client.rooms(int(CLIENT_ROOMS.burst)) and not client.rooms(1)


async def test_a_factor_of_0_lifts_every_limit(autojump_clock: MockClock) -> None:
    limits = Limits(0)
    client = limits.client()
    assert all(client.message() and limits.handshake_from("a") for _ in range(20_000))
