"""A session delivers its inbox's log once, in order and complete, whatever comes in between."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.model import Backlog, Created, Head, Notification
from nx_signal.stream.session import MAX_AHEAD, Session, payload_of
from nx_signal.stream.wire import Kind
from stream_kit import FakeClient

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


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
        is_read=False,
        read_at=None,
        created_at=WHEN,
    )
    return Created(user, rev, rev, rev, notification)


def backlog(after: int, head: int, limit: int = 100) -> Backlog:
    revs = range(after + 1, min(head, after + limit) + 1)
    return Backlog(Head("u1", head, head, head), tuple(created(rev) for rev in revs))


class Healing:
    """Stands in for the hub: counts the requests, and answers from a log of `head` changes."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, session: Session) -> None:
        self.asked += 1

    def answer(self, session: Session, head: int, limit: int = 100, resume_limit: int = 500) -> None:
        session.heal(backlog(session.asks(), head, limit), resume_limit, payload_of)


@pytest.fixture
def healing() -> Healing:
    return Healing()


def offer(client: FakeClient, *revs: int) -> None:
    for rev in revs:
        client.session.offer_change(rev, payload_of(created(rev)))


def connected(healing: Healing, rev: int = 0, room: int | None = None) -> FakeClient:
    client = FakeClient(wants_heal=healing, room=room)
    client.session.begin(rev)
    return client


def test_the_next_change_is_pushed_at_once_and_a_known_one_never_again(healing: Healing) -> None:
    client = connected(healing, rev=4)
    offer(client, 3, 4, 5, 5, 6, 5)
    assert client.revs == [5, 6]
    assert healing.asked == 0


def test_changes_out_of_order_are_put_in_order_without_the_store(healing: Healing) -> None:
    client = connected(healing)
    offer(client, 2, 4, 3, 1)
    assert client.revs == [1, 2, 3, 4]
    assert not client.session.behind


def test_a_lost_change_is_read_from_the_store(healing: Healing) -> None:
    client = connected(healing)
    offer(client, 1, 3)
    assert client.revs == [1] and healing.asked == 1
    healing.answer(client.session, head=3)
    assert client.revs == [1, 2, 3] and not client.session.behind


def test_what_is_announced_while_the_store_is_read_is_neither_lost_nor_doubled(healing: Healing) -> None:
    client = connected(healing)
    offer(client, 3)
    asked_at = client.session.asks()
    offer(client, 4, 6)
    client.session.heal(backlog(asked_at, head=5), 500, payload_of)
    assert client.revs == [1, 2, 3, 4, 5, 6] and not client.session.behind


def test_more_ahead_than_is_held_is_read_from_the_store(healing: Healing) -> None:
    client = connected(healing)
    last = MAX_AHEAD + 10
    offer(client, *range(2, last + 1))
    offer(client, 1)
    assert client.session.behind, "the tail was not held"
    healing.answer(client.session, head=last)
    assert client.revs == list(range(1, last + 1)) and not client.session.behind


def test_a_backlog_longer_than_one_read_is_delivered_in_several(healing: Healing) -> None:
    client = connected(healing)
    client.session.heard_of(Head("u1", 250, 250, 250))
    rounds = 0
    while client.session.behind:
        healing.answer(client.session, head=250, limit=100)
        rounds += 1
    assert client.revs == list(range(1, 251)) and rounds == 3


def test_a_sweep_that_finds_nothing_new_asks_for_nothing(healing: Healing) -> None:
    client = connected(healing, rev=7)
    client.session.heard_of(Head("u1", 7, 7, 7))
    assert healing.asked == 0


def test_a_revision_that_the_store_never_gave_is_not_asked_for_for_ever(
    healing: Healing,
) -> None:
    client = connected(healing, rev=1)
    offer(client, 1_000)
    healing.answer(client.session, head=1)
    assert client.revs == [] and not client.session.behind
    offer(client, 2)
    assert client.revs == [2]


def test_resume_replays_what_came_after_and_then_tells_the_state(healing: Healing) -> None:
    client = connected(healing, rev=5)
    client.session.resume(2)
    offer(client, 6)
    assert client.revs == [], "nothing overtakes the replay"
    healing.answer(client.session, head=5)
    assert [event.rsplit("/")[-1] for event, _ in client.events] == [
        "created",
        "created",
        "created",
        "state",
        "created",
    ]
    assert client.revs == [3, 4, 5, 6]
    assert client.events[3][1] == {"rev": 5, "unread": 5, "total": 5, "reset": False}


def test_resume_at_the_head_tells_the_state_alone(healing: Healing) -> None:
    client = connected(healing, rev=5)
    client.session.resume(5)
    healing.answer(client.session, head=5)
    assert client.events == [
        ("observation/signal/notification/state", {"rev": 5, "unread": 5, "total": 5, "reset": False})
    ]


@pytest.mark.parametrize(
    "rev", [0, 99, 1_000], ids=["too far behind", "just too far behind", "ahead of the store"]
)
def test_a_resume_that_cannot_be_replayed_gets_one_reset_and_goes_on_live(healing: Healing, rev: int) -> None:
    client = connected(healing, rev=600)
    client.session.resume(rev)
    healing.answer(client.session, head=600, resume_limit=500)
    assert [data["reset"] for _, data in client.events] == [True]
    offer(client, 601)
    assert client.revs == [601]


@pytest.mark.parametrize("rev", [2, 5, 1_000], ids=["before", "after", "ahead of the store"])
def test_an_answer_of_the_store_from_before_a_resume_says_nothing_about_it(
    healing: Healing, rev: int
) -> None:
    client = connected(healing, rev=3)
    client.session.heard_of(Head("u1", 4, 4, 4))
    answer = backlog(client.session.asks(), head=4)
    client.session.resume(rev)
    client.session.heal(answer, 500, payload_of)
    assert client.events == [] and client.session.resuming
    healing.answer(client.session, head=5)
    assert client.revs == list(range(rev + 1, 6))
    assert client.events[-1][1] == {"rev": 5, "unread": 5, "total": 5, "reset": rev > 5}


def from_where_the_log_is_kept(kept_after: int, head: int, limit: int = 100) -> Backlog:
    """What a store answers whoever is below `kept_after`."""
    return backlog(kept_after, head, limit)


@pytest.mark.parametrize("kept_after", [3, 8, 9])
def test_whoever_is_below_the_kept_log_gets_one_reset_and_goes_on_live(
    healing: Healing, kept_after: int
) -> None:
    client = connected(healing, rev=10)
    client.session.resume(2)
    assert client.session.asks() == 2
    client.session.heal(from_where_the_log_is_kept(kept_after, head=10), 500, payload_of)
    assert [data["reset"] for _, data in client.events] == [True]
    assert not client.session.behind and not client.session.resuming
    offer(client, 11)
    assert client.revs == [11]


def test_whoever_stands_where_the_kept_log_begins_misses_nothing(healing: Healing) -> None:
    client = connected(healing, rev=10)
    client.session.resume(8)
    client.session.asks()
    client.session.heal(from_where_the_log_is_kept(8, head=10), 500, payload_of)
    assert client.revs == [9, 10]
    assert client.events[-1][1]["reset"] is False


def test_what_was_pushed_meanwhile_needs_no_log_from_before_it(healing: Healing) -> None:
    client = connected(healing, rev=2)
    offer(client, 4)
    client.session.asks()
    offer(client, 3)
    client.session.heal(from_where_the_log_is_kept(4, head=6), 500, payload_of)
    assert client.revs == [3, 4, 5, 6] and not client.session.behind


def test_a_log_with_a_hole_is_a_reset_and_no_loop(healing: Healing) -> None:
    client = connected(healing, rev=1)
    client.session.heard_of(Head("u1", 9, 9, 9))
    client.session.asks()
    client.session.heal(Backlog(Head("u1", 9, 9, 9), (created(2), created(5))), 500, payload_of)
    assert client.revs == [2] and client.session.behind
    client.session.asks()
    client.session.heal(Backlog(Head("u1", 9, 9, 9), ()), 500, payload_of)
    assert [data.get("reset") for _, data in client.events] == [None, True]
    assert not client.session.behind


def test_a_companion_that_is_further_behind_costs_nobody_a_reset(healing: Healing) -> None:
    """One answer serves all sessions of a user: it starts at the last of them."""
    client = connected(healing, rev=7)
    client.session.heard_of(Head("u1", 9, 9, 9))
    client.session.asks()
    client.session.heal(backlog(2, head=9), 500, payload_of)
    assert client.revs == [8, 9] and not client.session.behind


def test_a_change_announced_while_a_reset_is_on_its_way_follows_it(healing: Healing) -> None:
    client = connected(healing, rev=3)
    client.session.resume(1_000)
    answer = backlog(client.session.asks(), head=3)
    offer(client, 4)
    client.session.heal(answer, 500, payload_of)
    assert client.events[0][1] == {"rev": 3, "unread": 3, "total": 3, "reset": True}
    assert client.revs == [4] and not client.session.behind


def test_before_connected_nothing_is_pushed_and_what_was_missed_is_read(healing: Healing) -> None:
    client = FakeClient(wants_heal=healing)
    offer(client, 6)
    assert not client.session.offer(b'{"event":"x","data":null}')
    assert client.wire.frames == []
    client.session.begin(5)
    healing.answer(client.session, head=6)
    assert client.revs == [6]


def test_a_full_buffer_leaves_the_backlog_to_the_store_until_it_drains(healing: Healing) -> None:
    client = connected(healing, room=2)
    offer(client, 1, 2, 3, 4, 5)
    assert client.session.lagging and healing.asked == 0
    client.session.heard_of(Head("u1", 5, 5, 5))
    assert healing.asked == 0, "nothing is read for a client that takes nothing"
    client.wire.drain(room=1)
    assert healing.asked == 1
    healing.answer(client.session, head=5)
    assert client.session.lagging
    client.wire.drain()
    healing.answer(client.session, head=5)
    assert client.revs == [1, 2, 3, 4, 5] and not client.session.behind


def test_a_resume_without_room_for_its_state_still_ends_in_one(healing: Healing) -> None:
    client = connected(healing, rev=3, room=1)
    client.session.resume(2)
    healing.answer(client.session, head=3)
    assert client.revs == [3] and client.session.lagging
    client.wire.drain()
    healing.answer(client.session, head=3)
    assert client.events[-1][1] == {"rev": 3, "unread": 3, "total": 3, "reset": False}
    assert not client.session.behind and not client.session.resuming


def test_a_client_that_takes_nothing_is_ended_4008(healing: Healing) -> None:
    client = connected(healing)
    client.wire.on_stalled()
    assert client.wire.gave_up == (4008, "Slow consumer")
    assert client.session.end_with == (4008, "Slow consumer") and client.woken == 1
    assert not client.session.live


def test_log_frames_are_never_given_up_and_others_may_be(healing: Healing) -> None:
    client = connected(healing)
    offer(client, 1)
    assert client.session.offer(b'{"event":"x","data":1}')
    assert client.wire.kinds == [Kind.INBOX, Kind.EPHEMERAL]


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_through_losses_reorderings_and_stalls_the_log_arrives_once_and_in_order(
    seed: int, length: int
) -> None:
    rng = random.Random(seed)
    healing = Healing()
    client = connected(healing, room=rng.choice([None, 3]))
    head = 0
    asked: int | None = None
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
        elif step == 2 and asked is None and client.session.behind and not client.session.lagging:
            asked, snapshot = client.session.asks(), head
        elif step == 3 and asked is not None:
            client.session.heal(backlog(asked, snapshot, limit=rng.randint(1, 9)), 10_000, payload_of)
            asked = None
        elif step == 4 and client.wire.room == 0:
            client.wire.drain(rng.choice([1, 5, None]))
        elif step == 5:
            client.session.heard_of(Head("u1", rng.randint(0, head), 0, 0))
        elif step == 6 and rng.random() < 0.1:
            client.session.heard_of(Head("u1", head, head, head))
        assert client.revs == list(range(1, client.session.rev + 1))
    if client.wire.room == 0:
        client.wire.drain()
    client.wire.room = None
    client.session.heard_of(Head("u1", head, head, head))
    for _ in range(length + 2):
        if client.session.behind:
            healing.answer(client.session, head=head)
    assert client.revs == list(range(1, head + 1))
    assert not client.session.behind
