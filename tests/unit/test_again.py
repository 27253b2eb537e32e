"""A notification that is rendered again, in another language, is the one that its other readers got."""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from nx_signal.activities.again import MAX_RECIPIENTS, render_again
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.event_type import EventType, Message, MessageArguments
from nx_signal.activities.registry import Registry
from nx_signal.activities.types import SHIPPED
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model import (
    Activity,
    InboxFilter,
    Json,
    Member,
    Notification,
    Organizer,
    Position,
    Record,
    Roster,
)
from nx_signal.telemetry.metrics import Metrics

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ZONES = [None, "Asia/Ho_Chi_Minh", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Etc/GMT+7"]
PO = """
msgid ""
msgstr "Content-Type: text/plain; charset=utf-8"

msgid "comment"
msgstr "{text}"
"""


class Nothing(msgspec.Struct):
    pass


class Comment(EventType[Nothing]):
    """Of another package: its text is made from everything but the data."""

    TEXT = Message("comment", ("who", "when"))

    name = "COMMENT"
    schema = Nothing
    messages = (TEXT,)
    examples = ({},)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for locale, text in (("en", "{who} at {when}"), ("vi", "{who} lúc {when}")):
            po = folder / locale / "LC_MESSAGES" / "signal.po"
            po.parent.mkdir(parents=True)
            po.write_text(PO.replace("{text}", text))

    def locales(self) -> Traversable:
        return self._folder

    def message_arguments(self, data: Nothing, activity: Activity) -> MessageArguments:
        who = (
            f"{activity.actor.get('name')} {activity.actor_id} {activity.scope} {len(activity.recipient_ids)}"
        )
        return MessageArguments(self.TEXT, {"who": who, "when": activity.occurred_at})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry([*SHIPPED, Comment(tmp_path_factory.mktemp("locales"))])


def message(**changes: Any) -> dict[str, Any]:
    return {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "org",
        "actorId": "actor",
        "actor": {"id": "actor", "name": "Mai", "n": 1.50},
        "organizerId": "o1",
        "data": {"payment": {"subject": "Order 42", "amount": 12.5, "currency": "RSD"}},
        "occurredAt": "2026-01-01T10:00:00Z",
        **changes,
    }


class Shop:
    """One English and one Vietnamese member of an organization."""

    def __init__(self, registry: Registry, time_zone: str | None = None, default: str = "UTC") -> None:
        self.database = MemoryDatabase(lambda: NOON)
        self.renderer = Renderer(registry, default)
        self.processor = compose_activities(
            database=self.database,
            registry=registry,
            renderer=self.renderer,
            announce=lambda changes: None,
            metrics=Metrics(),
            now=lambda: NOON,
        ).processor
        self.roster = Roster(
            [Organizer("o1", None, (), time_zone)],
            [Member("ann", "o1", None, "staff", "en"), Member("binh", "o1", None, "staff", "vi")],
            [],
        )

    async def write(self, value: Mapping[str, Json]) -> tuple[Notification, Notification]:
        """The rows of ann and binh."""
        await self.database.directory.load(self.roster)
        record = Record(Position("t", 0, 0), None, json.dumps(value).encode())
        (processed,) = await self.processor.process([record], {})
        assert processed.trace.outcome == "stored", processed.trace.reason
        pages = [await self.database.inbox.page(user, InboxFilter(), 9, None, 0) for user in ("ann", "binh")]
        (ann,), (binh,) = (page.rows for page in pages)
        assert (ann.locale, binh.locale) == ("en", "vi")
        return ann, binh

    async def again(self, row: Notification, locale: str) -> Notification:
        kept = await self.database.inbox.rendered_from(row.recipient_id, [row.id])
        return render_again(self.renderer, row, kept.get(row.id), locale)


def text(row: Notification) -> tuple[str, str, str, str | None]:
    return row.locale, row.content, row.content_html, row.action_url


TYPES = [*((each.name, data) for each in SHIPPED for data in each.examples), ("COMMENT", {})]
SCOPES: list[dict[str, Json]] = [
    {"recipientScope": "org"},
    {"recipientScope": "users", "recipientIds": ["ann", "binh", "chi"]},
]


@settings(max_examples=10)
@pytest.mark.parametrize(("type", "data"), TYPES, ids=[f"{name}-{n}" for n, (name, _) in enumerate(TYPES)])
@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2037, 1, 1)),
    st.sampled_from(ZONES),
    st.sampled_from(["UTC", "Asia/Ho_Chi_Minh"]),
    st.sampled_from(SCOPES),
)
def test_a_list_in_another_language_shows_what_was_pushed_to_its_readers(
    registry: Registry,
    type: str,
    data: Any,
    when: datetime,
    zone: str | None,
    default: str,
    scope: dict[str, Json],
) -> None:
    async def check() -> None:
        shop = Shop(registry, zone, default)
        ann, binh = await shop.write(
            message(eventType=type, data=data, occurredAt=when.isoformat() + "Z", **scope)
        )
        assert text(await shop.again(ann, "vi")) == text(binh)
        assert text(await shop.again(binh, "en-US")) == text(ann)

    trio.run(check)


async def test_another_default_time_zone_does_not_change_what_was_rendered(registry: Registry) -> None:
    shop = Shop(registry, None, "Asia/Ho_Chi_Minh")
    ann, binh = await shop.write(message())
    moved = Shop(registry, None, "America/New_York")
    kept = await shop.database.inbox.rendered_from("ann", [ann.id])
    again = render_again(moved.renderer, ann, kept[ann.id], "vi")
    assert again.content == binh.content.replace("17:00", "17:00 UTC+7")  # no longer the deployment's own


async def test_a_row_of_the_release_before_is_rendered_again_only_where_its_text_needs_no_more_than_it_has(
    registry: Registry,
) -> None:
    """Its `createdAt` is not when the payment occurred."""
    shop = Shop(registry)
    payment, _ = await shop.write(message())
    assert render_again(shop.renderer, payment, None, "vi") is payment
    inquiry, in_vietnamese = await Shop(registry).write(
        message(eventType="INQUIRY_SUBMITTED", data={"inquiry": {"name": "Lan"}})
    )
    assert text(render_again(shop.renderer, inquiry, None, "vi")) == text(in_vietnamese)
    since = {"device": {"id": 7}, "since": "2026-01-01T09:30:00Z"}
    device, in_vietnamese = await Shop(registry).write(message(eventType="DEVICE_OFFLINE", data=since))
    assert text(render_again(shop.renderer, device, None, "vi")) == text(in_vietnamese)


@pytest.mark.parametrize(
    "much",
    [
        {"actor": {"name": "x" * 3_000}},
        {"recipientScope": "users", "recipientIds": ["ann", "binh", *map(str, range(MAX_RECIPIENTS))]},
    ],
)
async def test_what_is_too_much_to_keep_with_each_row_makes_no_other_text(
    registry: Registry, much: dict[str, Json]
) -> None:
    shop = Shop(registry)
    comment, _ = await shop.write(message(eventType="COMMENT", data={}, **much))
    assert await shop.again(comment, "vi") == comment
    other = Shop(registry)
    payment, in_vietnamese = await other.write(message(**much))
    assert text(await other.again(payment, "vi")) == text(in_vietnamese)


async def test_nobody_reaches_what_another_users_row_was_rendered_from(registry: Registry) -> None:
    shop = Shop(registry)
    ann, _ = await shop.write(message())
    assert await shop.database.inbox.rendered_from("binh", [ann.id]) == {}


# --- the time zone -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "zone", "when", "english", "vietnamese"),
    [
        ("UTC", None, "2026-07-01T10:00:00Z", "Jul 1, 2026, 10:00 AM UTC", "10:00 UTC 1 thg 7, 2026"),
        ("UTC", "Asia/Ho_Chi_Minh", "2026-07-01T10:00:00Z", "5:00 PM UTC+7", "17:00 UTC+7 1 thg 7"),
        ("Asia/Ho_Chi_Minh", None, "2026-07-01T10:00:00Z", "Jul 1, 2026, 5:00 PM", "17:00 1 thg 7, 2026"),
        ("Asia/Ho_Chi_Minh", "Asia/Ho_Chi_Minh", "2026-07-01T10:00:00Z", "5:00 PM", "17:00 1 thg 7, 2026"),
        ("Asia/Ho_Chi_Minh", "Asia/Kolkata", "2026-07-01T10:00:00Z", "3:30 PM UTC+5:30", "15:30 UTC+5:30 1"),
        ("Europe/Berlin", None, "2026-10-25T00:30:00Z", "2:30 AM UTC+2", "02:30 UTC+2 25 thg 10"),
        ("Europe/Berlin", None, "2026-10-25T01:30:00Z", "2:30 AM UTC+1", "02:30 UTC+1 25 thg 10"),
        ("Europe/Berlin", None, "2026-10-25T02:30:00Z", "Oct 25, 2026, 3:30 AM", "03:30 25 thg 10, 2026"),
        ("Europe/Berlin", "Mars/Olympus", "2026-07-01T10:00:00Z", "Jul 1, 2026, 12:00 PM", "12:00 1 thg 7"),
        ("Etc/GMT+3", None, "2026-07-01T10:00:00Z", "7:00 AM UTC-3", "07:00 UTC-3 1 thg 7"),
    ],
)
async def test_a_time_names_its_zone_where_a_reader_could_mistake_it(
    registry: Registry, default: str, zone: str | None, when: str, english: str, vietnamese: str
) -> None:
    ann, binh = await Shop(registry, zone, default).write(message(occurredAt=when))
    plain = [row.content.replace("\u202f", " ") for row in (ann, binh)]
    assert plain[0].endswith(english) and vietnamese in plain[1], plain


def test_a_machine_without_a_database_of_time_zones_has_them_all_the_same() -> None:
    zoneinfo.reset_tzpath([])
    try:
        zone = zoneinfo.ZoneInfo.no_cache("Asia/Ho_Chi_Minh")
        assert NOON.astimezone(zone).utcoffset() == timedelta(hours=7)
    finally:
        zoneinfo.reset_tzpath()
