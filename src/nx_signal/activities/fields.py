"""What the fields of messages share: their bounds, moments, and the error that names one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from nx_signal.errors import MessageRejected

MAX_MESSAGE_BYTES = 1_048_576
"""Kafka's own default limit of a message."""
MAX_ID_CHARS = 256
"""Ids are keys of indexes, and a UUID or a URN fits many times over."""
MAX_SOURCE_CHARS = 2_048
"""A URI reference."""
MAX_RECIPIENTS = 10_000
"""One message is one unit of work; a larger audience is what the scopes `org` and `merchant` are for."""
MAX_MESSAGES = 1_000
"""Messages in one body of POST /activities, and events in one batch."""
MAX_REASON_CHARS = 300
"""The reason is kept with the dead letter and may quote the message."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""Of moments; both leave room for any time zone's offset."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SOURCE_CHARS)]

_MOMENT = re.compile(r"[0-9W-]{8,10}([Tt ][0-9:.,]{2,18} ?([Zz]|[+-][0-9:]{2,8})?)?")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_EXPECTED = {
    "recipientScope": "expected `org`, `merchant` or `users`",
    "audience.scope": "expected `org`, `merchant` or `users`",
    "action": "expected `create`, `update` or `retract`",
    "priority": "expected `normal` or `high`",
}
"""Where msgspec does not name what it takes."""


def rejected(text: str) -> MessageRejected:
    """A MessageRejected whose text can itself be stored and logged, whatever it quotes."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return MessageRejected(text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "…")


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
    """msgspec's error as a sentence that begins with the field; `root` names what was validated."""
    text, _, path = str(error).partition(" - at `$")
    field = (root + path.rstrip("`").replace("[...]", "")).lstrip(".")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
        return rejected(f"{field}.{missing[1]} is missing.".lstrip("."))
    text = _EXPECTED.get(re.sub(r"\[\d+\]", "", field), text)
    return rejected(f"{field or 'message'}: {text[:1].lower()}{text[1:]}.")
