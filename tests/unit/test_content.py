"""The content of notifications, in English and Vietnamese; no value in it becomes markup."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.content import ALLOWED_TAGS, Renderer, Template, negotiate
from nx_signal.activities.event_type import EventType, Message, MessageArguments, Money, Value, one_line
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected, SettingsError
from nx_signal.model import LOCALES, Activity, Json

NBSP, NNBSP = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}"
"""CLDR sets these between an amount and its unit, and before AM and PM."""

RENDERER = Renderer(Registry.shipped(), "Asia/Ho_Chi_Minh")


def activity(type: str, data: dict[str, Json]) -> Activity:
    return Activity(
        id="e1",
        type=type,
        scope="org",
        actor_id="u1",
        actor={},
        organizer_id="o1",
        merchant_id=None,
        recipient_ids=(),
        data=data,
        subject=None,
        occurred_at=datetime(2026, 11, 21, 3, 25, tzinfo=UTC),
    )


def content(locale: str, type: str, **data: Json) -> str:
    return RENDERER.render(activity(type, data), locale).content.replace(NBSP, " ").replace(NNBSP, " ")


# --- the shipped texts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type", "data", "english", "vietnamese"),
    [
        (
            "PAYMENT_SUCCESS",
            {"payment": {"subject": "Order 42", "amount": 1250000, "currency": "VND"}},
            "Payment of ₫1,250,000 for Order 42 succeeded on Nov 21, 2026, 10:25 AM",
            "Thanh toán thành công 1.250.000 ₫ cho Order 42 lúc 10:25 21 thg 11, 2026",
        ),
        (
            "PAYMENT_SUCCESS",
            {"payment": {"amount": "1250000"}},
            "Payment of ₫1,250,000 succeeded on Nov 21, 2026, 10:25 AM",
            "Thanh toán thành công 1.250.000 ₫ lúc 10:25 21 thg 11, 2026",
        ),
        (
            "PAYMENT_SUCCESS",
            {"payment": {"amount": 1250000.5, "currency": "usd", "subject": "\u202e \n"}},
            "Payment of $1,250,000.50 succeeded on Nov 21, 2026, 10:25 AM",
            "Thanh toán thành công 1.250.000,50 US$ lúc 10:25 21 thg 11, 2026",
        ),
        (
            "PAYMENT_SUCCESS",
            {"payment": {"amount": -5}},
            "Payment of -₫5 succeeded on Nov 21, 2026, 10:25 AM",
            "Thanh toán thành công -5 ₫ lúc 10:25 21 thg 11, 2026",
        ),
        (
            "ORDER_COMPLETED",
            {},
            "An order was completed on Nov 21, 2026, 10:25 AM",
            "Một đơn hàng đã hoàn tất lúc 10:25 21 thg 11, 2026",
        ),
        (
            "ORDER_COMPLETED",
            {"order": {"total": 90000}},
            "An order of ₫90,000 was completed on Nov 21, 2026, 10:25 AM",
            "Một đơn hàng trị giá 90.000 ₫ đã hoàn tất lúc 10:25 21 thg 11, 2026",
        ),
        (
            "ORDER_COMPLETED",
            {"order": {"id": "o-9", "number": None}},
            "Order o-9 was completed on Nov 21, 2026, 10:25 AM",
            "Đơn hàng o-9 đã hoàn tất lúc 10:25 21 thg 11, 2026",
        ),
        (
            "ORDER_COMPLETED",
            {"order": {"id": "o-9", "number": 42, "total": "90000.50", "currency": "EUR"}},
            "Order 42 of €90,000.50 was completed on Nov 21, 2026, 10:25 AM",
            "Đơn hàng 42 trị giá 90.000,50 € đã hoàn tất lúc 10:25 21 thg 11, 2026",
        ),
        ("INQUIRY_SUBMITTED", {"inquiry": None}, "You have a new inquiry", "Bạn có một yêu cầu tư vấn mới"),
        (
            "INQUIRY_SUBMITTED",
            {"inquiry": {"name": "Lan"}},
            "New inquiry from Lan",
            "Yêu cầu tư vấn mới từ Lan",
        ),
        (
            "INQUIRY_SUBMITTED",
            {"inquiry": {"subject": "Giá sỉ", "message": "Xin chào"}},
            "New inquiry: Giá sỉ",
            "Yêu cầu tư vấn mới: Giá sỉ",
        ),
        (
            "INQUIRY_SUBMITTED",
            {"inquiry": {"name": "Lan", "message": "Xin\nchào"}},
            "New inquiry from Lan: Xin chào",
            "Yêu cầu tư vấn mới từ Lan: Xin chào",
        ),
        (
            "DEVICE_OFFLINE",
            {"device": {"id": 7}},
            "Device 7 went offline on Nov 21, 2026, 10:25 AM",
            "Thiết bị 7 đã mất kết nối lúc 10:25 21 thg 11, 2026",
        ),
        (
            "DEVICE_OFFLINE",
            {"since": "2026-11-20T23:00:00Z"},
            "A device went offline on Nov 21, 2026, 6:00 AM",
            "Một thiết bị đã mất kết nối lúc 06:00 21 thg 11, 2026",
        ),
        (
            "DEVICE_ONLINE",
            {"device": {"id": 7, "name": "POS 1"}},
            "Device POS 1 came online on Nov 21, 2026, 10:25 AM",
            "Thiết bị POS 1 đã kết nối trở lại lúc 10:25 21 thg 11, 2026",
        ),
        (
            "DEVICE_ONLINE",
            {"device": {}},
            "A device came online on Nov 21, 2026, 10:25 AM",
            "Một thiết bị đã kết nối trở lại lúc 10:25 21 thg 11, 2026",
        ),
    ],
)
def test_a_shipped_type_is_rendered(type: str, data: dict[str, Json], english: str, vietnamese: str) -> None:
    assert content("en", type, **data) == english
    assert content("vi", type, **data) == vietnamese


def test_amounts_and_times_are_spaced_as_cldr_has_them() -> None:
    payment = activity("PAYMENT_SUCCESS", {"payment": {"amount": 1250000}})
    assert RENDERER.render(payment, "vi").content.startswith(f"Thanh toán thành công 1.250.000{NBSP}₫ ")
    assert RENDERER.render(payment, "en").content.endswith(f"10:25{NNBSP}AM")


def test_additional_data_is_let_through() -> None:
    payment = {"amount": 1, "gateway": {"name": "x"}}
    assert "₫1" in content("en", "PAYMENT_SUCCESS", payment=payment, trace=[1])


@pytest.mark.parametrize("amount", [True, "abc", None, 1e308, [1], {"a": 1}])
def test_an_invalid_amount_is_rejected(amount: object) -> None:
    with pytest.raises(MessageRejected, match=r"^data\.payment\.amount"):
        content("en", "PAYMENT_SUCCESS", payment={"amount": amount})


def test_an_invalid_moment_in_the_data_is_rejected() -> None:
    with pytest.raises(MessageRejected, match=r"^data\.since must be an ISO 8601"):
        content("en", "DEVICE_OFFLINE", since="yesterday")


def test_a_type_that_is_not_registered_is_rejected() -> None:
    with pytest.raises(MessageRejected, match="NEW_THING"):
        content("en", "NEW_THING")


def test_dates_are_of_the_time_zone_given() -> None:
    late = Renderer(Registry.shipped(), "America/Los_Angeles").render(activity("ORDER_COMPLETED", {}), "en")
    assert late.content == f"An order was completed on Nov 20, 2026, 7:25{NNBSP}PM"


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("vi", "vi"),
        ("vi-VN", "vi"),
        ("vi_VN", "vi"),
        ("VI", "vi"),
        ("en_US", "en"),
        ("en-GB", "en"),
        ("fr", "en"),
        ("", "en"),
        ("-", "en"),
        ("vietnamese", "en"),
        ("\0" * 9, "en"),
    ],
)
def test_a_language_is_negotiated_to_a_shipped_one(requested: str, expected: str) -> None:
    assert negotiate(requested) == expected
    assert RENDERER.render(activity("ORDER_COMPLETED", {}), requested).locale == expected


def test_the_action_is_a_safe_url_or_none() -> None:
    def action(url: object) -> str | None:
        return RENDERER.render(activity("ORDER_COMPLETED", {"actionUrl": url}), "en").action_url

    assert action("/orders/42") == "/orders/42"
    assert action("https://shop.example/orders/42") == "https://shop.example/orders/42"
    assert action("javascript:alert(1)") is None and action("//evil.example") is None and action(5) is None


# --- no value becomes markup ---------------------------------------------------------------------


class Outline(HTMLParser):
    """The tags in their order with their attributes, and the text between them."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[Any, ...]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(("/" + tag, ()))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError("a declaration")

    def handle_pi(self, data: str) -> None:
        raise AssertionError("an instruction")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("a declaration")


MARKS = [
    "<",
    ">",
    "&",
    '"',
    "'",
    "`",
    "*",
    "**",
    "_",
    "~~",
    "[",
    "](",
    ")",
    "!",
    "#",
    "\\",
    "|",
    "<!--",
    "-->",
]
TAGS = ["<script>", "</p>", "<a href=javascript:x>", "&lt;", "&#60;"]
OTHERS = [
    "{amount}",
    "{name}",
    "{0.__class__}",
    "{",
    "}",
    "\0",
    "\n\n",
    "\u202e",
    "\ue000",
    "\ue001",
    " ",
    "a",
    "- ",
]
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(st.sampled_from(MARKS + TAGS + OTHERS)).map("".join),
)


@pytest.mark.parametrize("locale", LOCALES)
@given(name=HOSTILE, topic=HOSTILE)
def test_no_value_changes_the_structure_of_the_html(locale: str, name: str, topic: str) -> None:
    # A letter in front, so that the value is never empty and the message always the same.
    inquiry = {"name": "x" + name, "subject": "x" + topic}
    rendered = RENDERER.render(activity("INQUIRY_SUBMITTED", {"inquiry": inquiry}), locale)
    plain = RENDERER.render(activity("INQUIRY_SUBMITTED", {"inquiry": {"name": "a", "subject": "b"}}), locale)
    outline, expected = Outline(rendered.content_html), Outline(plain.content_html)
    assert outline.tags == expected.tags
    assert {tag.lstrip("/") for tag, _ in outline.tags} <= ALLOWED_TAGS
    assert outline.text == rendered.content


@pytest.mark.parametrize("locale", LOCALES)
@given(name=HOSTILE, topic=HOSTILE)
def test_values_appear_in_the_text_as_they_came(locale: str, name: str, topic: str) -> None:
    inquiry = {"name": "x" + name, "subject": "x" + topic}
    rendered = RENDERER.render(activity("INQUIRY_SUBMITTED", {"inquiry": inquiry}), locale)
    beginning = {"en": "New inquiry from ", "vi": "Yêu cầu tư vấn mới từ "}[locale]
    assert rendered.content == f"{beginning}{one_line('x' + name)}: {one_line('x' + topic)}"


def test_a_hostile_name_is_text_in_both_forms() -> None:
    name = "**Lan** <script>alert('1')</script> [x](javascript:x) {topic} {0.__class__} & &amp;"
    inquiry = {"inquiry": {"name": name, "subject": "s"}}
    rendered = RENDERER.render(activity("INQUIRY_SUBMITTED", inquiry), "en")
    assert rendered.content == f"New inquiry from {name}: s"
    assert rendered.content_html == f"<p>New inquiry from <strong>{html.escape(name)}</strong>: s</p>"


# --- templates -----------------------------------------------------------------------------------


def test_a_template_is_markdown_and_its_text_form_is_without_the_marks() -> None:
    template = Template(
        "Hi *{name}*,  \nsee `{code}` & [the **order**](https://x.example/?a=1&b=2)\n\n- {name}"
    )
    text, markup = template.fill({"name": "<b>", "code": "*"})
    assert text == "Hi <b>,\nsee * & the order\n<b>"
    assert markup == (
        "<p>Hi <em>&lt;b&gt;</em>,<br>\nsee <code>*</code> &amp; "
        '<a href="https://x.example/?a=1&amp;b=2" rel="noopener">the <strong>order</strong></a></p>\n'
        "<ul>\n<li>&lt;b&gt;</li>\n</ul>"
    )


@pytest.mark.parametrize(
    ("source", "markup"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("a <img src=x onerror=y> b", "<p>a &lt;img src=x onerror=y&gt; b</p>"),
        ("![logo](https://x.example/l.png)", "<p></p>"),
        ("[x](ftp://x.example)", '<p><a rel="noopener">x</a></p>'),
        ("[x](/orders)", '<p><a href="/orders" rel="noopener">x</a></p>'),
        ("# Title", "Title"),
    ],
)
def test_a_template_gives_allowed_tags_only(source: str, markup: str) -> None:
    rendered = Template(source).fill({})[1]
    assert rendered.removeprefix("<p>").removesuffix("</p>") == markup.removeprefix("<p>").removesuffix(
        "</p>"
    )
    assert {tag.lstrip("/") for tag, _ in Outline(rendered).tags} <= ALLOWED_TAGS


@pytest.mark.parametrize(
    "source",
    [
        "{name.__class__}",
        "{0}",
        "{}",
        "{Name}",
        "{name!r}",
        "{name:>10}",
        "{ name }",
        "}{",
        "{{name}}",
        "\ue000",
        "[x]({url})",
        "[x](https://x.example/{url})",
        "[{url}](/{url})",
        '[x](/a "{title}")',
        "![{alt}](/x.png)",
        "```{lang}\nx\n```",
    ],
)
def test_a_template_that_cannot_be_filled_safely_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="placeholder"):
        Template(source)


# --- types of other packages ---------------------------------------------------------------------


class Stock(msgspec.Struct):
    left: int
    name: str = "tea"


class StockLow(EventType[Stock]):
    LEFT = Message("left", ("count", "name"))
    FACTS = Message("facts", ("ratio", "price", "when"))

    name = "STOCK_LOW"
    schema = Stock
    messages = (LEFT, FACTS)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def message_arguments(self, data: Stock, activity: Activity) -> MessageArguments:
        if data.left >= 0:
            return MessageArguments(self.LEFT, {"count": data.left, "name": data.name})
        facts: dict[str, Value] = {
            "ratio": Decimal("1234.5"),
            "price": Money(Decimal(5), "VND"),
            "when": activity.occurred_at,
        }
        return MessageArguments(self.FACTS, facts)

    def locales(self) -> Path:
        return self.folder

    def action_url(self, data: Any) -> str | None:
        return "javascript:alert(1)" if data["left"] else "/stock"


PO = {
    "en": """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "left"
msgid_plural "left"
msgstr[0] "The last **{name}**"
msgstr[1] "{count} of **{name}** left"

msgid "facts"
msgstr "{ratio} and {price} at {when}"
""",
    "vi": """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

msgid "left"
msgid_plural "left"
msgstr[0] "Còn {count} **{name}**"
""",
}


def write_catalogs(folder: Path, **replaced: str) -> None:
    for locale, text in (PO | replaced).items():
        po = folder / locale / "LC_MESSAGES" / "signal.po"
        po.parent.mkdir(parents=True, exist_ok=True)
        po.write_text(text, "utf-8")


def stock_renderer(folder: Path, **replaced: str) -> Renderer:
    write_catalogs(folder, **replaced)
    return Renderer(Registry([StockLow(folder)]), "UTC")


def test_a_count_picks_the_plural_form_of_the_language(tmp_path: Path) -> None:
    renderer = stock_renderer(tmp_path)

    def rendered(left: int, locale: str) -> str:
        return renderer.render(activity("STOCK_LOW", {"left": left}), locale).content

    assert [rendered(n, "en") for n in (0, 1, 2, 1200)] == [
        "0 of tea left",
        "The last tea",
        "2 of tea left",
        "1,200 of tea left",
    ]
    assert [rendered(n, "vi") for n in (0, 1, 1200)] == ["Còn 0 tea", "Còn 1 tea", "Còn 1.200 tea"]


def test_what_is_not_translated_is_rendered_in_english_altogether(tmp_path: Path) -> None:
    rendered = stock_renderer(tmp_path).render(activity("STOCK_LOW", {"left": -1}), "vi")
    assert rendered.locale == "en"
    assert rendered.content == f"1,234.5 and ₫5 at Nov 21, 2026, 3:25{NNBSP}AM UTC"


def test_text_of_another_packages_type_is_cleaned_too(tmp_path: Path) -> None:
    low = activity("STOCK_LOW", {"left": 1, "name": "<b>\u202e\0\n" + "x" * 300})
    rendered = stock_renderer(tmp_path).render(low, "en")
    assert rendered.content == "The last <b> " + "x" * 195 + "…"
    assert rendered.content_html == "<p>The last <strong>&lt;b&gt; " + "x" * 195 + "…</strong></p>"


def test_a_type_of_another_package_cannot_give_an_unsafe_action(tmp_path: Path) -> None:
    renderer = stock_renderer(tmp_path)
    assert renderer.render(activity("STOCK_LOW", {"left": 1}), "en").action_url is None
    assert renderer.render(activity("STOCK_LOW", {"left": 0}), "en").action_url == "/stock"


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("{count} **{name}**", "{count}"),
        ("{count} **{name}**", "{count} {nom} {name}"),
        ("{count} **{name}**", "{count} {name.__class__}"),
        ("{count} **{name}**", "{count} [x](/{name})"),
    ],
)
def test_a_translation_with_other_placeholders_is_an_error_at_start(
    tmp_path: Path, was: str, is_now: str
) -> None:
    with pytest.raises(SettingsError, match="The text left of STOCK_LOW in vi "):
        stock_renderer(tmp_path, vi=PO["vi"].replace(was, is_now))
