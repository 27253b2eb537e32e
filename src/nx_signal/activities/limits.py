"""What one notification may store: APP_ENV_NOTIFICATION_BYTES. There is a row for each recipient, so a large
one takes as many times its size on the disk, in the database's log and towards the clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nx_signal.errors import MessageRejected
from nx_signal.model import Json
from nx_signal.model.text import encode_json

NOTIFICATION_BYTES = 32_768
"""Many times what the texts and the data of real activities have."""

WHAT_TO_DO = "have less sent, such as a reference to it, or raise APP_ENV_NOTIFICATION_BYTES."


class Texts(Protocol):
    """content.Rendered"""

    @property
    def locale(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def content_html(self) -> str: ...
    @property
    def action_url(self) -> str | None: ...


def json_bytes(field: str, value: Mapping[str, Json], limit: int) -> int:
    """Of the value as JSON. Raises MessageRejected beyond the limit, before anything is made of it."""
    found = len(encode_json(value))
    if found > limit:
        raise MessageRejected(
            f"{field} has {found} bytes as JSON, and a notification may have {limit}: {WHAT_TO_DO}"
        )
    return found


def stored_bytes(
    subject: str | None, data_bytes: int, rendered: Mapping[str, Texts], limit: int
) -> Mapping[str, int]:
    """By locale, of one row: its texts, and its data as JSON. Raises MessageRejected beyond the limit."""
    sizes = {}
    for locale, text in rendered.items():
        texts = (text.content, text.content_html, text.action_url, subject)
        of_texts = sum(len(each.encode("utf-8", "surrogatepass")) for each in texts if each)
        sizes[locale] = of_texts + data_bytes
        if sizes[locale] > limit:
            raise MessageRejected(
                f"The notification in {text.locale} has {sizes[locale]} bytes, {of_texts} of its texts and "
                f"{data_bytes} of its data, and may have {limit}: {WHAT_TO_DO}"
            )
    return sizes
