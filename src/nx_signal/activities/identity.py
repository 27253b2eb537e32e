"""The identity of an activity: what makes a second delivery the same one. CloudEvents 1.0, §3.1.1: source and
id together; without a source the id alone, without an id the position of the record.

As it is stored, an id that was given is its own text, as in the releases before, or the JSON list of id and
source: with a source, and where the text could be taken for a position or for such a list."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from nx_signal.model import Activity, Handled
from nx_signal.model.json import JsonDecoder

MAX_CHARS = 256
"""Of an identity, a key of indexes. A longer one is replaced by its hash."""

_POSITION = re.compile(r"[A-Za-z0-9._-]{1,249}/\d{1,10}/\d{1,19}(#\d{1,4})?(@[0-9a-f]+)?")
_LIST = '["'


def identity(event_id: str, source: str | None) -> str:
    """As it is stored."""
    if source is None and not _POSITION.fullmatch(event_id) and not event_id.startswith(_LIST):
        return event_id
    text = json.dumps([event_id, source], ensure_ascii=False, separators=(",", ":"))
    if len(text) <= MAX_CHARS:
        return text
    return f'["{hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}"]'


def sourced_range(event_id: str) -> tuple[str, str]:
    """(first, end) of the identities, in the order of code points, that have this id and any source; the end
    is outside."""
    prefix = json.dumps([event_id], ensure_ascii=False)[:-1]
    return prefix + ",", prefix + "-"


def source_of(identity: str) -> str | None:
    """Of one in such a range."""
    source: str | None = json.loads(identity)[1]
    return source


def digest_of(message: bytes, names: tuple[str, ...] | None = None, about: str = "") -> str:
    """Of what a message states, in the fields of these names, else in those of an activity, about the
    activity of this identity. White space, the order of its fields, those that are null or are not read do
    not count, nor does its own identity."""
    try:
        fields = _fields.decode(message)
        content = {name: value for name in names or _CONTENT if (value := fields.get(name)) is not None}
        message = msgspec.json.encode(content, order="deterministic")
    except ValueError:
        pass  # as it stands
    return hashlib.blake2b(message + about.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


_CONTENT = (
    "eventType",
    "recipientScope",
    "recipientIds",
    "audience",
    "excludeActor",
    "actorId",
    "actor",
    "organizerId",
    "merchantId",
    "data",
    "subject",
    "occurredAt",
    "collapseKey",
    "expiresAt",
    "priority",
)
_fields = JsonDecoder[dict[str, object]](dict[str, object], float_hook=str)


def settled(activity: Activity, position: str, handled: Mapping[str, Handled]) -> Activity:
    """The activity under the identity that it has beside those that were handled: `handled` has what
    `depends_on` names, as far as there is any.

    A record without an id is another activity than the one that was at its position in a topic of the same
    name. One that a release before handled keeps the identity that it had there."""
    before = handled.get(depends_on(activity) or "")
    if before is None:
        return activity
    same = before.position == position and before.digest in (None, activity.digest)
    if activity.given_id is None:
        return activity if same else replace(activity, id=f"{activity.id}@{activity.digest}")
    return replace(activity, id=activity.given_id) if same else activity


def depends_on(activity: Activity) -> str | None:
    """The identity under which the same record, or another one at its position, may have been handled; None
    where that makes no difference."""
    if activity.given_id is None:
        return activity.id
    return activity.given_id if activity.given_id != activity.id else None
