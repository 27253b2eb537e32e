"""What was done with an activity, down to the sockets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from nx_signal.activities.explain import MAX_EXPLAINED, REASONS, Explain, RecipientDelivery, delivery_of
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.model import Draft, LiveSessions, SessionState, Trace
from nx_signal.stream.session import Session, payload_of
from stream_kit import FakeClient


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def a_draft(recipient_id: str, activity_id: str) -> Draft:
    return Draft(recipient_id, activity_id, "T", "o1", None, None, "en", "text", "<p>text</p>", None, {})


def a_session(user_id: str, **changes: Any) -> SessionState:
    values: dict[str, Any] = {
        "client_id": "c", "server_id": "a", "user_id": user_id, "connected_at": now(),
        "since": 0, "rev": 0, "behind": False, "lagging": False, "queued_bytes": 0,
    }  # fmt: skip
    return SessionState(**(values | changes))


TRACE = Trace("e1", "t/0/1", "T", "org", "org", 2, "stored")


class Desk:
    def __init__(self) -> None:
        self.database = MemoryDatabase(now)
        self.live = LiveSessions((), ())
        self.asked: list[Sequence[str]] = []
        self.explain = Explain(self.database, self._sessions).explain

    async def _sessions(self, user_ids: Sequence[str]) -> LiveSessions:
        self.asked.append(user_ids)
        return self.live

    async def recipient(self, user_id: str) -> RecipientDelivery:
        explained = await self.explain("e1", user_id)
        assert explained is not None
        (recipient,) = explained.recipients
        return recipient


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_of_an_activity_never_heard_of_nothing_is_said(desk: Desk):
    await desk.database.inbox.insert([a_draft("u1", "e2")])
    assert await desk.explain("e1", None) is None
    assert await desk.explain("e1", "u1") is None


async def test_the_trace_the_rows_and_the_recipients_are_told(desk: Desk):
    await desk.database.traces.add([TRACE])
    await desk.database.inbox.insert([a_draft("u1", "e0"), a_draft("u1", "e1"), a_draft("u2", "e1")])
    explained = await desk.explain("e1", None)
    assert explained is not None and explained.trace is not None
    assert (explained.trace.position, explained.trace.outcome) == ("t/0/1", "stored")
    assert explained.rows == 2
    assert [(r.recipient_id, r.row and r.row.rev, r.delivery) for r in explained.recipients] == [
        ("u1", 2, "not_connected"), ("u2", 1, "not_connected"),
    ]  # fmt: skip
    assert desk.asked == [["u1", "u2"]], "all of them in one question"


async def test_an_activity_that_was_set_aside_says_why_and_has_no_rows(desk: Desk):
    await desk.database.traces.add([Trace("e1", "t/0/1", None, None, None, 0, "dead_letter", "not JSON")])
    explained = await desk.explain("e1", None)
    assert explained is not None and explained.trace is not None
    assert (explained.trace.reason, explained.rows, explained.recipients) == ("not JSON", 0, ())
    assert desk.asked == [], "nobody to ask for"


async def test_rows_without_a_trace_are_told_all_the_same(desk: Desk):
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    explained = await desk.explain("e1", "u1")
    assert explained is not None
    assert (explained.trace, explained.rows) == (None, 1)


async def test_somebody_who_was_no_recipient_has_no_row(desk: Desk):
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    recipient = await desk.recipient("u2")
    assert (recipient.row, recipient.delivery, recipient.sessions) == (None, "no_row", ())


async def test_a_large_audience_is_explained_in_part_and_counted_whole(desk: Desk):
    await desk.database.inbox.insert([a_draft(f"u{n:03}", "e1") for n in range(MAX_EXPLAINED + 5)])
    explained = await desk.explain("e1", None)
    assert explained is not None
    assert explained.rows == MAX_EXPLAINED + 5
    assert [r.recipient_id for r in explained.recipients] == [f"u{n:03}" for n in range(MAX_EXPLAINED)]


async def test_a_recipients_delivery_is_the_best_of_its_sessions_and_the_silent_are_named(desk: Desk):
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    desk.live = LiveSessions(
        (
            a_session("u1", client_id="slow", lagging=True, behind=True),
            a_session("u1", client_id="fast", rev=1),
            a_session("u2", client_id="other"),
        ),
        ("b",),
    )
    recipient = await desk.recipient("u1")
    assert recipient.delivery == "delivered"
    assert [(s.session.client_id, s.delivery) for s in recipient.sessions] == [
        ("slow", "slow_consumer"),
        ("fast", "delivered"),
    ]
    explained = await desk.explain("e1", "u1")
    assert explained is not None and explained.unanswered == ("b",)


@pytest.mark.parametrize(
    ("state", "delivery"),
    [
        ({"rev": 5}, "delivered"),
        ({"rev": 9}, "delivered"),
        ({"rev": 4}, "not_announced"),
        ({"rev": 4, "behind": True}, "behind"),
        ({"rev": 4, "behind": True, "lagging": True}, "slow_consumer"),
        ({"rev": 5, "since": 5}, "fetched"),
        ({"rev": 9, "since": 5, "lagging": True}, "fetched"),
        ({"rev": 5, "since": 4}, "delivered"),
    ],
)
def test_what_became_of_a_revision_follows_from_where_the_session_stands(
    state: dict[str, Any], delivery: str
):
    assert delivery_of(5, a_session("u1", **state)) == delivery
    assert delivery in REASONS


async def test_the_state_of_a_real_session_tells_each_case(desk: Desk):
    changes = await desk.database.inbox.insert([a_draft("u1", f"e{n}") for n in range(1, 5)])

    def state(session: Session) -> SessionState:
        return a_session(
            "u1", since=session.since, rev=session.rev, behind=session.behind, lagging=session.lagging
        )

    client = FakeClient("u1", room=1)
    client.session.begin(1)
    assert delivery_of(1, state(client.session)) == "fetched"
    assert delivery_of(2, state(client.session)) == "not_announced"
    client.session.offer_change(2, payload_of(changes[1]))
    assert delivery_of(2, state(client.session)) == "delivered"
    client.session.offer_change(4, payload_of(changes[3]))
    assert delivery_of(4, state(client.session)) == "behind"
    client.session.offer_change(3, payload_of(changes[2]))
    assert delivery_of(3, state(client.session)) == "slow_consumer", "there was room for one frame"
    client.wire.drain()
    client.session.resume(0)
    assert delivery_of(1, state(client.session)) == "behind"
    client.session.asks()
    backlog = (await desk.database.inbox.backlogs({"u1": 0}, 10))["u1"]
    client.session.heal(backlog, 500, payload_of)
    assert {delivery_of(rev, state(client.session)) for rev in (1, 2, 3, 4)} == {"delivered"}
    client.session.resume(0)
    client.session.asks()
    client.session.heal(backlog, 2, payload_of)  # too much to replay: it is told to start anew
    assert {delivery_of(rev, state(client.session)) for rev in (1, 2, 3, 4)} == {"fetched"}
