"""What the fields of messages share: their bounds, and the error that names one."""

from __future__ import annotations

import re
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

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARS)]
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SOURCE_CHARS)]

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def rejected(text: str) -> MessageRejected:
    """A MessageRejected whose text can itself be stored and logged, whatever it quotes."""
    text = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return MessageRejected(text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "…")
