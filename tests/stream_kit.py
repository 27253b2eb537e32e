"""The client's side of the stream without sockets: of the WebSocket protocol, and of a transport."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nx_signal.client.frames import encode
from nx_signal.delivery.backlog import Pool
from nx_signal.delivery.session import Session
from nx_signal.delivery.transport import CloseReason, FrameKind, PushResult
from nx_signal.model import Principal
from nx_signal.websocket import decisions
from nx_signal.websocket.channel import Channel, Hello
from nx_signal.websocket.decisions import Authenticate, Decision, SendFrame
from nx_signal.websocket.protocol import Protocol
from nx_signal.websocket.sealing import KeyPair, Sealer, agree, read_public_key, unb64

STATIC_KEY = X25519PrivateKey.generate()
SERVER_KEY = STATIC_KEY.public_key().public_bytes_raw()
"""What a server of the tests proves on version 2."""
TIMESTAMP = "2026-01-01T00:00:00.000Z"


async def static_key() -> X25519PrivateKey:
    await trio.lowlevel.checkpoint()
    return STATIC_KEY


class Client:
    """A client of the WebSocket protocol."""

    def __init__(self) -> None:
        self.protocol = Protocol(now_s=0.0)
        self.pair = KeyPair.generate()
        self.sealer: Sealer | None = None
        self.connected: dict[str, Any] = {}

    def send(self, event: str, data: Any = None, now_s: float = 1.0) -> list[Decision]:
        return self.protocol.receive(json.dumps({"event": event, "data": data}), now_s)

    def send_sealed(self, payload: bytes, now_s: float = 1.0) -> list[Decision]:
        assert self.sealer
        return self.protocol.receive(self.sealer.seal(payload), now_s)

    def handshake(self, now_s: float = 1.0, user_id: str = "u1") -> None:
        (request,) = self.send(
            "authenticate", {"type": "Bearer", "token": "t", "publicKey": self.pair.public_b64}, now_s
        )
        assert isinstance(request, Authenticate)
        (answer,) = self.protocol.accept(user_id, request.public_key, TIMESTAMP, now_s)
        assert isinstance(answer, SendFrame) and not answer.sealed
        frame = json.loads(answer.text)
        assert frame["event"] == "connected"
        self.connected = frame["data"]
        server_key = read_public_key(self.connected["serverPublicKey"])
        self.sealer = Sealer(agree(self.pair, server_key, unb64(self.connected["salt"])))

    def opened(self, decision: Decision) -> dict[str, Any]:
        assert isinstance(decision, SendFrame) and self.sealer
        assert decision.sealed, "plaintext after the handshake"
        frame = json.loads(self.protocol.seal(decision.text))
        assert frame["event"] == "encrypted"
        return json.loads(self.sealer.open(frame["data"]))  # type: ignore[no-any-return]


class Client2:
    """A client of version 2, over the protocol of a server."""

    def __init__(self, versions: Collection[int] = (1, 2)) -> None:
        self.protocol = Protocol(now_s=0.0, versions=versions)
        self.channel: Channel | None = None

    def hello(self, now_s: float = 1.0) -> None:
        hello = Hello()
        (request,) = self.protocol.receive(json.dumps({"event": "hello", "data": hello.data}), now_s)
        assert isinstance(request, decisions.Hello)
        (answer,) = self.protocol.choose(request.offer, STATIC_KEY)
        assert isinstance(answer, SendFrame) and not answer.sealed
        self.channel = hello.finish(json.loads(answer.text)["data"], [SERVER_KEY])

    def send(self, event: str, data: Any = None, now_s: float = 1.0) -> list[Decision]:
        assert self.channel
        return self.protocol.receive(self.channel.seal(encode(event, data)), now_s)

    def authenticate(self, now_s: float = 1.0, user_id: str = "u1") -> dict[str, Any]:
        """The data of `connected`."""
        (request,) = self.send("authenticate", {"token": "t"}, now_s)
        assert isinstance(request, Authenticate)
        (answer,) = self.protocol.accept(user_id, request.public_key, TIMESTAMP, now_s)
        frame = self.opened(answer)
        assert frame["event"] == "connected"
        return frame["data"]  # type: ignore[no-any-return]

    def opened(self, decision: Decision) -> dict[str, Any]:
        assert isinstance(decision, SendFrame) and decision.sealed and self.channel
        seal = self.protocol.seal_and_rekey if decision.rekey else self.protocol.seal
        return json.loads(self.channel.open(seal(decision.text)))  # type: ignore[no-any-return]


class FakeTransport:
    """Takes `room` pushes (None: any number), then refuses until `drain`."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.payloads: list[bytes] = []
        self.kinds: list[FrameKind] = []
        self.queued_bytes = 0
        self.encrypted = True
        self.closed_for: CloseReason | None = None
        self.session: Session
        self._refused = False

    def push(self, payload: bytes, kind: FrameKind) -> PushResult:
        if self.closed_for:
            return PushResult.CLOSED
        if self.room == 0:
            self._refused = True
            return PushResult.REFUSED
        if self.room is not None:
            self.room -= 1
        self.payloads.append(payload)
        self.kinds.append(kind)
        return PushResult.TAKEN

    def drain(self, room: int | None = None) -> None:
        """Everything pushed so far is sent; there is `room` for more."""
        self.room = room
        if self._refused:
            self._refused = False
            self.session.drained()

    def close(self, reason: CloseReason) -> None:
        self.closed_for = self.closed_for or reason


class FakeClient:
    """One connected client of a hub: `events` are those pushed to it."""

    def __init__(
        self,
        user_id: str = "u1",
        *,
        room: int | None = None,
        request_read: Callable[[Session], None] = lambda session: None,
        request_comparison: Callable[[Session], None] = lambda session: None,
        pool: Pool | None = None,
    ) -> None:
        self.transport = FakeTransport(room)
        principal = Principal(user_id, None, datetime(2030, 1, 1, tzinfo=UTC))
        self.session = self.transport.session = Session(
            str(uuid.uuid4()),
            principal,
            self.transport,
            datetime(2026, 1, 1, tzinfo=UTC),
            request_read=request_read,
            request_comparison=request_comparison,
            pool=pool or Pool(lambda count: None),
        )

    @property
    def events(self) -> list[tuple[str, Any]]:
        frames = [json.loads(payload) for payload in self.transport.payloads]
        return [(frame["event"], frame["data"]) for frame in frames]

    @property
    def revs(self) -> list[int]:
        """Of the log's frames, states left out."""
        return [data["rev"] for event, data in self.events if event.endswith(("created", "read", "deleted"))]
