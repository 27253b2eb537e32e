"""An amount is shown with all the digits that were sent, from the bytes of a message to the text."""

from __future__ import annotations

import json
import re
from decimal import Context, Decimal

import pytest
from babel.numbers import get_currency_precision, list_currencies
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.content import Renderer
from nx_signal.activities.message import decode
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected
from nx_signal.model import LOCALES, Activity, Position, Record

REGISTRY = Registry.shipped()
RENDERER = Renderer(REGISTRY, "Asia/Ho_Chi_Minh")
MESSAGE = (
    '{"eventType": "PAYMENT_SUCCESS", "recipientScope": "org", "actorId": "a", "organizerId": "o", '
    '"occurredAt": "2026-11-21T10:25:00Z", "data": {"payment": {"amount": %s, "currency": %s}}}'
)
SEPARATORS = {"en": (",", "."), "vi": (".", ",")}
"""Between groups, and before the decimals."""


def shown(locale: str, amount: str, currency: str | None) -> str:
    """The amount as the text has it. `amount` is JSON."""
    value = (MESSAGE % (amount, json.dumps(currency))).encode()
    activity = decode(Record(Position("t", 0, 0), None, value), REGISTRY.names)
    assert isinstance(activity, Activity)
    content = RENDERER.render(activity, locale).content.replace("\N{NO-BREAK SPACE}", " ")
    found = re.fullmatch(r"(?:Payment of|Thanh toán thành công) (.+) (?:succeeded on|lúc) .+", content)
    assert found is not None, content
    return found[1]


@pytest.mark.parametrize(
    ("amount", "currency", "english", "vietnamese"),
    [
        ("12.50", "RSD", "RSD12.50", "12,50 RSD"),
        ('"12.50"', "RSD", "RSD12.50", "12,50 RSD"),
        ("1.55", "RSD", "RSD1.55", "1,55 RSD"),
        ('"0.00001234"', "BTC", "BTC0.00001234", "0,00001234 BTC"),
        ("1.234e-5", "BTC", "BTC0.00001234", "0,00001234 BTC"),
        ("1E+3", "usd", "$1,000.00", "1.000,00 US$"),
        ("1250000.0", "VND", "₫1,250,000", "1.250.000 ₫"),
        ('"1250000.0000"', "VND", "₫1,250,000", "1.250.000 ₫"),
        ("1250000.5", None, "₫1,250,000.5", "1.250.000,5 ₫"),
        ("-1.5", "KWD", "-KWD1.500", "-1,500 KWD"),
        ("-0.00", "USD", "$0.00", "0,00 US$"),
        ("19.9", "ZZZ", "ZZZ19.90", "19,90 ZZZ"),
        (
            "999999999999999.123456789012345678",
            "EUR",
            "€999,999,999,999,999.123456789012345678",
            "999.999.999.999.999,123456789012345678 €",
        ),
    ],
)
def test_an_amount_is_shown_with_the_usual_decimals_at_least_and_with_all_that_were_sent(
    amount: str, currency: str | None, english: str, vietnamese: str
) -> None:
    assert shown("en", amount, currency) == english
    assert shown("vi", amount, currency) == vietnamese


@pytest.mark.parametrize(
    ("amount", "currency", "reason"),
    [
        ("1e400", "USD", r"data\.payment\.amount must be a number below 1e309"),
        ("1e15", "USD", r"data\.payment\.amount must be less than 1000000000000000"),
        ('"1e15"', "USD", r"data\.payment\.amount must be less than"),
        ("1e-19", "ETH", r"data\.payment\.amount must have at most 18 decimals"),
        ('"12,50"', "RSD", r"data\.payment\.amount must be a number such as"),
        ("true", "RSD", r"data\.payment\.amount must be a number such as"),
        ("1", "US", r"data\.payment\.currency must be three letters"),
        ("1", "USDT", r"data\.payment\.currency must be three letters"),
    ],
)
def test_an_amount_that_cannot_be_shown_rightly_is_a_dead_letter_with_its_reason(
    amount: str, currency: str, reason: str
) -> None:
    with pytest.raises(MessageRejected, match=f"^{reason}"):
        shown("en", amount, currency)


EXACT = Context(prec=40)
AMOUNTS = st.integers(0, 18).flatmap(
    lambda places: st.integers(1 - 10 ** (15 + places), 10 ** (15 + places) - 1).map(
        lambda digits: Decimal(digits).scaleb(-places, EXACT)
    )
)
FORMS = st.sampled_from(["{0}", "{0:f}", "{0:e}", '"{0:f}"', '"{0:e}"'])
KNOWN_CODES = sorted(code for code in list_currencies() if re.fullmatch("[A-Z]{3}", code))
CURRENCIES = st.sampled_from(KNOWN_CODES) | st.from_regex(r"[A-Za-z]{3}", fullmatch=True)


@pytest.mark.parametrize("locale", LOCALES)
@given(AMOUNTS, FORMS, CURRENCIES)
def test_no_digit_of_any_amount_is_lost(locale: str, amount: Decimal, form: str, currency: str) -> None:
    text = shown(locale, form.format(amount), currency)
    group, point = SEPARATORS[locale]
    number = re.search(rf"[0-9][0-9{re.escape(group)}]*(?:{re.escape(point)}[0-9]+)?", text)
    assert number is not None
    digits = number[0].replace(group, "").replace(point, ".")
    assert Decimal(digits) == amount.copy_abs()
    assert text.startswith("-") == (amount < 0)
    usual, sent = get_currency_precision(currency.upper()), max(0, -int(amount.as_tuple().exponent))
    assert usual <= len(digits.partition(".")[2]) <= max(usual, sent)
