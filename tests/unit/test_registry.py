"""The event types that a process has registered, and their catalogs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from nx_signal.activities.checks import check
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer, Template
from nx_signal.activities.event_type import EventType, Message, MessageArguments
from nx_signal.activities.registry import Registry
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.errors import SettingsError
from nx_signal.model import LOCALES, Activity, InboxFilter, Member, Organizer, Position, Record, Roster
from nx_signal.telemetry.metrics import Metrics

SHIPPED = Registry.shipped()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Stock(msgspec.Struct):
    left: int


class StockLow(EventType[Stock]):
    LEFT = Message("stock_low.left", ("count",))

    name = "STOCK_LOW"
    schema = Stock
    messages = (LEFT,)
    folder: ClassVar[Path]

    def message_arguments(self, data: Stock, activity: Activity) -> MessageArguments:
        return MessageArguments(self.LEFT, {"count": data.left})

    def locales(self) -> Path:
        return self.folder


ENGLISH = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "stock_low.left"
msgid_plural "stock_low.left"
msgstr[0] "One item left"
msgstr[1] "{count} items left"
"""


def write_catalog(folder: Path, locale: str, text: str) -> None:
    po = folder / locale / "LC_MESSAGES" / "signal.po"
    po.parent.mkdir(parents=True)
    po.write_text(text, "utf-8")


@pytest.fixture
def stock_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StockLow:
    write_catalog(tmp_path, "en", ENGLISH)
    monkeypatch.setattr(StockLow, "folder", tmp_path, raising=False)
    return StockLow()


# --- the shipped types ---------------------------------------------------------------------------


def test_these_types_are_shipped() -> None:
    assert SHIPPED.names == {
        "PAYMENT_SUCCESS",
        "ORDER_COMPLETED",
        "INQUIRY_SUBMITTED",
        "DEVICE_OFFLINE",
        "DEVICE_ONLINE",
    }
    assert SHIPPED.get("NEW_THING") is None


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("event_type", [*SHIPPED], ids=lambda t: t.name)
def test_every_shipped_message_has_its_placeholders_in_every_language(
    event_type: EventType[Any], locale: str
) -> None:
    catalog = SHIPPED.catalogs(event_type.name)[locale]
    for message in event_type.messages:
        for form in catalog.forms(message) or pytest.fail(f"no {message.id} in {locale}"):
            assert {*Template(form).placeholders} == {*message.placeholders}


def test_the_catalogs_have_only_texts_that_a_type_uses() -> None:
    used = {message.id for event_type in SHIPPED for message in event_type.messages}
    for locale in LOCALES:
        assert SHIPPED.catalogs("PAYMENT_SUCCESS")[locale].ids == used


@pytest.mark.parametrize("event_type", [*SHIPPED], ids=lambda t: t.name)
def test_the_shipped_types_pass_the_check_of_plug_ins(event_type: EventType[Any]) -> None:
    assert len(check(type(event_type))) == len(event_type.examples) * len(LOCALES)


# --- catalogs ------------------------------------------------------------------------------------


def test_another_packages_type_needs_only_english(stock_low: StockLow) -> None:
    assert [*Registry([stock_low]).catalogs("STOCK_LOW")] == ["en"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENGLISH.replace('"{count} items left"', '""'),
        ENGLISH.replace("\nmsgid ", "\n#, fuzzy\nmsgid "),
    ],
    ids=["absent", "half", "fuzzy"],
)
def test_an_unfinished_text_counts_as_missing(stock_low: StockLow, text: str) -> None:
    (stock_low.folder / "en" / "LC_MESSAGES" / "signal.po").write_text(text)
    with pytest.raises(SettingsError, match=r"STOCK_LOW has no text for stock_low\.left in en"):
        Registry([stock_low])


def test_a_broken_catalog_is_an_error_at_start(stock_low: StockLow) -> None:
    for text in (b"msgid nonsense", b'msgid "a"\nmsgstr "\xff"'):
        (stock_low.folder / "en" / "LC_MESSAGES" / "signal.po").write_bytes(text)
        with pytest.raises(SettingsError, match="is not a catalog of messages"):
            Registry([stock_low])


def test_a_type_finds_its_catalogs_beside_its_module() -> None:
    event_type = SHIPPED.get("PAYMENT_SUCCESS")
    assert event_type is not None
    assert event_type.locales().joinpath("vi", "LC_MESSAGES", "signal.po").is_file()


async def test_a_text_rendered_in_english_without_a_translation_is_counted(stock_low: StockLow) -> None:
    registered, metrics = Registry([stock_low]), Metrics()
    database = MemoryDatabase(lambda: NOON)
    readers = [Member("ann", "o1", None, "staff", "en"), Member("binh", "o1", None, "staff", "vi")]
    await database.directory.load(Roster([Organizer("o1", None, ())], readers, []))
    processor = compose_activities(
        registry=registered,
        renderer=Renderer(registered, "UTC"),
        database=database,
        announce=lambda changes: None,
        metrics=metrics,
        now=lambda: NOON,
    ).processor
    sent = {
        "eventType": "STOCK_LOW",
        "recipientScope": "org",
        "actorId": "till",
        "actor": {"id": "till", "name": "Till", "type": "DEVICE"},
        "organizerId": "o1",
        "data": {"left": 2},
        "occurredAt": "2026-01-01T10:00:00Z",
    }
    await processor.process([Record(Position("t", 0, 0), None, json.dumps(sent).encode())], {})
    rows = [(await database.inbox.page(user, InboxFilter(), 1, None, 0)).rows[0] for user in ("ann", "binh")]
    assert [(row.locale, row.content) for row in rows] == [("en", "2 items left")] * 2
    counted = [
        (s.labels, s.value)
        for m in metrics.untranslated.collect()
        for s in m.samples
        if s.name.endswith("_total")
    ]
    assert counted == [({"type": "STOCK_LOW", "locale": "vi"}, 1)]
