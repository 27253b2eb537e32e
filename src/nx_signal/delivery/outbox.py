"""The queue of messages to the relay."""

from __future__ import annotations

from collections import deque

import trio

from nx_signal.model import RelayMessage
from nx_signal.telemetry.metrics import Metrics

WAITING_BYTES = 33_554_432
"""Of the messages that the relay has not taken yet, besides their number: beyond it they are dropped."""


class Outbox:
    def __init__(self, outbound: trio.MemorySendChannel[tuple[RelayMessage, ...]], metrics: Metrics) -> None:
        self._outbound = outbound
        self._metrics = metrics
        self._waiting: deque[int] = deque()
        """the bytes of each batch in the channel, and perhaps of some that were taken since"""
        self._bytes = 0

    def publish(self, messages: tuple[RelayMessage, ...]) -> bool:
        """Never waits: what the relay has no room for is dropped and counted, which gives False."""
        size = sum(len(message.data) for message in messages)
        try:
            if self._waiting_bytes() + size > WAITING_BYTES:
                raise trio.WouldBlock
            self._outbound.send_nowait(messages)
        except trio.WouldBlock:
            # The relay is disconnected or slow. Inbox changes are found by the other instances' sweep.
            self._metrics.relay_dropped.inc(len(messages))
            return False
        self._waiting.append(size)
        self._bytes += size
        self._metrics.relay_published.inc(len(messages))
        return True

    def _waiting_bytes(self) -> int:
        """The channel gives its batches out in their order."""
        waiting = self._outbound.statistics().current_buffer_used
        while len(self._waiting) > waiting:
            self._bytes -= self._waiting.popleft()
        return self._bytes
