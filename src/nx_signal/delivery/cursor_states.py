"""The states of a cursor, and which event leads where."""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    PENDING = "pending"
    """before `connected`: nothing is pushed"""
    PENDING_GAP = "pending_gap"
    """likewise, and a change was announced meanwhile"""
    LIVE = "live"
    """level with everything that is known of the log"""
    RECOVERING = "recovering"
    """a change is known that is not the next one: the store is read"""
    REPLAYING = "replaying"
    """after a resume: the store is read, and a `state` is due to the client"""
    BACKPRESSURED = "backpressured"
    """no room for inbox frames: the store is not read until the transport has drained"""
    REPLAY_BACKPRESSURED = "replay_backpressured"
    """likewise, and a `state` is due to the client"""
    CLOSED = "closed"


class Event(Enum):
    BEGUN = "begun"
    MISSED = "missed"
    """a change is known that cannot be pushed now"""
    RESUMED = "resumed"
    READ_BEGUN = "read_begun"
    READ_ENDED = "read_ended"
    STATE_PUSHED = "state_pushed"
    LEVEL = "level"
    """nothing more is known to be missing"""
    REFUSED = "refused"
    DRAINED = "drained"
    ENDED = "ended"


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.PENDING: {
        Event.MISSED: State.PENDING_GAP,
        Event.BEGUN: State.LIVE,
        Event.ENDED: State.CLOSED,
    },
    State.PENDING_GAP: {
        Event.MISSED: State.PENDING_GAP,
        Event.BEGUN: State.RECOVERING,
        Event.ENDED: State.CLOSED,
    },
    State.LIVE: {
        Event.MISSED: State.RECOVERING,
        Event.RESUMED: State.REPLAYING,
        Event.READ_ENDED: State.RECOVERING,  # the gap closed by itself meanwhile, perhaps not all of it
        Event.REFUSED: State.BACKPRESSURED,
        Event.ENDED: State.CLOSED,
    },
    State.RECOVERING: {
        Event.MISSED: State.RECOVERING,
        Event.RESUMED: State.REPLAYING,
        Event.READ_BEGUN: State.RECOVERING,
        Event.READ_ENDED: State.RECOVERING,
        Event.STATE_PUSHED: State.RECOVERING,
        Event.LEVEL: State.LIVE,
        Event.REFUSED: State.BACKPRESSURED,
        Event.ENDED: State.CLOSED,
    },
    State.REPLAYING: {
        Event.MISSED: State.REPLAYING,
        Event.RESUMED: State.REPLAYING,
        Event.READ_BEGUN: State.REPLAYING,
        Event.READ_ENDED: State.REPLAYING,
        Event.STATE_PUSHED: State.RECOVERING,
        Event.REFUSED: State.REPLAY_BACKPRESSURED,
        Event.ENDED: State.CLOSED,
    },
    State.BACKPRESSURED: {
        Event.MISSED: State.BACKPRESSURED,
        Event.RESUMED: State.REPLAY_BACKPRESSURED,
        Event.DRAINED: State.RECOVERING,
        Event.ENDED: State.CLOSED,
    },
    State.REPLAY_BACKPRESSURED: {
        Event.MISSED: State.REPLAY_BACKPRESSURED,
        Event.RESUMED: State.REPLAY_BACKPRESSURED,
        Event.DRAINED: State.REPLAYING,
        Event.ENDED: State.CLOSED,
    },
    # A session may be ended while anything else is under way.
    State.CLOSED: dict.fromkeys(Event, State.CLOSED),
}

NOT_LIVE: Final = (State.PENDING, State.PENDING_GAP, State.CLOSED)
READING: Final = (State.RECOVERING, State.REPLAYING)
BACKPRESSURED: Final = (State.BACKPRESSURED, State.REPLAY_BACKPRESSURED)


class IllegalEvent(RuntimeError):
    """The program's fault: an event that cannot happen in this state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"A session that is {state.value} cannot take the event {event.value}.")
