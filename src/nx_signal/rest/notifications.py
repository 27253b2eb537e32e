"""`/notifications`: the caller's own inbox, and nobody else's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Annotated

import msgspec
import structlog
from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint, Response, request

from nx_signal import __version__
from nx_signal.activities.content import Renderer, negotiate
from nx_signal.model import Activity, Head
from nx_signal.model import Notification as Row
from nx_signal.rest import queries
from nx_signal.rest.access import Api
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import CountParameters, ListParameters, OneParameters
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import (
    MAX_INT,
    Count,
    Notification,
    PlainText,
    Revision,
    Time,
    answer,
    instant,
    notification,
)

log = structlog.get_logger()

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


class NotificationPage(Struct, rename="camel"):
    """Newest first; all numbers are of one moment. `total`: how many match; `unread`: of the whole inbox."""

    data: list[Notification]
    total: Count
    unread: Count
    rev: Revision
    next_cursor: str | None


class NotificationCount(Struct):
    """`count`: how many match; `total` and `unread`: of the whole inbox."""

    count: Count
    total: Count
    unread: Count
    rev: Revision


class MarkAll(Struct, rename="camel"):
    """Which unread notifications: all, or those up to a revision, of a type, about a subject."""

    up_to_rev: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    type: PlainText | None = None
    subject: PlainText | None = None


class MarkedAll(Struct, rename="camel"):
    updated: Count
    unread: Count
    rev: Revision
    read_at: Time


_ID = "132452764876836864"
_UNREAD = {
    "id": _ID,
    "recipientId": "ann",
    "type": "PAYMENT_SUCCESS",
    "organizerId": "o1",
    "merchantId": "m1",
    "subject": "order/42",
    "content": "Payment of ₫1,250,000 received",
    "contentHtml": "<p>Payment of <strong>₫1,250,000</strong> received</p>",
    "locale": "en",
    "actionUrl": "/payments/42",
    "data": {"payment": {"amount": 1250000, "currency": "VND"}},
    "isRead": False,
    "readAt": None,
    "rev": 1,
    "createdAt": "2026-01-01T12:00:00.000Z",
}
_READ = {**_UNREAD, "isRead": True, "readAt": "2026-01-01T12:00:00.000Z"}
_TAGGED = {"ETag": "Of the inbox's revision and the request; send it as If-None-Match."}


def notifications(api: Api) -> Blueprint:
    routes = Blueprint("notifications", __name__)
    inbox = api.inbox

    @routes.get("/notifications")
    @route(
        api,
        "List one's notifications",
        query=ListParameters,
        answers={200: NotificationPage, 304: None},
        headers=_TAGGED,
        example=Example(
            query={"limit": "1", "filter": '{"where":{"type":{"like":"PAYMENT%"}}}'},
            answer={"data": [_UNREAD], "total": 1, "unread": 1, "rev": 1, "nextCursor": None},
        ),
    )
    async def list_(call: Call[ListParameters, None]) -> Response:
        """Newest first, by pages: `nextCursor` leads to the next one and is null on the last. An answer's
        `ETag` sent back as `If-None-Match` gets 304 as long as the inbox has not changed."""
        query = queries.list_of(call.query, call.user_id)
        if (known := await _known(call.user_id)) is not None:
            return known
        page = await inbox.page(call.user_id, query.where, query.limit, query.before_rev, query.skip)
        following = page.next_before_rev
        listed = NotificationPage(
            data=[_shown(row, call.query.locale) for row in page.rows],
            total=page.matching,
            unread=page.head.unread,
            rev=page.head.rev,
            next_cursor=None if following is None else queries.cursor(following),
        )
        return _tagged(answer(listed), page.head)

    @routes.get("/notifications/count")
    @route(
        api,
        "Count one's notifications",
        query=CountParameters,
        answers={200: NotificationCount, 304: None},
        headers=_TAGGED,
        example=Example(
            query={"isRead": "false", "type": "PAYMENT_SUCCESS"},
            answer={"count": 1, "total": 1, "unread": 1, "rev": 1},
        ),
    )
    async def count(call: Call[CountParameters, None]) -> Response:
        """Without parameters, or by `isRead` alone, this costs one key look-up whatever the inbox holds.
        `ETag` and `If-None-Match` as for the list."""
        where = queries.filter_of(call.query, call.user_id)
        if (known := await _known(call.user_id)) is not None:
            return known
        matching, head = await inbox.count(call.user_id, where)
        return _tagged(answer(NotificationCount(matching, head.total, head.unread, head.rev)), head)

    @routes.get("/notifications/<id>")
    @route(
        api,
        "Get one of one's notifications",
        query=OneParameters,
        answers={200: Notification},
        problems=(404,),
        example=Example(path={"id": _ID}, answer=_UNREAD),
    )
    async def get(call: Call[OneParameters, None], id: str) -> Notification:
        """Another user's answers exactly as one that does not exist."""
        number = queries.row_id(id)
        row = None if number is None else await inbox.get(call.user_id, number)
        return _shown(_found(row), call.query.locale)

    @routes.patch("/notifications/<id>/mark-read")
    @route(
        api,
        "Mark one of one's notifications as read",
        answers={200: Notification},
        problems=(404,),
        example=Example(path={"id": _ID}, answer=_READ),
    )
    async def mark_read(call: Call[None, None], id: str) -> Notification:
        """Idempotent: the first `readAt` stays. `X-Client-Id` names the stream client that asks, so that
        it knows its own change when that comes back to it as `origin`."""
        number = queries.row_id(id)
        row = None if number is None else await inbox.mark_read(call.user_id, number, _origin())
        return notification(_found(row))

    @routes.patch("/notifications/mark-all-read")
    @route(
        api,
        "Mark one's notifications as read",
        body=MarkAll,
        body_required=False,
        answers={200: MarkedAll},
        example=Example(
            body={"upToRev": 1, "type": "PAYMENT_SUCCESS"},
            answer={"updated": 1, "unread": 0, "rev": 2, "readAt": "2026-01-01T12:00:00.000Z"},
        ),
    )
    async def mark_all_read(call: Call[None, MarkAll]) -> MarkedAll:
        """One change of the inbox, however many become read. `upToRev` (the `rev` of the page that is
        shown) leaves out what came after."""
        body = call.body
        updated, head, read_at = await inbox.mark_all_read(
            call.user_id, body.up_to_rev, body.type, body.subject, _origin()
        )
        return MarkedAll(updated, head.unread, head.rev, instant(read_at))

    @routes.delete("/notifications/<id>")
    @route(
        api,
        "Delete one of one's notifications",
        answers={204: None},
        problems=(404,),
        example=Example(path={"id": _ID}),
    )
    async def delete(call: Call[None, None], id: str) -> None:
        """A redelivery of its activity does not bring it back."""
        number = queries.row_id(id)
        if number is None or not await inbox.delete(call.user_id, number):
            raise Problem(404)

    # --- what has not changed is not sent again (RFC 9110 §8.8.3, §13.1.2)

    def tag(head: Head) -> str:
        """Changes with the inbox. The page's own head goes in, so that a body never gets a newer tag."""
        of = (__version__, api.settings.time_zone, head.recipient_id, request.full_path)
        return f"{head.rev}-{hashlib.sha256(msgspec.json.encode(of)).hexdigest()[:16]}"

    async def _known(user_id: str) -> Response | None:
        """A 304 where the client has the answer already: for one look-up of the head."""
        given = request.if_none_match
        if not given:
            return None
        head = await inbox.head(user_id)
        return _tagged(Response(b"", 304), head) if given.contains_weak(tag(head)) else None

    def _tagged(response: Response, head: Head) -> Response:
        response.set_etag(tag(head))
        response.headers["Cache-Control"] = "private, no-cache"
        response.headers.add("Vary", "Authorization")
        return response

    # --- in another language

    def _shown(row: Row, locale: str | UnsetType) -> Notification:
        if locale is not UNSET and negotiate(locale) != row.locale:
            return notification(_said(api.renderer, row, locale))
        return notification(row)

    return routes


def _said(renderer: Renderer, row: Row, locale: str) -> Row:
    """The row in another language; as it is stored, where its type or data do not allow that (any more)."""
    activity = Activity(
        id=row.activity_id,
        type=row.type,
        scope="users",
        actor_id=row.recipient_id,
        actor={},
        organizer_id=row.organizer_id or "",
        merchant_id=row.merchant_id,
        recipient_ids=(row.recipient_id,),
        data=row.data,
        subject=row.subject,
        occurred_at=row.created_at,
    )
    try:
        said = renderer.render(activity, locale)
    except Exception as error:  # a type may come from another package
        log.info("not_rendered_again", type=row.type, id=row.id, error=type(error).__name__)
        return row
    return replace(row, locale=said.locale, content=said.content, content_html=said.content_html)


def _found(row: Row | None) -> Row:
    if row is None:
        raise Problem(404)
    return row


def _origin() -> str | None:
    """The stream client that asks, so that it knows its own change when it comes back to it."""
    client_id = request.headers.get("X-Client-Id", "")
    return client_id if _CLIENT_ID.fullmatch(client_id) else None
