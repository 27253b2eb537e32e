"""The relay over Redis pub/sub (CONTRACT §2), on one server, behind sentinels or in a cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

import structlog
import trio

from nx_signal.adapters.asyncio_bridge import (
    AsyncioBridge,
    DriverCancelled,
    close_within,
    open_asyncio_bridge,
)
from nx_signal.adapters.redis.address import parse_address
from nx_signal.adapters.redis.codec import Malformed, decode_message, encode_message
from nx_signal.adapters.redis.driver import RedisConnections
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.redis.servers import Command
from nx_signal.adapters.subscriptions import SubscriptionSet
from nx_signal.errors import RelayLost
from nx_signal.model import RelayMessage
from nx_signal.model.channels import channel_of
from nx_signal.ports import Received, RelayEvent, Subscribed
from nx_signal.telemetry.tally import Tally

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOSE_TIMEOUT_S = 2.0

PING_INTERVAL_S = 5.0
SILENCE_TIMEOUT_S = 10.0
"""With a ping every 5 s, a peer that sends nothing for this long is frozen or cut off."""

MAX_QUEUED_BYTES = 33_554_432
"""Received and not yet taken by this instance, as much as Redis itself holds for a subscriber; beyond that
messages are dropped, which is reported."""
MESSAGE_BYTES = 200
"""What a message takes beside its payload."""

MAX_RECEIVED = 256
MAX_RECEIVED_BYTES = 1_048_576
"""Messages in one `Received`, about: decoding them holds the event loop for a millisecond."""
MAX_PUBLISHED = 1_000
"""Messages in one pipeline, about: batches are not split."""
MAX_CHANNELS = 1_000
"""Channels in one SUBSCRIBE or UNSUBSCRIBE."""

OVERFLOWED = "more comes over Redis than this instance can pass on: find out who sends it, or add instances"

LOG_INTERVAL_S = 10.0
"""At most one line about malformed messages in this time, with their number."""


class RedisRelay:
    """A Relay on Redis. `url`: redis://, rediss:// or unix://; with several hosts redis+sentinel:// or
    redis+cluster://, and both with rediss. `deployment` gives what its instances have in common, once the
    store can be reached."""

    alone = False

    def __init__(self, url: str, server_id: str, deployment: Callable[[], Awaitable[Deployment]]) -> None:
        self._url = url
        self._server_id = server_id
        self._deployment = deployment
        self._subscriptions = SubscriptionSet()

    def subscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.subscribe(channels)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        self._subscriptions.unsubscribe(channels)

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with open_asyncio_bridge() as bridge:
            connections = RedisConnections(parse_address(self._url))
            deployment = await self._deployment()
            link = _Link(bridge, connections, self._server_id, deployment, self._subscriptions)
            try:
                await link.connect()
                self._subscriptions.start_over()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.read)
                    nursery.start_soon(link.watch)
                    nursery.start_soon(link.subscribe)
                    nursery.start_soon(link.deliver, inbound)
                    nursery.start_soon(link.publish, outbound)
                    await link.all_subscribed.wait()
                    task_status.started()
            finally:
                await close_within(CLOSE_TIMEOUT_S, bridge, connections.aio_close)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A message, or with `payload` None the confirmation that the channel is subscribed."""

    channel: str
    payload: bytes | None


def _cost(payload: bytes) -> int:
    return len(payload) + MESSAGE_BYTES


class _Link:
    """The tasks of one connection to Redis, on Trio's side: the first error ends it."""

    def __init__(
        self,
        bridge: AsyncioBridge,
        connections: RedisConnections,
        server_id: str,
        deployment: Deployment,
        subscriptions: SubscriptionSet,
    ) -> None:
        self.all_subscribed = trio.Event()
        """every channel requested before the start is subscribed"""
        self._bridge = bridge
        self._connections = connections
        self._server_id = server_id
        self._deployment = deployment
        self._subscriptions = subscriptions
        self._replies: deque[_Reply] = deque()
        self._reply_queued = trio.Event()
        self._queued_bytes = 0
        self._has_dropped = False
        self._overflowed = Tally("relay_overflowed")
        self._last_reply_s = trio.current_time()
        self._malformed = 0
        self._next_log_s = trio.current_time()

    async def _call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        try:
            return await self._bridge.call(fn, *args)
        except DriverCancelled as error:
            raise self._lost(str(error)) from None

    def _lost(self, reason: str) -> RelayLost:
        return RelayLost(f"Redis at {self._connections.server_name} is lost: {reason}")

    async def connect(self) -> None:
        await self._call(self._connections.aio_connect)

    async def read(self) -> None:
        await self._call(self._connections.aio_read, self._on_reply)

    async def watch(self) -> None:
        """Only a ping distinguishes a dead connection from an idle one."""
        while True:
            await trio.sleep(PING_INTERVAL_S)
            if trio.current_time() - self._last_reply_s > SILENCE_TIMEOUT_S:
                raise self._lost(f"silent for {SILENCE_TIMEOUT_S:g} s.")
            await self._call(self._connections.aio_send, [("PING",)])

    async def subscribe(self) -> None:
        """The ping after the first subscriptions is answered after them: then they are in force."""
        ping: list[Command] = [("PING",)]
        while True:
            to_unsubscribe, to_subscribe = self._subscriptions.take_changes()
            commands: list[Command] = [
                *self._commands("UNSUBSCRIBE", to_unsubscribe),
                *self._commands("SUBSCRIBE", to_subscribe),
                *ping,
            ]
            ping = []
            if commands:
                await self._call(self._connections.aio_send, commands)
            await self._subscriptions.wait_changed()

    async def publish(self, outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]]) -> None:
        """One pipeline for all messages that wait; in between the check, which keeps an idle connection
        open."""
        check_at_s = trio.current_time() + PING_INTERVAL_S
        while True:
            batch: list[RelayMessage] = []
            with trio.move_on_at(check_at_s):
                try:
                    batch.extend(await outbound.receive())
                    while len(batch) < MAX_PUBLISHED:
                        batch.extend(outbound.receive_nowait())
                except trio.WouldBlock:
                    pass
                except trio.EndOfChannel:
                    if not batch:
                        await trio.sleep_forever()
            commands = [command for message in batch if (command := self._publish_command(message))]
            if commands:
                await self._call(self._connections.aio_publish, commands)
            if trio.current_time() >= check_at_s:
                await self._call(self._connections.aio_check)
                check_at_s = trio.current_time() + PING_INTERVAL_S

    def _publish_command(self, message: RelayMessage) -> Command | None:
        try:
            channel = self._deployment.on_redis(channel_of(message)).encode()
            return "PUBLISH", channel, encode_message(message, self._server_id, self._deployment)
        except UnicodeEncodeError:
            log.warning("relay_unencodable", kind=message.kind)
            return None

    def _on_reply(self, reply: object) -> None:
        """Called by the driver, for everything on the subscribed connection."""
        self._last_reply_s = trio.current_time()
        match reply:
            case [b"message", bytes(channel), bytes(payload)]:
                self._queue_message(self._channel(channel), payload)
            case [b"subscribe", bytes(channel), _]:
                self._replies.append(_Reply(self._channel(channel), None))
                self._reply_queued.set()
            case b"PONG" | [b"pong", *_]:
                self.all_subscribed.set()

    def _channel(self, on_redis: bytes) -> str:
        return self._deployment.channel(on_redis.decode(errors="replace"))

    def _queue_message(self, channel: str, payload: bytes) -> None:
        if self._queued_bytes + _cost(payload) > MAX_QUEUED_BYTES:
            self._has_dropped = True
            self._overflowed.count(advice=OVERFLOWED)
        else:
            self._queued_bytes += _cost(payload)
            self._replies.append(_Reply(channel, payload))
        self._reply_queued.set()

    async def deliver(self, inbound: trio.MemorySendChannel[RelayEvent]) -> None:
        """Send events in the order of their replies. Dropped messages are reported as `Subscribed` again."""
        while True:
            await self._reply_queued.wait()
            if not self._replies:
                self._reply_queued = trio.Event()
                if self._has_dropped:
                    self._has_dropped = False
                    await inbound.send(Subscribed(self._subscriptions.channels))
                continue
            event = self._next_event()
            if event is not None:
                await inbound.send(event)
            await trio.lowlevel.checkpoint()

    def _next_event(self) -> RelayEvent | None:
        """Of the messages, or the confirmations, at the front of the queue."""
        if self._replies[0].payload is None:
            confirmed = set()
            while self._replies and self._replies[0].payload is None:
                confirmed.add(self._replies.popleft().channel)
            confirmed = {channel for channel in confirmed if channel in self._subscriptions}
            return Subscribed(frozenset(confirmed)) if confirmed else None
        messages: list[RelayMessage] = []
        size = 0
        for _ in range(MAX_RECEIVED):
            if not self._replies or self._replies[0].payload is None or size >= MAX_RECEIVED_BYTES:
                break
            reply = self._replies.popleft()
            payload = reply.payload or b""
            self._queued_bytes -= _cost(payload)
            size += len(payload)
            if reply.channel not in self._subscriptions:
                continue  # sent before the server had the UNSUBSCRIBE
            try:
                message = decode_message(reply.channel, payload, self._deployment)
            except Malformed as error:
                self._log_malformed(reply.channel, len(payload), error)
                continue
            if message is not None and message.server_id != self._server_id:
                messages.append(message)
        return Received(tuple(messages)) if messages else None

    def _log_malformed(self, channel: str, size: int, error: Malformed) -> None:
        self._malformed += 1
        if trio.current_time() < self._next_log_s:
            return
        self._next_log_s = trio.current_time() + LOG_INTERVAL_S
        kind = channel.split(":")[1]
        log.warning("relay_malformed", kind=kind, bytes=size, reason=str(error)[:200], count=self._malformed)
        self._malformed = 0

    def _commands(self, verb: str, channels: frozenset[str]) -> Iterator[Command]:
        """Those that (un)subscribe these channels, MAX_CHANNELS in each."""
        # A name with surrogates matches no channel; it must not make the encoding of the others fail.
        names = sorted(self._deployment.on_redis(channel).encode(errors="replace") for channel in channels)
        for start in range(0, len(names), MAX_CHANNELS):
            yield verb, *names[start : start + MAX_CHANNELS]
