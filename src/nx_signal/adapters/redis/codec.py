"""The JSON of a message on Redis (CONTRACT §2)."""

from __future__ import annotations

import re

import msgspec

from nx_signal.adapters.redis.naming import Deployment
from nx_signal.model import Json, RelayMessage
from nx_signal.model.channels import KINDS_WITHOUT_TARGET, NEIGHBOURS, OWN, channel_of
from nx_signal.model.json import JsonDecoder
from nx_signal.model.live import TargetKind
from nx_signal.model.wire import MAX_REV

MAX_MESSAGE_BYTES = 1_048_576
_SENDER = re.compile(r"[0-9A-Za-z._:-]{1,64}")
"""An instance or a deployment, as operators and the log are shown it."""


class Malformed(ValueError):
    """A message on Redis does not follow CONTRACT §2. The text never quotes it."""


class _Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`data` is kept as its JSON text. `rev`, `history` and `after` are only read where they belong
    to the message: what sister services put there is ignored, whatever its type."""

    serverId: str
    type: TargetKind
    target: str | None = None
    event: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    exclude: list[str] | None = None
    rev: Json = None
    history: Json = None
    after: Json = None


class _Neighbour(msgspec.Struct):
    deployment: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = JsonDecoder[_Message](_Message).decode
_decode_neighbour = JsonDecoder[_Neighbour | None](_Neighbour | None).decode


def encode_message(message: RelayMessage, server_id: str, deployment: Deployment) -> bytes:
    """Raises UnicodeEncodeError for text that cannot be encoded as UTF-8."""
    if message.kind == "neighbours":  # in the words of the release before, whose instances read it too
        data = _encode(_Neighbour(deployment.id))
        return _encode(
            _Message(serverId=server_id, type="instances", event=message.event, data=msgspec.Raw(data))
        )
    payload = _encode(
        _Message(
            serverId=server_id,
            type=message.kind,
            target=message.target,
            event=message.event,
            data=msgspec.Raw(message.data),
            exclude=sorted(message.exclude) or None,
            rev=message.rev,
            history=message.history,
            after=message.after,
        )
    )
    return deployment.sealed(payload) if channel_of(message).startswith(OWN) else payload


def decode_message(channel: str, payload: bytes, deployment: Deployment) -> RelayMessage | None:
    """A message that came on `channel`; a missing target is the channel's. Raises Malformed.

    None for one that is of no concern: the presence of an instance of this same deployment."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise Malformed(f"larger than {MAX_MESSAGE_BYTES} bytes")
    if channel.startswith(OWN):
        opened = deployment.opened(payload)
        if opened is None:
            raise Malformed("on a channel of this deployment, and not from one of its instances")
        payload = opened
    message = _decoded(payload)
    if channel == NEIGHBOURS:
        return _neighbour(message, deployment)
    kind, _, target = channel.partition(":")[2].partition(":")
    if message.type != kind:
        raise Malformed("its type contradicts its channel")
    if kind in KINDS_WITHOUT_TARGET:
        message.target = None
    elif message.target is None:
        message.target = target
    elif message.target != target:
        raise Malformed("its target contradicts its channel")
    return RelayMessage(
        kind=message.type,
        target=message.target,
        event=message.event,
        data=bytes(message.data),
        exclude=frozenset(message.exclude or ()),
        server_id=message.serverId,
        rev=_rev_of(message) if kind == "inbox" else None,
        history=_text(message.history) if kind == "inbox" else None,
        after=_text(message.after) if kind == "inbox" else None,
    )


def _text(value: Json) -> str | None:
    """Raises Malformed."""
    if not isinstance(value, str | None):
        raise Malformed("what identifies its change is not a text")
    return value


def _decoded(payload: bytes) -> _Message:
    try:
        payload.decode()  # the decoder does not check inside `data`
        return _decode(payload)
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from None


def _rev_of(message: _Message) -> int:
    rev = message.rev
    if type(rev) is not int or not 1 <= rev <= MAX_REV:
        raise Malformed("its rev is not a revision")
    return rev


def _neighbour(message: _Message, deployment: Deployment) -> RelayMessage | None:
    """`data` is the sender's deployment as JSON, null for an instance of the release before."""
    try:
        theirs = _decode_neighbour(message.data)
    except msgspec.DecodeError:
        theirs = None
    id = theirs.deployment if theirs else None
    if id == deployment.id:
        return None
    if not all(_SENDER.fullmatch(name) for name in (message.serverId, id) if name is not None):
        raise Malformed("it does not name its sender")
    return RelayMessage("neighbours", None, message.event, _encode(id), server_id=message.serverId)
