"""The explanation of an activity, down to the sockets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from nx_signal.activities.explain import DELETED, MAX_EXPLAINED, REASONS, Around, Explain, RecipientDelivery
from nx_signal.activities.why import UNSAID
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.cursor import Step
from nx_signal.delivery.session import Session, payload_of
from nx_signal.delivery.sessions import LiveSessions, SessionState
from nx_signal.model import Change, Draft, InboxSummary, Member, Outcome, Roster, Trace
from stream_kit import FakeClient


def step(change: Change) -> Step:
    return Step(change.rev, payload_of(change), change.history, change.after)


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def a_draft(recipient_id: str, activity_id: str) -> Draft:
    return Draft(
        recipient_id=recipient_id,
        activity_id=activity_id,
        type="T",
        organizer_id="o1",
        merchant_id=None,
        subject=None,
        locale="en",
        content="text",
        content_html="<p>text</p>",
        action_url=None,
        data={},
    )


def a_session(user_id: str, **changes: Any) -> SessionState:
    values: dict[str, Any] = {
        "client_id": "c", "server_id": "a", "user_id": user_id, "connected_at": now(),
        "baseline_rev": 0, "rev": 0, "recovering": False, "backpressured": False, "queued_bytes": 0,
    }  # fmt: skip
    return SessionState(**(values | changes))


TRACE = Trace("e1", "t/0/1", "T", "org", "org", 2, "stored")


class Desk:
    def __init__(self) -> None:
        self.database = MemoryDatabase(now)
        self.live = LiveSessions((), ())
        self.queries: list[Sequence[str]] = []
        self.explainer = Explain(
            self.database.inbox,
            self.database.traces,
            self.database.corrections,
            self.database.directory,
            self._sessions,
        )
        self.explain = self.explainer.explain

    async def _sessions(self, user_ids: Sequence[str]) -> LiveSessions:
        self.queries.append(user_ids)
        return self.live

    async def recipient(self, user_id: str) -> RecipientDelivery:
        explained = await self.explain("e1", user_id)
        assert explained is not None
        (recipient,) = explained.recipients
        return recipient


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_unknown_activity_has_no_explanation(desk: Desk) -> None:
    await desk.database.inbox.insert([a_draft("u1", "e2")])
    assert await desk.explain("e1", None) is None
    assert await desk.explain("e1", "u1") is None


async def test_the_trace_the_rows_and_the_recipients_are_shown(desk: Desk) -> None:
    await desk.database.traces.add([TRACE])
    await desk.database.inbox.insert([a_draft("u1", "e0"), a_draft("u1", "e1"), a_draft("u2", "e1")])
    explained = await desk.explain("e1", None)
    assert explained is not None and explained.trace is not None
    assert (explained.trace.position, explained.trace.outcome) == ("t/0/1", "stored")
    assert explained.rows == 2
    assert [(r.recipient_id, r.row and r.row.rev, r.delivery) for r in explained.recipients] == [
        ("u1", 2, "not_connected"), ("u2", 1, "not_connected"),
    ]  # fmt: skip
    assert desk.queries == [["u1", "u2"]], "all of them in one query"


async def test_an_activity_that_became_a_dead_letter_shows_the_reason_and_has_no_rows(desk: Desk) -> None:
    await desk.database.traces.add([Trace("e1", "t/0/1", None, None, None, 0, "dead_letter", "not JSON")])
    explained = await desk.explain("e1", None)
    assert explained is not None and explained.trace is not None
    assert (explained.trace.reason, explained.rows, explained.recipients) == ("not JSON", 0, ())
    assert desk.queries == [], "there is no recipient"


async def test_rows_without_a_trace_are_shown_all_the_same(desk: Desk) -> None:
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    explained = await desk.explain("e1", "u1")
    assert explained is not None
    assert (explained.trace, explained.rows) == (None, 1)


async def test_a_notification_that_left_the_inbox_is_explained_by_that(
    desk: Desk,
) -> None:
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    assert (await desk.recipient("u1")).why == REASONS["not_connected"]
    rows, _ = await desk.database.inbox.rows_of("e1", "u1", 1)
    await desk.database.inbox.delete("u1", rows[0].id)
    assert (await desk.recipient("u1")).why == DELETED


async def test_a_user_who_was_not_a_recipient_has_no_row(desk: Desk) -> None:
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    recipient = await desk.recipient("u2")
    assert (recipient.row, recipient.delivery, recipient.sessions) == (None, "no_row", ())


async def test_a_large_audience_is_explained_in_part_and_counted_whole(desk: Desk) -> None:
    await desk.database.inbox.insert([a_draft(f"u{n:03}", "e1") for n in range(MAX_EXPLAINED + 5)])
    explained = await desk.explain("e1", None)
    assert explained is not None
    assert explained.rows == MAX_EXPLAINED + 5
    assert [r.recipient_id for r in explained.recipients] == [f"u{n:03}" for n in range(MAX_EXPLAINED)]


async def test_a_recipients_delivery_is_the_best_of_its_sessions_and_unanswered_instances_are_named(
    desk: Desk,
) -> None:
    await desk.database.inbox.insert([a_draft("u1", "e1")])
    desk.live = LiveSessions(
        (
            a_session("u1", client_id="slow", backpressured=True, recovering=True),
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
        ({"rev": 4, "recovering": True}, "behind"),
        ({"rev": 4, "recovering": True, "backpressured": True}, "slow_consumer"),
        ({"rev": 5, "baseline_rev": 5}, "fetched"),
        ({"rev": 9, "baseline_rev": 5, "backpressured": True}, "fetched"),
        ({"rev": 5, "baseline_rev": 4}, "delivered"),
    ],
)
def test_the_delivery_of_a_revision_follows_from_the_place_of_the_session_in_the_log(
    state: dict[str, Any], delivery: str
) -> None:
    assert a_session("u1", **state).delivery_of(5) == delivery
    assert delivery in REASONS


async def test_each_delivery_follows_from_a_real_session(desk: Desk) -> None:
    changes = await desk.database.inbox.insert([a_draft("u1", f"e{n}") for n in range(1, 5)])

    def delivery_of(rev: int, session: Session) -> str:
        cursor = session.cursor
        state = a_session(
            "u1",
            baseline_rev=cursor.baseline_rev,
            rev=cursor.rev,
            recovering=cursor.recovering,
            backpressured=cursor.backpressured,
        )
        return state.delivery_of(rev)

    client = FakeClient("u1", room=1)
    client.session.begin(InboxSummary("u1", 1, 1, 1, changes[0].history))
    assert delivery_of(1, client.session) == "fetched"
    assert delivery_of(2, client.session) == "not_announced"
    client.session.offer_change(step(changes[1]))
    assert delivery_of(2, client.session) == "delivered"
    client.session.offer_change(step(changes[3]))
    assert delivery_of(4, client.session) == "behind"
    client.session.offer_change(step(changes[2]))
    assert delivery_of(3, client.session) == "slow_consumer", "there was room for one frame"
    client.transport.drain()
    client.session.resume(0)
    assert delivery_of(1, client.session) == "behind"
    client.session.cursor.begin_read()
    backlog = (await desk.database.inbox.changes_since({"u1": 0}, 10))["u1"]
    client.session.changes_read(backlog, 500, payload_of)
    assert {delivery_of(rev, client.session) for rev in (1, 2, 3, 4)} == {"delivered"}
    client.session.resume(0)
    client.session.cursor.begin_read()
    client.session.changes_read(backlog, 2, payload_of)  # too much to replay: the session resets
    assert {delivery_of(rev, client.session) for rev in (1, 2, 3, 4)} == {"fetched"}


# --- why a person was not notified ---


def placed(recipient_id: str, activity_id: str, merchant_id: str | None = "m1") -> Draft:
    return structs.replace(a_draft(recipient_id, activity_id), merchant_id=merchant_id)


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        (("merchant", "merchant", 1, "stored"), "this user is no member of merchant m1 of organizer o1."),
        (("org", "org", 1, "stored"), "this user is no member of organizer o1 or of one of its merchants."),
        (("users", "users", 3, "stored"), "it is not among the 3 that recipientIds names."),
        (
            ("merchant", "actor", 1, "stored"),
            "it went to u1 alone, the actor, because merchant m1 of organizer o1 has no members.",
        ),
    ],
)
async def test_a_person_outside_of_the_audience_is_given_the_reason(
    desk: Desk, trace: tuple[Any, ...], why: str
) -> None:
    await desk.database.traces.add([Trace("e1", "t/0/1", "T", *trace)])
    await desk.database.inbox.insert([placed("u1", "e1")])
    assert (await desk.recipient("stranger")).why.endswith(why)


async def test_a_person_who_became_a_member_later_is_told_so(desk: Desk) -> None:
    await desk.database.traces.add([Trace("e1", "t/0/1", "T", "merchant", "merchant", 1, "stored")])
    await desk.database.inbox.insert([placed("u1", "e1")])
    await desk.database.directory.load(Roster((), [Member("late", "o1", "m1", "staff", None)], ()))
    assert (
        "is a member of merchant m1 of organizer o1 now, and was none" in (await desk.recipient("late")).why
    )


@pytest.mark.parametrize(
    ("outcome", "reason", "why"),
    [
        ("dead_letter", "data: no amount.", "it became a dead letter. data: no amount."),
        ("unknown_type", None, "its event type T is not known here, so it was skipped."),
        ("expired", "It was handled after its expiresAt.", "it was handled after its expiresAt."),
        ("superseded", "…", "each recipient had a newer notification with its collapseKey."),
    ],
)
async def test_an_activity_that_notified_nobody_gives_the_reason(
    desk: Desk, outcome: Outcome, reason: str | None, why: str
) -> None:
    await desk.database.traces.add([Trace("e1", "t/0/1", "T", None, None, 0, outcome, reason)])
    assert (await desk.recipient("u1")).why.endswith(why)


async def test_a_person_who_had_a_newer_one_with_its_key_is_given_that_reason(desk: Desk) -> None:
    def keyed(user: str, activity_id: str, hour: int) -> Draft:
        occurred_at = now() + timedelta(hours=hour)
        return structs.replace(a_draft(user, activity_id), collapse_key="k", occurred_at=occurred_at)

    await desk.database.inbox.insert([keyed("u1", "e2", 2)])
    await desk.database.inbox.insert([keyed("u1", "e1", 1), keyed("u2", "e1", 1)])
    await desk.database.traces.add([Trace("e1", "t/0/1", "T", "users", "users", 2, "stored")])
    why = (await desk.recipient("u1")).why
    assert why == f"{UNSAID}: a newer notification with its collapseKey k was there already."
    assert "recipientIds" in (await desk.recipient("u3")).why


async def test_what_a_person_received_in_a_time_and_what_not_is_listed(desk: Desk) -> None:
    await desk.database.traces.add(
        [
            Trace("e1", "t/0/1", "T", "users", "users", 1, "stored"),
            Trace("e2", "t/0/2", "T", "users", "users", 1, "stored"),
            Trace("e3", "t/0/3", "T", None, None, 0, "dead_letter", "broken"),
        ]
    )
    await desk.database.inbox.insert([a_draft("u1", "e0"), a_draft("u1", "e1"), a_draft("u2", "e2")])
    hour = timedelta(hours=1)
    found = await desk.explainer.around("u1", now() - hour, now() + hour, 10)
    assert [each.activity_id for each in found.received] == ["e1", "e0"]
    assert {each.activity_id: each.recipients[0].why for each in found.missed} == {
        "e2": f"{UNSAID}: it is not among the 1 that recipientIds names.",
        "e3": f"{UNSAID}: it became a dead letter. broken",
    }
    assert desk.queries == [["u1"]], "the instances are asked once"
    assert await desk.explainer.around("u1", now() + hour, now() + 2 * hour, 10) == Around((), (), ())
    assert len((await desk.explainer.around("u1", now() - hour, now() + hour, 1)).received) == 1
    nobody = await desk.explainer.around("half \ud83d", now() - hour, now() + hour, 10)
    assert nobody == Around((), (), ())
