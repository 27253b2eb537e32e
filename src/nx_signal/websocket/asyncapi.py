"""The AsyncAPI 3.0 document of the stream, made of one table of messages (CONTRACT §1).

The types here only describe; tests/unit/test_asyncapi.py checks them against the frames of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from nx_signal import __version__
from nx_signal.delivery import topics
from nx_signal.delivery.rooms import MAX_ROOM_CHARS, MAX_ROOMS_PER_REQUEST
from nx_signal.model import Json, channels, wire
from nx_signal.model.wire import Count, History, Revision, Time
from nx_signal.websocket import channel, protocol

Base64 = Annotated[str, Meta(extra_json_schema={"contentEncoding": "base64"})]
Version = Annotated[int, Meta(ge=1, le=channel.MAX_VERSION)]
Scheme = Literal["Bearer", "Ticket"]
Room = Annotated[str, Meta(min_length=1, max_length=MAX_ROOM_CHARS)]


class ResumeFrom(Struct):
    """The last revision that the client holds, and the `history` that came with it. Without `history` a store
    that was restored meanwhile may go unnoticed."""

    rev: Revision
    history: History | UnsetType = UNSET


class Offer(Struct):
    """`message`: the first message of Noise_NX_25519_AESGCM_SHA256, 32 bytes."""

    versions: Annotated[list[Version], Meta(min_length=1, max_length=channel.MAX_OFFERED)]
    message: Base64


class Choice(Struct):
    """`message`: the second message of the handshake, 96 bytes."""

    version: Literal[2]
    message: Base64


class Credentials(Struct, rename="camel"):
    """`token`: a JWT, or with the type `Ticket` what `POST /tickets` gave for the purpose `stream`.
    `publicKey`, on version 1: a P-256 point in padded base64, 65 bytes (33 compressed are taken too)."""

    token: str
    public_key: Base64 | UnsetType = UNSET
    type: Scheme = "Bearer"
    resume: ResumeFrom | UnsetType = UNSET


class Rooms(Struct):
    rooms: Annotated[list[Room], Meta(max_length=MAX_ROOMS_PER_REQUEST)]


class Token(Struct):
    """As in `authenticate`."""

    token: str
    type: Scheme = "Bearer"


class Sealed(Struct):
    """AES-256-GCM without associated data. `ct`: the ciphertext and its 16-byte tag."""

    iv: Base64
    ct: Base64


class Connected(Struct, rename="camel"):
    """`serverPublicKey` and `salt`: on version 1."""

    id: str
    user_id: str
    time: Time
    server_public_key: Base64 | UnsetType = UNSET
    salt: Base64 | UnsetType = UNSET


class Error(Struct):
    """`rooms`: those that were refused, where that is the error. `versions`: of the cryptography, those that
    the server takes, where it refuses one."""

    message: str
    rooms: list[str] | UnsetType = UNSET
    versions: list[Version] | UnsetType = UNSET


class Refreshed(Struct):
    """Empty."""


class State(Struct):
    """Where the inbox is. `reset`: a `resume` missed more than is replayed, or the store no longer has what
    the client lacks or holds: fetch the list again."""

    rev: Revision
    history: History
    unread: Count
    unseen: Count
    total: Count
    reset: bool


class Activity(Struct, rename="camel"):
    """As it came in; `eventId` is its identity."""

    event_id: str
    type: str
    organizer_id: str
    merchant_id: str | None
    subject: str | None
    actor: dict[str, Any]
    data: dict[str, Any]
    occurred_at: Time


class Lost(Struct):
    """How many frames that are not of the log were dropped here: the client did not read them in time."""

    count: Count


class GoAway(Struct, rename="camel"):
    retry_after_ms: Count


class Expiring(Struct, rename="camel"):
    expires_in_ms: Count


class Closed(Struct):
    """As a close frame of the WebSocket."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    """One event: `key` names it here, `data` is the type of its data, None where it has none."""

    key: str
    event: str
    data: type[Struct] | None
    summary: str
    example: Mapping[str, Json] | None


_KEY = "BHv2hy6U2B0Zl1kp9eJ6k0b2o5yQh8s7m3u1c4d5e6f7g8h9i0j1k2l3m4n5o6p7q8r9s0t1u2v3w4x5y6z7A8="
_SEALED = {"iv": "q83vEjRWeJCrze8S", "ct": "3q2+7wAAAAAAAAAAAAAAAAAAAAA="}

FROM_CLIENT = (
    Message(
        "helloOfClient",
        topics.HELLO,
        Offer,
        "The first message of version 2, plaintext. All after it is sealed, as binary messages.",
        {"versions": [2], "message": "yjXe9a5Wzsczwgc2cxqxSJWxxNx1XbeH4v4n+K3rn0Q="},
    ),
    Message(
        "authenticate",
        "authenticate",
        Credentials,
        f"Within {protocol.AUTHENTICATE_WITHIN_S:g} s. On version 1 it is the first message, plaintext; on "
        "version 2 it is sealed, after the server's `hello`.",
        {"type": "Bearer", "token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "publicKey": _KEY},
    ),
    Message(
        "heartbeat",
        "heartbeat",
        None,
        f"Marks activity; {protocol.HEARTBEAT_TIMEOUT_S:g} s without any message end the connection.",
        None,
    ),
    Message("join", "join", Rooms, "Enter rooms.", {"rooms": ["signal/merchant/m1"]}),
    Message("leave", "leave", Rooms, "Leave rooms.", {"rooms": ["signal/merchant/m1"]}),
    Message(
        "resume",
        "resume",
        ResumeFrom,
        "Sealed. Replay what changed after `rev`.",
        {"rev": 7, "history": "132452764876836864"},
    ),
    Message(
        "refresh",
        "refresh",
        Token,
        "Sealed. Go on with another token, or a ticket, of the same user.",
        {"token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"},
    ),
    Message("sealedByClient", "encrypted", Sealed, "Any message, sealed.", _SEALED),
)
FROM_SERVER = (
    Message(
        "helloOfServer",
        topics.HELLO,
        Choice,
        "Version 2 is chosen; the answer proves the server's static key. All after it is sealed.",
        {"version": 2, "message": "A" * 128},
    ),
    Message(
        "connected",
        topics.CONNECTED,
        Connected,
        "The answer to `authenticate`: plaintext on version 1, where every frame after it is sealed.",
        {
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "userId": "ann",
            "time": "2026-01-01T12:00:00.000Z",
            "serverPublicKey": _KEY,
            "salt": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        },
    ),
    Message("sealedByServer", "encrypted", Sealed, "Any of the messages below.", _SEALED),
    Message(
        "error",
        topics.ERROR,
        Error,
        "What was not understood or not allowed.",
        {"message": "Not authenticated"},
    ),
    *(Message(frame.topic.rpartition("/")[2], *frame) for frame in wire.FRAMES),
    Message(
        "state",
        topics.STATE,
        State,
        "After a resume, and instead of what cannot be replayed.",
        {"rev": 10, "history": "2c26b46b68ffc68f", "unread": 2, "unseen": 0, "total": 40, "reset": False},
    ),
    Message(
        "activity",
        topics.ACTIVITY,
        Activity,
        "An activity of the members' room, of a type that is shown there: to the merchant's members, or to "
        "the organization's. Not part of the inbox.",
        {
            "eventId": "inquiry-7",
            "type": "INQUIRY_SUBMITTED",
            "organizerId": "o1",
            "merchantId": "m1",
            "subject": "inquiry:7",
            "actor": {"id": "u9", "name": "Lan", "type": "USER"},
            "data": {"inquiry": {"name": "Lan", "subject": "Giá sỉ"}},
            "occurredAt": "2026-01-01T12:00:00.000Z",
        },
    ),
    Message(
        "lost",
        topics.LOST,
        Lost,
        "Frames that are not of the log were dropped, as the client did not read them.",
        {"count": 120},
    ),
    Message("goaway", topics.GOAWAY, GoAway, "This instance stops: come back.", {"retryAfterMs": 1500}),
    Message(
        "refreshed",
        topics.REFRESHED,
        Refreshed,
        "On version 2: a `refresh` is done, and a new key seals what the server sends from here on.",
        {},
    ),
    Message(
        "expiring",
        topics.EXPIRING,
        Expiring,
        f"The token ends in {protocol.WARN_BEFORE_EXPIRY_S:g} s: send `refresh`.",
        {"expiresInMs": 60_000},
    ),
)
EVENTS = (
    *(m for m in FROM_SERVER if m.key not in ("helloOfServer", "sealedByServer", "refreshed")),
    Message(
        "closed",
        topics.CLOSED,
        Closed,
        "On `/events` alone: the last event. The next one is of another connection.",
        {"code": 4005, "reason": "Token expired"},
    ),
)
MESSAGES = tuple({message.key: message for message in (*FROM_CLIENT, *FROM_SERVER, *EVENTS)}.values())

CLOSES = (
    protocol.GOING_AWAY,
    protocol.TOO_MANY_FRAMES,
    protocol.TOO_MANY_FRAGMENTS,
    protocol.MESSAGE_TOO_BIG,
    protocol.TRY_AGAIN_LATER,
    protocol.AUTHENTICATION_TIMEOUT,
    protocol.HEARTBEAT_TIMEOUT,
    protocol.AUTHENTICATION_FAILED,
    protocol.ENCRYPTION_REQUIRED,
    protocol.TOKEN_EXPIRED,
    protocol.DISCONNECTED,
    protocol.TOO_MANY_REQUESTS,
    protocol.SLOW_CONSUMER,
    protocol.TOO_MANY_SESSIONS,
    protocol.NOT_AUTHENTIC,
)

_DESCRIPTION = f"""Text frames of JSON, `{{"event", "data"}}`, of at most {protocol.MAX_MESSAGE_BYTES} bytes.

The cryptography has two versions. A client of **version 2** begins with `hello`; docs/stream-v2.md in the
repository has it to the byte. The server proves a key that `/.well-known/jwks.json` publishes, then every
message in both directions is sealed and binary, `authenticate` and `connected` among them.

On **version 1** the client sends `authenticate`; the server answers `connected` in plaintext. Both derive
`key = HKDF-SHA256(ikm = ECDH X coordinate, salt, info = "ignis-ecdh-p256-aes-256-gcm-v1", length 32)`. From
then on each frame of the server is `encrypted`: AES-256-GCM over the JSON of `{{"event", "data"}}`. The
client may seal its frames in the same way; `heartbeat`, `join` and `leave` are also taken in plaintext.

On connecting a client is in `{"`, `".join(channels.DEFAULT_ROOMS)}`, a room of its own id and
`{channels.INBOX_ROOM_PREFIX}{{userId}}`. It may join `{channels.ORGANIZER_ROOM_PREFIX}{{id}}` and
`{channels.MERCHANT_ROOM_PREFIX}{{id}}` where its user is a member, and what the operator allows. Topics of
sister services and operators arrive as events of their own names.

`rev` counts a recipient's changes without a gap: a client that holds n and sees n+1 has missed nothing.
`history` identifies the change at `rev`: a client keeps both, and resumes with both.

`GET /events` on the same port sends the same events as `text/event-stream`, one way and not sealed: `event`
is the topic, `data` its data, `id` the place in the log, which `Last-Event-ID` resumes from.

Frames that break the WebSocket protocol are closed with 1002, texts that are not UTF-8 with 1007.

| close code | reason |
| --- | --- |
""" + "\n".join(f"| {code} | {reason} |" for code, reason in CLOSES)


def document(prefix: str = "") -> dict[str, Json]:
    """Of a server on this machine with the default port. `prefix`: of the path of the stream."""
    types = [message.data for message in MESSAGES if message.data is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Signal: the stream",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": _server("ws", prefix, "The stream."),
            "events": _server("http", prefix, "`/events`: what the server sends, as Server-Sent Events."),
        },
        "channels": {
            "stream": {
                "address": "/stream",
                "servers": [{"$ref": "#/servers/local"}],
                "messages": _references((*FROM_CLIENT, *FROM_SERVER)),
                "bindings": {"ws": {"method": "GET"}},
            },
            "events": {
                "address": "/events",
                "servers": [{"$ref": "#/servers/events"}],
                "messages": _references(EVENTS),
            },
        },
        "operations": {
            "fromClient": _operation("receive", "What a client sends.", FROM_CLIENT),
            "fromServer": _operation("send", "What the server sends.", FROM_SERVER),
            "events": _operation("send", "What the server sends on /events.", EVENTS, "events")
            | {"bindings": {"http": {"method": "GET"}}},
        },
        "components": {
            "messages": {m.key: _message(m, None if m.data is None else schema_of[m.data]) for m in MESSAGES},
            "schemas": components,
        },
    }


def _references(messages: Sequence[Message]) -> Json:
    return {m.key: {"$ref": f"#/components/messages/{m.key}"} for m in messages}


def _server(protocol: str, prefix: str, description: str) -> Json:
    server = {"host": "127.0.0.1:31090", "protocol": protocol, "description": description}
    return server | ({"pathname": prefix} if prefix else {})


def _operation(action: str, summary: str, messages: Sequence[Message], channel: str = "stream") -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{m.key}"} for m in messages],
    }


def _message(message: Message, data: Json) -> Json:
    payload: dict[str, Json] = {
        "type": "object",
        "properties": {"event": {"type": "string", "const": message.event}},
        "required": ["event"],
    }
    example: dict[str, Json] = {"event": message.event}
    if data is not None:
        payload["properties"]["data"] = data
        payload["required"] = ["event", "data"]
        example["data"] = message.example
    return {
        "name": message.event,
        "title": message.event,
        "summary": message.summary,
        "payload": payload,
        "examples": [{"payload": example}],
    }
