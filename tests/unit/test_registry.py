"""Event types: what each takes, what the shipped ones have, and how another package adds one."""

from __future__ import annotations

import json
import sys
import types
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities import registry
from nx_signal.activities.content import Renderer, Template
from nx_signal.activities.handling import Handling
from nx_signal.activities.registry import (
    ENTRY_POINTS,
    EventType,
    Message,
    Money,
    Phrase,
    Registry,
    money,
    one_line,
    safe_url,
)
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import MessageRejected, SettingsError
from nx_signal.model import (
    LOCALES,
    Activity,
    InboxFilter,
    Member,
    Organizer,
    Position,
    Record,
    Roster,
)
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

    def phrase(self, data: Stock, activity: Activity) -> Phrase:
        return Phrase(self.LEFT, {"count": data.left})

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
    texts = SHIPPED.texts(event_type.name)[locale]
    for message in event_type.messages:
        for form in texts.forms(message) or pytest.fail(f"no {message.id} in {locale}"):
            assert {*Template(form).placeholders} == {*message.placeholders}


def test_the_catalogs_hold_no_text_that_no_type_uses() -> None:
    used = {message.id for event_type in SHIPPED for message in event_type.messages}
    for locale in LOCALES:
        catalog = SHIPPED.texts("PAYMENT_SUCCESS")[locale]._catalog
        assert {entry.id for entry in catalog if entry.id} == used


@pytest.mark.parametrize(
    ("name", "data", "beginning"),
    [
        ("PAYMENT_SUCCESS", {}, "data.payment is missing"),
        ("PAYMENT_SUCCESS", {"payment": None}, "data.payment: expected"),
        ("PAYMENT_SUCCESS", {"payment": {}}, "data.payment.amount is missing"),
        ("PAYMENT_SUCCESS", {"payment": {"amount": True}}, "data.payment.amount: expected"),
        ("PAYMENT_SUCCESS", {"payment": {"amount": None}}, "data.payment.amount: expected"),
        ("PAYMENT_SUCCESS", {"payment": {"amount": 1, "subject": 5}}, "data.payment.subject: expected"),
        ("ORDER_COMPLETED", {"order": []}, "data.order: expected"),
        ("ORDER_COMPLETED", {"order": {"number": 1.5}}, "data.order.number: expected"),
        ("INQUIRY_SUBMITTED", {"inquiry": {"name": ["x"]}}, "data.inquiry.name: expected"),
        ("DEVICE_OFFLINE", {"device": "POS 1"}, "data.device: expected"),
        ("DEVICE_ONLINE", {"since": 5}, "data.since: expected"),
    ],
)
def test_data_of_a_wrong_type_is_refused_by_name(name: str, data: dict[str, Any], beginning: str) -> None:
    event_type = SHIPPED.get(name)
    assert event_type is not None
    with pytest.raises(MessageRejected) as caught:
        event_type.read(data)
    assert str(caught.value).startswith(beginning)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "exact"),
    [
        ("1250000", "1250000"),
        (1250000, "1250000"),
        (1250000.5, "1250000.5"),
        ("1250000.50", "1250000.50"),
        (0.1, "0.1"),
        (-5, "-5"),
        ("-5", "-5"),
        (0, "0"),
        (999_999_999_999_999, "999999999999999"),
    ],
)
def test_an_amount_is_a_number_or_a_numeral_and_stays_exact(amount: float | str, exact: str) -> None:
    assert money(amount, "USD", "data.total") == Money(Decimal(exact), "USD")


@pytest.mark.parametrize(
    "amount",
    [
        "abc",
        "",
        " 1",
        "1e5",
        "1_000",
        "1,250",
        "NaN",
        "Infinity",
        "１２",
        "1\n",
        "9" * 16,
        1e308,
        10**15,
        -(10**15),
    ],
)
def test_any_other_amount_is_refused_by_name(amount: float | str) -> None:
    with pytest.raises(MessageRejected, match=r"^data\.payment\.amount must be "):
        money(amount, None, "data.payment.amount")


def test_a_currency_is_three_letters_and_dong_where_none_is_given() -> None:
    assert money(1, None, "data.order.total").currency == "VND"
    assert money(1, "usd", "data.order.total").currency == "USD"
    for currency in ("", "US", "DONG", "₫", "<b>", "USD\n"):
        with pytest.raises(MessageRejected, match=r"^data\.order\.currency must be three letters"):
            money(1, currency, "data.order.total")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  Đơn 42 — <b>*x*</b> 👩‍👧 ", "Đơn 42 — <b>*x*</b> 👩‍👧"),
        ("a\r\n\tb\u2028c\x85d", "a b c d"),
        ("a\x00\x1b[31m\x7fb\x9b", "a[31mb"),
        ("gpj\u202etxt\u202c.\u2066exe\u2069\u200e\u200f\u061c", "gpjtxt.exe"),
        ("\ufeffa\u200bb\ud800\uffff", "ab"),
        ("\u202e\n ", ""),
        (None, ""),
        (42, "42"),
    ],
)
def test_foreign_text_becomes_one_visible_line(text: str | int | None, line: str) -> None:
    assert one_line(text) == line


@given(st.text(st.characters(exclude_categories=()), max_size=900) | st.integers())
def test_foreign_text_is_capped_and_cleaning_it_again_changes_nothing(text: str | int) -> None:
    line = one_line(text)
    assert len(line) <= 200 and line == one_line(line)
    line.encode()  # no surrogate is left


def test_text_that_is_too_long_ends_in_an_ellipsis() -> None:
    assert one_line("x" * 200) == "x" * 200
    assert one_line("x" * 201) == "x" * 199 + "…"
    assert one_line("x" * 1_000_000) == "x" * 199 + "…"


@pytest.mark.parametrize(
    "url",
    [
        "/",
        "/orders/42?tab=a#b",
        "https://shop.example/ộ",
        "http://shop.example:8080",
        "HTTPS://Shop.example/",
    ],
)
def test_a_web_url_or_a_path_of_this_site_is_an_action(url: str) -> None:
    assert safe_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "ftp://shop.example/",
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "\\\\evil.example",
        "orders/42",
        "",
        "http:",
        "http://",
        "http:///x",
        "https://:80/",
        "https:evil.example",
        "http://[",
        "httpſ://evil.example",
        '/"><script>',
        "/a b",
        "/a\u202eb",
        "/a\0b",
        "/\ud800",
        "/" + "x" * 2048,
        None,
        5,
        ["/x"],
        {"a": 1},
    ],
)
def test_anything_else_is_no_action(url: object) -> None:
    assert safe_url(url) is None


def test_the_action_comes_from_the_data() -> None:
    event_type = SHIPPED.get("PAYMENT_SUCCESS")
    assert event_type is not None
    assert event_type.action_url({"actionUrl": "/payments/1"}) == "/payments/1"
    assert event_type.action_url({"actionUrl": "javascript:x"}) is None
    assert event_type.action_url({}) is None


# --- registering ---------------------------------------------------------------------------------


def offer(monkeypatch: pytest.MonkeyPatch, **members: object) -> None:
    """Pretend that a package is installed which offers `members` as event types."""
    module = types.ModuleType("acme_types")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, "acme_types", module)
    points = [EntryPoint(name, f"acme_types:{name}", ENTRY_POINTS) for name in [*members]]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: points if group == ENTRY_POINTS else [])


def test_a_type_of_another_package_is_found_by_its_entry_point(
    stock_low: StockLow, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, StockLow=StockLow)
    found = Registry.discover()
    assert found.names == SHIPPED.names | {"STOCK_LOW"}
    assert isinstance(found.get("STOCK_LOW"), StockLow)


def test_a_package_that_offers_something_else_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for offered in (object(), int, StockLow.LEFT):
        offer(monkeypatch, Thing=offered)
        with pytest.raises(SettingsError, match=r"acme_types:Thing .* no subclass of EventType"):
            Registry.discover()


def test_a_package_that_cannot_be_imported_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("x", "acme_missing:Thing", ENTRY_POINTS)]
    monkeypatch.setattr(registry, "entry_points", lambda *, group: points)
    with pytest.raises(SettingsError, match=r"acme_missing:Thing .* cannot be loaded"):
        Registry.discover()


def test_two_types_of_one_name_are_an_error_at_start(
    stock_low: StockLow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StockLow, "name", "PAYMENT_SUCCESS")
    offer(monkeypatch, StockLow=StockLow)
    with pytest.raises(SettingsError, match="Two event types are called PAYMENT_SUCCESS"):
        Registry.discover()


def test_another_packages_type_needs_its_english_alone(stock_low: StockLow) -> None:
    assert [*Registry([stock_low]).texts("STOCK_LOW")] == ["en"]


@pytest.mark.parametrize("locale", LOCALES)
def test_a_shipped_type_needs_every_language(
    stock_low: StockLow, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    monkeypatch.setattr(StockLow, "__module__", "nx_signal.activities.types")
    other = {"en": "vi", "vi": "en"}[locale]
    if locale == "en":
        write_catalog(stock_low.folder, "vi", ENGLISH)
        (stock_low.folder / "en" / "LC_MESSAGES" / "signal.po").unlink()
    assert (stock_low.folder / other / "LC_MESSAGES" / "signal.po").exists()
    with pytest.raises(SettingsError, match=f"STOCK_LOW has no text for stock_low.left in {locale}; add it"):
        Registry([stock_low])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ENGLISH.replace('"{count} items left"', '""'),
        ENGLISH.replace("\nmsgid ", "\n#, fuzzy\nmsgid "),
        ENGLISH.replace('msgid_plural "stock_low.left"\n', "")
        .replace("msgstr[0]", "msgstr")
        .split("msgstr[1]")[0],
    ],
    ids=["absent", "half", "fuzzy", "no plural"],
)
def test_an_unfinished_text_counts_as_missing(stock_low: StockLow, text: str) -> None:
    (stock_low.folder / "en" / "LC_MESSAGES" / "signal.po").write_text(text)
    with pytest.raises(SettingsError, match=r"STOCK_LOW has no text for stock_low\.left in en"):
        Registry([stock_low])


def test_a_broken_catalog_is_an_error_at_start(stock_low: StockLow) -> None:
    for text in (b"msgid nonsense", b'msgid "a"\nmsgstr "\xff"'):
        (stock_low.folder / "en" / "LC_MESSAGES" / "signal.po").write_bytes(text)
        with pytest.raises(SettingsError, match="is no catalog of messages"):
            Registry([stock_low])


def test_a_type_finds_its_catalogs_beside_its_module() -> None:
    event_type = SHIPPED.get("PAYMENT_SUCCESS")
    assert event_type is not None
    assert event_type.locales().joinpath("vi", "LC_MESSAGES", "signal.po").is_file()


async def test_what_is_said_in_english_for_want_of_a_translation_is_counted(stock_low: StockLow) -> None:
    registered, metrics = Registry([stock_low]), Metrics()
    database = MemoryDatabase(lambda: NOON)
    readers = [Member("ann", "o1", None, "staff", "en"), Member("binh", "o1", None, "staff", "vi")]
    await database.directory.load(Roster([Organizer("o1", None, ())], readers, []))
    handling = Handling(
        registry=registered,
        renderer=Renderer(registered, "UTC"),
        database=database,
        announce=len,
        metrics=metrics,
    )
    sent = {
        "eventType": "STOCK_LOW",
        "recipientScope": "org",
        "actorId": "till",
        "actor": {"id": "till", "name": "Till", "type": "DEVICE"},
        "organizerId": "o1",
        "data": {"left": 2},
        "occurredAt": "2026-01-01T10:00:00Z",
    }
    await handling.handle([Record(Position("t", 0, 0), None, json.dumps(sent).encode())], set())
    rows = [(await database.inbox.page(user, InboxFilter(), 1, None, 0)).rows[0] for user in ("ann", "binh")]
    assert [(row.locale, row.content) for row in rows] == [("en", "2 items left")] * 2
    counted = [
        (s.labels, s.value)
        for m in metrics.untranslated.collect()
        for s in m.samples
        if s.name.endswith("_total")
    ]
    assert counted == [({"type": "STOCK_LOW", "locale": "vi"}, 1)]
