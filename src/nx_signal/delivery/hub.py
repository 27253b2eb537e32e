"""Which sessions are connected to this instance, and the fan-out to them. Nothing here waits for a client."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

import msgspec
import trio

from nx_signal.delivery.cursor import Step
from nx_signal.delivery.outbox import Outbox
from nx_signal.delivery.session import Session
from nx_signal.delivery.subscriptions import Subscriptions
from nx_signal.delivery.topics import ACTIVITY, DISCONNECT, GOAWAY, activity_data, frame
from nx_signal.delivery.transport import CloseReason
from nx_signal.model import Activity, Change, RelayMessage, Rule
from nx_signal.model.channels import (
    MERCHANT_ROOM_PREFIX,
    ORGANIZER_ROOM_PREFIX,
    channel,
    room_channels,
)
from nx_signal.model.json import decode_json
from nx_signal.model.wire import encode_change, encode_json
from nx_signal.telemetry.metrics import Metrics

PUSHES_PER_CHECKPOINT = 64
"""At 15 µs a push the event loop is held for about a millisecond."""

CLOSES_PER_S = 500
"""While draining."""
MAX_RETRY_AFTER_MS = 1_000


class Hub:
    """Sessions by client, user and room. A send that concerns other instances is published as well."""

    def __init__(self, subscriptions: Subscriptions, outbox: Outbox, metrics: Metrics) -> None:
        self._subscriptions = subscriptions
        self._outbox = outbox
        self._metrics = metrics
        self._clients: dict[str, Session] = {}
        self._users: dict[str, dict[Session, None]] = {}
        self._rooms: dict[str, dict[Session, None]] = {}

    # --- the index ---

    @property
    def sessions(self) -> Collection[Session]:
        return self._clients.values()

    @property
    def users(self) -> Collection[str]:
        """Those with a session here."""
        return self._users

    @property
    def rooms(self) -> Collection[str]:
        """Those with a session here."""
        return self._rooms.keys()

    def session(self, client_id: str) -> Session | None:
        return self._clients.get(client_id)

    def sessions_of(self, user_id: str) -> Collection[Session]:
        return self._users.get(user_id, {}).keys()

    def sessions_in(self, room: str) -> Collection[Session]:
        return self._rooms.get(room, {}).keys()

    def attach(self, session: Session) -> None:
        self._clients[session.client_id] = session
        channels = [channel("client", session.client_id)]
        if session.user_id not in self._users:
            self._users[session.user_id] = {}
            channels += (channel("user", session.user_id), channel("inbox", session.user_id))
        self._users[session.user_id][session] = None
        channels += self._enter(session, session.rooms)
        self._subscriptions.add(channels)
        self._metrics.clients.set(len(self._clients))

    def detach(self, session: Session) -> None:
        """Does nothing for a session that is not attached."""
        if self._clients.pop(session.client_id, None) is None:
            return
        unused = [channel("client", session.client_id)]
        if _remove(self._users, session.user_id, session):
            unused += (channel("user", session.user_id), channel("inbox", session.user_id))
        for room in session.rooms:
            if _remove(self._rooms, room, session):
                unused += room_channels(room)
        self._subscriptions.remove(unused)
        self._metrics.clients.set(len(self._clients))

    def join(self, session: Session, rooms: Iterable[str]) -> None:
        rooms = tuple(rooms)
        session.rooms.update(rooms)
        self._subscriptions.add(self._enter(session, rooms))

    def leave(self, session: Session, rooms: Iterable[str]) -> None:
        left = [room for room in rooms if room in session.rooms]
        session.rooms.difference_update(left)
        empty = [room for room in left if _remove(self._rooms, room, session)]
        self._subscriptions.remove([name for room in empty for name in room_channels(room)])

    def _enter(self, session: Session, rooms: Iterable[str]) -> list[str]:
        """The channels of the rooms that were empty here."""
        channels: list[str] = []
        for room in rooms:
            if room not in self._rooms:
                self._rooms[room] = {}
                channels += room_channels(room)
            self._rooms[room][session] = None
        return channels

    # --- the fan-out ---

    def announce(self, changes: Sequence[Change]) -> None:
        """Push changes that are committed to this instance's sessions, and publish them to the others.

        A hint: what is not announced is found by the sweep. Callers with many changes pass them in
        portions of about PUSHES_PER_CHECKPOINT."""
        out = []
        pushed = 0
        for change in changes:
            event, data = encode_change(change)
            sessions = self._users.get(change.recipient_id)
            if sessions:
                step = Step(change.rev, frame(event, data), change.history, change.after)
                for session in sessions:
                    session.offer_change(step)
                pushed += len(sessions)
            place = (change.rev, change.history, change.after)
            out.append(RelayMessage("inbox", change.recipient_id, event, data, frozenset(), None, *place))
        self._metrics.frames.labels("inbox").inc(pushed)
        self._outbox.publish(tuple(out))

    async def push_to_members(self, activity: Activity, rule: Rule) -> None:
        """Push an activity to the members' room that its rule names: `merchant`, else `org`. Ephemeral."""
        if rule == "merchant":
            room = f"{MERCHANT_ROOM_PREFIX}{activity.merchant_id}"
        else:
            room = ORGANIZER_ROOM_PREFIX + activity.organizer_id
        await self.send(RelayMessage("members", room, ACTIVITY, activity_data(activity)))

    async def send(self, message: RelayMessage) -> bool:
        """Deliver it here and on the other instances; whether it was passed to the relay."""
        published = self._outbox.publish((message,))
        await self.deliver(message)
        return published

    async def deliver(self, message: RelayMessage) -> None:
        """To the sessions here that it is addressed to."""
        if message.rev is not None:
            self._deliver_change(message, message.rev)
        elif message.event == DISCONNECT and message.kind in ("client", "user"):
            self._disconnect(message)
        else:
            await self._deliver_ephemeral(message)

    def _deliver_change(self, message: RelayMessage, rev: int) -> None:
        """A step of an inbox log, whatever its topic: a newer release may have more of them."""
        step = Step(rev, frame(message.event, message.data), message.history, message.after)
        sessions = self.sessions_of(message.target or "")
        for session in sessions:
            session.offer_change(step)
        self._metrics.frames.labels("inbox").inc(len(sessions))

    async def _deliver_ephemeral(self, message: RelayMessage) -> None:
        payload = frame(message.event, message.data)
        taken = offered = 0
        for session in self._addressed(message):
            if session.client_id in message.exclude:
                continue
            offered += 1
            taken += session.offer(payload)
            if offered % PUSHES_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
        self._metrics.frames.labels("ephemeral").inc(taken)

    def _disconnect(self, message: RelayMessage) -> None:
        token_id = _token_id(message.data)
        for session in self._addressed(message):
            if token_id is None or token_id == session.principal.token_id:
                session.end(CloseReason.DISCONNECTED)

    def _addressed(self, message: RelayMessage) -> list[Session]:
        """A copy: sessions may come and go while it is worked through."""
        target = message.target or ""
        match message.kind:
            case "broadcast":
                return list(self._clients.values())
            case "client":
                session = self._clients.get(target)
                return [session] if session else []
            case "user":
                return list(self.sessions_of(target))
            case "room" | "members":
                return list(self.sessions_in(target))
            case _:
                return []

    # --- the end ---

    async def drain(self, window_s: float) -> None:
        """Send every client `goaway` and end its session, paced so that the other instances are not hit
        at once; at most `window_s` long."""
        sessions = list(self._clients.values())
        pause_s = min(window_s, len(sessions) / CLOSES_PER_S) / max(len(sessions), 1)
        for session in sessions:
            retry_after_ms = random.randrange(MAX_RETRY_AFTER_MS)  # noqa: S311 - no secret
            session.notify(frame(GOAWAY, encode_json({"retryAfterMs": retry_after_ms})))
            session.end(CloseReason.GOING_AWAY)
            await trio.sleep(pause_s)


def _remove(index: dict[str, dict[Session, None]], key: str, session: Session) -> bool:
    """Whether that was the last one under this key."""
    members = index.get(key)
    if members is None:
        return False
    members.pop(session, None)
    if members:
        return False
    del index[key]
    return True


class _Token(msgspec.Struct, rename="camel"):
    token_id: str | None = None


def _token_id(data: bytes) -> str | None:
    """Of a `disconnect`: `{tokenId}` narrows it to the connections of that token; None means all."""
    try:
        token: _Token = decode_json(data, _Token)
        return token.token_id
    except msgspec.DecodeError:
        return None
