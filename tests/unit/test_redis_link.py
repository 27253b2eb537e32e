"""adapters/redis/relay.py: what waits between Redis and this instance."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from nx_signal.adapters.redis import relay
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.subscriptions import SubscriptionSet
from nx_signal.ports import Received, RelayEvent, Subscribed
from nx_signal.service import RELAYED_WAITING

CHANNEL = "ws:user:u1"
NONE: Any = None


def message(data: bytes) -> list[bytes]:
    """As Redis sends it to a subscriber."""
    payload = b'{"serverId":"there","type":"user","event":"e","data":"%b"}' % data
    return [b"message", CHANNEL.encode(), payload]


def link() -> Any:
    subscriptions = SubscriptionSet()
    subscriptions.subscribe([CHANNEL])
    return relay._Link(NONE, NONE, "here", Deployment(b"secret"), subscriptions)


async def test_what_an_instance_has_not_taken_is_bounded_in_bytes_and_reported_while_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "MAX_QUEUED_BYTES", 1_000_000)
    under_test = link()
    to_instance, events = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(under_test.deliver, to_instance)
            for _ in range(100):
                under_test._on_reply(message(b"x" * 100_000))
                await wait_all_tasks_blocked()
            assert [entry["event"] for entry in logs] == ["relay_overflowed"]
            received = 0
            while isinstance(event := await events.receive(), Received):
                received += sum(len(each.data) for each in event.messages)
            assert event == Subscribed(frozenset({CHANNEL}))
            nursery.cancel_scope.cancel()
    assert 0 < received < 2_000_000


async def test_large_messages_are_passed_on_in_small_portions() -> None:
    under_test = link()
    to_instance, events = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)
    for _ in range(100):
        under_test._on_reply(message(b"x" * 100_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(under_test.deliver, to_instance)
        portion = cast(Received, await events.receive()).messages
        nursery.cancel_scope.cancel()
    assert sum(len(each.data) for each in portion) <= relay.MAX_RECEIVED_BYTES + 100_002
