"""What callers do to notifications of their own inbox: read, unread, seen, archive, delete; to one, to
several by their ids, to all up to a revision."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct
from quart import Blueprint, request

from nx_signal.inbox.service import Inbox
from nx_signal.model import InboxSummary, Mark, wire
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import Count, History, Revision, Time
from nx_signal.rest import queries
from nx_signal.rest.access import Authorizer
from nx_signal.rest.notifications import ID, UNREAD, existing
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import RowId
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import MAX_INT, PlainText
from nx_signal.store.marks import MAX_IDS, MarkAll, MarkOfAll

_CLIENT_ID = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


class UpTo(Struct, rename="camel"):
    """Which notifications: all, or those up to a revision. `history`: the one that came with that
    revision."""

    up_to_rev: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    history: PlainText | None = None


class MarkAllRead(UpTo, rename="camel"):
    """Which unread notifications: all, or those up to a revision, of a type, about a subject. `history`: the
    one that came with that revision."""

    type: PlainText | None = None
    subject: PlainText | None = None


class ArchiveAll(UpTo, rename="camel"):
    """Which notifications: all, or those up to a revision; with `isRead` those that are read. `history`: the
    one that came with that revision."""

    is_read: Annotated[bool, Meta(extra_json_schema={"const": True})] | None = None


class MarkIds(Struct):
    """Which notifications, and what to do to them."""

    ids: Annotated[list[RowId], Meta(min_length=1, max_length=MAX_IDS)]
    op: Mark


class Marked(Struct):
    """`updated`: how many changed; the counts, of the whole inbox, after it."""

    updated: Count
    unread: Count
    unseen: Count
    total: Count
    rev: Revision
    history: History


class MarkedAllRead(Marked, rename="camel"):
    """`updated`: how many became read; the counts, of the whole inbox, after it."""

    read_at: Time


class MarkedIds(Marked):
    """`updated`: how many changed; `unknown`: the ids of no notification that one has; the counts, of the
    whole inbox, after it."""

    unknown: list[str]


_NOON = "2026-01-01T12:00:00.000Z"
_READ = {**UNREAD, "isRead": True, "readAt": _NOON, "isSeen": True}
_MARKED = {"updated": 1, "unread": 0, "unseen": 0, "total": 1, "rev": 2, "history": "9f86d081884c7d65"}


def mark_routes(authorizer: Authorizer, inbox: Inbox) -> Blueprint:
    routes = Blueprint("marks", __name__)

    @routes.patch("/notifications/<id>/mark-read")
    @route(
        authorizer,
        "Mark one of one's notifications as read",
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": ID}, answer=_READ),
    )
    async def mark_read(call: Call[None, None], id: str) -> wire.Notification:
        """Idempotent: the first `readAt` stays. `X-Client-Id` is the sender's stream client: it recognizes
        its own change by the `origin` that is pushed."""
        return await _mark(call.user_id, id, "read")

    @routes.patch("/notifications/<id>/mark-unread")
    @route(
        authorizer,
        "Mark one of one's notifications as unread again",
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": ID}, answer=UNREAD),
    )
    async def mark_unread(call: Call[None, None], id: str) -> wire.Notification:
        """Idempotent. It counts as unread again, and stays seen."""
        return await _mark(call.user_id, id, "unread")

    @routes.patch("/notifications/<id>/archive")
    @route(
        authorizer,
        "Archive one of one's notifications",
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": ID}, answer={**UNREAD, "archivedAt": _NOON}),
    )
    async def archive(call: Call[None, None], id: str) -> wire.Notification:
        """Idempotent. It leaves the counts, and the lists but those with `archived=true`."""
        return await _mark(call.user_id, id, "archive")

    @routes.patch("/notifications/<id>/unarchive")
    @route(
        authorizer,
        "Take one of one's notifications out of the archive",
        answers={200: wire.Notification},
        problems=(404,),
        example=Example(path={"id": ID}, answer=UNREAD),
    )
    async def unarchive(call: Call[None, None], id: str) -> wire.Notification:
        """Idempotent. It is in lists and counts again, at its place, read and seen as it was."""
        return await _mark(call.user_id, id, "unarchive")

    @routes.patch("/notifications")
    @route(
        authorizer,
        "Change several of one's notifications at once",
        body=MarkIds,
        answers={200: MarkedIds},
        example=Example(body={"ids": [ID, "7"], "op": "read"}, answer={**_MARKED, "unknown": ["7"]}),
    )
    async def mark_ids(call: Call[None, MarkIds]) -> MarkedIds:
        """One change of the inbox, however many there are; none where all are so already. An id that names
        none of one's own notifications is in `unknown`, and the others change."""
        marked = await inbox.mark_ids(
            call.user_id, [int(id) for id in call.body.ids], call.body.op, _origin()
        )
        unknown = [str(id) for id in marked.unknown]
        return MarkedIds(*_counts(marked.updated, marked.head), unknown)

    @routes.patch("/notifications/mark-all-seen")
    @route(
        authorizer,
        "Count one's notifications as seen",
        body=UpTo,
        body_required=False,
        answers={200: Marked},
        problems=(409,),
        example=Example(body={"upToRev": 1}, answer={**_MARKED, "unread": 1}),
    )
    async def mark_all_seen(call: Call[None, UpTo]) -> Marked:
        """What a bell does when it opens. No row is written, however many become seen. `updated`: how many
        unread ones did. `upToRev` and `history` as for reading all."""
        body = call.body
        return Marked(
            *_counts(*await inbox.mark_all_seen(call.user_id, body.up_to_rev, _origin(), body.history))
        )

    @routes.patch("/notifications/mark-all-unread")
    @route(
        authorizer,
        "Mark one's notifications as unread again",
        body=UpTo,
        body_required=False,
        answers={200: Marked},
        problems=(409,),
        example=Example(
            body={"upToRev": 1}, answer={**_MARKED, "updated": 0, "unread": 1, "unseen": 1, "rev": 1}
        ),
    )
    async def mark_all_unread(call: Call[None, UpTo]) -> Marked:
        """One change of the inbox for each 1,000 that become unread. They stay seen. `upToRev` and `history`
        as for reading all."""
        return await _mark_all(call.user_id, "unread", call.body)

    @routes.patch("/notifications/archive-all")
    @route(
        authorizer,
        "Archive one's notifications",
        body=ArchiveAll,
        body_required=False,
        answers={200: Marked},
        problems=(409,),
        example=Example(body={"upToRev": 1}, answer={**_MARKED, "total": 0}),
    )
    async def archive_all(call: Call[None, ArchiveAll]) -> Marked:
        """One change of the inbox for each 1,000 that are archived. With `isRead` true only those that are
        read. `upToRev` and `history` as for reading all."""
        if call.body.is_read is False:
            raise Problem(400, "isRead takes true, or is left out.", "invalid_parameter")
        return await _mark_all(call.user_id, "archive", call.body, bool(call.body.is_read))

    @routes.patch("/notifications/unarchive-all")
    @route(
        authorizer,
        "Take one's notifications out of the archive",
        body=UpTo,
        body_required=False,
        answers={200: Marked},
        problems=(409,),
        example=Example(
            body={"upToRev": 1}, answer={**_MARKED, "updated": 0, "unread": 1, "unseen": 1, "rev": 1}
        ),
    )
    async def unarchive_all(call: Call[None, UpTo]) -> Marked:
        """One change of the inbox for each 1,000 that come back. `upToRev` and `history` as for reading
        all."""
        return await _mark_all(call.user_id, "unarchive", call.body)

    @routes.patch("/notifications/mark-all-read")
    @route(
        authorizer,
        "Mark one's notifications as read",
        body=MarkAllRead,
        body_required=False,
        answers={200: MarkedAllRead},
        problems=(409,),
        example=Example(
            body={"upToRev": 1, "type": "PAYMENT_SUCCESS"},
            answer={**_MARKED, "readAt": _NOON},
        ),
    )
    async def mark_all_read(call: Call[None, MarkAllRead]) -> MarkedAllRead:
        """One change of the inbox, however many become read. `upToRev` (the `rev` of the page that is
        shown) leaves out what came after; with the page's `history` the answer is 409 where the store was
        restored meanwhile and has other notifications there."""
        body = call.body
        updated, head, read_at = await inbox.mark_all_read(
            call.user_id, body.up_to_rev, body.type, body.subject, _origin(), body.history
        )
        return MarkedAllRead(*_counts(updated, head), format_timestamp(read_at))

    @routes.delete("/notifications/<id>")
    @route(
        authorizer,
        "Delete one of one's notifications",
        answers={204: None},
        problems=(404,),
        example=Example(path={"id": ID}),
    )
    async def delete(call: Call[None, None], id: str) -> None:
        """A redelivery of its activity does not bring it back."""
        number = queries.row_id(id)
        if number is None or not await inbox.delete(call.user_id, number):
            raise Problem(404)

    async def _mark(user_id: str, id: str, mark: Mark) -> wire.Notification:
        number = queries.row_id(id)
        row = None if number is None else await inbox.mark(user_id, number, mark, _origin())
        return wire.notification(existing(row))

    async def _mark_all(user_id: str, mark: MarkOfAll, body: UpTo, only_read: bool = False) -> Marked:
        covers = MarkAll(user_id, mark, body.up_to_rev, _origin(), body.history, only_read)
        return Marked(*_counts(*await inbox.mark_all(covers)))

    return routes


def _counts(updated: int, head: InboxSummary) -> tuple[int, int, int, int, int, str]:
    """The fields of Marked."""
    return updated, head.unread, head.unseen, head.total, head.rev, head.history


def _origin() -> str | None:
    """The stream client of the caller, which recognizes its own change by it."""
    client_id = request.headers.get("X-Client-Id", "")
    return client_id if _CLIENT_ID.fullmatch(client_id) else None
