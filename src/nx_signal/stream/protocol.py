"""The stream's protocol for one connection (CONTRACT §1): messages and time in, decisions out. No I/O.

The shell (session.py) feeds every message to `receive`, and acts on the decisions in their order. Times
are monotonic seconds. Frames that come out are finished JSON text, sealed where they must be."""

from __future__ import annotations

import math
import os
import uuid
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from nx_signal.stream.sealing import (
    SALT_BYTES,
    BadPublicKey,
    KeyPair,
    Sealer,
    Unopenable,
    agree,
    b64,
    read_public_key,
)
from nx_signal.stream.topics import CONNECTED, ERROR, EXPIRING, encode_json, frame

AUTHENTICATE_WITHIN_S = 5.0
FINISH_AUTHENTICATION_WITHIN_S = 15.0
HEARTBEAT_TIMEOUT_S = 90.0
WARN_BEFORE_EXPIRY_S = 60.0
REMEMBERED_IVS = 1_024
"""Sealed frames of the client that are known as seen: a replayed one does not open again."""
MAX_MESSAGE_BYTES = 131_072
MAX_ROOM_CHARS = 256
MAX_ROOMS_PER_REQUEST = 100
REFUSED_ROOMS_NAMED = 20
"""An error names at most this many refused rooms, so that it stays small."""
RESERVED_ROOM_PREFIX = "ws:"

# Close codes and reasons
AUTHENTICATION_TIMEOUT = (4001, "Authentication timeout")
HEARTBEAT_TIMEOUT = (4002, "Heartbeat timeout")
AUTHENTICATION_FAILED = (4003, "Authentication failed")
ENCRYPTION_REQUIRED = (4004, "Encryption required")
TOKEN_EXPIRED = (4005, "Token expired")
DISCONNECTED = (4006, "Disconnected by operator")
TOO_MANY_REQUESTS = (4007, "Too many requests")
SLOW_CONSUMER = (4008, "Slow consumer")
GOING_AWAY = (1001, "Server shutting down")
MESSAGE_TOO_BIG = (1009, "Message too big")
TRY_AGAIN_LATER = (1013, "Try again later")


@dataclass(frozen=True, slots=True)
class Say:
    """Write this text frame."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; nothing follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Authenticate:
    """Verify the token, then call `accept` or `refuse`."""

    token: str
    public_key: object
    resume: int | None


@dataclass(frozen=True, slots=True)
class Join:
    """Enter those of the rooms that the user may enter; then call `refused_rooms` for the others.
    `malformed` are no room names at all."""

    rooms: tuple[str, ...]
    malformed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    rooms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resume:
    rev: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """Verify the token; the same user continues, anybody else is refused."""

    token: str


Decision: TypeAlias = Say | Close | Authenticate | Join | Leave | Resume | Refresh

_decode = msgspec.json.Decoder().decode
MAX_REV = 2**63 - 1


class Protocol:
    """One connection. Phases: unauthorized until `accept`, then live; `closed` after any Close."""

    __slots__ = (
        "_deadline_s",
        "_expires_s",
        "_sealer",
        "_seen_ivs",
        "_warn_s",
        "client_id",
        "closed",
    )

    def __init__(self, now_s: float) -> None:
        self.client_id = str(uuid.uuid4())
        self.closed = False
        self._sealer: Sealer | None = None
        self._deadline_s = now_s + AUTHENTICATE_WITHIN_S
        self._expires_s = self._warn_s = math.inf
        self._seen_ivs: dict[str, None] = {}

    @property
    def live(self) -> bool:
        return self._sealer is not None and not self.closed

    @property
    def deadline_s(self) -> float:
        """When `timed_out` is due unless a message comes first."""
        return min(self._deadline_s, self._warn_s, self._expires_s)

    def seal(self, payload: bytes) -> bytes:
        """A live connection's only way out for `{"event","data"}`."""
        assert self._sealer is not None  # noqa: S101 - plaintext must never leave by mistake
        return self._sealer.seal(payload)

    def timed_out(self, now_s: float) -> list[Decision]:
        if self._sealer is None:
            return [self._close(AUTHENTICATION_TIMEOUT)]
        if now_s >= self._expires_s:
            return [self._close(TOKEN_EXPIRED)]
        if now_s >= self._deadline_s:
            return [self._close(HEARTBEAT_TIMEOUT)]
        if now_s >= self._warn_s:
            self._warn_s = math.inf
            left_ms = round((self._expires_s - now_s) * 1000)
            return [Say(self._out(frame(EXPIRING, encode_json({"expiresInMs": left_ms}))))]
        return []

    def expires(self, at_s: float) -> None:
        """The token holds until then; WARN_BEFORE_EXPIRY_S earlier the client is told."""
        self._expires_s = at_s
        self._warn_s = at_s - WARN_BEFORE_EXPIRY_S

    def receive(self, message: str | bytes, now_s: float) -> list[Decision]:
        """One message of the client, text or binary."""
        if self.closed:
            return []
        if self._sealer:
            self._deadline_s = now_s + HEARTBEAT_TIMEOUT_S
        raw = message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
        if len(raw) > MAX_MESSAGE_BYTES:
            return [self._close(MESSAGE_TOO_BIG)]
        decoded = _object(raw)
        if decoded is None:
            return [self._error("Invalid message format")]
        event: Any = decoded.get("event")
        data: Any = decoded.get("data")
        if not isinstance(event, str) or not event:
            return []
        if event == "heartbeat":
            return []
        if event == "authenticate":
            return [self._authenticate(data, now_s)]
        if self._sealer is None:
            return [self._error("Not authenticated")]
        if event in ("join", "leave"):
            return self._rooms(event, data)
        if event != "encrypted":
            return [self._error("Encryption required")]
        try:
            opened = self._sealer.open(data)
        except Unopenable:
            return [self._error("Encryption required")]
        if self._is_replay(data["iv"]):
            return [self._error("Encryption required")]
        return self._receive_sealed(opened)

    def _is_replay(self, iv: str) -> bool:
        if iv in self._seen_ivs:
            return True
        self._seen_ivs[iv] = None
        if len(self._seen_ivs) > REMEMBERED_IVS:
            del self._seen_ivs[next(iter(self._seen_ivs))]
        return False

    def _receive_sealed(self, raw: bytes) -> list[Decision]:
        decoded = _object(raw)
        if decoded is None:
            return [self._error("Invalid message format")]
        event, data = decoded.get("event"), decoded.get("data")
        if event in ("join", "leave"):
            return self._rooms(event, data)
        if event == "authenticate":
            return [self._error("Already authenticated")]
        if event == "resume":
            rev = _revision(data)
            if rev is None:
                return [self._error("Invalid message format")]
            return [Resume(rev)]
        if event == "refresh":
            token = data.get("token") if isinstance(data, dict) else None
            return [Refresh(token if isinstance(token, str) else "")]
        return []

    def _authenticate(self, data: Any, now_s: float) -> Decision:
        if self._sealer:
            return self._error("Already authenticated")
        self._deadline_s = now_s + FINISH_AUTHENTICATION_WITHIN_S
        if not isinstance(data, dict):
            data = {}
        token, scheme = data.get("token"), data.get("type", "Bearer")
        usable = isinstance(token, str) and isinstance(scheme, str) and scheme.lower() == "bearer"
        return Authenticate(
            token=token if usable else "",
            public_key=data.get("publicKey"),
            resume=_revision(data.get("resume")),
        )

    def accept(self, user_id: str, public_key: object, time: str, now_s: float) -> list[Decision]:
        """The token holds: agree on a key. Gives `connected`, the last plaintext frame, or the end.

        `time` is an ISO-8601 stamp. Keys are made afresh here, for this connection alone."""
        if public_key is None:
            return [self._error("Encryption handshake failed"), self._close(ENCRYPTION_REQUIRED)]
        try:
            peer = read_public_key(public_key)
        except BadPublicKey:
            return [self._error("Authentication error"), self._close(AUTHENTICATION_FAILED)]
        pair, salt = KeyPair.generate(), os.urandom(SALT_BYTES)
        connected = {
            "id": self.client_id,
            "userId": user_id,
            "time": time,
            "serverPublicKey": pair.public_b64,
            "salt": b64(salt),
        }
        say = Say(frame(CONNECTED, encode_json(connected)))
        self._sealer = Sealer(agree(pair, peer, salt))
        self._deadline_s = now_s + HEARTBEAT_TIMEOUT_S
        return [say]

    def refuse(self) -> list[Decision]:
        """The token does not hold, at the handshake or at a refresh."""
        return [self._error("Authentication failed"), self._close(AUTHENTICATION_FAILED)]

    def refused_rooms(self, rooms: tuple[str, ...]) -> Say:
        named = ", ".join(encode_json(room[:MAX_ROOM_CHARS]).decode() for room in rooms[:REFUSED_ROOMS_NAMED])
        more = f" and {len(rooms) - REFUSED_ROOMS_NAMED} more" if len(rooms) > REFUSED_ROOMS_NAMED else ""
        data = {"message": f"Not allowed to join: {named}{more}", "rooms": rooms[:REFUSED_ROOMS_NAMED]}
        return Say(self._out(frame(ERROR, encode_json(data))))

    def close(self, why: tuple[int, str]) -> Close:
        """An end that the server decides on."""
        return self._close(why)

    def _rooms(self, event: str, data: Any) -> list[Decision]:
        rooms = data.get("rooms") if isinstance(data, dict) else None
        if not isinstance(rooms, list) or not rooms:
            return []
        rooms = list(dict.fromkeys(room for room in rooms[:MAX_ROOMS_PER_REQUEST] if isinstance(room, str)))
        if event == "leave":
            return [Leave(tuple(rooms))]
        good = tuple(room for room in rooms if _is_room_name(room))
        malformed = tuple(room for room in rooms if not _is_room_name(room))
        return [Join(good, malformed)]

    def _error(self, message: str) -> Say:
        return Say(self._out(frame(ERROR, encode_json({"message": message}))))

    def _out(self, payload: bytes) -> bytes:
        return self._sealer.seal(payload) if self._sealer else payload

    def _close(self, why: tuple[int, str]) -> Close:
        self.closed = True
        return Close(*why)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        decoded = _decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _revision(data: Any) -> int | None:
    rev = data.get("rev") if isinstance(data, dict) else data
    return rev if type(rev) is int and 0 <= rev <= MAX_REV else None


def _is_room_name(room: str) -> bool:
    return 0 < len(room) <= MAX_ROOM_CHARS and not room.startswith(RESERVED_ROOM_PREFIX)
