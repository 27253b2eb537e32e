"""The events that Signal itself pushes, beside the changes of an inbox, and their JSON (CONTRACT §1, Topics
pushed)."""

from __future__ import annotations

from nx_signal.model import Activity, InboxSummary
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import browser_safe, encode_json

STATE = "observation/signal/notification/state"
NOTIFICATIONS = STATE.removesuffix("state")
"""Begins the topics of an inbox's log, and of its `state`: their data has `rev` and `history`."""
ACTIVITY = "observation/signal/activity/created"
"""`{eventId, eventSource, type, organizerId, merchantId, subject, actor, data, occurredAt}` to the members'
room."""

LOST = "observation/signal/lost"
"""`{count}`: so many frames that are not of the log were dropped here, as the client did not read them."""
HELLO = "hello"
"""The handshake of version 2 (docs/stream-v2.md), from either side."""
REFRESHED = "observation/signal/stream/refreshed"
"""A new key follows; so it is a topic that no other program can send."""

CLOSED = "observation/signal/stream/closed"
"""`{code, reason}`: the last event of a transport that has no close frame."""

GOAWAY = "goaway"
CONNECTED = "connected"
ERROR = "error"
EXPIRING = "expiring"
"""`{expiresInMs}`, a minute before the token's end closes the connection 4005."""
DISCONNECT = "disconnect"
"""Never pushed: sent to a user or a client it ends the connections, those of one token or all."""

OWN_TOPICS = "observation/signal/"
"""Begins every topic of an inbox's log and of activities: these come from Signal itself alone."""


def frame(event: str, data: bytes) -> bytes:
    """The JSON text of `{"event","data"}`; `data` is JSON already."""
    return b'{"event":%b,"data":%b}' % (encode_json(event), data)


def activity_data(activity: Activity) -> bytes:
    return encode_json(
        {
            "eventId": activity.given_id or activity.id,
            "eventSource": activity.source,
            "type": activity.type,
            "organizerId": activity.organizer_id,
            "merchantId": activity.merchant_id,
            "subject": activity.subject,
            "actor": browser_safe(activity.actor),
            "data": browser_safe(activity.data),
            "occurredAt": format_timestamp(activity.occurred_at),
        }
    )


def state_data(head: InboxSummary, *, reset: bool) -> bytes:
    return encode_json(
        {
            "rev": head.rev,
            "history": head.history,
            "unread": head.unread,
            "unseen": head.unseen,
            "total": head.total,
            "reset": reset,
        }
    )
