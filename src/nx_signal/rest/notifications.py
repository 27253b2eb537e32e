"""`/notifications`: the caller's own inbox alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
import structlog
from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint, Response, request

from nx_signal import __version__
from nx_signal.activities.again import render_again
from nx_signal.activities.content import Renderer, negotiate
from nx_signal.inbox.service import Inbox
from nx_signal.model import InboxSummary, Notification, wire
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import Count, History, Revision, Time
from nx_signal.rest import queries
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import CountParameters, ListParameters, OneParameters
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import MAX_INT, PlainText, answer

log = structlog.get_logger()

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


class NotificationPage(Struct, rename="camel"):
    """Newest first; all numbers are of one moment. `total`: how many match; `unread`: of the whole inbox."""

    data: list[wire.Notification]
    total: Count
    unread: Count
    rev: Revision
    history: History
    next_cursor: str | None


class NotificationCount(Struct):
    """`count`: how many match; `total` and `unread`: of the whole inbox."""

    count: Count
    total: Count
    unread: Count
    rev: Revision
    history: History


class MarkAll(Struct, rename="camel"):
    """Which unread notifications: all, or those up to a revision, of a type, about a subject. `history`: the
    one that came with that revision."""

    up_to_rev: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    history: PlainText | None = None
    type: PlainText | None = None
    subject: PlainText | None = None


class MarkedAll(Struct, rename="camel"):
    updated: Count
    unread: Count
    rev: Revision
    history: History
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
    "activityId": "payment-42",
    "isRead": False,
    "readAt": None,
    "rev": 1,
    "createdAt": "2026-01-01T12:00:00.000Z",
}
_READ = {**_UNREAD, "isRead": True, "readAt": "2026-01-01T12:00:00.000Z"}
_TAGGED = {"ETag": "Of the inbox's revision and the request; send it as If-None-Match."}


def notification_routes(authorizer: Authorizer, inbox: Inbox, renderer: Renderer) -> Blueprint:
    routes = Blueprint("notifications", __name__)

    @routes.get("/notifications")
    @route(
        authorizer,
        "List one's notifications",
        query=ListParameters,
        answers={200: NotificationPage, 304: None},
        headers=_TAGGED,
        example=Example(
            query={"limit": "1", "filter": '{"where":{"type":{"like":"PAYMENT%"}}}'},
            answer={"data": [_UNREAD], "total": 1, "unread": 1, "rev": 1, "history": _ID, "nextCursor": None},
        ),
    )
    async def list_(call: Call[ListParameters, None]) -> Response:
        """Newest first, by pages: `nextCursor` leads to the next one and is null on the last. An answer's
        `ETag` sent back as `If-None-Match` gets 304 as long as the inbox has not changed."""
        query = queries.list_of(call.query, call.user_id)
        if (unchanged := await _unchanged(call.user_id)) is not None:
            return unchanged
        page = await inbox.page(call.user_id, query.where, query.limit, query.before_rev, query.skip)
        following = page.next_before_rev
        listed = NotificationPage(
            data=await _in_locale(call.user_id, page.rows, call.query.locale),
            total=page.matching,
            unread=page.head.unread,
            rev=page.head.rev,
            history=page.head.history,
            next_cursor=None if following is None else queries.cursor(following),
        )
        return _tagged(answer(listed), page.head)

    @routes.get("/notifications/count")
    @route(
        authorizer,
        "Count one's notifications",
        query=CountParameters,
        answers={200: NotificationCount, 304: None},
        headers=_TAGGED,
        example=Example(
            query={"isRead": "false", "type": "PAYMENT_SUCCESS"},
            answer={"count": 1, "total": 1, "unread": 1, "rev": 1, "history": _ID},
        ),
    )
    async def count(call: Call[CountParameters, None]) -> Response:
        """Without parameters, or by `isRead` alone, this costs one key look-up whatever the inbox holds.
        `ETag` and `If-None-Match` as for the list."""
        where = queries.filter_of(call.query, call.user_id)
        if (unchanged := await _unchanged(call.user_id)) is not None:
            return unchanged
        matching, head = await inbox.count(call.user_id, where)
        counted = NotificationCount(matching, head.total, head.unread, head.rev, head.history)
        return _tagged(answer(counted), head)

    @routes.get("/notifications/<id>")
    @route(
        authorizer,
        "Get one of one's notifications",
        query=OneParameters,
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": _ID}, answer=_UNREAD),
    )
    async def get(call: Call[OneParameters, None], id: str) -> wire.Notification:
        """Another user's answers exactly as one that does not exist."""
        number = queries.row_id(id)
        row = None if number is None else await inbox.get(call.user_id, number)
        (shown,) = await _in_locale(call.user_id, [_existing(row)], call.query.locale)
        return shown

    @routes.patch("/notifications/<id>/mark-read")
    @route(
        authorizer,
        "Mark one of one's notifications as read",
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": _ID}, answer=_READ),
    )
    async def mark_read(call: Call[None, None], id: str) -> wire.Notification:
        """Idempotent: the first `readAt` stays. `X-Client-Id` is the sender's stream client: it recognizes
        its own change by the `origin` that is pushed."""
        number = queries.row_id(id)
        row = None if number is None else await inbox.mark_read(call.user_id, number, _origin())
        return wire.notification(_existing(row))

    @routes.patch("/notifications/mark-all-read")
    @route(
        authorizer,
        "Mark one's notifications as read",
        body=MarkAll,
        body_required=False,
        answers={200: MarkedAll},
        problems=(409,),
        example=Example(
            body={"upToRev": 1, "type": "PAYMENT_SUCCESS"},
            answer={
                "updated": 1,
                "unread": 0,
                "rev": 2,
                "history": "9f86d081884c7d65",
                "readAt": "2026-01-01T12:00:00.000Z",
            },
        ),
    )
    async def mark_all_read(call: Call[None, MarkAll]) -> MarkedAll:
        """One change of the inbox, however many become read. `upToRev` (the `rev` of the page that is
        shown) leaves out what came after; with the page's `history` the answer is 409 where the store was
        restored meanwhile and has other notifications there."""
        body = call.body
        updated, head, read_at = await inbox.mark_all_read(
            call.user_id, body.up_to_rev, body.type, body.subject, _origin(), body.history
        )
        return MarkedAll(updated, head.unread, head.rev, head.history, format_timestamp(read_at))

    @routes.delete("/notifications/<id>")
    @route(
        authorizer,
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

    def tag(head: InboxSummary) -> str:
        """Changes with the inbox, also where a restored store gives a revision out again. The page's own
        head goes in, so that a body never gets a newer tag."""
        of = (__version__, renderer.time_zone, head.recipient_id, head.history, request.full_path)
        return f"{head.rev}-{hashlib.sha256(msgspec.json.encode(of)).hexdigest()[:16]}"

    async def _unchanged(user_id: str) -> Response | None:
        """A 304 where the client has the answer already: for one look-up of the head."""
        given = request.if_none_match
        if not given:
            return None
        head = await inbox.head(user_id)
        return _tagged(Response(b"", 304), head) if given.contains_weak(tag(head)) else None

    def _tagged(response: Response, head: InboxSummary) -> Response:
        response.set_etag(tag(head))
        response.headers["Cache-Control"] = "private, no-cache"
        response.headers.add("Vary", "Authorization")
        return response

    # --- in another language

    async def _in_locale(
        user_id: str, rows: Sequence[Notification], locale: str | UnsetType
    ) -> list[wire.Notification]:
        if locale is UNSET:
            return [wire.notification(row) for row in rows]
        others = [row.id for row in rows if row.locale != negotiate(locale)]
        kept = await inbox.rendered_from(user_id, others) if others else {}
        shown = [
            row if row.locale == negotiate(locale) else render_again(renderer, row, kept.get(row.id), locale)
            for row in rows
        ]
        return [wire.notification(row) for row in shown]

    return routes


def _existing(row: Notification | None) -> Notification:
    if row is None:
        raise Problem(404)
    return row


def _origin() -> str | None:
    """The stream client of the caller, which recognizes its own change by it."""
    client_id = request.headers.get("X-Client-Id", "")
    return client_id if _CLIENT_ID.fullmatch(client_id) else None
