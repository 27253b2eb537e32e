"""The stream's protocol for one connection (CONTRACT §1): messages and time in, decisions out. No I/O.

The shell (connection.py) feeds every message to `receive`, and executes the decisions in their order. Times
are monotonic seconds. Version 1 of the cryptography is the original's (sealing.py); version 2 (channel.py)
begins with a `hello`."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Collection
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nx_signal.delivery.rooms import MAX_ROOMS_PER_REQUEST, is_room_name
from nx_signal.delivery.topics import CONNECTED, ERROR, EXPIRING, HELLO, REFRESHED, frame
from nx_signal.delivery.transport import CloseReason
from nx_signal.model.json import JsonDecoder
from nx_signal.model.wire import MAX_REV, encode_json
from nx_signal.websocket.channel import VERSION, BadHello, Channel, Offer, answer, read_offer
from nx_signal.websocket.decisions import (
    Authenticate,
    Close,
    Credential,
    Decision,
    Hello,
    Join,
    Leave,
    Refresh,
    Resume,
    SendFrame,
)
from nx_signal.websocket.noise import NoiseError
from nx_signal.websocket.sealing import (
    IV_BYTES,
    SALT_BYTES,
    BadPublicKey,
    KeyPair,
    Sealer,
    Unopenable,
    agree,
    b64,
    read_public_key,
    unb64,
)

AUTHENTICATE_WITHIN_S = 5.0
FINISH_AUTHENTICATION_WITHIN_S = 15.0
HEARTBEAT_TIMEOUT_S = 90.0
WARN_BEFORE_EXPIRY_S = 60.0
REMEMBERED_IVS = 1_024
"""Of the client's last sealed frames, 12 bytes each: a replayed one is refused."""
MAX_MESSAGE_BYTES = 131_072
ALL_VERSIONS = frozenset({1, VERSION})
TICKET = "ticket"
SCHEMES = ("bearer", TICKET)
"""The `type` of what `authenticate` and `refresh` have as `token`, in small letters."""

# Close codes and reasons
AUTHENTICATION_TIMEOUT = (4001, "Authentication timeout")
HEARTBEAT_TIMEOUT = (4002, "Heartbeat timeout")
AUTHENTICATION_FAILED = (4003, "Authentication failed")
ENCRYPTION_REQUIRED = (4004, "Encryption required")
TOKEN_EXPIRED = CloseReason.TOKEN_EXPIRED.value
DISCONNECTED = CloseReason.DISCONNECTED.value
TOO_MANY_REQUESTS = (4007, "Too many requests")
SLOW_CONSUMER = CloseReason.SLOW_CONSUMER.value
TOO_MANY_SESSIONS = (4009, "Too many sessions")
NOT_AUTHENTIC = (4010, "Message not authentic")
GOING_AWAY = CloseReason.GOING_AWAY.value
TOO_MANY_FRAMES = (1008, "Too many frames or bytes")
TOO_MANY_FRAGMENTS = (1008, "Too many fragments in a message")
MESSAGE_TOO_BIG = (1009, "Message too big")
TRY_AGAIN_LATER = (1013, "Try again later")


_decode = JsonDecoder[Any]().decode


class Protocol:
    """One connection. Phases: unauthorized until `accept`, then live; `closed` after any Close. `versions`
    of the cryptography: those that the server takes."""

    __slots__ = (
        "_channel",
        "_deadline_s",
        "_expires_s",
        "_live",
        "_sealer",
        "_seen_ivs",
        "_versions",
        "_warn_s",
        "client_id",
        "closed",
    )

    def __init__(self, now_s: float, versions: Collection[int] = ALL_VERSIONS) -> None:
        self.client_id = str(uuid.uuid4())
        self.closed = False
        self._versions = versions
        self._live = False
        self._sealer: Sealer | None = None
        """of version 1, once live"""
        self._channel: Channel | None = None
        """of version 2, once it is chosen"""
        self._deadline_s = now_s + AUTHENTICATE_WITHIN_S
        self._expires_s = self._warn_s = math.inf
        self._seen_ivs = b""
        """one after the other, the latest last"""

    @property
    def live(self) -> bool:
        return self._live and not self.closed

    @property
    def version(self) -> int:
        """Of the cryptography. Sealed frames of version 2 are binary."""
        return 1 if self._channel is None else VERSION

    @property
    def deadline_s(self) -> float:
        """When `timed_out` is due unless a message comes first."""
        return min(self._deadline_s, self._warn_s, self._expires_s)

    def seal(self, payload: bytes) -> bytes:
        """A live connection's only way out for `{"event","data"}`. Called in the order of writing: on
        version 2 the client counts."""
        if self._channel is not None:
            return self._channel.seal(payload)
        assert self._sealer is not None  # noqa: S101 - plaintext must never leave by mistake
        return self._sealer.seal(payload)

    def seal_and_rekey(self, payload: bytes) -> bytes:
        assert self._channel is not None  # noqa: S101 - version 1 has one key
        sealed = self._channel.seal(payload)
        self._channel.rekey_sending()
        return sealed

    def timed_out(self, now_s: float) -> list[Decision]:
        if not self._live:
            return [self._close(AUTHENTICATION_TIMEOUT)]
        if now_s >= self._expires_s:
            return [self._close(TOKEN_EXPIRED)]
        if now_s >= self._deadline_s:
            return [self._close(HEARTBEAT_TIMEOUT)]
        if now_s >= self._warn_s:
            self._warn_s = math.inf
            left_ms = round((self._expires_s - now_s) * 1000)
            return [self._out(frame(EXPIRING, encode_json({"expiresInMs": left_ms})))]
        return []

    def expires(self, at_s: float) -> None:
        """The token is valid until then; `expiring` is sent WARN_BEFORE_EXPIRY_S earlier."""
        self._expires_s = at_s
        self._warn_s = at_s - WARN_BEFORE_EXPIRY_S

    def receive(self, message: str | bytes, now_s: float) -> list[Decision]:
        """One message of the client, text or binary."""
        if self.closed:
            return []
        if self._live:
            self._deadline_s = now_s + HEARTBEAT_TIMEOUT_S
        raw = message.encode("utf-8", "surrogatepass") if isinstance(message, str) else message
        if len(raw) > MAX_MESSAGE_BYTES:
            return [self._close(MESSAGE_TOO_BIG)]
        if self._channel is not None:
            return self._receive_on_channel(message, now_s)
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
            return [self._authenticate(data, now_s)] if 1 in self._versions else self._refuse_version()
        if self._sealer is None:
            return self._hello(data) if event == HELLO else [self._error("Not authenticated")]
        if event in ("join", "leave"):
            return self._rooms(event, data)
        if event != "encrypted":
            return [self._error("Encryption required")]
        try:
            opened = self._sealer.open(data)
        except Unopenable:
            return [self._error("Encryption required")]
        if self._is_replay(unb64(data["iv"])):
            return [self._error("Encryption required")]
        return self._receive_sealed(opened, now_s)

    def _hello(self, data: Any) -> list[Decision]:
        if VERSION not in self._versions:
            return self._refuse_version()
        try:
            return [Hello(read_offer(data))]
        except BadHello:
            return self._refuse_version()

    def choose(self, offer: Offer, static: X25519PrivateKey) -> list[Decision]:
        """Version 2: from here on every frame is sealed, in both directions."""
        try:
            data, channel = answer(offer, static)
        except BadHello:
            return self._refuse_version()
        hello = SendFrame(frame(HELLO, encode_json(data)), sealed=False)
        self._channel = channel
        return [hello]

    def _refuse_version(self) -> list[Decision]:
        """`versions` are those that would be taken; no token was looked at."""
        data = {"message": "Encryption handshake failed", "versions": sorted(self._versions)}
        return [self._out(frame(ERROR, encode_json(data))), self._close(ENCRYPTION_REQUIRED)]

    def _receive_on_channel(self, message: str | bytes, now_s: float) -> list[Decision]:
        if isinstance(message, str):
            return [self._close(ENCRYPTION_REQUIRED)]
        assert self._channel is not None  # noqa: S101 - version 2
        try:
            opened = self._channel.open(message)
        except NoiseError:
            return [self._close(NOT_AUTHENTIC)]
        return self._receive_sealed(opened, now_s)

    def _is_replay(self, iv: bytes) -> bool:
        at = self._seen_ivs.find(iv)
        while at % IV_BYTES and at >= 0:  # parts of two others
            at = self._seen_ivs.find(iv, at + 1)
        if at >= 0:
            return True
        self._seen_ivs = (self._seen_ivs + iv)[-REMEMBERED_IVS * IV_BYTES :]
        return False

    def _receive_sealed(self, raw: bytes, now_s: float) -> list[Decision]:
        decoded = _object(raw)
        if decoded is None:
            return [self._error("Invalid message format")]
        event, data = decoded.get("event"), decoded.get("data")
        if event == "refresh" and self._channel is not None:
            self._channel.rekey_receiving()  # as the client has, also where the refresh is refused
        if event == "authenticate":
            return [self._authenticate(data, now_s)]
        if event == "heartbeat":
            return []
        if not self._live:
            return [self._error("Not authenticated")]
        if event in ("join", "leave"):
            return self._rooms(event, data)
        if event == "resume":
            resume = _resume(data)
            return [self._error("Invalid message format") if resume is None else resume]
        if event == "refresh":
            return [Refresh(_credential(data))]
        return []

    def _authenticate(self, data: Any, now_s: float) -> Decision:
        if self._live:
            return self._error("Already authenticated")
        self._deadline_s = now_s + FINISH_AUTHENTICATION_WITHIN_S
        if not isinstance(data, dict):
            data = {}
        return Authenticate(
            credential=_credential(data),
            public_key=data.get("publicKey"),
            resume=_resume(data.get("resume")),
        )

    def accept(self, user_id: str, public_key: object, time: str, now_s: float) -> list[Decision]:
        """The token is valid. On version 2 `connected` is sealed. On version 1 a key is agreed on now, and
        `connected` is the last plaintext frame; without a usable key of the client the connection is closed.

        `time` is an ISO-8601 timestamp. The keys are fresh, for this connection alone."""
        connected = {"id": self.client_id, "userId": user_id, "time": time}
        if self._channel is not None:
            self._go_live(now_s)
            return [self._out(frame(CONNECTED, encode_json(connected)))]
        if public_key is None:
            return [self._error("Encryption handshake failed"), self._close(ENCRYPTION_REQUIRED)]
        try:
            peer = read_public_key(public_key)
        except BadPublicKey:
            return [self._error("Authentication error"), self._close(AUTHENTICATION_FAILED)]
        pair, salt = KeyPair.generate(), os.urandom(SALT_BYTES)
        connected |= {"serverPublicKey": pair.public_b64, "salt": b64(salt)}
        self._sealer = Sealer(agree(pair, peer, salt))
        self._go_live(now_s)
        return [SendFrame(frame(CONNECTED, encode_json(connected)), sealed=False)]

    def _go_live(self, now_s: float) -> None:
        self._live = True
        self._deadline_s = now_s + HEARTBEAT_TIMEOUT_S

    def refreshed(self) -> list[Decision]:
        """The token of a refresh is valid. On version 2 the answer is the last frame under the present key of
        this direction."""
        if self._channel is None:
            return []
        return [SendFrame(frame(REFRESHED, b"{}"), sealed=True, rekey=True)]

    def refuse(self) -> list[Decision]:
        """The token is not valid, at the handshake or at a refresh."""
        return [self._error("Authentication failed"), self._close(AUTHENTICATION_FAILED)]

    def close(self, why: tuple[int, str]) -> Close:
        """The server ends the connection."""
        return self._close(why)

    def _rooms(self, event: str, data: Any) -> list[Decision]:
        rooms = data.get("rooms") if isinstance(data, dict) else None
        if not isinstance(rooms, list) or not rooms:
            return []
        rooms = list(dict.fromkeys(room for room in rooms[:MAX_ROOMS_PER_REQUEST] if isinstance(room, str)))
        if event == "leave":
            return [Leave(tuple(rooms))]
        good = tuple(room for room in rooms if is_room_name(room))
        malformed = tuple(room for room in rooms if not is_room_name(room))
        return [Join(good, malformed)]

    def _error(self, message: str) -> SendFrame:
        return self._out(frame(ERROR, encode_json({"message": message})))

    def _out(self, payload: bytes) -> SendFrame:
        return SendFrame(payload, sealed=self._sealer is not None or self._channel is not None)

    def _close(self, why: tuple[int, str]) -> Close:
        self.closed = True
        return Close(*why)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        decoded = _decode(raw)
    except msgspec.DecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _credential(data: Any) -> Credential:
    given = data if isinstance(data, dict) else {}
    text, scheme = given.get("token"), given.get("type", "Bearer")
    kind = scheme.lower() if isinstance(scheme, str) else ""
    return Credential(text if isinstance(text, str) and kind in SCHEMES else "", kind == TICKET)


def _resume(data: Any) -> Resume | None:
    rev, history = (data.get("rev"), data.get("history")) if isinstance(data, dict) else (data, None)
    if type(rev) is not int or not 0 <= rev <= MAX_REV or not isinstance(history, str | None):
        return None
    return Resume(rev, history)
