"""Between an instance and a client: connections without sockets, which lose what the schedule wants lost."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio
from trio_websocket import ConnectionClosed

from nx_signal.delivery import polling
from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.delivery.writer import Finish, WriterObserver
from nx_signal.model.channels import DEFAULT_ROOMS, inbox_room
from nx_signal.sse import connection as events_connection
from nx_signal.sse import server as events_server
from nx_signal.websocket import connection, protocol
from nx_signal.websocket.frames import FrameMeter
from nx_signal.websocket.observer import WireObserver
from nx_signal.websocket.sealing import IV_BYTES, b64

if TYPE_CHECKING:
    from sim_devices import Device
    from sim_instance import Instance


def fakes() -> Mapping[Any, Mapping[str, Any]]:
    """What stands in for sockets, sealing and random ids, by module."""
    ids = iter(range(10**9))
    uuid = SimpleNamespace(uuid4=lambda: f"c{next(ids)}")
    return {
        connection: {"Wire": _wire_of, "wrap_server_stream": _upgrade},
        protocol: {
            "uuid": uuid,
            "KeyPair": SimpleNamespace(generate=lambda: SimpleNamespace(public_b64="")),
            "read_public_key": lambda text: None,
            "agree": lambda pair, peer, salt: b"",
            "Sealer": Unsealed,
        },
        events_connection: {"Writer": _writer_of},
        events_server: {"uuid": uuid},
        polling: {"uuid": uuid},
    }


class Unsealed:
    def __init__(self, key: bytes) -> None:
        pass

    def seal(self, payload: bytes) -> bytes:
        return payload

    def open(self, data: Any) -> bytes:
        return str(data["ct"]).encode()


@dataclass(frozen=True, slots=True)
class Resumed:
    """Stands between the frames where the server took a `resume`: what follows, follows this revision."""

    rev: int
    history: str | None
    head: int
    truncated: int
    agrees: bool
    """whether the store had this history; all three at that time"""
    restores: int


@dataclass(frozen=True, slots=True)
class Closed:
    code: int


class Link:
    """One connection of a WebSocket: what is under way in both directions, and what the device may expect of
    it."""

    def __init__(self, device: Device, instance: Instance) -> None:
        self.device = device
        self.instance = instance
        self.resume = None if device.rev is None else (device.rev, device.history)
        self.socket = self  # for the peer's name
        self.wire = self.make_wire()
        self.to_server, self.from_device = trio.open_memory_channel[str](100)
        self.over = trio.Event()
        """the device knows that it is"""
        self.lost = False
        """nothing arrives any more, whatever the server believes"""
        self.floor = self.ceiling = 0
        """the head before the handshake and at `connected`: what a device that knows nothing starts from"""
        self.resumed: Resumed | None = None
        """the store at `connected`, where the device resumes"""
        self.restores = 0
        """how often the store had gone back when `too_far` was decided"""
        self.connected = False
        self.owed = False
        """a state for a resume"""
        self.too_far = False
        """the next frame of the log must be a reset"""
        self.returning = False
        """it resumed, and got nothing of the log since: it may be too far behind for a replay"""
        self.rooms: set[str] = {*DEFAULT_ROOMS, inbox_room(device.user)}
        self.client_id = ""
        self.connected_s = 0.0
        self.ephemeral: set[int] = set()
        self.activities: set[str] = set()
        """pushed to its members' rooms"""
        self.sealed = 0
        self.resume_limit = device.world.plan.resume_limit
        """more is not replayed"""

    def make_wire(self) -> SimWire:
        return SimWire(self)

    async def run(self) -> None:
        """The server's side, until the connection is over."""
        await self.instance.websocket.serve(self, b"", self.instance.visit)  # type: ignore[arg-type]

    def open(self) -> None:
        """What the device sends first."""
        device = self.device
        data: dict[str, Any] = {"type": "Bearer", "token": device.user, "publicKey": "key"}
        if device.rev is not None:
            data["resume"] = device.place(device.rev)
        self.send("authenticate", data)

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def send(self, event: str, data: Any, *, sealed: bool = False) -> None:
        text = json.dumps({"event": event, "data": data})
        if sealed:
            self.sealed += 1
            iv = b64(self.sealed.to_bytes(IV_BYTES, "big"))
            text = json.dumps({"event": "encrypted", "data": {"iv": iv, "ct": text}})
        # Or it is on its way to a server that is gone.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.to_server.send_nowait(text)

    def hang_up(self) -> None:
        """By the device: what is under way to it is lost."""
        self.lost = True
        self.to_server.close()
        self.over.set()


async def _upgrade(nursery: trio.Nursery, wire: SimWire, max_message_size: int) -> Any:
    await trio.lowlevel.checkpoint()

    async def accept(subprotocol: str | None) -> SimWebSocket:
        await trio.lowlevel.checkpoint()
        return SimWebSocket(wire)

    return SimpleNamespace(proposed_subprotocols=[], headers=[], accept=accept)


class SimWebSocket:
    def __init__(self, wire: SimWire) -> None:
        self.wire = wire
        self._wsproto = SimpleNamespace(handshake=None)  # which the server lets go of

    async def get_message(self) -> str:
        link = self.wire.link
        try:
            message = await link.from_device.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed(None) from None
        link.device.taken(link, message)
        return message

    async def aclose(self, code: int, reason: str) -> None:
        self.wire.close_frame(code)
        await trio.lowlevel.checkpoint()


def _wire_of(
    link: Link,
    read_ahead: bytes,
    nursery: trio.Nursery,
    observer: WireObserver,
    meter: FrameMeter,
    *,
    max_buffer_bytes: int,
) -> SimWire:
    link.wire.observer = observer
    return link.wire


class SimWire:
    """Stands in for websocket.wire.Wire: `room` frames wait for a device that does not read at once."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: deque[bytes | Resumed | Closed] = deque()
        self.closed = False
        self.refused = False
        self.breached = False
        self.observer: WriterObserver = WireObserver()

    @property
    def open(self) -> bool:
        return not self.closed

    @property
    def queued_bytes(self) -> int:
        return sum(len(frame) for frame in self.frames if isinstance(frame, bytes))

    def push(self, payload: bytes, kind: FrameKind, finish: Finish = bytes) -> PushResult:
        frame = finish(payload)
        if self.closed:
            return PushResult.CLOSED
        room = self.link.device.room
        if room is not None and len(self.frames) >= max(room, 1):
            self.refused = True
            return PushResult.REFUSED
        if self.begins(frame):
            device = self.link.device
            self.link.ceiling = device.world.head(device.user).rev
            if self.link.resume is not None:
                self.link.resumed = device.world.resumed(device.user, *self.link.resume)
        self.put(frame)
        return PushResult.TAKEN

    @staticmethod
    def begins(frame: bytes) -> bool:
        """Whether this is the frame with `connected`."""
        return b'"event":"connected"' in frame[:32]

    def put(self, item: bytes | Resumed | Closed) -> None:
        self.frames.append(item)
        if self.link.device.room is None:
            self.link.device.read(self.link)

    def close_now(self, code: int, reason: str) -> None:
        self.frames.clear()
        self.close_frame(code)

    def close_frame(self, code: int) -> None:
        if not self.closed:
            self.closed = True
            self.put(Closed(code))

    def drained(self) -> None:
        if self.refused and not self.frames and not self.closed:
            self.refused = False
            self.observer.drained()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


def _writer_of(
    link: Link, nursery: trio.Nursery, observer: WriterObserver, *, max_buffer_bytes: int
) -> SimWire:
    link.wire.observer = observer
    return link.wire


class EventWire(SimWire):
    """Stands in for delivery.writer.Writer, below Server-Sent Events."""

    @staticmethod
    def begins(frame: bytes) -> bool:
        return b"\nevent: connected\n" in frame

    def push_last(self, frame: bytes) -> None:
        if not self.closed:
            self.closed = True
            self.put(frame)

    def end_with(self, frame: bytes) -> None:
        if not self.closed:
            self.frames.clear()
            self.push_last(frame)

    async def receive(self, max_bytes: int) -> bytes:
        """Nothing, once the client hangs up."""
        with suppress(trio.EndOfChannel):
            await self.link.from_device.receive()
        return b""

    async def linger_and_close(self) -> None:
        await self.aclose()
