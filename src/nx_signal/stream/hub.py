"""Who is connected here, and who hears of what: indexes by client, user and room, the announcer of new
changes, and the healing of sessions that missed some. Fan-out never waits for a recipient."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import msgspec
import structlog
import trio

from nx_signal.errors import StoreUnavailable
from nx_signal.model import Activity, Change, Dispatch, Head, Json, Rule
from nx_signal.ports import InboxStore, Listening, Now, Received, Relay, RelayEvent
from nx_signal.stream.peers import Peers
from nx_signal.stream.protocol import DISCONNECTED, GOING_AWAY
from nx_signal.stream.rooms import RoomRules, channel_of_room, is_member_room
from nx_signal.stream.session import Session, payload_of
from nx_signal.stream.topics import (
    ACTIVITY,
    DISCONNECT,
    GOAWAY,
    INBOX_ROOM_PREFIX,
    INBOX_TOPICS,
    MERCHANT_ROOM_PREFIX,
    ORGANIZER_ROOM_PREFIX,
    activity_data,
    encode_change,
    encode_json,
    frame,
    inbox_room,
    stamp,
)
from nx_signal.supervise import Backoff
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PUSHES_PER_CHECKPOINT = 64
"""At 15 µs a push the event loop is held for about a millisecond."""

HEAL_AFTER_S = 0.02
"""A gap often closes by itself: two partitions announced out of order. Wait that long before a query."""

HEAL_USERS = 100
HEAL_CHANGES = 100
"""Per round: bounds the memory of one read to users × changes × about 1 KB."""

RELAY_WITHIN_S = 1.0
"""How long a handshake or a join waits for its subscriptions, which take a millisecond."""

RECHECK_ROOMS_S = 30.0
RECHECKED_USERS = 1_000
"""In one query."""

EMITTER = "emitter"
"""The serverId of sister services (CONTRACT §2): what they send is never part of an inbox log."""

GOODBYES_PER_S = 500
MAX_RETRY_AFTER_MS = 1_000

BROADCAST_CHANNEL = "ws:broadcast"


@dataclass(slots=True)
class _Baseline:
    """Handshakes that wait for one read of their inboxes' heads."""

    users: set[str]
    done: trio.Event
    heads: Mapping[str, Head] | None = None


class Hub:
    """Synchronous towards its callers; `run` does what needs the store or the relay's input."""

    def __init__(
        self,
        *,
        server_id: str,
        store: InboxStore,
        rules: RoomRules,
        relay: Relay,
        outbound: trio.MemorySendChannel[tuple[Dispatch, ...]],
        metrics: Metrics,
        now: Now,
        resume_limit: int,
        sweep_s: float,
    ) -> None:
        self.server_id = server_id
        self._started_at = now()
        self._store = store
        self._rules = rules
        self._relay = relay
        self._outbound = outbound
        self._metrics = metrics
        self._resume_limit = resume_limit
        self._sweep_s = sweep_s
        self._clients: dict[str, Session] = {}
        self._users: dict[str, dict[Session, None]] = {}
        self._rooms: dict[str, dict[Session, None]] = {}
        self._to_heal: dict[Session, None] = {}
        self._to_check: set[str] = set()
        self._baseline = _Baseline(set(), trio.Event())
        self._wake_healer = trio.Event()
        self._wake_checker = trio.Event()
        self._wake_reader = trio.Event()
        self.on_question: Callable[[str, Json], Json] = lambda question, data: None
        """what other instances are answered"""
        self.peers = Peers(server_id, self._publish, lambda *asked: self.on_question(*asked))
        self._awaited: dict[str, trio.Event] = {}
        """channels that the relay was asked for and has not confirmed"""
        self._listen([BROADCAST_CHANNEL, *self.peers.channels])

    # --- who is here ---

    @property
    def sessions(self) -> Collection[Session]:
        return self._clients.values()

    def session(self, client_id: str) -> Session | None:
        return self._clients.get(client_id)

    def status(self) -> dict[str, Json]:
        """CONTRACT §4, `GET …/clients/status`."""
        return {
            "status": "ok",
            "serverId": self.server_id,
            "instances": 1 + len(self.peers.known),
            "clients": len(self._clients),
            "users": len(self._users),
            "rooms": len(self._rooms),
            "startedAt": stamp(self._started_at),
        }

    def find(self, user_id: str | None, room: str | None) -> Collection[Session]:
        """The sessions here, of this user and in this room where given."""
        if user_id is None and room is None:
            return self._clients.values()
        found = self._users.get(user_id, {}) if user_id is not None else self._rooms.get(room or "", {})
        return [s for s in found if room is None or room in s.rooms]

    def attach(self, session: Session) -> None:
        """Register before the inbox's head is read: a change committed after that read is then either
        announced to the session or noticed as a jump."""
        self._clients[session.client_id] = session
        channels = [f"ws:client:{session.client_id}"]
        if session.user_id not in self._users:
            self._users[session.user_id] = {}
            channels.append(f"ws:user:{session.user_id}")
        self._users[session.user_id][session] = None
        for room in session.rooms:
            if room not in self._rooms:
                self._rooms[room] = {}
                channels.append(channel_of_room(room))
            self._rooms[room][session] = None
        self._listen(channels)
        self._metrics.clients.set(len(self._clients))

    def detach(self, session: Session) -> None:
        if self._clients.pop(session.client_id, None) is None:
            return
        gone = [f"ws:client:{session.client_id}"]
        if _remove(self._users, session.user_id, session):
            gone.append(f"ws:user:{session.user_id}")
        gone.extend(channel_of_room(room) for room in session.rooms if _remove(self._rooms, room, session))
        self._to_heal.pop(session, None)
        self._unlisten(gone)
        self._metrics.clients.set(len(self._clients))

    def join(self, session: Session, rooms: Iterable[str]) -> None:
        fresh = []
        for room in rooms:
            if room not in self._rooms:
                self._rooms[room] = {}
                fresh.append(channel_of_room(room))
            self._rooms[room][session] = None
            session.rooms.add(room)
        self._listen(fresh)

    def leave(self, session: Session, rooms: Iterable[str]) -> None:
        left = [room for room in rooms if room in session.rooms]
        session.rooms.difference_update(left)
        self._unlisten([channel_of_room(room) for room in left if _remove(self._rooms, room, session)])

    def _listen(self, channels: Sequence[str]) -> None:
        for channel in channels:
            self._awaited[channel] = trio.Event()
        self._relay.listen(channels)

    def _unlisten(self, channels: Sequence[str]) -> None:
        for channel in channels:
            self._confirmed(channel)
        self._relay.unlisten(channels)

    def _confirmed(self, channel: str) -> None:
        waiting = self._awaited.pop(channel, None)
        if waiting is not None:
            waiting.set()

    async def heard_everywhere(self, session: Session) -> None:
        """Until what other servers send to this session, its user and its rooms arrives here; at most
        RELAY_WITHIN_S, for a relay that is away."""
        with trio.move_on_after(RELAY_WITHIN_S):
            for channel in (
                f"ws:client:{session.client_id}",
                f"ws:user:{session.user_id}",
                *(channel_of_room(room) for room in tuple(session.rooms)),
            ):
                if (waiting := self._awaited.get(channel)) is not None:
                    await waiting.wait()

    async def baseline(self, user_id: str) -> Head:
        """The head of an inbox; handshakes that come together share one query. Raises
        StoreUnavailable."""
        waiting = self._baseline
        waiting.users.add(user_id)
        self._wake_reader.set()
        await waiting.done.wait()
        if waiting.heads is None:
            raise StoreUnavailable("The inbox cannot be read now; connect again in a moment.")
        return waiting.heads[user_id]

    # --- who hears of what ---

    def announce(self, changes: Sequence[Change]) -> None:
        """Tell this instance's sessions, and the other instances, of changes that are committed.

        A hint: what is not announced is found by the sweep. Callers with many changes hand them over
        in portions of about PUSHES_PER_CHECKPOINT."""
        out = []
        pushed = 0
        for change in changes:
            event, data = encode_change(change)
            sessions = self._users.get(change.recipient_id)
            if sessions:
                payload = frame(event, data)
                for session in sessions:
                    session.offer_change(change.rev, payload)
                pushed += len(sessions)
            out.append(Dispatch("room", inbox_room(change.recipient_id), event, data))
        self._metrics.frames.labels("inbox").inc(pushed)
        self._publish(tuple(out))

    async def show(self, activity: Activity, rule: Rule) -> None:
        """Push an activity to the members' room that its rule names: `merchant`, else `org`. Ephemeral."""
        if rule == "merchant":
            room = f"{MERCHANT_ROOM_PREFIX}{activity.merchant_id}"
        else:
            room = ORGANIZER_ROOM_PREFIX + activity.organizer_id
        await self.send(Dispatch("room", room, ACTIVITY, activity_data(activity)))

    async def send(self, dispatch: Dispatch) -> None:
        """Deliver to whomever it names, here and on the other instances."""
        self._publish((dispatch,))
        await self._deliver(dispatch)

    def _publish(self, dispatches: tuple[Dispatch, ...]) -> None:
        try:
            self._outbound.send_nowait(dispatches)
        except trio.WouldBlock:
            # The relay is away or slow. Inbox changes are healed by the others' sweep.
            self._metrics.relay_dropped.inc(len(dispatches))
        else:
            self._metrics.relay_published.inc(len(dispatches))

    async def _deliver(self, dispatch: Dispatch) -> None:
        if dispatch.kind in ("instance", "instances"):
            self.peers.receive(dispatch)
            return
        rev = _log_revision(dispatch)
        payload = frame(dispatch.event, dispatch.data)
        if rev is not None:
            user_id = (dispatch.target or "").removeprefix(INBOX_ROOM_PREFIX)
            sessions = self._users.get(user_id, {})
            for session in sessions:
                session.offer_change(rev, payload)
            self._metrics.frames.labels("inbox").inc(len(sessions))
            return
        if dispatch.event == DISCONNECT and dispatch.kind in ("client", "user"):
            self._disconnect(dispatch)
            return
        taken = offered = 0
        for session in self._addressed(dispatch):
            if session.client_id in dispatch.exclude:
                continue
            offered += 1
            taken += session.offer(payload)
            if offered % PUSHES_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
        self._metrics.frames.labels("ephemeral").inc(taken)

    def _disconnect(self, dispatch: Dispatch) -> None:
        token_id = _token_id(dispatch.data)
        for session in self._addressed(dispatch):
            if token_id is None or token_id == session.principal.token_id:
                session.end(DISCONNECTED)

    def _addressed(self, dispatch: Dispatch) -> list[Session]:
        """A copy: sessions may come and go while it is worked through."""
        match dispatch.kind:
            case "broadcast":
                return list(self._clients.values())
            case "client":
                session = self._clients.get(dispatch.target or "")
                return [session] if session else []
            case "user":
                return list(self._users.get(dispatch.target or "", ()))
            case "room":
                return list(self._rooms.get(dispatch.target or "", ()))
            case _:
                return []

    # --- what needs the store or the relay ---

    async def run(
        self,
        inbound: trio.MemoryReceiveChannel[RelayEvent],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; any error is a bug and ends the process."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, inbound)
            nursery.start_soon(self._read_baselines)
            nursery.start_soon(self._check)
            nursery.start_soon(self._heal)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._recheck_rooms)
            nursery.start_soon(self.peers.run)
            task_status.started()

    async def _receive(self, inbound: trio.MemoryReceiveChannel[RelayEvent]) -> None:
        async for event in inbound:
            match event:
                case Received(messages):
                    self._metrics.relay_received.inc(len(messages))
                    for message in messages:
                        await self._deliver(message)
                        await trio.lowlevel.checkpoint()
                case Listening(channels):
                    for channel in channels:
                        self._confirmed(channel)
                    prefix = channel_of_room(INBOX_ROOM_PREFIX)
                    self._check_soon(c.removeprefix(prefix) for c in channels if c.startswith(prefix))
        await trio.sleep_forever()  # the channel is closed by the drain; the hub outlives the relay

    async def _read_baselines(self) -> None:
        while True:
            await self._wake_reader.wait()
            self._wake_reader = trio.Event()
            batch, self._baseline = self._baseline, _Baseline(set(), trio.Event())
            try:
                batch.heads = await self._store.heads(tuple(batch.users))
            except StoreUnavailable:
                pass  # told to those who wait
            finally:
                batch.done.set()

    def _check_soon(self, user_ids: Iterable[str]) -> None:
        """Compare these inboxes with the store in one query."""
        self._to_check.update(user_ids)
        if self._to_check:
            self._wake_checker.set()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(self._sweep_s)
            self._check_soon(self._users)

    async def _check(self) -> None:
        while True:
            await self._wake_checker.wait()
            self._wake_checker = trio.Event()
            users = [user for user in self._to_check if user in self._users]
            self._to_check.clear()
            if not users:
                continue
            heads = await self._patiently(self._store.heads, users)
            for user_id, head in heads.items():
                for session in self._users.get(user_id, ()):
                    session.heard_of(head)

    async def _recheck_rooms(self) -> None:
        """A lost membership takes its room away, and says so, within a minute."""
        while True:
            await trio.sleep(RECHECK_ROOMS_S)
            joined: dict[str, set[str]] = {}
            for room, sessions in self._rooms.items():
                if is_member_room(room):
                    for session in sessions:
                        joined.setdefault(session.user_id, set()).add(room)
            users = list(joined)
            for start in range(0, len(users), RECHECKED_USERS):
                part = {user: joined[user] for user in users[start : start + RECHECKED_USERS]}
                lost = await self._patiently(self._rules.lost, part)
                for user, rooms in lost.items():
                    self._take_away(user, rooms)

    def _take_away(self, user_id: str, rooms: frozenset[str]) -> None:
        for session in list(self._users.get(user_id, ())) if rooms else ():
            gone = rooms & session.rooms
            if gone:
                self.leave(session, gone)
                session.answer(session.protocol.refused_rooms(tuple(sorted(gone))))

    def heal_soon(self, session: Session) -> None:
        self._to_heal[session] = None
        self._wake_healer.set()

    async def _heal(self) -> None:
        while True:
            if not self._to_heal:
                await self._wake_healer.wait()
                await trio.sleep(HEAL_AFTER_S)
            self._wake_healer = trio.Event()
            await self._heal_round()

    async def _heal_round(self) -> None:
        cursors: dict[str, int] = {}
        chosen: list[Session] = []
        for session in list(self._to_heal):
            if session.user_id not in cursors and len(cursors) >= HEAL_USERS:
                continue
            del self._to_heal[session]
            if session.live and session.behind and not session.lagging:
                rev = session.asks()
                cursors[session.user_id] = min(rev, cursors.get(session.user_id, rev))
                chosen.append(session)
        if not chosen:
            return
        backlogs = await self._patiently(self._store.backlogs, cursors, HEAL_CHANGES)
        self._metrics.heals.inc(len(chosen))
        encoded: dict[int, bytes] = {}

        def encode(change: Change) -> bytes:
            """Once for all sessions of a user."""
            if id(change) not in encoded:
                encoded[id(change)] = payload_of(change)
            return encoded[id(change)]

        for session in chosen:
            session.heal(backlogs[session.user_id], self._resume_limit, encode)
            await trio.lowlevel.checkpoint()

    async def _patiently(self, read: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Ask the store until it answers: sessions that are behind stay behind meanwhile."""
        backoff = Backoff()
        while True:
            try:
                return await read(*args)
            except StoreUnavailable:
                await backoff.pause()

    # --- the end ---

    async def drain(self, window_s: float) -> None:
        """Tell every client to go elsewhere and end it 1001, paced so that the other instances are
        not hit at once; at most `window_s` long."""
        self.peers.leave()
        sessions = list(self._clients.values())
        pause_s = min(window_s, len(sessions) / GOODBYES_PER_S) / max(len(sessions), 1)
        for session in sessions:
            retry_after_ms = random.randrange(MAX_RETRY_AFTER_MS)  # noqa: S311 - no secret
            session.offer(frame(GOAWAY, encode_json({"retryAfterMs": retry_after_ms})))
            session.end(GOING_AWAY)
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
        return msgspec.json.decode(data, type=_Token).token_id
    except msgspec.DecodeError:
        return None


class _Rev(msgspec.Struct):
    rev: int | None = None


_decode_rev = msgspec.json.Decoder(_Rev).decode


def _log_revision(dispatch: Dispatch) -> int | None:
    """The revision of a change that another instance announced; None for any other send."""
    if (
        dispatch.kind != "room"
        or dispatch.event not in INBOX_TOPICS
        or dispatch.server_id in (None, EMITTER)
        or not (dispatch.target or "").startswith(INBOX_ROOM_PREFIX)
    ):
        return None
    try:
        return _decode_rev(dispatch.data).rev
    except msgspec.DecodeError:
        return None
