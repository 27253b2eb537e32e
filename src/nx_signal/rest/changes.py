"""`/notifications/changes`: the inbox's log by long polling."""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
import trio
from msgspec import Meta, Struct
from quart import Blueprint, request

from nx_signal.delivery.polling import MAX_CHANGES, Polled, Polling
from nx_signal.model.wire import Count, History, Revision
from nx_signal.rest.access import Authorizer
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import MAX_INT, PlainText

MAX_WAIT_S = 55
"""Below the minute after which proxies cut off a quiet request."""
WAIT_S = 25


class ChangesParameters(Struct):
    """After which change, how many, and how long to wait for the first one."""

    after: (
        Annotated[int, Meta(ge=0, le=MAX_INT, description="The last revision that the client holds.")] | None
    ) = None
    history: PlainText | None = None
    wait: Annotated[int, Meta(ge=0, le=MAX_WAIT_S, description="Seconds.")] = WAIT_S
    limit: Annotated[int, Meta(ge=1, le=MAX_CHANGES, description="Changes of one answer.")] = MAX_CHANGES


class ChangeFrame(Struct):
    """As on the stream: `event` is the topic."""

    event: str
    data: dict[str, Any]


class Changes(Struct):
    """`rev` and `history`: what to ask with next. `unread`, `unseen` and `total`: of the inbox now. `reset`:
    the list is to be fetched again, as after a `state` with `reset`."""

    rev: Revision
    history: History
    unread: Count
    unseen: Count
    total: Count
    reset: bool
    changes: list[ChangeFrame]


_EXAMPLE = {
    "rev": 1,
    "history": "132452764876836864",
    "unread": 1,
    "unseen": 1,
    "total": 1,
    "reset": False,
    "changes": [],
}


def change_routes(authorizer: Authorizer, polling: Polling) -> Blueprint:
    routes = Blueprint("changes", __name__)

    @routes.get("/notifications/changes")
    @route(
        authorizer,
        "What changed in one's inbox, by long polling",
        query=ChangesParameters,
        answers={200: Changes},
        example=Example(query={"after": "1", "wait": "0"}, answer=_EXAMPLE),
        wait_s=MAX_WAIT_S,
    )
    async def changes(call: Call[ChangesParameters, None]) -> dict[str, Any]:
        """The changes after a revision, in order, as the stream pushes them: at once where there are any,
        else as soon as there are, else none after `wait` seconds. Pass the `rev` and `history` of each answer
        as `after` and `history` of the next request. Without `after`: the head at once, with no changes. Who
        waits counts as a session of its user."""
        query = call.query
        if query.after is None:
            return _shown(await polling.head(call.user_id))
        gone = cast("trio.Event | None", request.scope.get("half_closed"))
        return _shown(
            await polling.changes(
                call.caller, query.after, query.history, wait_s=query.wait, limit=query.limit, gone=gone
            )
        )

    return routes


def _shown(polled: Polled) -> dict[str, Any]:
    """As `Changes`, in its order, so that a shell finds the place at the beginning. The changes are JSON
    already."""
    return {
        "rev": polled.rev,
        "history": polled.history,
        "unread": polled.head.unread,
        "unseen": polled.head.unseen,
        "total": polled.head.total,
        "reset": polled.reset,
        "changes": [msgspec.Raw(change) for change in polled.changes],
    }
