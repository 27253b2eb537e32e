"""Activity messages (CONTRACT §3): bytes in, a validated `Activity` or one sentence about what is wrong.

All input is hostile. What passes holds nothing that a store or an encoder refuses: no NUL, no lone
surrogate, no number beyond 64 bits, no endless nesting."""

from __future__ import annotations

import contextlib
import json
import math
import re
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from nx_signal.errors import MessageRejected
from nx_signal.model import Activity, Json, Position, Record, Scope

MAX_MESSAGE_BYTES = 1_048_576
"""Kafka's own default limit of a message."""
MAX_ID_CHARS = 256
"""Ids are keys of indexes, and a UUID or a URN fits many times over."""
MAX_RECIPIENTS = 10_000
"""One message is one unit of work; a larger audience is what the scopes `org` and `merchant` are for."""
MAX_DEPTH = 64
"""Levels of objects and lists: far below what JSON readers recurse to, far above what anybody sends."""
MAX_MESSAGES = 1_000
"""Messages in one body of POST /activities."""
MAX_COMPLAINT_CHARS = 300
"""A complaint is kept with the dead letter and may quote the message, hostile text included."""
LEAST_INTEGER, LARGEST_INTEGER = -(2**63), 2**64 - 1
"""What JSON encoders write without loss."""
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""Of moments; both leave room for any time zone's offset."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MOMENT = re.compile(r"[0-9W-]{8,10}([Tt ][0-9:.,]{2,18} ?([Zz]|[+-][0-9:]{2,8})?)?")
_NO_POSITION = Position("unsent", 0, 0)

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]


@dataclass(frozen=True, slots=True)
class UnknownType:
    """A message of an event type that nobody here renders: to be skipped and counted, no error."""

    type: str


class _Typed(msgspec.Struct, rename="camel"):
    event_type: Id


class _Identified(msgspec.Struct, rename="camel"):
    event_id: Id | None = None


class ActivityMessage(msgspec.Struct, rename="camel"):
    """One activity (CONTRACT §3): what happened, and whom it concerns. Further fields are let through."""

    event_type: Id
    recipient_scope: Scope
    actor_id: Id
    organizer_id: Id
    occurred_at: str
    actor: dict[str, Json] | None = None
    merchant_id: Id | None = None
    recipient_ids: Annotated[list[Id], msgspec.Meta(max_length=MAX_RECIPIENTS)] | None = None
    data: dict[str, Json] | None = None
    event_id: Id | None = None
    subject: Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)] | None = None


S = TypeVar("S")

_typed = msgspec.json.Decoder(_Typed)
_identified = msgspec.json.Decoder(_Identified)
_wire = msgspec.json.Decoder(ActivityMessage)
_raw_list = msgspec.json.Decoder(list[msgspec.Raw])


def decode(record: Record, known: Container[str]) -> Activity | UnknownType:
    """The activity of a record, or `UnknownType` when its eventType is not in `known` (then nothing
    else of it is validated).

    Scope `merchant` without a merchantId and scope `users` without recipientIds are well-formed: they
    name nobody. Raises MessageRejected."""
    return _decode(record.value, record.position, record.headers, known)


def glimpse(record: Record) -> tuple[str, str | None]:
    """(activity id, eventType) of a record that `decode` does not take, as far as they can be read: its
    position stands in for an id."""
    event_id = _readable_id(record.value)
    if event_id is None:
        with contextlib.suppress(MessageRejected):
            event_id = _header_id(record.headers)
    try:
        type = _typed.decode(record.value).event_type
    except (ValueError, RecursionError):
        type = None
    if type is not None and _UNSTORABLE.search(type):
        type = None
    return event_id or str(record.position), type


def check(value: bytes, known: Container[str] | None = None) -> None:
    """Would `decode` take this message? Raises MessageRejected. Without `known` every type is known."""
    _decode(value, _NO_POSITION, {}, known)


def split(body: bytes, known: Container[str] | None = None) -> list[tuple[str, bytes]]:
    """(event id, message) for each message of a body that holds one, or a list of at most 1,000.

    Each is checked as by `check`, and is a slice of the body as it stands; an eventId that is absent is
    made up here, and is then in the pair alone. Raises MessageRejected, naming the index in a list."""
    if not body.lstrip(b" \t\r\n").startswith(b"["):
        check(body, known)
        return [(_event_id(body), body)]
    messages = _parse(_raw_list, body)
    if len(messages) > MAX_MESSAGES:
        raise rejected(f"message: a list of at most {MAX_MESSAGES} is taken, this has {len(messages)}.")
    pairs = []
    for index, raw in enumerate(messages):
        message = bytes(raw)
        try:
            check(message, known)
        except MessageRejected as error:
            text = str(error)
            rest = text.removeprefix("message") if text.startswith("message") else "." + text
            raise rejected(f"[{index}]{rest}") from None
        pairs.append((_event_id(message), message))
    return pairs


def moment(text: str, field: str) -> datetime:
    """An ISO 8601 date and time as UTC; without an offset it is UTC already. Raises MessageRejected."""
    try:
        if not _MOMENT.fullmatch(text):
            raise ValueError
        when = datetime.fromisoformat(text.upper())
        when = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise rejected(f"{field} must be an ISO 8601 date and time such as 2026-11-21T10:25:00Z.") from None
    if not EARLIEST <= when < LATEST:
        raise rejected(f"{field} must be from {EARLIEST.year} to {LATEST.year - 1}.")
    return when


def readable(error: msgspec.ValidationError, root: str = "") -> MessageRejected:
    """msgspec's complaint as a sentence that begins with the field; `root` names what was validated."""
    text, _, path = str(error).partition(" - at `$")
    field = (root + path.rstrip("`").replace("[...]", "")).lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
        return rejected(f"{field}.{missing[1]} is missing.".lstrip("."))
    if field == "recipientScope":
        text = "expected `org`, `merchant` or `users`"
    return rejected(f"{field or 'message'}: {text[:1].lower()}{text[1:]}.")


def rejected(text: str) -> MessageRejected:
    """A MessageRejected whose text can itself be stored and logged, whatever it quotes."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return MessageRejected(text if len(text) <= MAX_COMPLAINT_CHARS else text[:MAX_COMPLAINT_CHARS] + "…")


def _decode(
    value: bytes, position: Position, headers: Mapping[str, bytes], known: Container[str] | None
) -> Activity | UnknownType:
    if len(value) > MAX_MESSAGE_BYTES:
        raise rejected(f"message must be at most {MAX_MESSAGE_BYTES} bytes, not {len(value)}.")
    event_type = _parse(_typed, value).event_type
    _storable({"eventType": event_type})
    if known is not None and event_type not in known:
        return UnknownType(event_type)
    wire = _parse(_wire, value)
    activity = Activity(
        id=wire.event_id or _header_id(headers) or str(position),
        type=event_type,
        scope=wire.recipient_scope,
        actor_id=wire.actor_id,
        actor=wire.actor or {},
        organizer_id=wire.organizer_id,
        merchant_id=wire.merchant_id,
        recipient_ids=tuple(dict.fromkeys(wire.recipient_ids or ())),
        data=wire.data or {},
        subject=wire.subject or None,
        occurred_at=moment(wire.occurred_at, "occurredAt"),
    )
    _storable(
        {
            "actorId": wire.actor_id,
            "organizerId": wire.organizer_id,
            "merchantId": wire.merchant_id,
            "eventId": wire.event_id,
            "subject": wire.subject,
            "recipientIds": wire.recipient_ids,
            "actor": wire.actor,
            "data": wire.data,
        }
    )
    return activity


def _parse(decoder: msgspec.json.Decoder[S], value: bytes) -> S:
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            _name_the_culprit(value)
        raise readable(error) from None
    except RecursionError:
        raise _too_deep("message") from None
    except UnicodeDecodeError:
        raise rejected("message: not UTF-8.") from None
    except ValueError as error:  # msgspec.DecodeError is one
        _name_the_culprit(value)
        raise rejected(f"message: not JSON ({error}).") from None


def _name_the_culprit(value: bytes) -> None:
    """Raise MessageRejected with the field's name where the standard library can read what msgspec
    refuses without naming it: lone surrogates, and numbers that are not finite."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return
    _storable([parsed] if not isinstance(parsed, (dict, list)) else parsed)


_Path: TypeAlias = "tuple[_Path | None, str | int] | None"
"""A linked path: joined only for a complaint, so that hostile keys cost nothing until then."""


def _storable(whole: dict[str, Json] | list[Json]) -> None:
    """Raise MessageRejected, naming the field, unless every store and encoder takes all that is in it."""
    todo: list[tuple[_Path, dict[str, Json] | list[Json], int]] = [(None, whole, 0)]
    while todo:
        path, container, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise _too_deep(_join(path))
        if isinstance(container, dict):
            for key in container:
                if found := _UNSTORABLE.search(key):
                    raise rejected(f"{_join(path)}: its keys {_must_not_hold(found[0])}.")
        parts = container.items() if isinstance(container, dict) else enumerate(container)
        for step, part in parts:
            kind = type(part)
            if kind is str:
                if found := _UNSTORABLE.search(part):
                    raise rejected(f"{_join((path, step))} {_must_not_hold(found[0])}.")
            elif kind is int:
                if not LEAST_INTEGER <= part <= LARGEST_INTEGER:
                    raise rejected(f"{_join((path, step))} must be a number within 64 bits.")
            elif kind is float:
                if not math.isfinite(part):
                    raise rejected(f"{_join((path, step))} must be a finite number.")
            elif kind is dict or kind is list:
                todo.append(((path, step), part, depth + 1))


def _join(path: _Path) -> str:
    parts: list[str] = []
    while path is not None:
        path, step = path
        parts.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return "".join(reversed(parts)).lstrip(".") or "message"


def _must_not_hold(character: str) -> str:
    return "must hold no " + ("NUL character" if character == "\0" else "half of a surrogate pair")


def _too_deep(field: str) -> MessageRejected:
    return rejected(f"{field}: nested deeper than {MAX_DEPTH} levels.")


def _header_id(headers: Mapping[str, bytes]) -> str | None:
    raw = headers.get("ce_id")
    if not raw:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise rejected("header ce_id must be UTF-8.") from None
    if len(text) > MAX_ID_CHARS:
        raise rejected(f"header ce_id must be at most {MAX_ID_CHARS} characters.")
    _storable({"header ce_id": text})
    return text


def _event_id(message: bytes) -> str:
    """Of a message that `check` took; one of an unknown type may still hold anything there."""
    return _readable_id(message) or str(uuid.uuid4())


def _readable_id(message: bytes) -> str | None:
    """The eventId, None where there is none that can be an id."""
    try:
        event_id = _identified.decode(message).event_id
    except (ValueError, RecursionError):
        return None
    return event_id if event_id and not _UNSTORABLE.search(event_id) else None
