"""Previews of activities: the recipients and texts that the pipeline would write; nothing is written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.preview import MAX_SHOWN, Preview, Reader
from nx_signal.activities.registry import Registry
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import MessageRejected
from nx_signal.model import InboxFilter, Member, Organizer, Position, Record, Roster
from nx_signal.telemetry.metrics import Metrics

REGISTRY = Registry.shipped()
RENDERER = Renderer(REGISTRY, "UTC")
ROSTER = Roster(
    organizers=[Organizer("o1", "vi", ("m1", "m2")), Organizer("o2", None, ("x1",))],
    members=[
        Member("owner", "o1", None, "owner", "en-GB"),
        Member("ann", "o1", "m1", "staff", "en"),
        Member("binh", "o1", "m2", "staff", None),
        Member("xavier", "o2", "x1", "staff", None),
    ],
    grants=[],
)


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def message(**changes: Any) -> bytes:
    return json.dumps(
        {
            "eventType": "PAYMENT_SUCCESS",
            "recipientScope": "org",
            "actorId": "actor",
            "actor": {"id": "actor", "name": "Mai", "type": "USER"},
            "organizerId": "o1",
            "data": {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
            "occurredAt": "2026-01-01T10:00:00Z",
            **changes,
        }
    ).encode()


@pytest.fixture
async def database() -> MemoryDatabase:
    database = MemoryDatabase(now)
    await database.directory.load(ROSTER)
    return database


@pytest.fixture
def preview(database: MemoryDatabase) -> Preview:
    return Preview(REGISTRY, RENDERER, database.directory, now)


async def test_each_recipient_is_shown_with_the_language_and_where_it_is_set(preview: Preview) -> None:
    found = await preview.preview(message(eventId="e1"))
    assert (found.event_id, found.type, found.scope, found.rule, found.known) == (
        "e1", "PAYMENT_SUCCESS", "org", "org", True,
    )  # fmt: skip
    assert set(found.recipients) == {
        Reader("owner", "en", "reader"),
        Reader("ann", "en", "reader"),
        Reader("binh", "vi", "organizer"),
    }
    assert found.total == 3
    assert set(found.renderings) == {"en", "vi"}
    assert found.renderings["vi"].content.startswith("Thanh toán thành công")
    assert found.renderings["en"].content_html.startswith("<p>")


@pytest.mark.parametrize(
    ("changes", "rule", "why", "recipients"),
    [
        ({}, "org", "A member of organizer o1 or of one of its merchants.", {"owner", "ann", "binh"}),
        (
            {"recipientScope": "merchant", "merchantId": "m1"},
            "merchant",
            "A member of merchant m1 of organizer o1.",
            {"ann"},
        ),
        ({"recipientScope": "users", "recipientIds": ["z"]}, "users", "Named in recipientIds.", {"z"}),
        (
            {"recipientScope": "merchant", "merchantId": "x1"},
            "actor",
            "The actor, because merchant x1 of organizer o1 has no members.",
            {"actor"},
        ),
        (
            {"recipientScope": "merchant"},
            "actor",
            "The actor, because the message names no merchant.",
            {"actor"},
        ),
        ({"organizerId": "o9"}, "actor", "The actor, because organizer o9 has no members.", {"actor"}),
        ({"recipientScope": "users"}, "actor", "The actor, because recipientIds is empty.", {"actor"}),
    ],
)
async def test_the_reason_for_the_recipients_follows_from_the_rule(
    preview: Preview, changes: dict[str, Any], rule: str, why: str, recipients: set[str]
) -> None:
    found = await preview.preview(message(**changes))
    assert (found.rule, found.why, {r.recipient_id for r in found.recipients}) == (rule, why, recipients)


async def test_a_recipient_without_a_locale_gets_the_default_language(preview: Preview) -> None:
    found = await preview.preview(
        message(recipientScope="users", recipientIds=["stranger"], organizerId="o2")
    )
    assert found.recipients == (Reader("stranger", "en", "default"),)


async def test_a_message_without_an_id_has_none_yet(preview: Preview) -> None:
    assert (await preview.preview(message())).event_id is None


async def test_how_a_notification_would_be_kept_is_shown(preview: Preview) -> None:
    plain = await preview.preview(message())
    assert (plain.priority, plain.expires_at, plain.collapse_key, plain.expired) == (
        "normal",
        None,
        None,
        False,
    )
    found = await preview.preview(message(priority="high", expiresAt="2026-01-02T00:00:00Z", collapseKey="k"))
    assert (found.priority, found.collapse_key, found.expired) == ("high", "k", False)
    assert found.expires_at == datetime(2026, 1, 2, tzinfo=UTC)


async def test_that_nothing_would_be_written_any_more_is_shown(preview: Preview) -> None:
    assert (await preview.preview(message(expiresAt="2026-01-01T00:00:00Z"))).expired


async def test_an_unknown_type_is_reported_as_skipped(preview: Preview) -> None:
    found = await preview.preview(b'{"eventType": "COFFEE_SPILLED"}')
    assert (found.type, found.known, found.total, found.recipients) == ("COFFEE_SPILLED", False, 0, ())


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"not json",
        b"[]",
        b"\xff",
        b'{"eventType": "PAYMENT_SUCCESS"}',
        message(data={"payment": {"amount": "abc"}}),
    ],
)
async def test_a_malformed_message_is_refused_with_the_reason_of_its_dead_letter(
    preview: Preview, database: MemoryDatabase, poison: bytes
) -> None:
    with pytest.raises(MessageRejected) as refused:
        await preview.preview(poison)
    processor = compose_activities(
        registry=REGISTRY, renderer=RENDERER, database=database, announce=print, metrics=Metrics(), now=now
    ).processor
    (processed,) = await processor.process([Record(Position("t", 0, 0), None, poison)], {})
    assert processed.dead_letter is not None
    assert str(refused.value) == processed.dead_letter.error


async def test_a_large_audience_is_shown_in_part_and_counted_whole(preview: Preview) -> None:
    users = [f"user{n}" for n in range(MAX_SHOWN + 5)]
    found = await preview.preview(message(recipientScope="users", recipientIds=users))
    assert [reader.recipient_id for reader in found.recipients] == users[:MAX_SHOWN]
    assert found.total == len(users)


@given(
    scope=st.sampled_from(["org", "merchant", "users"]),
    organizer=st.sampled_from(["o1", "o2", "o3"]),
    merchant=st.sampled_from([None, "m1", "m2", "x1"]),
    users=st.lists(st.sampled_from(["owner", "ann", "binh", "zoe"]), max_size=4),
)
def test_a_preview_shows_exactly_what_is_written_then(
    scope: str, organizer: str, merchant: str | None, users: list[str]
) -> None:
    async def both() -> None:
        database = MemoryDatabase(now)
        await database.directory.load(ROSTER)
        sent = message(
            recipientScope=scope,
            organizerId=organizer,
            recipientIds=users,
            eventId="e1",
            **({} if merchant is None else {"merchantId": merchant}),
        )
        found = await Preview(REGISTRY, RENDERER, database.directory, now).preview(sent)
        assert await database.inbox.rows_of("e1", None, 10) == ([], 0), "nothing is written"
        processor = compose_activities(
            registry=REGISTRY,
            renderer=RENDERER,
            database=database,
            announce=lambda changes: None,
            metrics=Metrics(),
            now=now,
        ).processor
        (processed,) = await processor.process([Record(Position("t", 0, 0), None, sent)], {})
        assert (processed.trace.rule, processed.trace.recipients) == (found.rule, found.total)
        rows, total = await database.inbox.rows_of("e1", None, 10)
        assert total == found.total
        assert {row.recipient_id for row in rows} == {reader.recipient_id for reader in found.recipients}
        for reader in found.recipients:
            page = await database.inbox.page(reader.recipient_id, InboxFilter(), 10, None, 0)
            shown = found.renderings[reader.locale]
            (row,) = page.rows
            assert (row.locale, row.content, row.content_html, row.action_url) == (
                reader.locale, shown.content, shown.content_html, shown.action_url,
            )  # fmt: skip

    trio.run(both, clock=MockClock(autojump_threshold=0))
