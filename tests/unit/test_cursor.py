"""The place in the log as a state machine: events in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from nx_signal.delivery.cursor import (
    MAX_REORDERED,
    REQUEST_COMPARISON,
    REQUEST_READ,
    Cursor,
    Decision,
    PushChange,
    PushState,
    Step,
)
from nx_signal.delivery.cursor_states import TRANSITIONS, Event, IllegalEvent, State
from nx_signal.model import Change, ChangesSince, Deleted, InboxSummary, Unknown

LIMIT = 100
READING = {State.RECOVERING, State.REPLAYING}
BACKPRESSURED = {State.BACKPRESSURED, State.REPLAY_BACKPRESSURED}


def payload(rev: int) -> bytes:
    return b"%d" % rev


def encode(change: Change) -> bytes:
    return payload(change.rev)


def push(*revs: int) -> list[Decision]:
    return [PushChange(rev, payload(rev)) for rev in revs]


def history(rev: int, branch: str = "") -> str:
    """Of the change at this revision, on one of several histories."""
    return f"{branch}{rev}" if rev else ""


def summary(rev: int, branch: str = "") -> InboxSummary:
    return InboxSummary("u1", rev, rev, rev, history(rev, branch))


def state(rev: int, *, reset: bool, branch: str = "") -> PushState:
    return PushState(summary(rev, branch), reset)


def change(rev: int, after: str | None = None, branch: str = "") -> Change:
    before = history(rev - 1, branch) if after is None else after
    return Deleted("u1", rev, 0, 0, 0, history(rev, branch), before, ())


def step(rev: int, after: str | None = None, branch: str = "") -> Step:
    before = history(rev - 1, branch) if after is None else after
    return Step(rev, payload(rev), history(rev, branch), before)


def log(after: int, head: int, *, limit: int = LIMIT) -> ChangesSince:
    revs = range(after + 1, min(head, after + limit) + 1)
    return ChangesSince(summary(head), tuple(change(rev) for rev in revs))


KEPT = 7
"""The store went back to this revision, and gave those above it out again."""


def other(rev: int) -> Change:
    return change(rev, history(KEPT) if rev == KEPT + 1 else None, "b")


def other_step(rev: int) -> Step:
    return step(rev, history(KEPT) if rev == KEPT + 1 else None, "b")


def other_log(after: int, head: int) -> ChangesSince:
    """Of the store that went back."""
    changes = tuple(change(rev) if rev <= KEPT else other(rev) for rev in range(after + 1, head + 1))
    return ChangesSince(summary(head, "b" if head > KEPT else ""), changes)


def announce(cursor: Cursor, *revs: int) -> list[Decision]:
    return [decision for rev in revs for decision in cursor.change_announced(step(rev))]


def read(cursor: Cursor, backlog: ChangesSince, resume_limit: int = LIMIT) -> list[Decision]:
    return list(cursor.changes_read(backlog, resume_limit, encode))


def begun(rev: int = 0) -> Cursor:
    cursor = Cursor()
    assert list(cursor.begin(summary(rev))) == []
    return cursor


def refuse(cursor: Cursor, decisions: Iterator[Decision], after: int = 0) -> None:
    """Execute `after` pushes; the next one is refused."""
    for _ in range(after + 1):
        assert isinstance(next(decisions), PushChange | PushState)
    cursor.push_refused()


# --- the table ---


def recovering() -> Cursor:
    cursor = begun()
    announce(cursor, 2)
    return cursor


def replaying() -> Cursor:
    cursor = begun(3)
    list(cursor.resume(1))
    return cursor


def backpressured() -> Cursor:
    cursor = begun()
    refuse(cursor, cursor.change_announced(step(1)))
    return cursor


def replay_backpressured() -> Cursor:
    cursor = replaying()
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(1, 3), LIMIT, encode))
    return cursor


def pending_gap() -> Cursor:
    cursor = Cursor()
    announce(cursor, 1)
    return cursor


def closed() -> Cursor:
    cursor = begun()
    cursor.end()
    return cursor


IN_STATE: dict[State, Callable[[], Cursor]] = {
    State.PENDING: Cursor,
    State.PENDING_GAP: pending_gap,
    State.LIVE: begun,
    State.RECOVERING: recovering,
    State.REPLAYING: replaying,
    State.BACKPRESSURED: backpressured,
    State.REPLAY_BACKPRESSURED: replay_backpressured,
    State.CLOSED: closed,
}

METHODS: dict[Event, Callable[[Cursor], object]] = {
    Event.BEGUN: lambda cursor: list(cursor.begin(summary(0))),
    Event.RESUMED: lambda cursor: list(cursor.resume(0)),
    Event.READ_BEGUN: lambda cursor: cursor.begin_read(),
    Event.REFUSED: lambda cursor: cursor.push_refused(),
    Event.DRAINED: lambda cursor: list(cursor.drained()),
    Event.ENDED: lambda cursor: cursor.end(),
}


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached(state: State) -> None:
    cursor = IN_STATE[state]()
    assert cursor.state is state
    assert cursor.live == (state not in {State.PENDING, State.PENDING_GAP, State.CLOSED})
    assert cursor.wants_read == (state in READING)
    assert cursor.backpressured == (state in BACKPRESSURED)
    assert cursor.recovering == (state not in {State.PENDING, State.LIVE})


@pytest.mark.parametrize("event", METHODS)
@pytest.mark.parametrize("state", State)
def test_an_event_leads_to_the_state_in_the_table_or_is_illegal(state: State, event: Event) -> None:
    cursor = IN_STATE[state]()
    after = TRANSITIONS[state].get(event)
    if after is None:
        with pytest.raises(IllegalEvent, match=f"{state.value} cannot take the event {event.value}"):
            METHODS[event](cursor)
        assert cursor.state is state
    else:
        METHODS[event](cursor)
        assert cursor.state is after


LEGAL = {
    State.PENDING: {Event.BEGUN, Event.ENDED},
    State.PENDING_GAP: {Event.BEGUN, Event.ENDED},
    State.LIVE: {Event.RESUMED, Event.REFUSED, Event.ENDED},
    State.RECOVERING: {Event.RESUMED, Event.READ_BEGUN, Event.REFUSED, Event.ENDED},
    State.REPLAYING: {Event.RESUMED, Event.READ_BEGUN, Event.REFUSED, Event.ENDED},
    State.BACKPRESSURED: {Event.RESUMED, Event.DRAINED, Event.ENDED},
    State.REPLAY_BACKPRESSURED: {Event.RESUMED, Event.DRAINED, Event.ENDED},
    State.CLOSED: set(METHODS),
}


@pytest.mark.parametrize("state", State)
def test_what_a_caller_may_do_in_each_state(state: State) -> None:
    assert set(TRANSITIONS[state]) & set(METHODS) == LEGAL[state]


def test_a_closed_session_takes_every_event_and_decides_nothing() -> None:
    cursor = closed()
    assert list(cursor.begin(summary(5))) == list(cursor.resume(1)) == list(cursor.drained()) == []
    assert announce(cursor, 1, 9) == list(cursor.observe_head(summary(9), cursor.rev)) == []
    assert read(cursor, log(0, 9)) == []
    assert cursor.state is State.CLOSED


# --- before `connected` ---


def test_a_change_announced_before_the_session_begins_is_read() -> None:
    cursor = Cursor()
    assert announce(cursor, 6, 7) == [] and list(cursor.observe_head(summary(7), cursor.rev)) == []
    assert list(cursor.begin(summary(5))) == [REQUEST_READ]
    assert (cursor.begin_read(), cursor.rev, cursor.baseline_rev) == (5, 5, 5)
    assert read(cursor, log(5, 7)) == push(6, 7)
    assert cursor.state is State.LIVE


# --- live ---


def test_the_next_change_is_pushed_and_a_known_one_is_not() -> None:
    cursor = begun(4)
    assert announce(cursor, 4, 5, 5, 6) == push(5, 6)
    assert announce(cursor, 3, 5) == [REQUEST_COMPARISON] * 2
    assert (cursor.rev, cursor.state) == (6, State.LIVE)


def test_a_change_that_is_early_is_held_and_one_read_is_requested() -> None:
    cursor = begun()
    assert announce(cursor, 2, 4, 3) == [REQUEST_READ]
    assert cursor.state is State.RECOVERING and cursor.rev == 0
    assert announce(cursor, 1) == push(1, 2, 3, 4)
    assert (cursor.rev, cursor.state) == (4, State.LIVE)


def test_a_gap_that_closes_in_part_requests_a_read_for_the_rest() -> None:
    cursor = begun()
    announce(cursor, 2, 4)
    assert announce(cursor, 1) == [*push(1, 2), REQUEST_READ]
    assert (cursor.rev, cursor.state) == (2, State.RECOVERING)


def test_no_more_changes_are_held_than_the_bound() -> None:
    cursor = begun()
    announce(cursor, *range(2, MAX_REORDERED + 2))
    assert announce(cursor, 1) == push(*range(1, MAX_REORDERED + 2))
    assert cursor.state is State.LIVE
    cursor = begun()
    announce(cursor, *range(2, MAX_REORDERED + 3))
    assert announce(cursor, 1) == [*push(*range(1, MAX_REORDERED + 2)), REQUEST_READ]
    assert cursor.state is State.RECOVERING, "the last was not held"


@pytest.mark.parametrize(("head", "expected"), [(6, []), (7, []), (8, [REQUEST_READ])])
def test_a_head_above_the_cursor_alone_requests_a_read(head: int, expected: list[Decision]) -> None:
    cursor = begun(6)
    asked_at = cursor.rev
    announce(cursor, 7)
    assert list(cursor.observe_head(summary(head), asked_at)) == expected
    assert cursor.recovering == bool(expected)


def test_a_head_seen_while_the_gap_closes_is_read_all_the_same() -> None:
    cursor = begun()
    announce(cursor, 2)
    assert list(cursor.observe_head(summary(3), cursor.rev)) == [], "a read is requested already"
    assert announce(cursor, 1) == [*push(1, 2), REQUEST_READ]


# --- reading ---


def test_what_is_announced_during_a_read_follows_it_once_and_in_order() -> None:
    cursor = begun()
    announce(cursor, 3)
    assert cursor.begin_read() == 0
    announce(cursor, 4, 6)
    assert read(cursor, log(0, 5)) == push(1, 2, 3, 4, 5, 6)
    assert cursor.state is State.LIVE


def test_a_read_that_ends_before_a_held_change_requests_another() -> None:
    cursor = begun()
    announce(cursor, 2)
    cursor.begin_read()
    announce(cursor, 7)
    assert read(cursor, log(0, 5)) == [*push(1, 2, 3, 4, 5), REQUEST_READ]
    assert cursor.recovering


def test_a_head_observed_during_a_read_requests_another() -> None:
    cursor = begun()
    announce(cursor, 2)
    cursor.begin_read()
    list(cursor.observe_head(summary(9), cursor.rev))
    assert read(cursor, log(0, 2)) == [*push(1, 2), REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, log(2, 2)) == [] and cursor.state is State.LIVE


def test_a_revision_that_was_announced_before_the_read_and_never_committed_is_forgotten() -> None:
    cursor = begun(1)
    announce(cursor, 1_000)
    cursor.begin_read()
    assert read(cursor, log(1, 1)) == []
    assert cursor.state is State.LIVE
    assert announce(cursor, 2) == push(2)


def test_all_revisions_that_were_never_committed_are_forgotten() -> None:
    cursor = begun(1)
    announce(cursor, 1_000, 1_001)
    cursor.begin_read()
    assert read(cursor, log(1, 1)) == []
    assert cursor.state is State.LIVE


def test_a_backlog_of_several_reads_is_pushed_in_order() -> None:
    cursor = begun()
    list(cursor.observe_head(summary(5), cursor.rev))
    cursor.begin_read()
    assert read(cursor, log(0, 5, limit=3)) == [*push(1, 2, 3), REQUEST_READ]
    assert (cursor.begin_read(), cursor.state) == (3, State.RECOVERING)
    assert read(cursor, log(3, 5)) == push(4, 5)
    assert cursor.state is State.LIVE


def test_a_read_whose_gap_closed_meanwhile_goes_on_with_what_it_shows() -> None:
    cursor = begun()
    announce(cursor, 2)
    cursor.begin_read()
    announce(cursor, 1)
    assert cursor.state.name == "LIVE"
    assert read(cursor, log(0, 9, limit=4)) == [*push(3, 4), REQUEST_READ]
    assert cursor.recovering


def test_a_read_counts_once() -> None:
    cursor = begun()
    announce(cursor, 3)
    cursor.begin_read()
    assert read(cursor, log(0, 3)) == push(1, 2, 3)
    assert read(cursor, log(0, 9)) == []
    assert cursor.rev == 3


def test_a_read_for_a_session_further_behind_gives_only_what_is_next() -> None:
    cursor = begun(7)
    list(cursor.observe_head(summary(9), cursor.rev))
    cursor.begin_read()
    assert read(cursor, log(2, 9)) == push(8, 9)


# --- a reset ---


@pytest.mark.parametrize(("head", "reset"), [(LIMIT + 5, False), (LIMIT + 6, True)])
def test_beyond_the_limit_a_client_that_comes_back_is_reset(head: int, reset: bool) -> None:
    cursor = begun(head)
    list(cursor.resume(5))
    cursor.begin_read()
    if reset:
        assert read(cursor, log(5, head)) == [state(head, reset=True)]
        assert cursor.baseline_rev == head
    else:
        assert read(cursor, log(5, head)) == [*push(*range(6, head + 1)), state(head, reset=False)]
        assert cursor.baseline_rev == 5
    assert (cursor.rev, cursor.state) == (head, State.LIVE)


def test_a_client_that_stays_is_never_reset_for_being_behind() -> None:
    cursor, head = begun(5), 5 + 10 * LIMIT
    list(cursor.observe_head(summary(head), cursor.rev))
    revs: list[int] = []
    while cursor.recovering:
        decisions = read(cursor, log(cursor.begin_read(), head))
        revs += [decision.rev for decision in decisions if isinstance(decision, PushChange)]
        assert not any(isinstance(decision, PushState) for decision in decisions)
    assert revs == list(range(6, head + 1))


def test_a_reset_that_had_no_room_is_still_due_once_there_is_some() -> None:
    cursor = begun(2 * LIMIT)
    list(cursor.resume(0))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(0, 2 * LIMIT), LIMIT, encode))
    assert list(cursor.drained()) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, log(0, 2 * LIMIT)) == [state(2 * LIMIT, reset=True)]


def test_a_replay_that_began_goes_on_whatever_is_written_meanwhile() -> None:
    cursor = begun(LIMIT)
    list(cursor.resume(0))
    cursor.begin_read()
    assert read(cursor, log(0, LIMIT, limit=10)) == [*push(*range(1, 11)), REQUEST_READ]
    head = 5 * LIMIT
    cursor.begin_read()
    assert read(cursor, log(10, head, limit=10)) == [*push(*range(11, 21)), REQUEST_READ]
    cursor.begin_read()
    rest = read(cursor, log(20, head, limit=head))
    assert rest == [*push(*range(21, head + 1)), state(head, reset=False)]


@pytest.mark.parametrize(("kept_after", "reset"), [(2, False), (3, True), (10, True)])
def test_below_the_kept_log_the_client_is_reset(kept_after: int, reset: bool) -> None:
    cursor = begun(2)
    list(cursor.observe_head(summary(10), cursor.rev))
    cursor.begin_read()
    expected = [state(10, reset=True)] if reset else push(*range(3, 11))
    assert read(cursor, log(kept_after, 10)) == expected
    assert (cursor.rev, cursor.state) == (10, State.LIVE)


def test_what_was_pushed_during_the_read_needs_no_log_from_before_it() -> None:
    cursor = begun(2)
    announce(cursor, 4)
    cursor.begin_read()
    announce(cursor, 3)
    assert read(cursor, log(4, 6)) == push(5, 6)


@pytest.mark.parametrize(("head", "reset"), [(8, False), (7, True)])
def test_ahead_of_a_store_that_was_restored_the_client_is_reset(head: int, reset: bool) -> None:
    cursor = begun(9)
    list(cursor.resume(8))
    cursor.begin_read()
    assert read(cursor, log(8, head)) == [state(head, reset=reset)]
    assert (cursor.rev, cursor.state) == (head, State.LIVE)


def test_a_change_of_an_unknown_kind_resets_at_the_head_of_the_read() -> None:
    cursor = begun(1)
    list(cursor.observe_head(summary(4), cursor.rev))
    cursor.begin_read()
    unknown = Unknown("u1", 3, 0, 0, 0, history(3), history(2), "archived")
    backlog = ChangesSince(summary(4), (change(2), unknown, change(4)))
    assert read(cursor, backlog) == [state(4, reset=True)]
    assert (cursor.rev, cursor.baseline_rev, cursor.state) == (4, 4, State.LIVE)


def test_a_change_of_an_unknown_kind_that_is_not_missing_resets_nothing() -> None:
    cursor = begun(3)
    list(cursor.observe_head(summary(4), cursor.rev))
    cursor.begin_read()
    backlog = ChangesSince(
        summary(4), (Unknown("u1", 3, 0, 0, 0, history(3), history(2), "archived"), change(4))
    )
    assert read(cursor, backlog) == push(4)


def test_a_change_announced_during_a_reset_follows_it() -> None:
    cursor = begun(3)
    list(cursor.resume(1_000))
    cursor.begin_read()
    assert announce(cursor, 4) == []
    assert read(cursor, log(1_000, 3)) == [state(3, reset=True), *push(4)]
    assert cursor.state is State.LIVE


# --- a resume ---


def test_a_resume_replays_then_pushes_the_state_then_goes_on() -> None:
    cursor = begun(5)
    assert list(cursor.resume(2)) == [REQUEST_READ]
    assert (cursor.rev, cursor.baseline_rev, cursor.state) == (2, 2, State.REPLAYING)
    assert announce(cursor, 3, 6) == [], "no change is pushed before the replay"
    cursor.begin_read()
    assert read(cursor, log(2, 5)) == [*push(3, 4, 5), state(5, reset=False), *push(6)]
    assert (cursor.rev, cursor.state) == (6, State.LIVE)


def test_a_resume_ahead_of_the_baseline_leaves_it() -> None:
    cursor = begun(5)
    list(cursor.resume(7))
    assert cursor.baseline_rev == 5


def test_a_replay_of_several_reads_pushes_one_state_at_its_end() -> None:
    cursor = begun(5)
    list(cursor.resume(0))
    cursor.begin_read()
    assert read(cursor, log(0, 5, limit=3)) == [*push(1, 2, 3), REQUEST_READ]
    assert cursor.state is State.REPLAYING
    cursor.begin_read()
    assert read(cursor, log(3, 5)) == [*push(4, 5), state(5, reset=False)]


def test_a_read_from_before_a_resume_is_void() -> None:
    cursor = begun(3)
    list(cursor.observe_head(summary(4), cursor.rev))
    cursor.begin_read()
    assert list(cursor.resume(2)) == [REQUEST_READ]
    assert read(cursor, log(3, 4)) == []
    assert (cursor.rev, cursor.state) == (2, State.REPLAYING)


def test_a_resume_forgets_what_was_held() -> None:
    cursor = begun(1)
    announce(cursor, 3)
    list(cursor.resume(1))
    cursor.begin_read()
    assert read(cursor, log(1, 2)) == [*push(2), state(2, reset=False)]
    assert cursor.state is State.LIVE


# --- a store that went back ---


def test_a_head_below_what_the_client_holds_is_a_reset() -> None:
    cursor = begun(10)
    assert list(cursor.observe_head(summary(KEPT), 10)) == [REQUEST_READ]
    assert cursor.begin_read() == 10
    assert read(cursor, other_log(10, KEPT)) == [state(KEPT, reset=True)]
    assert (cursor.rev, cursor.history, cursor.baseline_rev) == (KEPT, history(KEPT), KEPT)
    assert list(cursor.change_announced(other_step(8))) == push(8)
    assert cursor.state is State.LIVE


def test_a_head_of_another_history_at_the_same_revision_is_a_reset() -> None:
    cursor = begun(10)
    assert list(cursor.observe_head(summary(10, "b"), 10)) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, other_log(10, 10)) == [state(10, reset=True, branch="b")]


def test_a_head_that_was_read_before_the_last_change_is_no_reason_for_a_read() -> None:
    cursor = begun(9)
    announce(cursor, 10)
    assert list(cursor.observe_head(summary(9), 9)) == []
    assert cursor.state is State.LIVE


def test_from_10_to_7_to_12_a_client_that_returns_is_reset() -> None:
    cursor = Cursor()
    list(cursor.begin(summary(12, "b")))
    assert list(cursor.resume(10, history(10))) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, other_log(10, 12)) == [state(12, reset=True, branch="b")]
    assert (cursor.rev, cursor.history) == (12, history(12, "b"))


def test_from_10_to_7_to_12_a_client_from_before_the_fork_is_replayed() -> None:
    cursor = Cursor()
    list(cursor.begin(summary(12, "b")))
    list(cursor.resume(6, history(6)))
    cursor.begin_read()
    expected = [*push(7, 8, 9, 10, 11, 12), state(12, reset=False, branch="b")]
    assert read(cursor, other_log(6, 12)) == expected


def test_a_client_that_states_a_revision_alone_is_replayed_and_held_to_its_history_from_then_on() -> None:
    cursor = Cursor()
    list(cursor.begin(summary(12, "b")))
    list(cursor.resume(10))
    cursor.begin_read()
    assert read(cursor, other_log(10, 12)) == [*push(11, 12), state(12, reset=False, branch="b")]
    assert cursor.history == history(12, "b")
    assert list(cursor.change_announced(step(13))) == [REQUEST_READ]


def test_a_client_that_states_the_head_alone_takes_its_history() -> None:
    cursor = begun(5)
    list(cursor.resume(5))
    cursor.begin_read()
    assert read(cursor, log(5, 5)) == [state(5, reset=False)]
    assert cursor.history == history(5)


def test_from_revision_0_every_history_follows() -> None:
    cursor = begun(5)
    list(cursor.resume(0, "whatever"))
    cursor.begin_read()
    assert read(cursor, log(0, 5)) == [*push(1, 2, 3, 4, 5), state(5, reset=False)]


@pytest.mark.parametrize("rev", [10, 11], ids=["the same revision", "the next one"])
def test_a_change_of_another_history_is_not_pushed_and_the_store_decides(rev: int) -> None:
    cursor = begun(10)
    assert list(cursor.change_announced(other_step(rev))) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, other_log(10, rev)) == [state(rev, reset=True, branch="b")]
    cursor = begun(10)
    list(cursor.change_announced(other_step(rev)))
    cursor.begin_read()
    assert read(cursor, log(10, 11)) == push(11), "the store has the client's history"
    assert cursor.state is State.LIVE


def test_a_revision_that_is_given_out_again_is_compared_with_the_store() -> None:
    cursor = begun(10)
    assert list(cursor.change_announced(other_step(8))) == [REQUEST_COMPARISON]
    assert list(cursor.observe_head(summary(8, "b"), 10)) == [REQUEST_READ]


def test_a_held_change_of_another_history_is_not_pushed() -> None:
    cursor = begun(10)
    assert list(cursor.change_announced(other_step(12))) == [REQUEST_READ]
    assert announce(cursor, 11) == [*push(11), REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, other_log(11, 12)) == [state(12, reset=True, branch="b")]


def test_where_the_log_no_longer_shows_the_client_s_change_it_is_reset() -> None:
    cursor = begun(10)
    list(cursor.observe_head(summary(12), 10))
    cursor.begin_read()
    removed = ChangesSince(summary(12), (Deleted("u1", 11, 0, 0, 0, history(11), None, ()), change(12)))
    assert read(cursor, removed) == [state(12, reset=True)]


def test_a_session_that_moved_on_during_the_read_is_held_to_what_it_holds_now() -> None:
    cursor = begun(2)
    announce(cursor, 4)
    cursor.begin_read()
    announce(cursor, 3)
    forked = tuple(change(rev, branch="" if rev < 4 else "b") for rev in (3, 4, 5))
    assert read(cursor, ChangesSince(summary(5, "b"), forked)) == [state(5, reset=True, branch="b")]


def test_a_refused_reset_is_decided_anew_once_the_transport_has_drained() -> None:
    cursor = begun(10)
    list(cursor.observe_head(summary(KEPT), 10))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(other_log(10, KEPT), LIMIT, encode))
    assert (cursor.rev, cursor.history) == (10, history(10))
    assert list(cursor.drained()) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, other_log(10, 12)) == [state(12, reset=True, branch="b")]


def test_changes_of_a_release_without_histories_are_pushed_by_their_revision() -> None:
    cursor = begun(4)
    assert list(cursor.change_announced(Step(5, payload(5), None, None))) == push(5)
    assert (cursor.rev, cursor.history) == (5, None)
    assert announce(cursor, 6) == push(6)
    assert cursor.history == history(6)


def test_a_sweep_that_finds_the_same_revision_gives_an_unknown_history() -> None:
    cursor = begun(4)
    list(cursor.change_announced(Step(5, payload(5), None, None)))
    assert list(cursor.observe_head(summary(5), 5)) == []
    assert cursor.history == history(5)


# --- back-pressure ---


def test_a_refused_change_is_not_counted_and_is_read_once_the_transport_has_drained() -> None:
    cursor = begun()
    announce(cursor, 1)
    refuse(cursor, cursor.change_announced(step(2)))
    assert (cursor.rev, cursor.state) == (1, State.BACKPRESSURED)
    assert announce(cursor, 2, 3) == list(cursor.observe_head(summary(3), cursor.rev)) == []
    assert list(cursor.drained()) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, log(1, 3)) == push(2, 3)
    assert cursor.state is State.LIVE


def test_a_refusal_within_a_read_keeps_what_was_pushed() -> None:
    cursor = begun()
    list(cursor.observe_head(summary(5), cursor.rev))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(0, 5), LIMIT, encode), after=2)
    assert (cursor.rev, cursor.state) == (2, State.BACKPRESSURED)


def test_a_refused_reset_leaves_the_cursor_where_it_was() -> None:
    cursor = begun(5)
    list(cursor.observe_head(summary(500), cursor.rev))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(5, 500), LIMIT, encode))
    assert (cursor.rev, cursor.baseline_rev, cursor.state) == (5, 5, State.BACKPRESSURED)


def test_a_refused_reset_after_a_resume_is_still_due_a_state() -> None:
    cursor = begun(5)
    list(cursor.resume(9))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(9, 5), LIMIT, encode))
    assert cursor.state is State.REPLAY_BACKPRESSURED


@pytest.mark.parametrize("state", [State.BACKPRESSURED, State.REPLAY_BACKPRESSURED])
def test_under_back_pressure_nothing_is_requested(state: State) -> None:
    cursor = IN_STATE[state]()
    assert announce(cursor, 1, 9) == list(cursor.observe_head(summary(9), cursor.rev)) == []
    assert cursor.state is state


def test_a_refused_state_is_still_due() -> None:
    cursor = begun(3)
    list(cursor.resume(2))
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(2, 3), LIMIT, encode), after=1)
    assert (cursor.rev, cursor.state) == (3, State.REPLAY_BACKPRESSURED)
    assert list(cursor.drained()) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, log(3, 3)) == [state(3, reset=False)]
    assert cursor.state is State.LIVE


def test_after_the_state_a_refusal_leaves_no_state_due() -> None:
    cursor = begun(3)
    list(cursor.resume(2))
    announce(cursor, 4)
    cursor.begin_read()
    refuse(cursor, cursor.changes_read(log(2, 3), LIMIT, encode), after=2)
    assert (cursor.rev, cursor.state) == (3, State.BACKPRESSURED)


def test_what_was_held_is_forgotten_under_back_pressure() -> None:
    cursor = begun()
    announce(cursor, 3, 4)
    refuse(cursor, cursor.change_announced(step(1)))
    list(cursor.drained())
    cursor.begin_read()
    assert read(cursor, log(0, 2)) == push(1, 2)
    assert cursor.state is State.LIVE


def test_a_read_that_ends_under_back_pressure_pushes_nothing() -> None:
    cursor = begun()
    announce(cursor, 2)
    cursor.begin_read()
    refuse(cursor, cursor.change_announced(step(1)))
    assert read(cursor, log(0, 2)) == []
    assert cursor.state is State.BACKPRESSURED


def test_a_resume_under_back_pressure_is_replayed_once_the_transport_has_drained() -> None:
    cursor = backpressured()
    assert list(cursor.resume(0)) == []
    assert list(cursor.drained()) == [REQUEST_READ]
    cursor.begin_read()
    assert read(cursor, log(0, 1)) == [*push(1), state(1, reset=False)]


# --- memory ---


def test_an_idle_session_holds_no_reorder_buffer() -> None:
    cursor = begun()
    announce(cursor, 1)
    assert cursor._reorder_buffer is None
    announce(cursor, 3)
    assert cursor._reorder_buffer is not None
    announce(cursor, 2)
    assert cursor._reorder_buffer is None
    assert not hasattr(cursor, "__dict__")


def test_a_closed_session_releases_what_was_held() -> None:
    cursor = recovering()
    cursor.end()
    assert cursor._reorder_buffer is None


@pytest.mark.parametrize("state", list(State))
def test_only_a_live_session_takes_the_next_change_without_a_decision(state: State) -> None:
    cursor = IN_STATE[state]()
    rev = cursor.rev
    cursor.history = history(rev)
    assert [cursor.is_next(step(each)) for each in (rev, rev + 1, rev + 2)] == [
        False,
        state is State.LIVE,
        False,
    ]


def test_a_change_that_was_pushed_is_the_last_one() -> None:
    cursor = begun(3)
    cursor.pushed(step(4))
    assert (cursor.rev, cursor.is_next(step(5)), announce(cursor, 4)) == (4, True, [])
