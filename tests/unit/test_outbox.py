"""The queue towards the relay, which may be away."""

from __future__ import annotations

import pytest
import trio

from nx_signal.delivery import outbox
from nx_signal.delivery.outbox import Outbox
from nx_signal.model import RelayMessage
from nx_signal.telemetry.metrics import Metrics


def messages(many: int, size: int) -> tuple[RelayMessage, ...]:
    return (RelayMessage("user", "u", "e", b"x" * size),) * many


async def test_what_the_relay_does_not_take_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "WAITING_BYTES", 1_000)
    metrics = Metrics()
    send, receive = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
    box = Outbox(send, metrics)
    assert [box.publish(messages(4, 100)) for _ in range(4)] == [True, True, False, False]
    assert box.publish(messages(1, 200)), "what fits still goes"
    assert metrics.relay_dropped._value.get() == 8
    await receive.receive()
    assert box.publish(messages(4, 100)) and not box.publish(messages(1, 1))
    for _ in range(3):
        await receive.receive()
    assert box.publish(messages(10, 100))
