"""Activity messages (CONTRACT §3): bytes in, a validated `Activity` or one sentence about the error.

All input is untrusted. An `Activity` has nothing that a store or an encoder refuses: no NUL, no lone
surrogate (these are replaced), no unbounded number or nesting."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, TypeVar

import msgspec

from nx_signal.activities.audience import Entries, addressed
from nx_signal.activities.bounded import number, require_bounded, too_deep
from nx_signal.activities.cloud_events import BYTE_ORDER_MARK, CONTENT_TYPE, NO_TYPES, STRUCTURED, opened
from nx_signal.activities.envelope import foreign
from nx_signal.activities.fields import (
    MAX_ID_CHARS,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGES,
    MAX_RECIPIENTS,
    MAX_SOURCE_CHARS,
    Id,
    Source,
    moment,
    readable,
    rejected,
)
from nx_signal.activities.identity import digest_of, identity
from nx_signal.activities.limits import json_bytes
from nx_signal.activities.repair import REPLACEMENT, repaired, slices, spelled
from nx_signal.activities.trace_context import context_of
from nx_signal.errors import MessageRejected
from nx_signal.model import Action, Activity, Correction, Json, OneScope, Position, Priority, Record
from nx_signal.model.json import JsonDecoder, TooDeep
from nx_signal.model.timestamps import to_milliseconds

_CREATES = (None, "create")
"""Values of `action` in a message that is an activity by itself."""
_NO_POSITION = Position("unsent", 0, 0)

NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})
_STRUCTURED: Mapping[str, bytes] = {CONTENT_TYPE: STRUCTURED}


@dataclass(frozen=True, slots=True)
class UnknownType:
    """A message of an event type that is not registered here: skipped and counted, not an error."""

    type: str


class _Typed(msgspec.Struct, rename="camel"):
    event_type: Id | msgspec.UnsetType = msgspec.UNSET
    action: Json = None


class _Identified(msgspec.Struct, rename="camel"):
    event_id: Id | None = None
    event_source: Source | None = None


class ActivityMessage(msgspec.Struct, rename="camel"):
    """One activity (CONTRACT §3): what happened, and whom it concerns, by `recipientScope` or by `audience`.
    Unknown fields are ignored."""

    event_type: Id
    actor_id: Id
    organizer_id: Id
    occurred_at: str
    recipient_scope: OneScope | None = None
    audience: Entries | None = None
    exclude_actor: bool | None = None
    actor: dict[str, Json] | None = None
    merchant_id: Id | None = None
    recipient_ids: Annotated[list[Id], msgspec.Meta(max_length=MAX_RECIPIENTS)] | None = None
    data: dict[str, Json] | None = None
    event_id: Id | None = None
    event_source: Source | None = None
    subject: Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARS)] | None = None
    priority: Priority | None = None
    expires_at: str | None = None
    collapse_key: Id | None = None


class _Correcting(msgspec.Struct, rename="camel", kw_only=True):
    action: Action
    event_source: Source | None = None
    data: dict[str, Json] | None = None
    occurred_at: str | None = None


class CorrectionMessage(_Correcting, kw_only=True):
    """A correction of an activity (CONTRACT §3): `update` replaces its `data` whole, `retract` removes its
    notifications for good. Unknown fields are ignored."""

    event_id: Id


class _Correction(_Correcting, kw_only=True):
    event_id: Id | None = None
    """it may be in a header"""


S = TypeVar("S")


_typed = JsonDecoder[_Typed](_Typed)
_identified = JsonDecoder[_Identified](_Identified)
_wire = JsonDecoder[ActivityMessage](ActivityMessage, float_hook=number)
_correction = JsonDecoder[_Correction](_Correction, float_hook=number)
_CORRECTED = ("action", "data", "occurredAt")


def decode(
    record: Record,
    known: Container[str],
    notification_bytes: int | None = None,
    types: Mapping[str, str] = NO_TYPES,
) -> Activity | Correction | UnknownType:
    """The activity of a record, or the correction of another one, or `UnknownType` when its eventType is not
    in `known` (then nothing else of it is validated). `notification_bytes`: what its `data`, and its `actor`,
    may have as JSON. `types`: the type of a CloudEvent → eventType.

    Scope `merchant` without a merchantId and scope `users` without recipientIds are well-formed:
    they name no recipients. Raises MessageRejected."""
    return _decode(record.value, record.position, record.headers, known, notification_bytes, types)


def best_effort_ids(record: Record, types: Mapping[str, str] = NO_TYPES) -> tuple[str, str | None]:
    """(activity id, eventType) of a record that `decode` rejects, as far as they can be read; without an id,
    and of a correction, its position."""
    if acts(record.value, record.headers):
        return str(record.position), None
    event_id, source = _readable_ids(record.value, record.headers)
    with contextlib.suppress(MessageRejected):
        event_id = event_id or _header_id(record.headers)
        source = source or _header_source(record.headers)
    type = event_type_of(record.value, types, record.headers)
    return identity(event_id, source) if event_id else str(record.position), type


def check(
    value: bytes,
    known: Container[str] | None = None,
    notification_bytes: int | None = None,
    types: Mapping[str, str] = NO_TYPES,
    *,
    events: bool = False,
) -> None:
    """Would `decode` take this message? Raises MessageRejected. Without `known` every type is known.
    `events`: it must be a CloudEvent."""
    headers = _STRUCTURED if events else NO_HEADERS
    _decode(value, _NO_POSITION, headers, known, notification_bytes, types)


def split(
    body: bytes,
    known: Container[str] | None = None,
    notification_bytes: int | None = None,
    types: Mapping[str, str] = NO_TYPES,
    *,
    events: bool = False,
) -> list[tuple[str, bytes]]:
    """(event id, message) for each message of a body that holds one, or a list of at most 1,000.

    Each is checked as by `check`, and is a slice of the body as it stands; an absent eventId is
    generated here, and is then in the pair alone. Raises MessageRejected, naming the index in a list."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.lstrip(b" \t\r\n").startswith(b"["):
        check(body, known, notification_bytes, types, events=events)
        return [(_event_id(body), body)]
    messages = _parse(slices, body)
    if len(messages) > MAX_MESSAGES:
        raise rejected(f"message: a list of at most {MAX_MESSAGES} is taken, this has {len(messages)}.")
    pairs = []
    for index, message in enumerate(messages):
        try:
            check(message, known, notification_bytes, types, events=events)
        except MessageRejected as error:
            text = str(error)
            rest = text.removeprefix("message") if text.startswith("message") else "." + text
            raise rejected(f"[{index}]{rest}") from None
        pairs.append((_event_id(message), message))
    return pairs


def event_type_of(
    message: bytes, types: Mapping[str, str] = NO_TYPES, headers: Mapping[str, bytes] = NO_HEADERS
) -> str | None:
    """Of an activity, as far as it can be read."""
    typed = _typed_of(message, types, headers)
    return None if typed.event_type is msgspec.UNSET or typed.action not in _CREATES else typed.event_type


def acts(message: bytes, headers: Mapping[str, bytes] = NO_HEADERS) -> bool:
    """Whether it is about an activity that another message brought, as far as it can be read."""
    return _typed_of(message, NO_TYPES, headers).action not in _CREATES


def _typed_of(message: bytes, types: Mapping[str, str], headers: Mapping[str, bytes]) -> _Typed:
    try:
        return _typed.decode(opened(repaired(message)[0], headers, types))
    except (MessageRejected, msgspec.DecodeError):
        return _Typed()


@lru_cache(maxsize=256)
def unknown_type(type: str, known: frozenset[str]) -> str:
    """A sentence about a type that is not among the known ones, with the one that may be meant."""
    names = {name.casefold(): name for name in sorted(known)}
    near = get_close_matches(type.casefold(), names, 1)
    meant = f"; the nearest that is known is {names[near[0]]}" if near else ""
    return str(rejected(f"The event type {type} is not known here{meant}."))


def _decode(
    value: bytes,
    position: Position,
    headers: Mapping[str, bytes],
    known: Container[str] | None,
    notification_bytes: int | None,
    types: Mapping[str, str],
) -> Activity | Correction | UnknownType:
    if len(value) > MAX_MESSAGE_BYTES:
        raise rejected(f"message must be at most {MAX_MESSAGE_BYTES} bytes, not {len(value)}.")
    sent = value
    value, replaced = repaired(sent)
    value = opened(value, headers, types)
    try:
        typed = _parse(_typed.decode, value)
        event_type = typed.event_type
        if typed.action in _CREATES and event_type is msgspec.UNSET:
            raise rejected("eventType is missing.")
    except MessageRejected as error:
        raise rejected(foreign(sent) or str(error)) from None
    if typed.action not in _CREATES:
        return _decode_correction(sent, value, replaced, position, headers, notification_bytes)
    assert event_type is not msgspec.UNSET  # noqa: S101 - see above
    if known is not None and event_type not in known:
        return UnknownType(event_type)
    wire = _parse(_wire.decode, value)
    given_id, source = _ids(wire, sent, replaced, headers)
    scope, reaches, users = addressed(
        wire.recipient_scope, wire.recipient_ids, wire.audience, wire.organizer_id
    )
    activity = Activity(
        id=identity(given_id, source) if given_id else str(position),
        given_id=given_id,
        source=source,
        digest=digest_of(value),
        type=event_type,
        scope=scope,
        actor_id=wire.actor_id,
        actor=wire.actor or {},
        organizer_id=wire.organizer_id,
        merchant_id=wire.merchant_id,
        recipient_ids=users,
        audience=reaches,
        exclude_actor=bool(wire.exclude_actor),
        context=context_of(value, headers, reaches, wire.actor_id if wire.exclude_actor else None),
        data=wire.data or {},
        subject=wire.subject or None,
        occurred_at=moment(wire.occurred_at, "occurredAt"),
        replaced=replaced,
        priority=wire.priority or "normal",
        expires_at=None if wire.expires_at is None else to_milliseconds(moment(wire.expires_at, "expiresAt")),
        collapse_key=wire.collapse_key,
    )
    if replaced:
        _require_whole(activity)
    require_bounded({"actor": wire.actor, "data": wire.data})
    if notification_bytes is None:
        return activity
    json_bytes("actor", activity.actor, notification_bytes)
    return replace(activity, data_bytes=json_bytes("data", activity.data, notification_bytes))


def _decode_correction(
    sent: bytes,
    value: bytes,
    replaced: int,
    position: Position,
    headers: Mapping[str, bytes],
    notification_bytes: int | None,
) -> Correction:
    wire = _parse(_correction.decode, value)
    given_id, source = _ids(wire, sent, replaced, headers)
    if given_id is None:
        raise rejected("eventId is missing: name the activity that is to be corrected.")
    require_bounded({"data": wire.data})
    data = (wire.data or {}) if wire.action == "update" else {}
    if notification_bytes is not None:
        json_bytes("data", data, notification_bytes)
    activity_id = identity(given_id, source)
    return Correction(
        activity_id=activity_id,
        action=wire.action,
        data=data,
        occurred_at=None
        if wire.occurred_at is None
        else to_milliseconds(moment(wire.occurred_at, "occurredAt")),
        position=str(position),
        digest=digest_of(value, _CORRECTED, activity_id),
        replaced=replaced,
    )


def _ids(
    wire: ActivityMessage | _Correction, sent: bytes, replaced: int, headers: Mapping[str, bytes]
) -> tuple[str | None, str | None]:
    event_id, source = _readable_ids(sent, headers) if replaced else (wire.event_id, wire.event_source)
    return event_id or _header_id(headers), source or _header_source(headers)


def _require_whole(activity: Activity) -> None:
    """An id with a replaced character has no members: the activity would go to the actor, unnoticed. Under a
    collapse key with one it would take the place of what has another key."""
    named: dict[str, str | None] = {"collapseKey": activity.collapse_key}
    if activity.scope != "users":
        named["organizerId"] = activity.organizer_id
    if activity.scope == "merchant":
        named["merchantId"] = activity.merchant_id
    for field, id in named.items():
        if REPLACEMENT in (id or ""):
            raise rejected(f"{field} must hold no NUL character, half of a surrogate pair or invalid UTF-8.")


def _parse(decode: Callable[[bytes], S], value: bytes) -> S:
    try:
        return decode(value)
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            _raise_with_field(value)
        raise readable(error) from None
    except TooDeep:
        raise too_deep("message") from None
    except ValueError as error:  # msgspec.DecodeError is one
        _raise_with_field(value)
        raise rejected(f"message: not JSON ({error}).") from None


def _raise_with_field(value: bytes) -> None:
    """Raise MessageRejected with the field's name where the standard library can read what msgspec
    refuses without naming it: numbers of thousands of digits, and those that are not finite."""
    try:
        parsed = json.loads(value, parse_int=number, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError):
        return
    require_bounded([parsed] if not isinstance(parsed, (dict, list)) else parsed)


def _header_id(headers: Mapping[str, bytes]) -> str | None:
    return _header(headers, "ce_id", MAX_ID_CHARS)


def _header_source(headers: Mapping[str, bytes]) -> str | None:
    return _header(headers, "ce_source", MAX_SOURCE_CHARS)


def _header(headers: Mapping[str, bytes], name: str, limit: int) -> str | None:
    raw = headers.get(name)
    if not raw:
        return None
    text = raw.decode(errors="backslashreplace").replace("\0", "\\u0000")
    if len(text) > limit:
        raise rejected(f"header {name} must be at most {limit} characters.")
    return text


def _event_id(message: bytes) -> str:
    """Of a message that `check` took; one of an unknown type may still hold anything there."""
    return _readable_ids(message, NO_HEADERS)[0] or str(uuid.uuid4())


def _readable_ids(message: bytes, headers: Mapping[str, bytes]) -> tuple[str | None, str | None]:
    """The eventId and the eventSource; None where there is none that can be one. What no store holds is
    spelled in them."""
    try:
        found = _identified.decode(opened(spelled(message), headers, NO_TYPES))
    except (MessageRejected, msgspec.DecodeError):
        return None, None
    return found.event_id, found.event_source
