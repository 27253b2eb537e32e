"""The events that Signal itself pushes, their rooms and their JSON (CONTRACT §1, Topics pushed)."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from nx_signal.model import Activity, Change, Created, Head, Json, Notification, Read

CREATED = "observation/signal/notification/created"
READ = "observation/signal/notification/read"
DELETED = "observation/signal/notification/deleted"
STATE = "observation/signal/notification/state"
ACTIVITY = "observation/signal/activity/created"
"""`{eventId, type, organizerId, merchantId, subject, actor, data, occurredAt}` to the members' room."""
INBOX_TOPICS = frozenset({CREATED, READ, DELETED})
"""Those that carry one step of an inbox log."""

GOAWAY = "goaway"
CONNECTED = "connected"
ERROR = "error"
EXPIRING = "expiring"
"""`{expiresInMs}`, a minute before the token's end closes the connection 4005."""
DISCONNECT = "disconnect"
"""Never pushed: sent to a user or a client it ends the connections, those of one token or all."""

DEFAULT_ROOMS = ("ws-default", "ws-notification")

INBOX_ROOM_PREFIX = "signal/notification/"
ORGANIZER_ROOM_PREFIX = "signal/organizer/"
MERCHANT_ROOM_PREFIX = "signal/merchant/"

encode_json = msgspec.json.Encoder().encode


def inbox_room(user_id: str) -> str:
    return INBOX_ROOM_PREFIX + user_id


@lru_cache(maxsize=64)
def stamp(moment: datetime | None) -> str | None:
    """ISO-8601 in UTC with milliseconds and Z, as every JSON of Signal has it. The rows of one batch share
    their moment, and writing it costs more than the rest of a row's JSON: hence the cache."""
    if moment is None:
        return None
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def frame(event: str, data: bytes) -> bytes:
    """The JSON text of `{"event","data"}`; `data` is JSON already."""
    return b'{"event":%b,"data":%b}' % (encode_json(event), data)


def created_data(n: Notification, rev: int, unread: int) -> dict[str, Json]:
    return {
        "id": str(n.id),
        "type": n.type,
        "organizerId": n.organizer_id,
        "merchantId": n.merchant_id,
        "subject": n.subject,
        "content": n.content,
        "contentHtml": n.content_html,
        "actionUrl": n.action_url,
        "data": n.data,
        "isRead": n.is_read,
        "createdAt": stamp(n.created_at),
        "rev": rev,
        "unread": unread,
    }


def encode_change(change: Change) -> tuple[str, bytes]:
    """The event and the JSON of its data, for any kind of change."""
    if isinstance(change, Created):
        return CREATED, encode_json(created_data(change.notification, change.rev, change.unread))
    if isinstance(change, Read):
        data: dict[str, Json] = {
            "readAt": stamp(change.read_at),
            "rev": change.rev,
            "unread": change.unread,
            "origin": change.origin,
        }
        if change.ids is not None:
            data["ids"] = [str(id) for id in change.ids]
        else:
            data["upToRev"] = change.up_to_rev
            if change.type is not None:
                data["type"] = change.type
            if change.subject is not None:
                data["subject"] = change.subject
        return READ, encode_json(data)
    return DELETED, encode_json(
        {"ids": [str(id) for id in change.ids], "rev": change.rev, "unread": change.unread}
    )


def activity_data(activity: Activity) -> bytes:
    return encode_json(
        {
            "eventId": activity.id,
            "type": activity.type,
            "organizerId": activity.organizer_id,
            "merchantId": activity.merchant_id,
            "subject": activity.subject,
            "actor": activity.actor,
            "data": activity.data,
            "occurredAt": stamp(activity.occurred_at),
        }
    )


def state_data(head: Head, *, reset: bool) -> bytes:
    return encode_json({"rev": head.rev, "unread": head.unread, "total": head.total, "reset": reset})
