"""Model to JSON and back: camelCase, ids as strings, times with milliseconds and Z (CONTRACT §4)."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from quart import Request, Response

from nx_signal.model import Head, Json, Notification
from nx_signal.rest.problems import Problem


def answer(body: Json, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, content_type="application/json")


def instant(stamp: datetime) -> str:
    return stamp.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def notification_json(row: Notification) -> dict[str, Json]:
    return {
        "id": str(row.id),
        "recipientId": row.recipient_id,
        "type": row.type,
        "organizerId": row.organizer_id,
        "merchantId": row.merchant_id,
        "subject": row.subject,
        "content": row.content,
        "contentHtml": row.content_html,
        "locale": row.locale,
        "actionUrl": row.action_url,
        "data": row.data,
        "isRead": row.is_read,
        "readAt": None if row.read_at is None else instant(row.read_at),
        "rev": row.rev,
        "createdAt": instant(row.created_at),
    }


def head_json(head: Head) -> dict[str, Json]:
    return {"unread": head.unread, "rev": head.rev}


async def json_bytes(request: Request) -> bytes:
    """The body of a request that holds JSON, undecoded. 415 for another kind; the app bounds its size."""
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"Send application/json, not {kind[:100]}.")
    return await body_bytes(request)


async def body_bytes(request: Request) -> bytes:
    body = await request.get_data(as_text=False)
    return body if isinstance(body, bytes) else body.encode()


async def json_object(request: Request) -> dict[str, Json]:
    """The body as an object; {} when there is none, of whatever kind it says to be."""
    if not await body_bytes(request):
        return {}
    try:
        body = msgspec.json.decode(await json_bytes(request))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "The body is not JSON.", "invalid_json") from None
    if not isinstance(body, dict):
        raise Problem(400, "The body is not a JSON object.", "invalid_json")
    return body
