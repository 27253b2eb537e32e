"""Audiences that unite scopes, and those without the actor (CONTRACT §3, Recipients)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal.activities import processor
from nx_signal.activities.explain import Explain
from nx_signal.activities.message import decode
from nx_signal.activities.outcome import NO_RECIPIENTS
from nx_signal.activities.portions import Portions
from nx_signal.activities.preview import Preview
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.sessions import LiveSessions
from nx_signal.errors import MessageRejected
from nx_signal.model import Activity, Draft, Member, Position, Record, Roster, Trace
from pipeline_kit import REGISTRY, RENDERER, Line, message, now, running

ORG, M1, M2 = (
    {"scope": "org", "id": "o1"},
    {"scope": "merchant", "id": "m1"},
    {"scope": "merchant", "id": "m2"},
)
OTHERS = {"scope": "merchant", "id": "x1"}


def users(*ids: str) -> dict[str, Any]:
    return {"scope": "users", "ids": list(ids)}


def united(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = message(audience=list(entries), eventId="e", **changes)
    del found["recipientScope"]
    return found


def decoded(fields: dict[str, Any]) -> Activity:
    found = decode(Record(Position("t", 0, 0), None, json.dumps(fields).encode()), {"PAYMENT_SUCCESS"})
    assert isinstance(found, Activity)
    return found


async def trace_of(line: Line, id: str = "e") -> Trace:
    trace = await line.database.traces.get(id)
    assert trace is not None
    return trace


async def why(database: MemoryDatabase, user: str, id: str = "e") -> str:
    async def no_sessions(user_ids: Sequence[str]) -> LiveSessions:
        return LiveSessions((), ())

    explained = await Explain(
        database.inbox, database.traces, database.corrections, database.directory, no_sessions
    ).explain(id, user)
    assert explained is not None
    return explained.recipients[0].why


# --- recipients ---


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([M1], {"ann", "binh"}),
        ([M1, M2], {"ann", "binh"}),
        ([M2, users("zoe", "binh")], {"binh", "zoe"}),
        ([ORG, users("zoe")], {"owner", "ann", "binh", "zoe"}),
        ([{"scope": "org"}], {"owner", "ann", "binh"}),
        ([users("zoe"), users("ann", "zoe")], {"zoe", "ann"}),
        ([OTHERS, users("zoe")], {"zoe"}),
        ([OTHERS], {"actor"}),
        ([users()], {"actor"}),
    ],
)
async def test_an_audience_unites_its_entries_each_user_once(
    autojump_clock: MockClock, entries: list[dict[str, Any]], expected: set[str]
) -> None:
    async with running() as line:
        await line.process(united(*entries))
        assert await line.recipients() == expected
        assert [len(await line.inbox(user)) for user in expected] == [1] * len(expected)
        trace = await trace_of(line)
        assert trace.scope == "audience" and trace.recipients == len(expected)
        assert trace.rule == ("actor" if expected == {"actor"} else "audience")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"recipientScope": "org", "actorId": "ann"}, {"owner", "binh"}),
        ({"recipientScope": "merchant", "merchantId": "m1", "actorId": "ann"}, {"binh"}),
        ({"recipientScope": "merchant", "merchantId": "m2", "actorId": "binh"}, set()),
        ({"recipientScope": "merchant", "merchantId": "m9"}, set()),
        ({"recipientScope": "users", "recipientIds": ["actor", "zoe"]}, {"zoe"}),
        ({"recipientScope": "users", "recipientIds": ["actor"]}, set()),
        ({"recipientScope": "users"}, set()),
    ],
)
async def test_the_excluded_actor_gets_nothing_and_does_not_stand_in_for_an_empty_scope(
    autojump_clock: MockClock, changes: dict[str, Any], expected: set[str]
) -> None:
    async with running() as line:
        await line.process(message(excludeActor=True, eventId="e", **changes))
        assert await line.recipients() == expected
        trace = await trace_of(line)
        assert (trace.outcome, trace.recipients) == ("stored", len(expected))
        assert (trace.reason == NO_RECIPIENTS) is (not expected)
        assert line.acked == [(0, 0)] and not await line.dead_letters()


async def test_the_actor_is_left_out_of_an_audience(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(united(M1, users("zoe"), actorId="ann", excludeActor=True))
        assert await line.recipients() == {"binh", "zoe"}


async def test_the_language_of_an_audience_is_that_of_its_organizer(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(united(users("zoe")))
        (row,) = await line.inbox("zoe")
        assert row.locale == "vi"


async def test_what_the_actor_or_strangers_are_excluded_from_is_not_pushed_to_a_room(
    autojump_clock: MockClock,
) -> None:
    inquiry: dict[str, Any] = {"eventType": "INQUIRY_SUBMITTED", "data": {}}
    async with running() as line:
        await line.process(
            message(excludeActor=True, **inquiry), united(M1, **inquiry), message(eventId="3", **inquiry)
        )
        assert line.pushed == [("o1", None, "org")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (message(audience=[ORG]), "audience: send either recipientScope or audience, not both."),
        (united(ORG, recipientIds=["u"]), "recipientIds: beside an audience, name users in an entry of it"),
        (united(), "audience: expected `array` of length >= 1"),
        (united(*[M1] * 17), "audience: expected `array` of length <= 16"),
        (united({"scope": "all"}), "audience[0].scope: expected `org`, `merchant` or `users`."),
        (united({"id": "m1"}), "audience[0].scope is missing."),
        (united({"scope": "org", "id": "o2"}), "audience[0].id is another organizer than organizerId"),
        (united(ORG, {"scope": "merchant"}), "audience[1].id is missing"),
        (united({"scope": "users"}), "audience[0].ids is missing"),
        (united({"scope": "org", "ids": ["u"]}), "audience[0].ids is for scope `users`"),
        (united(users(*map(str, range(9_999))), users("a", "b")), "audience: at most 10000 users"),
        (united({"scope": "merchant", "id": "m\0"}), "audience[0].id must hold no NUL character"),
        ({k: v for k, v in message().items() if k != "recipientScope"}, "recipientScope is missing."),
        (message(excludeActor="yes"), "excludeActor: expected `bool | null`"),
    ],
)
def test_an_audience_that_is_unclear_or_of_another_tenant_is_refused_with_a_sentence(
    fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(MessageRejected) as raised:
        decoded(fields)
    assert expected in str(raised.value)


async def test_another_audience_under_one_identity_is_a_conflict(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(united(M1), united(M2), united(M1, excludeActor=True), united(M1))
        assert line.count("conflict") == 2


# --- large ones ---


async def load(database: MemoryDatabase, members: dict[str, Sequence[int]]) -> None:
    """merchant → numbers of its members, all of organizer `large`"""
    rows = [Member(f"u{n:04}", "large", m, "staff", None) for m, each in members.items() for n in each]
    await database.directory.load(Roster((), rows, ()))


def large(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return united(*entries, organizerId="large", **changes)


async def test_a_large_union_is_written_in_portions_each_user_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "AUDIENCE_PORTION", 300)
    async with running() as line:
        await load(line.database, {"a": range(2_000), "b": range(1_500, 2_500)})
        entries = [
            {"scope": "merchant", "id": "a"},
            {"scope": "merchant", "id": "b"},
            users("u0003", "zz", "u9"),
        ]
        await line.process(large(*entries, actorId="u0010", excludeActor=True))
        expected = [f"u{n:04}" for n in range(2_500) if n != 10] + ["u9", "zz"]
        assert [change.recipient_id for change in line.announced] == expected
        trace = await trace_of(line)
        assert (trace.recipients, trace.rule, trace.outcome) == (len(expected), "audience", "stored")


async def test_a_large_scope_without_its_actor_is_whole_at_the_limit_of_one_statement(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "MAX_DRAFTS", 5)
    for many in (5, 6, 7, 8):
        async with running() as line:
            await load(line.database, {"a": range(many)})
            merchant = {"recipientScope": "merchant", "organizerId": "large", "merchantId": "a"}
            await line.process(message(eventId="e", actorId="u0000", excludeActor=True, **merchant))
            assert (await trace_of(line)).recipients == many - 1 == len(line.announced)


async def test_a_crash_between_two_portions_of_a_union_loses_and_doubles_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "AUDIENCE_PORTION", 200)
    database = MemoryDatabase(now)
    await load(database, {"a": range(1_200), "b": range(600, 1_800)})
    entries = [{"scope": "merchant", "id": "a"}, {"scope": "merchant", "id": "b"}]
    async with running(database) as line:
        original = database.inbox.insert
        written = 0

        async def insert(drafts: Sequence[Draft]) -> Any:
            nonlocal written
            written += len(drafts)
            if written > 500:
                await trio.sleep_forever()
            return await original(drafts)

        monkeypatch.setattr(database.inbox, "insert", insert)
        await line.process(large(*entries))
        assert line.acked == []
    monkeypatch.undo()
    async with running(database, "p2") as line:
        await line.process(large(*entries))
        assert line.acked == [(0, 0)]
        for n in range(0, 1_800, 50):
            assert len(await line.inbox(f"u{n:04}")) == 1


@given(
    st.lists(st.sets(st.integers(0, 40)), min_size=1, max_size=4),
    st.sets(st.integers(0, 40)),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
)
@settings(max_examples=50)
def test_portions_are_the_union_in_order_whatever_their_sizes(
    merchants: list[set[int]], named: set[int], most: int, many: int, excluded: bool
) -> None:
    async def main() -> list[str]:
        database = MemoryDatabase(now)
        await load(database, {f"m{i}": sorted(each) for i, each in enumerate(merchants)})
        entries = [{"scope": "merchant", "id": f"m{i}"} for i in range(len(merchants))]
        activity = decoded(
            large(*entries, users(*(f"u{n:04}" for n in named)), actorId="u0007", excludeActor=excluded)
        )
        portions = Portions(database.directory, activity, "", most)
        found: list[str] = []
        while taken := await portions.take(many):
            assert len(taken) <= many
            found += taken
        return found

    expected = set.union(named, *merchants) - ({7} if excluded else set())
    assert trio.run(main) == [f"u{n:04}" for n in sorted(expected)]


# --- preview and explain ---


async def test_a_preview_shows_the_union_and_why_without_the_actor() -> None:
    async with running() as line:
        preview = Preview(REGISTRY, RENDERER, line.database.directory, now)
        fields = united(M1, users("zoe"), actorId="ann", excludeActor=True)
        shown = await preview.preview(json.dumps(fields).encode())
        assert [each.recipient_id for each in shown.recipients] == ["binh", "zoe"]
        assert (shown.scope, shown.rule, shown.total) == ("audience", "audience", 2)
        assert shown.why == (
            "In the audience: members of merchant m1 of organizer o1; the 1 users that it names. "
            "Without the actor ann."
        )


async def test_a_preview_of_what_is_for_nobody_shows_nobody() -> None:
    async with running() as line:
        preview = Preview(REGISTRY, RENDERER, line.database.directory, now)
        fields = message(recipientScope="users", recipientIds=["actor"], excludeActor=True)
        shown = await preview.preview(json.dumps(fields).encode())
        assert (shown.recipients, shown.total, shown.renderings) == ((), 0, {})
        assert shown.why == "Named in recipientIds. Without the actor actor."


async def test_explain_states_why_someone_is_not_in_an_audience(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(united(M1, users("zoe"), actorId="ann", excludeActor=True))
        assert "it is the actor, who gets nothing of it (excludeActor)" in await why(line.database, "ann")
        assert "not in its audience: members of merchant m1" in await why(line.database, "xavier")
        await line.database.directory.load(Roster((), [Member("late", "o1", "m1", "staff", None)], ()))
        assert "is among the members of merchant m1 of organizer o1 now" in await why(line.database, "late")


async def test_explain_states_that_nobody_was_left(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(message(recipientScope="users", excludeActor=True, eventId="e"))
        assert NO_RECIPIENTS in await why(line.database, "zoe")
        assert "it is the actor" in await why(line.database, "actor")
