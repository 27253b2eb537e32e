"""A session delivers its inbox's log once, in order and complete, whatever comes in between."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.delivery import backlog as backlog_module
from nx_signal.delivery.backlog import Pool
from nx_signal.delivery.cursor import MAX_REORDERED, Step
from nx_signal.delivery.cursor_states import State
from nx_signal.delivery.session import Session, payload_of
from nx_signal.delivery.transport import CloseReason, FrameKind
from nx_signal.model import ChangesSince, Created, InboxSummary, Notification
from stream_kit import FakeClient

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def history(rev: int) -> str:
    return str(rev) if rev else ""


def summary(rev: int) -> InboxSummary:
    return InboxSummary("u1", rev, rev, rev, history(rev))


def step(rev: int) -> Step:
    return Step(rev, payload_of(created(rev)), history(rev), history(rev - 1))


def created(rev: int, user: str = "u1") -> Created:
    notification = Notification(
        id=rev,
        recipient_id=user,
        rev=rev,
        changed_rev=rev,
        activity_id=f"a{rev}",
        type="T",
        organizer_id="o",
        merchant_id=None,
        subject=None,
        locale="en",
        content="c",
        content_html="<p>c</p>",
        action_url=None,
        data={},
        priority="normal",
        expires_at=None,
        collapse_key=None,
        is_read=False,
        read_at=None,
        is_seen=False,
        archived_at=None,
        created_at=WHEN,
    )
    return Created(user, rev, rev, rev, rev, history(rev), history(rev - 1), notification)


def backlog(after: int, head: int, limit: int = 100) -> ChangesSince:
    revs = range(after + 1, min(head, after + limit) + 1)
    return ChangesSince(summary(head), tuple(created(rev) for rev in revs))


class Reads:
    """A substitute for the hub: counts the requests, and answers from a log of `head` changes."""

    def __init__(self) -> None:
        self.requested = 0

    def __call__(self, session: Session) -> None:
        self.requested += 1

    def answer(self, session: Session, head: int, limit: int = 100, resume_limit: int = 500) -> None:
        session.changes_read(backlog(session.cursor.begin_read(), head, limit), resume_limit, payload_of)


@pytest.fixture
def reads() -> Reads:
    return Reads()


def offer(client: FakeClient, *revs: int) -> None:
    for rev in revs:
        client.session.offer_change(step(rev))


def connected(reads: Reads, rev: int = 0, room: int | None = None) -> FakeClient:
    client = FakeClient(request_read=reads, room=room)
    client.session.begin(summary(rev))
    return client


def test_the_next_change_is_pushed_at_once_and_a_known_one_never_again(reads: Reads) -> None:
    client = connected(reads, rev=4)
    offer(client, 3, 4, 5, 5, 6, 5)
    assert client.revs == [5, 6]
    assert reads.requested == 0


def test_changes_out_of_order_are_put_in_order_without_the_store(reads: Reads) -> None:
    client = connected(reads)
    offer(client, 2, 4, 3, 1)
    assert client.revs == [1, 2, 3, 4]
    assert not client.session.cursor.recovering


def test_a_lost_change_is_read_from_the_store(reads: Reads) -> None:
    client = connected(reads)
    offer(client, 1, 3)
    assert client.revs == [1] and reads.requested == 1
    reads.answer(client.session, head=3)
    assert client.revs == [1, 2, 3] and not client.session.cursor.recovering


def test_what_is_announced_while_the_store_is_read_is_neither_lost_nor_doubled(reads: Reads) -> None:
    client = connected(reads)
    offer(client, 3)
    asked_at = client.session.cursor.begin_read()
    offer(client, 4, 6)
    client.session.changes_read(backlog(asked_at, head=5), 500, payload_of)
    assert client.revs == [1, 2, 3, 4, 5, 6] and not client.session.cursor.recovering


def test_more_ahead_than_is_held_is_read_from_the_store(reads: Reads) -> None:
    client = connected(reads)
    last = MAX_REORDERED + 10
    offer(client, *range(2, last + 1))
    offer(client, 1)
    assert client.session.cursor.recovering, "the tail was not held"
    reads.answer(client.session, head=last)
    assert client.revs == list(range(1, last + 1)) and not client.session.cursor.recovering


def test_a_backlog_longer_than_one_read_is_delivered_in_several(reads: Reads) -> None:
    client = connected(reads)
    client.session.observe_head(summary(250), 0)
    rounds = 0
    while client.session.cursor.recovering:
        reads.answer(client.session, head=250, limit=100)
        rounds += 1
    assert client.revs == list(range(1, 251)) and rounds == 3


def test_a_sweep_that_finds_nothing_new_requests_no_read(reads: Reads) -> None:
    client = connected(reads, rev=7)
    client.session.observe_head(summary(7), 0)
    assert reads.requested == 0


def test_a_revision_that_the_store_never_gave_is_not_requested_for_ever(
    reads: Reads,
) -> None:
    client = connected(reads, rev=1)
    offer(client, 1_000)
    reads.answer(client.session, head=1)
    assert client.revs == [] and not client.session.cursor.recovering
    offer(client, 2)
    assert client.revs == [2]


def test_resume_replays_what_came_after_and_then_sends_the_state(reads: Reads) -> None:
    client = connected(reads, rev=5)
    client.session.resume(2)
    offer(client, 6)
    assert client.revs == [], "nothing overtakes the replay"
    reads.answer(client.session, head=5)
    assert [event.rsplit("/")[-1] for event, _ in client.events] == [
        "created",
        "created",
        "created",
        "state",
        "created",
    ]
    assert client.revs == [3, 4, 5, 6]
    assert client.events[3][1] == {
        "rev": 5,
        "history": history(5),
        "unread": 5,
        "unseen": 0,
        "total": 5,
        "reset": False,
    }


def test_resume_at_the_head_sends_the_state_alone(reads: Reads) -> None:
    client = connected(reads, rev=5)
    client.session.resume(5)
    reads.answer(client.session, head=5)
    assert client.events == [
        (
            "observation/signal/notification/state",
            {"rev": 5, "history": history(5), "unread": 5, "unseen": 0, "total": 5, "reset": False},
        )
    ]


@pytest.mark.parametrize(
    "rev", [0, 99, 1_000], ids=["too far behind", "just too far behind", "ahead of the store"]
)
def test_a_resume_that_cannot_be_replayed_gets_one_reset_and_goes_on_live(reads: Reads, rev: int) -> None:
    client = connected(reads, rev=600)
    client.session.resume(rev)
    reads.answer(client.session, head=600, resume_limit=500)
    assert [data["reset"] for _, data in client.events] == [True]
    offer(client, 601)
    assert client.revs == [601]


@pytest.mark.parametrize("rev", [2, 5, 1_000], ids=["before", "after", "ahead of the store"])
def test_a_read_that_began_before_a_resume_does_not_count_for_it(reads: Reads, rev: int) -> None:
    client = connected(reads, rev=3)
    client.session.observe_head(summary(4), 0)
    answer = backlog(client.session.cursor.begin_read(), head=4)
    client.session.resume(rev)
    client.session.changes_read(answer, 500, payload_of)
    assert client.events == [] and client.session.cursor.state is State.REPLAYING
    reads.answer(client.session, head=5)
    assert client.revs == list(range(rev + 1, 6))
    assert client.events[-1][1] == {
        "rev": 5,
        "history": history(5),
        "unread": 5,
        "unseen": 0,
        "total": 5,
        "reset": rev > 5,
    }


def from_where_the_log_is_kept(kept_after: int, head: int, limit: int = 100) -> ChangesSince:
    """What a store answers for a session below `kept_after`."""
    return backlog(kept_after, head, limit)


@pytest.mark.parametrize("kept_after", [3, 8, 9])
def test_a_client_below_the_kept_log_gets_one_reset_and_goes_on_live(reads: Reads, kept_after: int) -> None:
    client = connected(reads, rev=10)
    client.session.resume(2)
    assert client.session.cursor.begin_read() == 2
    client.session.changes_read(from_where_the_log_is_kept(kept_after, head=10), 500, payload_of)
    assert [data["reset"] for _, data in client.events] == [True]
    assert client.session.cursor.state is State.LIVE
    offer(client, 11)
    assert client.revs == [11]


def test_a_client_at_the_start_of_the_kept_log_misses_nothing(reads: Reads) -> None:
    client = connected(reads, rev=10)
    client.session.resume(8)
    client.session.cursor.begin_read()
    client.session.changes_read(from_where_the_log_is_kept(8, head=10), 500, payload_of)
    assert client.revs == [9, 10]
    assert client.events[-1][1]["reset"] is False


def test_what_was_pushed_meanwhile_needs_no_log_from_before_it(reads: Reads) -> None:
    client = connected(reads, rev=2)
    offer(client, 4)
    client.session.cursor.begin_read()
    offer(client, 3)
    client.session.changes_read(from_where_the_log_is_kept(4, head=6), 500, payload_of)
    assert client.revs == [3, 4, 5, 6] and not client.session.cursor.recovering


def test_a_log_with_a_gap_leads_to_one_reset_and_not_to_a_loop(reads: Reads) -> None:
    client = connected(reads, rev=1)
    client.session.observe_head(summary(9), 0)
    client.session.cursor.begin_read()
    client.session.changes_read(ChangesSince(summary(9), (created(2), created(5))), 500, payload_of)
    assert client.revs == [2] and client.session.cursor.recovering
    client.session.cursor.begin_read()
    client.session.changes_read(ChangesSince(summary(9), ()), 500, payload_of)
    assert [data.get("reset") for _, data in client.events] == [None, True]
    assert not client.session.cursor.recovering


def test_another_session_that_is_further_behind_causes_no_reset(reads: Reads) -> None:
    """One read serves all sessions of a user: it starts at the one furthest behind."""
    client = connected(reads, rev=7)
    client.session.observe_head(summary(9), 0)
    client.session.cursor.begin_read()
    client.session.changes_read(backlog(2, head=9), 500, payload_of)
    assert client.revs == [8, 9] and not client.session.cursor.recovering


def test_a_change_announced_while_a_reset_is_on_its_way_follows_it(reads: Reads) -> None:
    client = connected(reads, rev=3)
    client.session.resume(1_000)
    answer = backlog(client.session.cursor.begin_read(), head=3)
    offer(client, 4)
    client.session.changes_read(answer, 500, payload_of)
    assert client.events[0][1] == {
        "rev": 3,
        "history": history(3),
        "unread": 3,
        "unseen": 0,
        "total": 3,
        "reset": True,
    }
    assert client.revs == [4] and not client.session.cursor.recovering


def test_before_connected_nothing_is_pushed_and_what_was_missed_is_read(reads: Reads) -> None:
    client = FakeClient(request_read=reads)
    offer(client, 6)
    assert not client.session.offer(b'{"event":"x","data":null}')
    assert client.transport.payloads == []
    client.session.begin(summary(5))
    reads.answer(client.session, head=6)
    assert client.revs == [6]


def test_a_full_buffer_leaves_the_backlog_to_the_store_until_it_drains(reads: Reads) -> None:
    client = connected(reads, room=2)
    offer(client, 1, 2, 3, 4, 5)
    assert client.session.cursor.backpressured and reads.requested == 0
    client.session.observe_head(summary(5), 0)
    assert reads.requested == 0, "nothing is read for a client that reads nothing"
    client.transport.drain(room=1)
    assert reads.requested == 1
    reads.answer(client.session, head=5)
    assert client.session.cursor.backpressured
    client.transport.drain()
    reads.answer(client.session, head=5)
    assert client.revs == [1, 2, 3, 4, 5] and not client.session.cursor.recovering


def test_a_resume_without_room_for_its_state_still_ends_in_one(reads: Reads) -> None:
    client = connected(reads, rev=3, room=1)
    client.session.resume(2)
    reads.answer(client.session, head=3)
    assert client.revs == [3] and client.session.cursor.backpressured
    client.transport.drain()
    reads.answer(client.session, head=3)
    assert client.events[-1][1] == {
        "rev": 3,
        "history": history(3),
        "unread": 3,
        "unseen": 0,
        "total": 3,
        "reset": False,
    }
    assert client.session.cursor.state is State.LIVE


def test_a_session_that_is_ended_pushes_nothing_more_and_closes_its_transport(reads: Reads) -> None:
    client = connected(reads)
    client.session.end(CloseReason.SLOW_CONSUMER)
    client.session.end(CloseReason.GOING_AWAY)
    assert client.transport.closed_for is CloseReason.SLOW_CONSUMER
    client.transport.closed_for = None
    offer(client, 1)
    assert not client.session.offer(b'{"event":"x","data":1}')
    assert client.events == [] and not client.session.live


def test_a_session_that_was_ended_during_its_handshake_begins_nothing(reads: Reads) -> None:
    client = FakeClient(request_read=reads)
    client.session.end(CloseReason.DISCONNECTED)
    client.session.begin(summary(5))
    client.session.resume(2)
    assert not client.session.live and reads.requested == 0


def test_frames_of_the_log_and_others_are_of_different_kinds(reads: Reads) -> None:
    client = connected(reads)
    offer(client, 1)
    assert client.session.offer(b'{"event":"x","data":1}')
    assert client.transport.kinds == [FrameKind.LOG, FrameKind.EPHEMERAL]


LOST_TOPIC = "observation/signal/lost"


def send(client: FakeClient, *numbers: int, padding: int = 0) -> None:
    for n in numbers:
        assert client.session.offer(b'{"event":"x","data":{"n":%d,"padding":"%b"}}' % (n, b"." * padding))


def sends(client: FakeClient) -> list[int]:
    return [data["n"] for event, data in client.events if event == "x"]


def test_sends_that_have_no_room_follow_in_order_once_there_is_some(reads: Reads) -> None:
    client = connected(reads, room=2)
    send(client, *range(10))
    assert sends(client) == [0, 1] and client.session.queued_bytes > 0
    client.transport.drain(room=3)
    send(client, 10)
    assert sends(client) == list(range(5))
    client.transport.drain()
    send(client, 11)
    assert sends(client) == list(range(12)) and client.session.queued_bytes == 0


def test_a_client_that_does_not_read_loses_the_oldest_sends_and_is_told_how_many(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "MAX_BYTES", 20_000)
    lost: list[int] = []
    client = FakeClient(request_read=reads, room=1, pool=Pool(lost.append))
    client.session.begin(summary(0))
    send(client, *range(100), padding=600)
    client.transport.drain()
    kept = sends(client)
    assert kept == [0, *range(100 - len(kept) + 1, 100)] and 5 < len(kept) < 20
    assert [event for event, _ in client.events].index(LOST_TOPIC) == 1, "it stands where they are missing"
    assert [data for event, data in client.events if event == LOST_TOPIC] == [{"count": 100 - len(kept)}]
    assert sum(lost) == 100 - len(kept)


def test_sends_that_wait_hold_up_no_change_of_the_inbox(reads: Reads) -> None:
    client = connected(reads, room=1)
    send(client, 0, 1)
    offer(client, 1)
    assert client.session.cursor.backpressured
    client.transport.drain()
    reads.answer(client.session, head=1)
    assert sends(client) == [0, 1] and client.revs == [1]


def test_what_waits_for_a_client_is_released_when_it_is_gone(reads: Reads) -> None:
    lost: list[int] = []
    pool = Pool(lost.append)
    free_bytes = pool.free_bytes
    for end in (Session.release, lambda session: session.end(CloseReason.SLOW_CONSUMER)):
        client = FakeClient(request_read=reads, room=1, pool=pool)
        client.session.begin(summary(0))
        send(client, 0, 1, 2)
        assert pool.free_bytes < free_bytes
        end(client.session)
        assert pool.free_bytes == free_bytes and client.session.queued_bytes == 0
        assert not client.session.offer(b'{"event":"x","data":1}')
    assert sum(lost) == 4


def test_a_send_to_many_takes_its_memory_once(reads: Reads) -> None:
    pool = Pool(lambda count: None)
    free_bytes, payload = pool.free_bytes, b'{"event":"x","data":"%b"}' % (b"." * 1_000)
    clients = [FakeClient(f"u{n}", request_read=reads, room=0, pool=pool) for n in range(50)]
    for client in clients:
        client.session.begin(summary(0))
        client.session.offer(payload)
    assert free_bytes - pool.free_bytes < 2 * len(payload)


def test_small_sends_to_many_are_bounded_by_their_places_in_all_queues(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "MAX_BYTES", 100_000)
    pool = Pool(lambda count: None)
    clients = [FakeClient(f"u{n}", request_read=reads, room=0, pool=pool) for n in range(200)]
    for client in clients:
        client.session.begin(summary(0))
    for number in range(300):
        payload = b'{"event":"x","data":%d}' % number
        for client in clients:
            client.session.offer(payload)
    frame_bytes = len(payload) + backlog_module.FRAME_BYTES
    places = sum(client.session.queued_bytes // frame_bytes for client in clients)
    assert 0 < places * backlog_module.PLACE_BYTES <= 100_000
    for client in clients:
        client.session.release()
    assert pool.free_bytes == 100_000


def test_clients_that_do_not_read_leave_room_to_the_next_one(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "MAX_BYTES", 100_000)
    pool = Pool(lambda count: None)
    for n in range(9):
        client = FakeClient(f"u{n}", request_read=reads, room=0, pool=pool)
        client.session.begin(summary(0))
        send(client, *range(200), padding=600)
    reader = FakeClient("reader", request_read=reads, room=0, pool=pool)
    reader.session.begin(summary(0))
    send(reader, 0)
    reader.transport.drain()
    assert sends(reader) == [0]


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_through_losses_reorderings_and_stalls_the_log_arrives_once_and_in_order(
    seed: int, length: int
) -> None:
    rng = random.Random(seed)
    reads = Reads()
    client = connected(reads, room=rng.choice([None, 3]))
    head = 0
    read_from: int | None = None
    snapshot = 0
    in_flight: list[int] = []
    for _ in range(length * 4):
        step = rng.randrange(7)
        if step == 0 and head < length:
            head += 1
            if rng.random() < 0.7:
                in_flight.append(head)
        elif step == 1 and in_flight:
            offer(client, in_flight.pop(rng.randrange(len(in_flight))))
        elif (
            step == 2
            and read_from is None
            and client.session.cursor.recovering
            and not client.session.cursor.backpressured
        ):
            read_from, snapshot = client.session.cursor.begin_read(), head
        elif step == 3 and read_from is not None:
            client.session.changes_read(
                backlog(read_from, snapshot, limit=rng.randint(1, 9)), 10_000, payload_of
            )
            read_from = None
        elif step == 4 and client.transport.room == 0:
            client.transport.drain(rng.choice([1, 5, None]))
        elif step == 5:
            client.session.observe_head(summary(rng.randint(0, head)), 0)
        elif step == 6 and rng.random() < 0.1:
            client.session.observe_head(summary(head), 0)
        assert client.revs == list(range(1, client.session.cursor.rev + 1))
    if client.transport.room == 0:
        client.transport.drain()
    client.transport.room = None
    client.session.observe_head(summary(head), 0)
    for _ in range(length + 2):
        if client.session.cursor.recovering:
            reads.answer(client.session, head=head)
    assert client.revs == list(range(1, head + 1))
    assert not client.session.cursor.recovering
