"""What travels: camelCase, ids as strings, times with milliseconds and Z (CONTRACT §4)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from quart import Request, Response

from nx_signal.model import Json
from nx_signal.model import Notification as Row
from nx_signal.rest.problems import Problem

MAX_TEXT_CHARS = 256
MAX_INT = 2**63 - 1
"""What the columns hold."""

PlainText = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"^(?![\s\S]*\x00)")]
"""No NUL character, which no store holds."""
Id = Annotated[str, Meta(description="A Snowflake in decimal.", examples=["132452764876836864"])]
Time = Annotated[
    str,
    Meta(
        description="ISO 8601 in UTC, with milliseconds.",
        examples=["2026-01-01T12:00:00.000Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Revision = Annotated[int, Meta(ge=0, description="The inbox's revision: +1 for each change to it.")]
Count = Annotated[int, Meta(ge=0)]


class Notification(msgspec.Struct, rename="camel"):
    """One notification of its recipient's inbox. `rev` is the inbox's revision that created it."""

    id: Id
    recipient_id: str
    type: str
    organizer_id: str | None
    merchant_id: str | None
    subject: str | None
    content: str
    content_html: str
    locale: str
    action_url: str | None
    data: dict[str, Any]
    is_read: bool
    read_at: Time | None
    rev: Revision
    created_at: Time


def notification(row: Row) -> Notification:
    return Notification(
        id=str(row.id),
        recipient_id=row.recipient_id,
        type=row.type,
        organizer_id=row.organizer_id,
        merchant_id=row.merchant_id,
        subject=row.subject,
        content=row.content,
        content_html=row.content_html,
        locale=row.locale,
        action_url=row.action_url,
        data=dict(row.data),
        is_read=row.is_read,
        read_at=None if row.read_at is None else instant(row.read_at),
        rev=row.rev,
        created_at=instant(row.created_at),
    )


def answer(body: Json, status: int = 200) -> Response:
    """`body`: a Struct, or anything else that msgspec encodes."""
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def instant(stamp: datetime) -> str:
    return stamp.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


async def json_bytes(request: Request) -> bytes:
    """The body of a request that holds JSON, undecoded. 415 for another kind; the app bounds its size."""
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"Send application/json, not {kind[:100]}.")
    return await body_bytes(request)


async def body_bytes(request: Request) -> bytes:
    body = await request.get_data(as_text=False)
    return body if isinstance(body, bytes) else body.encode()
