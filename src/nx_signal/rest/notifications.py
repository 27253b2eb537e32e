"""`/notifications`: the caller's own inbox, and nobody else's."""

from __future__ import annotations

import re

from quart import Blueprint, Response, request

from nx_signal.model import Notification
from nx_signal.rest import queries
from nx_signal.rest.access import Api, authenticate
from nx_signal.rest.problems import Problem
from nx_signal.rest.shapes import answer, head_json, instant, json_object, notification_json

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


def notifications(api: Api) -> Blueprint:
    routes = Blueprint("notifications", __name__)
    inbox = api.inbox

    @routes.get("/notifications")
    async def list_() -> Response:
        user_id = (await authenticate(api)).user_id
        query = queries.parse_list(request.args, user_id)
        page = await inbox.page(user_id, query.where, query.limit, query.before_rev, query.skip)
        following = page.next_before_rev
        return answer(
            {
                "data": [notification_json(row) for row in page.rows],
                "total": page.matching,
                **head_json(page.head),
                "nextCursor": None if following is None else queries.cursor(following),
            }
        )

    @routes.get("/notifications/count")
    async def count() -> Response:
        user_id = (await authenticate(api)).user_id
        query = queries.parse_list(request.args, user_id)
        matching, head = await inbox.count(user_id, query.where)
        return answer({"count": matching, "total": head.total, **head_json(head)})

    @routes.get("/notifications/<id>")
    async def get(id: str) -> Response:
        user_id = (await authenticate(api)).user_id
        number = queries.row_id(id)
        return answer(notification_json(_found(None if number is None else await inbox.get(user_id, number))))

    @routes.patch("/notifications/<id>/mark-read")
    async def mark_read(id: str) -> Response:
        user_id = (await authenticate(api)).user_id
        number = queries.row_id(id)
        row = None if number is None else await inbox.mark_read(user_id, number, _origin())
        return answer(notification_json(_found(row)))

    @routes.patch("/notifications/mark-all-read")
    async def mark_all_read() -> Response:
        user_id = (await authenticate(api)).user_id
        body = await json_object(request)
        up_to_rev, type, subject = body.get("upToRev"), body.get("type"), body.get("subject")
        updated, head, read_at = await inbox.mark_all_read(
            user_id,
            None if up_to_rev is None else queries.whole("upToRev", up_to_rev, 0, queries.MAX_INT),
            None if type is None else queries.plain_text("type", type),
            None if subject is None else queries.plain_text("subject", subject),
            _origin(),
        )
        return answer({"updated": updated, **head_json(head), "readAt": instant(read_at)})

    @routes.delete("/notifications/<id>")
    async def delete(id: str) -> Response:
        user_id = (await authenticate(api)).user_id
        number = queries.row_id(id)
        if number is None or not await inbox.delete(user_id, number):
            raise Problem(404)
        return Response(b"", 204)

    return routes


def _found(row: Notification | None) -> Notification:
    if row is None:
        raise Problem(404)
    return row


def _origin() -> str | None:
    """The stream client that asks, so that it knows its own change when it comes back to it."""
    client_id = request.headers.get("X-Client-Id", "")
    return client_id if _CLIENT_ID.fullmatch(client_id) else None
