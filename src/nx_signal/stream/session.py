"""One authenticated client: where it stands in its inbox log, and the socket it is told through.

Everything here is synchronous and decides at once; nothing waits for a client. The log is delivered as
an unbroken run of revisions: a change that is next is pushed; one that is known already is ignored; any
other leaves the session *behind*, and the hub reads what is missing from the store. So a lost hint, a
full buffer and a resume are one case."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from nx_signal.model import Backlog, Change, Head, Principal
from nx_signal.stream.protocol import SLOW_CONSUMER, Protocol, Say
from nx_signal.stream.topics import DEFAULT_ROOMS, STATE, encode_change, frame, inbox_room, state_data
from nx_signal.stream.wire import Kind, Push, Wire, text_frame

MAX_AHEAD = 64
"""Changes held while an earlier one is on its way; more than that is read from the store."""


class Session:
    """`wants_heal(session)` asks the hub for a `heal` soon; `wake()` wakes the connection's task."""

    __slots__ = (
        "_ahead",
        "_asked_at",
        "_live",
        "_unheld",
        "_wake",
        "_wants_heal",
        "_was_ahead",
        "behind",
        "connected_at",
        "end_with",
        "lagging",
        "last_activity",
        "principal",
        "protocol",
        "resuming",
        "rev",
        "rooms",
        "since",
        "wire",
    )

    def __init__(
        self,
        protocol: Protocol,
        wire: Wire,
        principal: Principal,
        connected_at: datetime,
        *,
        wants_heal: Callable[[Session], None],
        wake: Callable[[], None],
    ) -> None:
        self.protocol = protocol
        self.wire = wire
        self.principal = principal
        self.connected_at = self.last_activity = connected_at
        self.rooms: set[str] = {self.client_id, *DEFAULT_ROOMS, inbox_room(principal.user_id)}
        self.rev = 0
        """the last revision handed to the wire"""
        self.since = 0
        """what was written up to this revision is the client's to fetch; what came after it is pushed"""
        self.behind = False
        """a change is known of that is not the next one: the store is asked"""
        self.lagging = False
        """no room for inbox frames: the store is not asked until the wire has drained"""
        self.resuming = False
        """owes the client a `state` once it has caught up"""
        self.end_with: tuple[int, str] | None = None
        self._live = False
        self._ahead: dict[int, bytes] = {}
        self._unheld = False
        """heard of a change, since the store was asked last, that is not held in `_ahead`"""
        self._asked_at: int | None = None
        """the revision held when the store was asked last; None: a resume came since"""
        self._was_ahead = 0
        """the highest revision held back when the store was asked last"""
        self._wants_heal = wants_heal
        self._wake = wake
        wire.on_drained = self._drained
        wire.on_stalled = self._stalled

    @property
    def client_id(self) -> str:
        return self.protocol.client_id

    @property
    def user_id(self) -> str:
        return self.principal.user_id

    @property
    def live(self) -> bool:
        """Between `connected` and the end. Outside, nothing is pushed, so nothing leaves unsealed."""
        return self._live

    def begin(self, rev: int) -> None:
        """`connected` is on the wire: pushes flow. `rev`: the inbox's, read after registering."""
        self._live = True
        self.rev = self.since = rev
        if self.behind:
            self._wants_heal(self)

    def resume(self, rev: int) -> None:
        """Replay what came after `rev`, then a `state`."""
        self.rev = rev
        self.since = min(self.since, rev)
        self._asked_at = None
        self._ahead.clear()
        self.resuming = self.behind = True
        if not self.lagging:
            self._wants_heal(self)

    def end(self, why: tuple[int, str]) -> None:
        """Close the connection with this code and reason, soon and from its own task."""
        if self.end_with is None:
            self.end_with = why
            self._live = False
            self._wake()

    # --- sends that exist nowhere else ---

    def offer(self, payload: bytes) -> bool:
        """Push `{"event","data"}`, not part of the log; whether it was taken."""
        return self._live and self._push(payload, Kind.EPHEMERAL) is Push.TAKEN

    def answer(self, say: Say) -> None:
        """Push what the protocol has sealed already. A client that does not read loses answers."""
        if self._live:
            self.wire.push(text_frame(say.text), Kind.EPHEMERAL)

    # --- the log ---

    def offer_change(self, rev: int, payload: bytes) -> None:
        """A change of this inbox became known."""
        if not self._live:
            self.behind = True
        elif self.lagging or (rev <= self.rev and not self.resuming):
            # While resuming, `self.rev` is the client's word: the answer may well be a reset below it.
            pass
        elif self.resuming or rev != self.rev + 1:
            if len(self._ahead) < MAX_AHEAD:
                self._ahead[rev] = payload
            else:
                self._unheld = True
            self._fall_behind()
        elif self._push_change(rev, payload) and self.behind and self._catch_up():
            self._settle()

    def heard_of(self, head: Head) -> None:
        """The store's head, read by a sweep or after the relay was away."""
        if self._live and head.rev > self.rev:
            self._unheld = True
            self._fall_behind()

    def asks(self) -> int:
        """The store is being asked for what came after this revision."""
        self._unheld = False
        self._was_ahead = max(self._ahead, default=0)
        self._asked_at = self.rev
        return self.rev

    def heal(self, backlog: Backlog, resume_limit: int, encode: Callable[[Change], bytes]) -> None:
        """Go on with what the store said; asks again when that was not all."""
        if not self._live or self.lagging or self._asked_at is None:
            return
        head = backlog.head
        first = backlog.changes[0].rev if backlog.changes else head.rev + 1
        # A log that goes on above what was asked has a part that is no longer kept.
        lost = first > self._asked_at + 1 and first > self.rev + 1
        if lost or head.rev < self._asked_at or head.rev > self.rev + resume_limit:
            # Too far behind, or ahead of a store that was restored: the client refetches.
            if not self._push_state(head, reset=True):
                return
            self.rev = self.since = head.rev
        else:
            for change in backlog.changes:
                if change.rev == self.rev + 1 and not self._push_change(change.rev, encode(change)):
                    return
            if self.rev < head.rev:
                self._wants_heal(self)
                return
            if self.resuming and not self._push_state(head, reset=False):
                return
        if not self._catch_up():
            return
        # What was announced before the store was asked is in the store, or was never committed.
        for rev in [rev for rev in self._ahead if rev <= max(self.rev, self._was_ahead)]:
            del self._ahead[rev]
        self._settle()

    def _catch_up(self) -> bool:
        """Push what was held back and is next by now; False when there was no room."""
        while (payload := self._ahead.pop(self.rev + 1, None)) is not None:
            if not self._push_change(self.rev + 1, payload):
                return False
        return True

    def _settle(self) -> None:
        """Level with the log, or in need of another look at the store?"""
        if self._ahead or self._unheld:
            self._wants_heal(self)
        else:
            self.behind = False

    def _fall_behind(self) -> None:
        if not self.behind:
            self.behind = True
            if not self.lagging:
                self._wants_heal(self)

    def _push_state(self, head: Head, *, reset: bool) -> bool:
        if self._push(frame(STATE, state_data(head, reset=reset)), Kind.INBOX) is Push.TAKEN:
            self.resuming = False
            return True
        self._lag()
        return False

    def _push_change(self, rev: int, payload: bytes) -> bool:
        if self._push(payload, Kind.INBOX) is Push.TAKEN:
            self.rev = rev
            return True
        self._lag()
        return False

    def _lag(self) -> None:
        """The backlog is the store's from here on: it costs one integer until the client drains."""
        self.behind = self.lagging = True
        self._ahead.clear()

    def _push(self, payload: bytes, kind: Kind) -> Push:
        return self.wire.push(text_frame(self.protocol.seal(payload)), kind)

    def _drained(self) -> None:
        if self.lagging:
            self.lagging = False
            self._wants_heal(self)

    def _stalled(self) -> None:
        self.wire.give_up(*SLOW_CONSUMER)
        self.end(SLOW_CONSUMER)


def payload_of(change: Change) -> bytes:
    """`{"event","data"}` of a change."""
    return frame(*encode_change(change))
