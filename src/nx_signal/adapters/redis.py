"""The relay over Redis pub/sub (CONTRACT §2), on one server, behind sentinels or in a cluster.

Two connections: one subscribed, one publishing. redis-py's own PubSub would subscribe again silently
after a drop and hide what was lost meanwhile; with bare connections a drop is an error, RelayLost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import structlog
import trio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from nx_signal.adapters._aio import Border, close_within, open_border
from nx_signal.adapters._channels import TARGETLESS, Wanted, channel_of
from nx_signal.adapters._redis_address import (
    CONNECT_TIMEOUT_S,
    LOSSES,
    REFUSALS,
    SEED_TIMEOUT_S,
    Command,
    Server,
    aio_send,
    servers_of,
    why,
)
from nx_signal.errors import RelayLost, SettingsError
from nx_signal.model import Dispatch, TargetKind
from nx_signal.ports import Listening, Received, RelayEvent

log = structlog.get_logger()

WRITE_TIMEOUT_S = 10.0
"""For one batch out and its answers; a server that takes longer is as good as gone."""
CLOSE_TIMEOUT_S = 2.0

PING_EVERY_S = 5.0
SILENCE_S = 10.0
"""With a ping every 5 s, a peer that says nothing for this long is frozen or cut off."""

MAX_MESSAGE_BYTES = 1_048_576
MAX_WAITING_MESSAGES = 20_000
MAX_WAITING_BYTES = 16_777_216
"""Received and not yet taken by this instance; beyond that messages are dropped, which is reported."""

MAX_RECEIVED = 256
"""Messages in one `Received`: decoding them holds the event loop for less than a millisecond."""
MAX_PUBLISHED = 1_000
"""Messages in one pipeline, about: batches are not split."""
MAX_CHANNELS = 1_000
"""Channels in one SUBSCRIBE or UNSUBSCRIBE."""

LOG_EVERY_S = 10.0
"""At most one line about malformed messages in this time, with their number."""


class _Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The JSON of CONTRACT §2. `data` stays the text that it is."""

    serverId: str
    type: TargetKind
    target: str | None = None
    event: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    exclude: list[str] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


class Malformed(ValueError):
    """A message on Redis is not what CONTRACT §2 says. The text never quotes it."""


def encode_message(dispatch: Dispatch, server_id: str) -> bytes:
    """The JSON of CONTRACT §2 around `dispatch.data`. UnicodeEncodeError for text that is no UTF-8."""
    return _encode(
        _Message(
            serverId=server_id,
            type=dispatch.kind,
            target=dispatch.target,
            event=dispatch.event,
            data=msgspec.Raw(dispatch.data),
            exclude=sorted(dispatch.exclude) or None,
        )
    )


def decode_message(channel: str, payload: bytes) -> Dispatch:
    """What came on `channel`; a missing target is the channel's. Raises Malformed."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise Malformed(f"larger than {MAX_MESSAGE_BYTES} bytes")
    try:
        payload.decode()  # inside `data` the decoder would not look
        message = _decode(payload)
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
    kind, _, target = channel.partition(":")[2].partition(":")
    if message.type != kind:
        raise Malformed("its type contradicts its channel")
    if kind in TARGETLESS:
        message.target = None
    elif message.target is None:
        message.target = target
    elif message.target != target:
        raise Malformed("its target contradicts its channel")
    return Dispatch(
        kind=message.type,
        target=message.target,
        event=message.event,
        data=bytes(message.data),
        exclude=frozenset(message.exclude or ()),
        server_id=message.serverId,
    )


class RedisRelay:
    """A Relay on Redis. `url`: redis://, rediss:// or unix://; with several hosts redis+sentinel:// or
    redis+cluster://, and both with rediss."""

    def __init__(self, url: str, server_id: str) -> None:
        self._url = url
        self._server_id = server_id
        self._wanted = Wanted()

    def listen(self, channels: Iterable[str]) -> None:
        self._wanted.listen(channels)

    def unlisten(self, channels: Iterable[str]) -> None:
        self._wanted.unlisten(channels)

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with open_border() as border:
            link = _Link(border, self._url, self._server_id, self._wanted)
            try:
                await link.connect()
                self._wanted.start_over()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.read)
                    nursery.start_soon(link.watch)
                    nursery.start_soon(link.subscribe)
                    nursery.start_soon(link.deliver, inbound)
                    nursery.start_soon(link.publish, outbound)
                    await link.in_force.wait()
                    task_status.started()
            finally:
                await close_within(CLOSE_TIMEOUT_S, border, link.aio_close)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A message, or with `payload` None the server's word that the channel is subscribed."""

    channel: str
    payload: bytes | None


class _Link:
    """One life of the two connections: the first error ends it."""

    def __init__(self, border: Border, url: str, server_id: str, wanted: Wanted) -> None:
        self.in_force = trio.Event()
        """everything wanted at the start is subscribed"""
        self._border = border
        self._server_id = server_id
        self._wanted = wanted
        self._servers = servers_of(url)
        self._address = self._servers.shown
        """as sentences call it; once connected, the server itself"""
        self._subscriber: AbstractConnection | None = None
        self._publisher: AbstractConnection | None = None
        self._transports: list[asyncio.WriteTransport] = []
        self._arrived: deque[_Arrived] = deque()
        self._something_arrived = trio.Event()
        self._waiting_messages = self._waiting_bytes = 0
        self._dropped = 0
        self._heard_s = trio.current_time()
        self._malformed = 0
        self._log_after_s = -LOG_EVERY_S

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except REFUSALS as error:
            raise SettingsError(
                f"Redis at {self._address} refuses this user: {error} Check APP_ENV_REDIS_URL."
            ) from None
        except LOSSES as error:
            raise RelayLost(f"Redis at {self._address} is lost: {why(error)}") from None

    # --- the tasks, on Trio's side ---

    async def connect(self) -> None:
        with self._translated():
            try:
                await self._border.call(self._aio_connect)
            except REFUSALS:
                raise
            except ResponseError as error:  # such as: no such database
                raise SettingsError(
                    f"Redis at {self._address} does not take what APP_ENV_REDIS_URL asks for: {error}"
                ) from None

    async def read(self) -> None:
        with self._translated():
            await self._border.call(self._aio_read)

    async def watch(self) -> None:
        """A connection on which nothing comes looks like a quiet one: only a ping tells."""
        while True:
            await trio.sleep(PING_EVERY_S)
            if trio.current_time() - self._heard_s > SILENCE_S:
                raise RelayLost(f"Redis at {self._address} is lost: silent for {SILENCE_S:g} s.")
            with self._translated():
                await self._border.call(self._aio_tell, [("PING",)])

    async def subscribe(self) -> None:
        """The ping after the first subscriptions is answered after them: then they are in force."""
        fence: list[Command] = [("PING",)]
        while True:
            dropped, added = self._wanted.take()
            commands: list[Command] = [
                *_about("UNSUBSCRIBE", dropped),
                *_about("SUBSCRIBE", added),
                *fence,
            ]
            fence = []
            if commands:
                with self._translated():
                    await self._border.call(self._aio_tell, commands)
            await self._wanted.changed()

    async def publish(self, outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]]) -> None:
        """One pipeline for all that waits; now and then the check, which also keeps an idle one open."""
        check_at_s = trio.current_time() + PING_EVERY_S
        while True:
            batch: list[Dispatch] = []
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
            commands = [command for dispatch in batch if (command := self._publication(dispatch))]
            with self._translated():
                if commands:
                    await self._border.call(self._aio_ask, commands)
                if trio.current_time() >= check_at_s:
                    await self._border.call(self._aio_check)
                    check_at_s = trio.current_time() + PING_EVERY_S

    def _publication(self, dispatch: Dispatch) -> Command | None:
        try:
            return "PUBLISH", channel_of(dispatch).encode(), encode_message(dispatch, self._server_id)
        except UnicodeEncodeError:
            log.warning("relay_unencodable", kind=dispatch.kind)
            return None

    async def deliver(self, inbound: trio.MemorySendChannel[RelayEvent]) -> None:
        """Hand on what came, in the order it came. Having dropped some, say so: listening anew."""
        while True:
            await self._something_arrived.wait()
            if not self._arrived:
                self._something_arrived = trio.Event()
                if self._dropped:
                    log.warning("relay_overflowed", dropped=self._dropped)
                    self._dropped = 0
                    await inbound.send(Listening(self._wanted.channels))
                continue
            event = self._take()
            if event is not None:
                await inbound.send(event)
            await trio.lowlevel.checkpoint()

    def _take(self) -> RelayEvent | None:
        """The next messages, or the next confirmations, whichever came first."""
        if self._arrived[0].payload is None:
            confirmed = set()
            while self._arrived and self._arrived[0].payload is None:
                confirmed.add(self._arrived.popleft().channel)
            confirmed = {channel for channel in confirmed if channel in self._wanted}
            return Listening(frozenset(confirmed)) if confirmed else None
        messages: list[Dispatch] = []
        for _ in range(MAX_RECEIVED):
            if not self._arrived or self._arrived[0].payload is None:
                break
            arrived = self._arrived.popleft()
            payload = arrived.payload or b""
            self._waiting_messages -= 1
            self._waiting_bytes -= len(payload)
            if arrived.channel not in self._wanted:
                continue  # on its way when we stopped listening
            try:
                dispatch = decode_message(arrived.channel, payload)
            except Malformed as error:
                self._note_malformed(arrived.channel, len(payload), error)
                continue
            if dispatch.server_id != self._server_id:
                messages.append(dispatch)
        return Received(tuple(messages)) if messages else None

    def _note_malformed(self, channel: str, size: int, error: Malformed) -> None:
        self._malformed += 1
        if trio.current_time() < self._log_after_s:
            return
        self._log_after_s = trio.current_time() + LOG_EVERY_S
        kind = channel.split(":")[1]
        log.warning("relay_malformed", kind=kind, bytes=size, why=str(error)[:200], count=self._malformed)
        self._malformed = 0

    # --- over the border ---

    async def _aio_connect(self) -> None:
        """To the first candidate that answers and is the one to be at."""
        *others, last = await self._servers.aio_candidates()
        for server in others:
            try:
                await self._aio_connect_to(server, SEED_TIMEOUT_S)
            except (ResponseError, *REFUSALS):
                raise
            except LOSSES as error:
                log.info("relay_passes_on", server=server.shown, why=why(error))
                await self.aio_close()
            else:
                return
        await self._aio_connect_to(last, CONNECT_TIMEOUT_S)

    async def _aio_connect_to(self, server: Server, timeout_s: float) -> None:
        self._address = server.shown
        async with asyncio.timeout(timeout_s):
            self._subscriber = server.connection()
            self._publisher = server.connection()
            for connection in (self._subscriber, self._publisher):
                await connection.connect()  # type: ignore[no-untyped-call]
                assert connection._writer is not None  # noqa: S101 - connected
                self._transports.append(connection._writer.transport)
            await self._aio_check()
        log.info("relay_connected", server=server.shown)

    async def _aio_check(self) -> None:
        self._servers.verify(await self._aio_ask([self._servers.check]))

    async def _aio_read(self) -> None:
        """Gather what comes until the connection ends. No crossing for a message: Trio's side takes
        what has gathered when it gets to run."""
        assert self._subscriber is not None  # noqa: S101 - connected before
        while True:
            answer = await self._subscriber.read_response(disable_decoding=True, disconnect_on_error=False)
            self._heard_s = trio.current_time()
            match answer:
                case [b"message", bytes(channel), bytes(payload)]:
                    self._gather(channel.decode(errors="replace"), payload)
                case [b"subscribe", bytes(channel), _]:
                    self._arrived.append(_Arrived(channel.decode(errors="replace"), None))
                    self._something_arrived.set()
                case b"PONG" | [b"pong", *_]:
                    self.in_force.set()

    def _gather(self, channel: str, payload: bytes) -> None:
        if (
            self._waiting_messages >= MAX_WAITING_MESSAGES
            or self._waiting_bytes + len(payload) > MAX_WAITING_BYTES
        ):
            self._dropped += 1
        else:
            self._waiting_messages += 1
            self._waiting_bytes += len(payload)
            self._arrived.append(_Arrived(channel, payload))
        self._something_arrived.set()

    async def _aio_tell(self, commands: Sequence[Command]) -> None:
        """Send on the subscribed connection; the answers come to `_aio_read`."""
        assert self._subscriber is not None  # noqa: S101 - connected before
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await aio_send(self._subscriber, commands)

    async def _aio_ask(self, commands: Sequence[Command]) -> object:
        """Send on the publishing connection and read the answers; the last one."""
        assert self._publisher is not None  # noqa: S101 - connected before
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await aio_send(self._publisher, commands)
            answer: object = None
            for _ in commands:
                answer = await self._publisher.read_response(disable_decoding=True)
            return answer

    async def aio_close(self) -> None:
        for connection in (self._subscriber, self._publisher):
            if connection is not None:
                await connection.disconnect(nowait=True)
        for transport in self._transports:
            # A close would wait, for ever, until a frozen peer has read what is under way to it.
            transport.abort()
        self._transports.clear()
        await asyncio.sleep(0)  # which closes the sockets


def _about(verb: str, channels: frozenset[str]) -> Iterator[Command]:
    """The commands that (un)subscribe these channels, MAX_CHANNELS in each."""
    # A name that is no text reaches nobody; it must not take the others with it.
    ordered = sorted(channel.encode(errors="replace") for channel in channels)
    for start in range(0, len(ordered), MAX_CHANNELS):
        yield verb, *ordered[start : start + MAX_CHANNELS]
