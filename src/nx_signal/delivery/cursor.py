"""A session's place in its inbox's log: a state machine without I/O.

The log is delivered as an unbroken run of revisions. A change that is next is pushed; one that is known
already is ignored; any other is a gap, and what is missing is read from the store. So a lost announcement, a
full buffer and a resume are one case.

A store may go back, and give revisions out again. A change is next only where it follows the history of the
last one. Whatever contradicts that history is a reason to read the store, and the store decides: where it
has another history, the client is reset.

Each event is a method. It returns decisions, to be executed in order; each is applied when the next one is
taken. Where a push is refused, `push_refused` is called instead, and the rest is dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec

from nx_signal.delivery.cursor_states import (
    BACKPRESSURED,
    NOT_LIVE,
    READING,
    TRANSITIONS,
    Event,
    IllegalEvent,
    State,
)
from nx_signal.model import Change, ChangesSince, InboxSummary, Unknown

MAX_REORDERED = 64
"""Changes held while an earlier one is on its way; more than that is read from the store."""


class PushChange(msgspec.Struct, frozen=True):
    """Push this step of the log."""

    rev: int
    payload: bytes


class PushState(msgspec.Struct, frozen=True):
    """Push a `state`. With `reset` the client fetches its inbox anew."""

    head: InboxSummary
    reset: bool


class RequestRead(msgspec.Struct, frozen=True):
    """Read the log after `begin_read()` from the store soon, and pass it to `changes_read`."""


class RequestComparison(msgspec.Struct, frozen=True):
    """Read the head from the store soon, and pass it to `observe_head`."""


REQUEST_READ: Final = RequestRead()
REQUEST_COMPARISON: Final = RequestComparison()

Decision: TypeAlias = PushChange | PushState | RequestRead | RequestComparison


class Step(msgspec.Struct, frozen=True):
    """A change of the log as it is announced. `history` and `after` as in model/changes.py; None from a
    release that has neither."""

    rev: int
    payload: bytes
    history: str | None
    after: str | None


class Cursor:
    """`rev` is the last revision passed to the transport, `history` identifies its change; None where that is
    not known. The client fetches what was written up to `baseline_rev`; what came after it is pushed."""

    __slots__ = (
        "_read_from",
        "_reorder_buffer",
        "_reordered_at_read",
        "_returning",
        "_unheld",
        "baseline_rev",
        "history",
        "rev",
        "state",
    )

    def __init__(self) -> None:
        self.state = State.PENDING
        self.rev = 0
        self.history: str | None = None
        self.baseline_rev = 0
        self._reorder_buffer: dict[int, Step] | None = None
        """None while it is empty: most clients are idle"""
        self._unheld = False
        """a change became known, since the last read began, that is not in the reorder buffer"""
        self._read_from: int | None = None
        """the revision from which the store is being read; None: no read, or a resume made it void"""
        self._reordered_at_read = 0
        """the highest revision in the reorder buffer when the read began"""
        self._returning = False
        """it resumed, and nothing was pushed since: what is replayed is limited"""

    @property
    def live(self) -> bool:
        """Between `connected` and the end. Outside, nothing is pushed."""
        return self.state not in NOT_LIVE

    @property
    def wants_read(self) -> bool:
        return self.state in READING

    @property
    def recovering(self) -> bool:
        """Something is known that is not pushed yet."""
        return self.state is not State.LIVE and self.state is not State.PENDING

    @property
    def reordering(self) -> bool:
        """A change is held that came early: the gap before it may close by itself."""
        return bool(self._reorder_buffer)

    @property
    def backpressured(self) -> bool:
        return self.state in BACKPRESSURED

    def begin(self, head: InboxSummary) -> Iterator[Decision]:
        """`connected` is sent. `head`: the inbox's, read after the session was registered."""
        self._apply(Event.BEGUN)
        self.baseline_rev = head.rev
        self._moved(head.rev, head.history)
        if self.wants_read:
            yield REQUEST_READ

    def end(self) -> None:
        self._apply(Event.ENDED)
        self._reorder_buffer = None

    def resume(self, rev: int, history: str | None = None) -> Iterator[Decision]:
        """The client holds `rev`, of this history where it states one: replay what came after it, then a
        `state`."""
        self._apply(Event.RESUMED)
        self._moved(rev, history if rev else "")
        self.baseline_rev = min(self.baseline_rev, rev)
        self._read_from = None
        self._reorder_buffer = None
        self._returning = True
        if self.wants_read:
            yield REQUEST_READ

    def is_next(self, step: Step) -> bool:
        """Whether `change_announced` would surely push this change and do no more; `pushed` follows then."""
        return self.state is State.LIVE and step.rev == self.rev + 1 and step.after == self.history

    def pushed(self, step: Step) -> None:
        """The change for which `is_next` held was taken."""
        self.rev, self.history = step.rev, step.history

    def change_announced(self, step: Step) -> Iterator[Decision]:
        state, rev = self.state, step.rev
        if not self.live:
            self._apply(Event.MISSED)
        elif state in BACKPRESSURED:
            pass
        elif state is State.REPLAYING or rev > self.rev + 1:
            # While replaying, `self.rev` is the client's claim: the read may well end in a reset below it.
            self._hold(step)
            yield from self._missed()
        elif rev == self.rev + 1 and self._agrees(step.after):
            yield PushChange(rev, step.payload)
            self._moved(rev, step.history)
            if state is State.RECOVERING:
                yield from self._push_reordered()
                yield from self._finish_read()
        elif rev == self.rev + 1 or (rev == self.rev and not self._agrees(step.history)):
            self._unheld = True
            yield from self._missed()
        elif rev < self.rev:
            # Known, or given out again by a store that went back.
            yield REQUEST_COMPARISON

    def observe_head(self, head: InboxSummary, asked_at: int) -> Iterator[Decision]:
        """The store's head, read by a sweep or after the relay reconnected. `asked_at`: `rev` when that read
        began; the store had it then, unless it went back."""
        if not self.live:
            return
        agrees = head.rev != self.rev or self._agrees(head.history)
        if head.rev > self.rev or head.rev < asked_at or not agrees:
            self._unheld = True
            yield from self._missed()
        elif head.rev == self.rev and self.state is State.LIVE:
            self.history = head.history

    def begin_read(self) -> int:
        """The store is read from here on: the revision after which."""
        self._apply(Event.READ_BEGUN)
        self._unheld = False
        self._reordered_at_read = max(self._reorder_buffer or (), default=0)
        self._read_from = self.rev
        return self.rev

    def changes_read(
        self, backlog: ChangesSince, resume_limit: int, encode: Callable[[Change], bytes]
    ) -> Iterator[Decision]:
        """What the store has after the revision of `begin_read`, or after a lower one. More than
        `resume_limit` is not replayed to a client that comes back; one that stays gets all, read by read."""
        lost, read_from, self._read_from = self.lost(backlog), self._read_from, None
        if not self.live or self.backpressured or read_from is None:
            return
        self._apply(Event.READ_ENDED)
        too_far = self._returning and backlog.head.rev > self.rev + resume_limit
        if lost or too_far or self._is_incomplete(backlog):
            yield PushState(backlog.head, reset=True)
            self._apply(Event.STATE_PUSHED)
            self.baseline_rev = backlog.head.rev
            self._moved(backlog.head.rev, backlog.head.history)
        else:
            for change in backlog.changes:
                if change.rev == self.rev + 1:
                    yield PushChange(change.rev, encode(change))
                    self._moved(change.rev, change.history)
            if self.rev < backlog.head.rev:
                yield REQUEST_READ
                return
            if self.rev == backlog.head.rev:
                self.history = backlog.head.history
            if self.state is State.REPLAYING:
                yield PushState(backlog.head, reset=False)
                self._apply(Event.STATE_PUSHED)
                self._returning = False
        yield from self._push_reordered()
        self._forget_reordered(max(self.rev, self._reordered_at_read))
        yield from self._finish_read()

    def lost(self, backlog: ChangesSince) -> bool:
        """Whether the store lacks what the client holds, or no longer shows that it has it. Before
        `changes_read` of the same."""
        head = backlog.head
        if self._read_from is not None and head.rev < self._read_from:
            return True
        if self._read_from is None or self.history is None:
            return False
        if self.rev == head.rev:
            return head.history != self.history
        return any(change.after != self.history for change in backlog.changes if change.rev == self.rev + 1)

    def push_refused(self) -> None:
        """There was no room for the last push: the backlog is left to the store, and costs one integer,
        until the transport has drained."""
        self._apply(Event.REFUSED)
        self._reorder_buffer = None

    def drained(self) -> Iterator[Decision]:
        """The transport has room again."""
        self._apply(Event.DRAINED)
        if self.wants_read:
            yield REQUEST_READ

    def _moved(self, rev: int, history: str | None) -> None:
        self.rev, self.history = rev, history
        self._returning = False

    def _agrees(self, history: str | None) -> bool:
        """Whether this may be the history at the cursor's revision."""
        return history is None or self.history is None or history == self.history

    def _apply(self, event: Event) -> None:
        try:
            self.state = TRANSITIONS[self.state][event]
        except KeyError:
            raise IllegalEvent(self.state, event) from None

    def _is_incomplete(self, backlog: ChangesSince) -> bool:
        """Whether changes that the client lacks cannot be shown any more, or here."""
        head, changes = backlog.head, backlog.changes
        first = changes[0].rev if changes else head.rev + 1
        return (
            # The log goes on above the next change: what is between is no longer kept.
            first > self.rev + 1
            # A newer release wrote what cannot be shown here.
            or any(isinstance(change, Unknown) and change.rev > self.rev for change in changes)
        )

    def _hold(self, step: Step) -> None:
        if self._reorder_buffer is None:
            self._reorder_buffer = {}
        if len(self._reorder_buffer) < MAX_REORDERED:
            self._reorder_buffer[step.rev] = step
        else:
            self._unheld = True

    def _missed(self) -> Iterator[Decision]:
        was_live = self.state is State.LIVE
        self._apply(Event.MISSED)
        if was_live:
            yield REQUEST_READ

    def _push_reordered(self) -> Iterator[Decision]:
        """What was held and is next by now."""
        while self._reorder_buffer and (step := self._reorder_buffer.pop(self.rev + 1, None)) is not None:
            if not self._agrees(step.after):
                self._unheld = True
                return
            yield PushChange(step.rev, step.payload)
            self._moved(step.rev, step.history)

    def _forget_reordered(self, up_to_rev: int) -> None:
        """What was announced before the read began is in the store, or was never committed."""
        if self._reorder_buffer:
            self._reorder_buffer = {
                rev: step for rev, step in self._reorder_buffer.items() if rev > up_to_rev
            }

    def _finish_read(self) -> Iterator[Decision]:
        """Level with the log, unless another read is needed."""
        if self._reorder_buffer or self._unheld:
            yield REQUEST_READ
        else:
            self._reorder_buffer = None
            self._apply(Event.LEVEL)
