"""The client's side of the stream without sockets, for tests of what the server says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from nx_signal.model import Principal
from nx_signal.stream.protocol import Authenticate, Decision, Protocol, Say
from nx_signal.stream.sealing import KeyPair, Sealer, agree, read_public_key, unb64
from nx_signal.stream.session import Session
from nx_signal.stream.wire import Kind, Push, Wire

STAMP = "2026-01-01T00:00:00.000Z"


class Client:
    """The other side: what a client would do with what the server says."""

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
        (say,) = self.protocol.accept(user_id, request.public_key, STAMP, now_s)
        assert isinstance(say, Say)
        frame = json.loads(say.text)
        assert frame["event"] == "connected"
        self.connected = frame["data"]
        server_key = read_public_key(self.connected["serverPublicKey"])
        self.sealer = Sealer(agree(self.pair, server_key, unb64(self.connected["salt"])))

    def opened(self, decision: Decision) -> dict[str, Any]:
        assert isinstance(decision, Say) and self.sealer
        frame = json.loads(decision.text)
        assert frame["event"] == "encrypted", "plaintext after the handshake"
        return json.loads(self.sealer.open(frame["data"]))  # type: ignore[no-any-return]


class FakeWire:
    """Takes `room` frames (None: any number), then refuses until `drain`."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.frames: list[bytes] = []
        self.kinds: list[Kind] = []
        self.open = True
        self.queued_bytes = 0
        self.gave_up: tuple[int, str] | None = None
        self.on_drained: Callable[[], None]
        self.on_stalled: Callable[[], None]

    def push(self, frame: bytes, kind: Kind) -> Push:
        if not self.open:
            return Push.CLOSED
        if self.room == 0:
            return Push.REFUSED
        if self.room is not None:
            self.room -= 1
        self.frames.append(frame)
        self.kinds.append(kind)
        return Push.TAKEN

    def drain(self, room: int | None = None) -> None:
        self.room = room
        self.on_drained()

    def give_up(self, code: int, reason: str) -> None:
        self.gave_up = (code, reason)
        self.open = False


def payload_of_frame(frame: bytes) -> bytes:
    """The payload of one unmasked text frame (RFC 6455 §5.2)."""
    assert frame[0] == 0x81
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


class FakeClient:
    """One connected client of a hub: `events` are what it was told, opened."""

    def __init__(
        self,
        user_id: str = "u1",
        *,
        room: int | None = None,
        wants_heal: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self.client = Client()
        self.wire = FakeWire(room)
        self.woken = 0
        self.client.handshake(user_id=user_id)
        principal = Principal(user_id, None, datetime(2030, 1, 1, tzinfo=UTC))
        self.session = Session(
            self.client.protocol,
            cast("Wire", self.wire),
            principal,
            datetime(2026, 1, 1, tzinfo=UTC),
            wants_heal=wants_heal,
            wake=self._wake,
        )

    def _wake(self) -> None:
        self.woken += 1

    @property
    def events(self) -> list[tuple[str, Any]]:
        opened = [self.client.opened(Say(payload_of_frame(frame))) for frame in self.wire.frames]
        return [(frame["event"], frame["data"]) for frame in opened]

    @property
    def revs(self) -> list[int]:
        """Of the log's frames, states left out."""
        return [data["rev"] for event, data in self.events if event.endswith(("created", "read", "deleted"))]
