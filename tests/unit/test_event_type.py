"""Event types: the values that fill their messages, the data that the shipped ones take."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.event_type import Amount, Money, money, one_line, safe_url
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected

SHIPPED = Registry.shipped()


@pytest.mark.parametrize(
    ("name", "data", "beginning"),
    [
        ("PAYMENT_SUCCESS", {}, "data.payment is missing"),
        ("PAYMENT_SUCCESS", {"payment": None}, "data.payment: expected"),
        ("PAYMENT_SUCCESS", {"payment": {}}, "data.payment.amount is missing"),
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
        (Decimal("12.50"), "12.50"),
        ("1E+3", "1000"),
        ("1e-8", "0.00000001"),
        (Decimal("999999999999999.000000000000000001"), "999999999999999.000000000000000001"),
    ],
)
def test_an_amount_is_a_number_or_a_numeral_and_stays_exact(amount: Amount, exact: str) -> None:
    assert money(amount, "USD", "data.total") == Money(Decimal(exact), "USD")


@pytest.mark.parametrize(
    "amount",
    [
        "abc",
        "",
        " 1",
        "1e15",
        "1e400",
        "1e",
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
        Decimal("NaN"),
        Decimal("-Infinity"),
        Decimal("1E+400"),
        True,
        None,
        [1],
        {"a": 1},
    ],
)
def test_any_other_amount_is_refused_by_name(amount: Amount) -> None:
    with pytest.raises(MessageRejected, match=r"^data\.payment\.amount must be "):
        money(amount, None, "data.payment.amount")


def test_an_amount_of_more_than_18_decimals_is_refused_by_name() -> None:
    with pytest.raises(MessageRejected, match=r"^data\.total must have at most 18 decimals"):
        money("0.0000000000000000001", "ETH", "data.total")


def test_a_float_whose_digits_may_not_be_those_sent_is_refused() -> None:
    """A type of another package whose schema has `float` for an amount."""
    assert money(0.1, None, "data.total").amount == Decimal("0.1")
    with pytest.raises(MessageRejected, match=r"^data\.total has more digits than a float"):
        money(float("1234567890123.4567"), None, "data.total")


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
def test_anything_else_is_not_an_action(url: object) -> None:
    assert safe_url(url) is None


def test_the_action_comes_from_the_data() -> None:
    event_type = SHIPPED.get("PAYMENT_SUCCESS")
    assert event_type is not None
    assert event_type.action_url({"actionUrl": "/payments/1"}) == "/payments/1"
    assert event_type.action_url({"actionUrl": "javascript:x"}) is None
    assert event_type.action_url({}) is None
