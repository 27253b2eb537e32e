"""`/notifications`: the caller's own inbox alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import structlog
from msgspec import UNSET, Struct, UnsetType
from quart import Blueprint, Response, request

from nx_signal import __version__
from nx_signal.activities.again import render_again
from nx_signal.activities.content import Renderer, negotiate
from nx_signal.inbox.service import Inbox
from nx_signal.model import InboxSummary, Notification, wire
from nx_signal.model.wire import Count, History, Revision
from nx_signal.rest import queries
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import CountParameters, ListParameters, OneParameters
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import answer

log = structlog.get_logger()


class NotificationPage(Struct, rename="camel"):
    """Newest first; all numbers are of one moment. `total`: how many match; `unread` and `unseen`: of the
    whole inbox."""

    data: list[wire.Notification]
    total: Count
    unread: Count
    unseen: Count
    rev: Revision
    history: History
    next_cursor: str | None


class NotificationCount(Struct):
    """`count`: how many match; `total`, `unread` and `unseen`: of the whole inbox."""

    count: Count
    total: Count
    unread: Count
    unseen: Count
    rev: Revision
    history: History


ID = "132452764876836864"
UNREAD = {
    "id": ID,
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
    "priority": "normal",
    "expiresAt": "2026-01-08T12:00:00.000Z",
    "collapseKey": "order/42",
    "isRead": False,
    "readAt": None,
    "isSeen": False,
    "archivedAt": None,
    "rev": 1,
    "createdAt": "2026-01-01T12:00:00.000Z",
}
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
            answer={
                "data": [UNREAD],
                "total": 1,
                "unread": 1,
                "unseen": 1,
                "rev": 1,
                "history": ID,
                "nextCursor": None,
            },
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
            unseen=page.head.unseen,
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
            answer={"count": 1, "total": 1, "unread": 1, "unseen": 1, "rev": 1, "history": ID},
        ),
    )
    async def count(call: Call[CountParameters, None]) -> Response:
        """Without parameters, or by `isRead` alone, this costs one key look-up whatever the inbox holds.
        `ETag` and `If-None-Match` as for the list."""
        where = queries.filter_of(call.query, call.user_id)
        if (unchanged := await _unchanged(call.user_id)) is not None:
            return unchanged
        matching, head = await inbox.count(call.user_id, where)
        counted = NotificationCount(matching, head.total, head.unread, head.unseen, head.rev, head.history)
        return _tagged(answer(counted), head)

    @routes.get("/notifications/<id>")
    @route(
        authorizer,
        "Get one of one's notifications",
        query=OneParameters,
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": ID}, answer=UNREAD),
    )
    async def get(call: Call[OneParameters, None], id: str) -> wire.Notification:
        """Another user's answers exactly as one that does not exist."""
        number = queries.row_id(id)
        row = None if number is None else await inbox.get(call.user_id, number)
        (shown,) = await _in_locale(call.user_id, [existing(row)], call.query.locale)
        return shown

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


def existing(row: Notification | None) -> Notification:
    if row is None:
        raise Problem(404)
    return row
