"""How sessions start and end: delivery's part of the handshake, and the rooms that a client joins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import trio

from nx_signal.delivery.backlog import Pool
from nx_signal.delivery.hub import Hub
from nx_signal.delivery.recovery import Recovery
from nx_signal.delivery.rooms import RoomRules, canonical, refused_rooms_data
from nx_signal.delivery.session import Session
from nx_signal.delivery.subscriptions import Subscriptions
from nx_signal.delivery.topics import ERROR, frame
from nx_signal.delivery.transport import Transport
from nx_signal.errors import SessionsFull, StoreUnavailable
from nx_signal.model import InboxSummary, Principal
from nx_signal.model.channels import channel, room_channels
from nx_signal.ports import Now
from nx_signal.store import InboxStore

SUBSCRIBED_WITHIN_S = 1.0
"""How long a handshake or a join waits for its subscriptions, which take a millisecond."""

MAX_ROOMS = 500
"""Of one client; a join that leads beyond is refused whole."""


@dataclass(slots=True)
class _HeadsRead:
    """One read of the heads that the handshakes of the same moment share."""

    users: set[str]
    done: trio.Event
    heads: Mapping[str, InboxSummary] | None = None


class Admission:
    """What a transport needs from delivery, besides the session."""

    def __init__(
        self,
        hub: Hub,
        subscriptions: Subscriptions,
        recovery: Recovery,
        store: InboxStore,
        rules: RoomRules,
        now: Now,
        pool: Pool,
        max_sessions_per_user: int | None = None,
    ) -> None:
        self._hub = hub
        self._pool = pool
        self._subscriptions = subscriptions
        self._request_read = recovery.request_read  # bound once: every session holds it
        self._request_comparison = recovery.request_comparison
        self._store = store
        self._rules = rules
        self._now = now
        self._max_sessions_per_user = max_sessions_per_user
        self._next_read = _HeadsRead(set(), trio.Event())
        self._wake = trio.Event()

    def has_room(self, user_id: str) -> bool:
        """Whether this user may have one more session here. It is the new one that is refused: closing the
        oldest would make clients that come back close each other."""
        most = self._max_sessions_per_user
        return most is None or len(self._hub.sessions_of(user_id)) < most

    def require_room(self, user_id: str) -> None:
        """Raises SessionsFull."""
        if not self.has_room(user_id):
            raise SessionsFull("You have as many sessions here as a user may have; end one, then try again.")

    def open(self, client_id: str, principal: Principal, transport: Transport) -> Session:
        """A session that is not attached yet."""
        return Session(
            client_id,
            principal,
            transport,
            self._now(),
            request_read=self._request_read,
            request_comparison=self._request_comparison,
            pool=self._pool,
        )

    async def admit(self, session: Session) -> InboxSummary:
        """Attach a session; the head of its inbox, with which it begins. Raises StoreUnavailable.

        It is attached before the head is read: a change committed after that read is then either
        announced to the session or noticed as a gap."""
        self._hub.attach(session)
        # A sister service may send to the user as soon as `connected` is seen.
        await self.wait_subscribed(session)
        return await self.baseline(session.user_id)

    def release(self, session: Session) -> None:
        """Its connection is over."""
        self._hub.detach(session)
        session.release()

    async def join(self, session: Session, rooms: Iterable[str]) -> frozenset[str]:
        """Enter those of the rooms that the client may enter, and return them, as it named them: none while
        the store is unavailable, as the client may try again."""
        meant = {room: canonical(room, session.user_id) for room in rooms}
        wanted = tuple(dict.fromkeys(meant.values()))
        try:
            allowed = await self._rules.allowed(session.user_id, session.client_id, wanted)
        except StoreUnavailable:
            allowed = frozenset()
        if not session.live or len(session.rooms | allowed) > MAX_ROOMS:
            return frozenset()
        self._hub.join(session, allowed)
        await self.wait_subscribed(session)
        return frozenset(room for room in meant if meant[room] in allowed)

    async def enter(self, session: Session, rooms: Sequence[str], malformed: Sequence[str] = ()) -> None:
        """`join`, and an `error` that names those that were not entered. `malformed`: no names of rooms."""
        allowed = await self.join(session, rooms)
        refused = [*(room for room in rooms if room not in allowed), *malformed]
        if refused:
            session.notify(frame(ERROR, refused_rooms_data(refused)))

    def leave(self, session: Session, rooms: Iterable[str]) -> None:
        """Leave these rooms, except the client's own."""
        left = (canonical(room, session.user_id) for room in rooms)
        self._hub.leave(session, [room for room in left if room != session.client_id])

    async def wait_subscribed(self, session: Session) -> None:
        """Wait until messages of other instances to this session, its user and its rooms arrive here; at
        most SUBSCRIBED_WITHIN_S, as the relay may be disconnected."""
        with trio.move_on_after(SUBSCRIBED_WITHIN_S):
            await self._subscriptions.wait_confirmed(_channels_of(session))

    async def baseline(self, user_id: str) -> InboxSummary:
        """The head of an inbox; handshakes that come together share one query. Raises
        StoreUnavailable."""
        read = self._next_read
        read.users.add(user_id)
        self._wake.set()
        await read.done.wait()
        if read.heads is None:
            raise StoreUnavailable("The inbox cannot be read now; connect again in a moment.")
        return read.heads[user_id]

    async def run_baseline_reads(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            read, self._next_read = self._next_read, _HeadsRead(set(), trio.Event())
            try:
                read.heads = await self._store.summaries(tuple(read.users))
            except StoreUnavailable:
                pass  # raised where the handshakes wait
            finally:
                read.done.set()


def _channels_of(session: Session) -> Iterator[str]:
    yield channel("client", session.client_id)
    yield channel("user", session.user_id)
    yield channel("inbox", session.user_id)
    for room in tuple(session.rooms):
        yield from room_channels(room)
