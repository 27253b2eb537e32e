"""Corrections and retractions through the pipeline: before, after and beside their activity."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities.message import decode
from nx_signal.activities.preview import Preview
from nx_signal.activities.replay import Replay
from nx_signal.cli.explain import _lines
from nx_signal.errors import MessageRejected, StatementFailed
from nx_signal.model import Correction, Created, Deleted, KeptCorrection, Member, Roster, Updated
from nx_signal.model.changes import to_log
from nx_signal.model.wire import encode_change
from nx_signal.rest.explain import explained
from nx_signal.store.corrections import MAX_KEPT
from pipeline_kit import REGISTRY, RENDERER, Line, explain_of, message, now, record, running

LARGE = 5_000


def original(**changes: Any) -> dict[str, Any]:
    return message(eventId="e1", **changes)


def update(amount: int = 7, **changes: Any) -> dict[str, Any]:
    return {"action": "update", "eventId": "e1", "data": {"payment": {"amount": amount}}, **changes}


def retract(**changes: Any) -> dict[str, Any]:
    return {"action": "retract", "eventId": "e1", **changes}


async def give(line: Line, value: Any, offset: int, partition: int = 0) -> None:
    await line.give(record(value, offset, partition))
    await wait_all_tasks_blocked()


async def texts(line: Line, user: str = "ann") -> list[str]:
    return [row.content for row in await line.inbox(user)]


async def standing(line: Line) -> KeptCorrection:
    return (await line.database.corrections.standing(["e1"]))["e1"]


async def test_an_update_renders_each_recipients_row_anew_in_its_own_language(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await give(line, original(), 0)
        before = {user: (await line.inbox(user))[0] for user in ("ann", "binh", "owner")}
        line.announced.clear()
        await give(line, update(), 1)
        for change in line.announced:
            assert isinstance(change, Updated)
            user = change.recipient_id
            (row,) = await line.inbox(user)
            assert (change.ids, change.rev, change.unread, change.total) == ((row.id,), 2, 1, 1)
            assert (change.content, change.content_html, change.data) == (
                row.content,
                row.content_html,
                row.data,
            )
            assert "7" in row.content and row.data == {"payment": {"amount": 7}}
            old = before[user]
            assert (row.id, row.rev, row.locale, row.subject, row.activity_id, row.created_at) == (
                old.id,
                old.rev,
                old.locale,
                old.subject,
                old.activity_id,
                old.created_at,
            )
        assert [change.recipient_id for change in line.announced] == ["ann", "binh", "owner"]
        assert (await line.inbox("binh"))[0].content != (await line.inbox("ann"))[0].content
        assert line.acked == [(0, 0), (0, 1)] and line.count("corrected") == 1


async def test_the_frame_of_an_update_has_what_the_notification_has_now(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        line.announced.clear()
        data = '{"payment": {"amount": 1234567.123456789012345}, "actionUrl": "/p"}'
        await give(line, f'{{"action": "update", "eventId": "e1", "data": {data}}}'.encode(), 1)
        topic, frame = encode_change(line.announced[0])
        (row,) = await line.inbox("ann")
        assert topic == "observation/signal/notification/updated"
        assert json.loads(frame) == {
            "ids": [str(row.id)],
            "content": row.content,
            "contentHtml": row.content_html,
            "actionUrl": "/p",
            "data": {"payment": {"amount": "1234567.123456789012345"}, "actionUrl": "/p"},
            "at": "2026-01-01T00:00:00.000Z",
            "rev": 2,
            "unread": 1,
            "unseen": 1,
            "total": 1,
            "origin": None,
            "history": line.announced[0].history,
        }


async def test_the_data_of_an_update_replaces_the_data_whole(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(data={"payment": {"amount": 1}, "note": "x", "actionUrl": "/a"}), 0)
        await give(line, update(), 1)
        (row,) = await line.inbox("ann")
        assert row.data == {"payment": {"amount": 7}} and row.action_url is None


async def test_a_read_row_stays_read(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        (row,) = await line.inbox("ann")
        await line.database.inbox.mark("ann", row.id, "read", None)
        await give(line, update(), 1)
        (row,) = await line.inbox("ann")
        assert row.is_read and row.data == {"payment": {"amount": 7}}


async def test_a_deleted_row_stays_as_it_is(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        (row,) = await line.inbox("ann")
        await line.database.inbox.delete("ann", row.id)
        line.announced.clear()
        await give(line, update(), 1)
        assert [change.recipient_id for change in line.announced] == ["binh", "owner"]


async def test_a_retraction_removes_the_row_of_each_recipient(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        await give(line, message(eventId="other"), 1)
        line.announced.clear()
        await give(line, retract(), 2)
        for change in line.announced:
            assert isinstance(change, Deleted) and (change.rev, change.unread, change.total) == (3, 1, 1)
        assert [change.recipient_id for change in line.announced] == ["ann", "binh", "owner"]
        (row,) = await line.inbox("ann")
        assert row.activity_id == "other"


@pytest.mark.parametrize("partition", [0, 1])
async def test_an_activity_that_its_update_overtook_is_written_corrected(
    autojump_clock: MockClock, partition: int
) -> None:
    async with running() as line:
        await give(line, update(), 0, partition)
        await give(line, original(), 1)
        (change, *_) = line.announced
        assert isinstance(change, Created) and change.notification.data == {"payment": {"amount": 7}}
        assert len(line.announced) == 3
        trace = await line.database.traces.get("e1")
        assert trace is not None and trace.outcome == "stored"
        assert trace.reason == f"Its data is that of the correction at t/{partition}/0, handled before."


async def test_an_activity_that_its_retraction_overtook_is_not_written(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, retract(), 0, 1)
        await give(line, original(), 0)
        assert line.announced == [] and await line.recipients() == set()
        trace = await line.database.traces.get("e1")
        assert trace is not None and (trace.outcome, trace.recipients) == ("retracted", 0)
        assert trace.reason == "It was retracted at t/1/0, before it was handled."


async def test_a_batch_keeps_the_order_of_an_activity_and_its_corrections(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update(1), update(2), message(eventId="e2"), retract(), original())
        (row,) = await line.inbox("ann")
        assert row.activity_id == "e2" and line.acked == [(0, 5)]
        kinds = [type(change) for change in line.announced if change.recipient_id == "ann"]
        assert kinds == [Created, Updated, Updated, Created, Deleted]


async def test_a_large_audience_that_was_corrected_before_is_written_corrected(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await load_members(line, 1_500)
        await give(line, update(), 0)
        await give(line, original(organizerId="large"), 1)
        assert len(line.announced) == 1_500
        assert all(
            isinstance(change, Created) and change.notification.data == {"payment": {"amount": 7}}
            for change in line.announced
        )


def named(n: int) -> str:
    return f"user{n:04}"


async def load_members(line: Line, many: int) -> None:
    members = [Member(named(n), "large", None, "staff", None) for n in range(many)]
    await line.database.directory.load(Roster((), members, ()))


# --- which one stands ---


async def test_the_newest_update_by_its_moment_stands_in_whatever_order_they_come(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await give(line, original(), 0)
        await give(line, update(2, occurredAt="2026-01-02T00:00:00Z"), 1)
        line.announced.clear()
        await give(line, update(1, occurredAt="2026-01-01T00:00:00Z"), 2)
        assert line.announced == [] and (await standing(line)).data == {"payment": {"amount": 2}}
        trace = await line.database.traces.get("t/0/2")
        assert trace is not None and trace.outcome == "corrected"
        assert trace.reason == "A newer correction came at t/0/1: this one changes nothing."


async def test_of_two_of_one_moment_the_one_that_is_handled_later_stands(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update(1), update(2))
        assert (await line.inbox("ann"))[0].data == {"payment": {"amount": 2}}


async def test_a_retraction_is_final_also_for_a_later_update(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), retract(), update(occurredAt="2030-01-01T00:00:00Z"), original())
        assert await line.recipients() == set()
        trace = await line.database.traces.get("t/0/2")
        assert trace is not None
        assert trace.reason == "It was retracted at t/0/1: this one changes nothing."


async def test_corrections_that_are_delivered_again_change_nothing(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update(1), update(2))
        kept = await line.database.corrections.of("e1")
        line.announced.clear()
        await line.process(original(), update(1), update(2))
        assert line.announced == [] and await line.database.corrections.of("e1") == kept
        assert (await line.inbox("ann"))[0].data == {"payment": {"amount": 2}}


async def test_one_that_is_delivered_again_changes_nothing_also_where_many_came_since(
    autojump_clock: MockClock,
) -> None:
    """Of one activity a bounded number is kept: the first ones are not known any more."""
    async with running() as line:
        await line.process(original(), *(update(n) for n in range(MAX_KEPT + 10)))
        kept = await line.database.corrections.of("e1")
        line.announced.clear()
        await line.process(original(), *(update(n) for n in range(MAX_KEPT + 10)))
        assert line.announced == [] and await line.database.corrections.of("e1") == kept
        assert (await line.inbox("ann"))[0].data == {"payment": {"amount": MAX_KEPT + 9}}


async def test_in_a_topic_that_was_made_anew_another_activity_is_corrected_at_the_same_position(
    autojump_clock: MockClock,
) -> None:
    """Also where the messages differ in the activity alone."""
    async with running() as line:
        await give(line, original(), 0)
        await give(line, message(eventId="e2"), 1)
        await give(line, retract(), 2)
        await give(line, retract(eventId="e2"), 2)
        assert await texts(line) == []


async def test_moments_of_updates_are_compared_in_milliseconds(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        await give(line, update(1, occurredAt="2026-01-01T10:00:00.000900Z"), 1)
        await give(line, update(2, occurredAt="2026-01-01T10:00:00.000100Z"), 2)
        assert (await standing(line)).position == "t/0/2"
        found = decode(record(update(occurredAt="2026-01-01T10:00:00.000900Z")), REGISTRY.names)
        assert isinstance(found, Correction) and found.occurred_at is not None
        assert found.occurred_at.microsecond == 0


async def test_a_correction_makes_no_conflict_of_an_activity_that_comes_again(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(original(), update(), original())
        assert line.count("conflict") == 0 and line.count("duplicate") == 1
        trace = await line.database.traces.get("e1")
        assert trace is not None and (trace.outcome, trace.position) == ("stored", "t/0/0")


# --- beside each other, and after a crash ---


async def test_a_correction_that_comes_between_two_steps_of_its_activity_is_never_missed(
    autojump_clock: MockClock,
) -> None:
    """Another instance handles it whole, before each of the steps."""
    for correction, left in ((update(), [{"payment": {"amount": 7}}]), (retract(), [])):
        step = 0
        while await _interrupted(original(), correction, step, left):
            step += 1
        assert step >= 4  # in hand, corrections, recipients, languages, rows, traces


async def test_an_activity_that_comes_between_two_steps_of_its_correction_is_never_missed(
    autojump_clock: MockClock,
) -> None:
    for correction, left in ((update(), [{"payment": {"amount": 7}}]), (retract(), [])):
        step = 0
        while await _interrupted(correction, original(), step, left):
            step += 1
        assert step >= 4  # in hand, the trace's name, a row to check, the correction, rows, trace


async def _interrupted(
    first: Any, second: Any, step: int, left: list[Any], before: dict[str, Any] | None = None
) -> bool:
    """Whether the first one had that many steps; the second one is handled before that one, else not."""
    async with running() as one, running(one.database, "p2") as two:
        driver, calls, met = one.database.driver, 0, False
        if before is not None:
            await give(two, before, 0, 2)

        async def delay() -> None:
            nonlocal calls, met
            calls += 1
            if calls == step + 1:
                driver.delay, met = None, True
                await give(two, second, 0, 1)

        driver.delay = delay
        await give(one, first, 0)
        await wait_all_tasks_blocked()
        assert one.acked == [(0, 0)]
        if met:
            assert two.acked[-1] == (1, 0)
            for user in ("ann", "binh", "owner"):
                assert [row.data for row in await one.inbox(user)] == left, (step, user)
        return met


async def test_two_updates_beside_each_other_leave_the_newer_one_in_every_row(
    autojump_clock: MockClock,
) -> None:
    older, newer = (update(n, occurredAt=f"2026-01-0{n}T00:00:00Z") for n in (1, 2))
    for first, second in ((older, newer), (newer, older)):
        step = 0
        while await _interrupted(first, second, step, [newer["data"]], original()):
            step += 1
        assert step >= 4


@pytest.mark.parametrize("action", ["update", "retract"])
async def test_a_crash_between_two_portions_of_a_large_audience_loses_and_doubles_nothing(
    autojump_clock: MockClock, action: str
) -> None:
    correction = update() if action == "update" else retract()
    async with running() as line:
        database = line.database
        await load_members(line, LARGE)
        await line.give(record(original(organizerId="large"), 0))
        await trio.sleep(3_600)
        assert line.acked == [(0, 0)]
        line.announced.clear()
        apply, portions = database.corrections.apply, 0

        async def some(*arguments: Any) -> Any:
            nonlocal portions
            portions += 1
            if portions > 12:
                await trio.sleep_forever()
            return await apply(*arguments)

        database.corrections.apply = some  # type: ignore
        await line.give(record(correction, 1))
        await wait_all_tasks_blocked()
        await trio.sleep(3_600)
        assert len(line.announced) == 1_200  # killed here
        first = list(line.announced)
    database.corrections.apply = apply  # type: ignore
    async with running(database, "p2") as line:
        await line.give(record(correction, 1))
        await trio.sleep(3_600)
        assert line.acked == [(0, 1)]
        changed = [change.recipient_id for change in (*first, *line.announced)]
        assert sorted(changed) == [named(n) for n in range(LARGE)]
        for user in (named(0), named(1_250), named(LARGE - 1)):
            head = (await database.inbox.summaries([user]))[user]
            left = 1 if action == "update" else 0
            assert (head.rev, head.total, head.unread) == (2, left, left)
        assert (await standing(line)).changed == LARGE


async def test_portions_have_at_most_100_rows_and_a_constant_number_of_statements(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await load_members(line, 250)
        await give(line, original(organizerId="large"), 0)
        statements: list[int] = []
        apply = line.database.corrections.apply

        async def counted(*arguments: Any) -> Any:
            seen: list[str] = []
            line.database.driver.connection.set_trace_callback(seen.append)
            changes = await apply(*arguments)
            line.database.driver.connection.set_trace_callback(None)
            statements.append(len(seen))
            return changes

        line.database.corrections.apply = counted  # type: ignore
        await line.give(record(update(), 1))
        await trio.sleep(5)
        assert len(statements) == 3 and len(set(statements)) == 1 and statements[0] <= 12


# --- what cannot be used ---


async def test_an_update_that_the_type_does_not_take_is_a_dead_letter_and_the_rows_stay(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await give(line, original(), 0)
        before = await texts(line)
        line.announced.clear()
        await give(line, {"action": "update", "eventId": "e1", "data": {}}, 1)
        (letter,) = await line.dead_letters()
        assert letter.error == "data.payment is missing."
        assert line.announced == [] and await texts(line) == before
        assert await line.database.corrections.of("e1") == []
        trace = await line.database.traces.get("e1")
        assert trace is not None and trace.outcome == "stored"


async def test_an_update_beyond_the_bytes_of_a_notification_is_a_dead_letter_and_the_rows_stay(
    autojump_clock: MockClock,
) -> None:
    async with running(notification_bytes=1_024) as line:
        await give(line, original(), 0)
        before = await texts(line)
        await give(line, update(data={"payment": {"amount": 1}, "note": "x" * 1_000}), 1)
        await give(line, update(data={"payment": {"amount": 1, "subject": "s" * 190}, "note": "x" * 700}), 2)
        errors = [letter.error for letter in await line.dead_letters()]
        assert errors[0].startswith("The notification in en has ") and errors[1].startswith(
            "data has 1034 bytes"
        )
        assert await texts(line) == before


async def test_an_activity_that_cannot_be_rendered_as_corrected_is_a_dead_letter_that_names_the_correction(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await give(line, {"action": "update", "eventId": "e1", "data": {}}, 0)
        await give(line, original(), 1)
        (letter,) = await line.dead_letters()
        assert letter.error == "As corrected at t/0/0: data.payment is missing."
        assert await line.recipients() == set()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"action": "delete"}, "action: expected `create`, `update` or `retract`."),
        ({"action": 1}, "action: expected `create`, `update` or `retract`."),
        ({"eventId": None}, "eventId is missing: name the activity that is to be corrected."),
        ({"eventId": ""}, "eventId: expected `str` of length >= 1."),
        ({"data": []}, "data: expected `object | null`, got `array`."),
        (
            {"occurredAt": "soon"},
            "occurredAt must be an ISO 8601 date and time such as 2026-11-21T10:25:00Z.",
        ),
    ],
)
async def test_a_correction_that_is_none_is_a_dead_letter_with_a_sentence(
    autojump_clock: MockClock, changes: dict[str, Any], error: str
) -> None:
    async with running() as line:
        await give(line, original(), 0)
        await give(line, update(**changes), 1)
        (letter,) = await line.dead_letters()
        assert letter.error == error
        trace = await line.database.traces.get("t/0/1")
        assert trace is not None and trace.outcome == "dead_letter"
        first = await line.database.traces.get("e1")
        assert first is not None and first.outcome == "stored"


async def test_a_message_with_the_action_create_is_an_activity_and_the_same_as_without(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await line.process(original(action="create"), original())
        assert len(await line.inbox("ann")) == 1 and line.count("duplicate") == 1


async def test_what_the_text_needs_and_is_not_kept_makes_a_dead_letter(autojump_clock: MockClock) -> None:
    async with running() as line:
        await give(line, original(), 0)
        line.database.driver.connection.execute("UPDATE activity_notification SET rendered_from = NULL")
        await give(line, update(), 1)
        (letter,) = await line.dead_letters()
        assert letter.error.startswith("What the notifications were rendered from is not kept")
        await give(line, retract(), 2)
        assert await line.recipients() == set()


async def test_a_correction_that_the_store_does_not_finish_is_tried_with_fewer_rows(
    autojump_clock: MockClock,
) -> None:
    async with running() as line:
        await load_members(line, 250)
        await give(line, original(organizerId="large"), 0)
        apply = line.database.corrections.apply

        async def few(standing: Any, rows: Any, contents: Any) -> Any:
            if len(rows) > 20:
                raise StatementFailed("too slow")
            return await apply(standing, rows, contents)

        line.database.corrections.apply = few  # type: ignore
        await line.give(record(update(), 1))
        await trio.sleep(60)
        assert line.acked == [(0, 0), (0, 1)] and (await standing(line)).changed == 250


async def test_a_dead_letter_of_a_correction_can_be_replayed(autojump_clock: MockClock) -> None:
    async with running() as line:
        connection = line.database.driver.connection
        await give(line, original(), 0)
        (kept,) = connection.execute("SELECT rendered_from FROM activity_notification").fetchone()
        connection.execute("UPDATE activity_notification SET rendered_from = NULL")
        await give(line, update(), 1)
        (letter,) = await line.dead_letters()
        replay = Replay(line.processor, line.database.dead_letters, line.metrics)
        with pytest.raises(MessageRejected, match="is not kept"):
            await replay.replay(letter.id)
        connection.execute("UPDATE activity_notification SET rendered_from = ?", (kept,))
        trace = await replay.replay(letter.id)
        assert trace is not None and (trace.outcome, trace.recipients) == ("corrected", 3)
        assert await line.dead_letters() == []
        assert (await line.inbox("ann"))[0].data == {"payment": {"amount": 7}}


async def test_to_a_release_before_an_update_is_a_read_of_no_rows(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update())
        kind, detail = to_log(line.announced[-1])  # type: ignore
        assert (kind, detail["ids"], detail["upToRev"]) == ("updated", [], None)
        since = await line.database.inbox.changes_since({"owner": 1}, 10)
        assert since["owner"].changes == (line.announced[-1],)


# --- sources and envelopes ---


async def test_a_source_belongs_to_the_identity_that_is_corrected(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(eventSource="/a"), original(eventSource="/b"), update(eventSource="/a"))
        rows = {row.activity_id: row.data["payment"]["amount"] for row in await line.inbox("ann")}
        assert rows == {'["e1","/a"]': 7, '["e1","/b"]': 1250000}


@pytest.mark.parametrize("named", [{"eventId": "e1", "eventSource": "/a"}, {}])
async def test_in_a_cloud_event_the_data_is_the_correction(
    autojump_clock: MockClock, named: dict[str, str]
) -> None:
    """What it names there, else the event itself."""
    event = {
        "specversion": "1.0",
        "type": "x",
        "id": "c7" if named else "e1",
        "source": "/b" if named else "/a",
    }
    async with running() as line:
        await give(line, original(eventSource="/a"), 0)
        data = {"action": "update", "data": {"payment": {"amount": 7}}} | named
        await give(line, event | {"data": data}, 1)
        (row,) = await line.inbox("ann")
        assert row.data == {"payment": {"amount": 7}}


async def test_a_correction_has_no_preview(autojump_clock: MockClock) -> None:
    async with running() as line:
        preview = Preview(REGISTRY, RENDERER, line.database.directory, now)
        with pytest.raises(MessageRejected, match="action: update has no preview"):
            await preview.preview(json.dumps(update()).encode())


# --- explain ---


async def test_explain_shows_the_corrections_of_an_activity(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update(occurredAt="2026-01-01T10:05:00Z"))
        found = await explain_of(line).explain("e1", None)
        assert found is not None and found.trace is not None and found.trace.outcome == "stored"
        (kept,) = found.corrections
        assert (kept.action, kept.position, kept.changed) == ("update", "t/0/1", 3)
        assert kept.occurred_at == datetime(2026, 1, 1, 10, 5, tzinfo=UTC)


async def test_explain_knows_an_activity_of_which_only_a_correction_came(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(retract(eventSource="/a"))
        explain = explain_of(line)
        (identity,) = await explain.identities("e1", None)
        found = await explain.explain(identity, None)
        assert found is not None and found.trace is None
        assert [each.action for each in found.corrections] == ["retract"]
        first, second, last = _lines(explained("e1", found))
        assert first == "e1: only what is below came of it so far, or its record is gone."
        assert second.startswith("  Retracted at t/0/0, as of 2026-01-01T00:00:00.000Z")
        assert last == "  Notifications: 0."


async def test_a_correction_is_no_activity_that_someone_missed(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(original(), update())
        day = datetime(2026, 1, 1, tzinfo=UTC)
        found = await explain_of(line).around("xavier", day.replace(year=2025), day.replace(year=2027), 10)
        assert [each.activity_id for each in found.missed] == ["e1"]


async def test_a_retracted_activity_states_why_no_one_got_it(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.process(retract(), original())
        found = await explain_of(line).explain("e1", "ann")
        assert found is not None
        (recipient,) = found.recipients
        assert recipient.why.endswith("It was retracted at t/0/0, before it was handled.")
