"""What text of other systems loses before it is shown, and what it keeps."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nx_signal.activities import clean
from nx_signal.activities.clean import _INVISIBLE, _PLAIN, _SUSPECT, cleaned
from nx_signal.activities.event_type import one_line, safe_url

_SEEN = "a1Ễệ̂́\u0336 \u0e01\u0e49\u06cc\u0627\u0915\u094d\u0dcaq漢👩👧🏽🏴❤#\u20e3\u1820"
_NEVER = "\xad\u034f\u115f\u1160\u180e\u200b\u200f\u202e\u2060\u2066\u3164\ue000\ufeff\uffa0\U000f0000\x9b\0"
_AT_TIMES = "\u200c\u200d\ufe00\ufe0f\u180b\U000e0067\U000e0062\U000e0100\U000e007f\u2028\t"


@example("\u0627\u200c\u180b")  # a joiner beside a selector that is removed
@example("a\u180b\u200c\u0627")
@given(st.text(st.sampled_from(_SEEN + _NEVER + _AT_TIMES), max_size=60))
def test_text_of_any_scripts_with_what_is_not_seen_is_cleaned_once_for_all(text: str) -> None:
    assert one_line(one_line(text)) == one_line(text) and cleaned(cleaned(text)) == cleaned(text)
    assert not set(cleaned(text)) & set(
        "\xad\u034f\u115f\u180e\u202e\u2060\u2066\u3164\ue000\ufeff\U000f0000"
    )


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("An\u00adn A\u034fnn\u2060 \u115fAnn\u1160\u3164\uffa0\ufff9\ufffb", "Ann Ann Ann"),
        ("1\u180e000\u200b000\u2064 \u17b4\u17b5\u206a₫", "1000000 ₫"),
        ("a\u202e1\u202d2\u2067\u2068\u206fb\u2062", "a12b"),
        ("a\ue000\uf8ff\U000f1234\U0010fffdb", "ab"),
        ("a" + "".join(chr(0xE0000 + ord(c)) for c in "ignore the above\x7f") + "b", "ab"),
        (
            "👋" + "".join(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))),
            "👋",
        ),
        ("A\u200dn\u200cn\ufe0f 1\ufe0f2 \u200d👩\u200d", "Ann 12 👩"),
        ("🏴\U000e0067\U000e0062\U000e0061\U000e0061\U000e007f", "🏴"),
        ("a\u2800\u2800\u2029b\x1cc", "a b c"),
        ("x\u200e\u200f\u061cy", "xy"),
        ("\u0338\u0301Ann", "Ann"),
        ("Z" + "\u0336\u0489" * 300 + "y", "Z\u0336\u0489\u0336\u0489\u0336y"),
        ("Z" + "\u0336\u200d\ufe0f" * 200, "Z" + "\u0336" * 5),
    ],
)
def test_what_is_not_seen_cannot_disguise_a_name_or_an_amount(hidden: str, seen: str) -> None:
    assert one_line(hidden) == seen


@pytest.mark.parametrize(
    "text",
    [
        "Nguyễn Thị Hiền — đã thanh toán 1.250.000 ₫",
        unicodedata.normalize("NFD", "Nguyễn Thị Ngọc Ánh, Trần Ưỡn ẽ"),
        "می\u200cخواهم، نامه\u200cها",
        "مُحَمَّدٌ ﷺ 123",
        "क्\u200dष क्\u200cष नेपाली",
        "ශ්\u200dරී ලංකා",
        "র\u200d্যাম",
        "മലയാളം അവന്\u200d",
        "ກິນນ້ຳ กี่ ที่นี่",
        "שָׁלוֹם",
        "ᠮᠣᠩᠭᠣᠯ\u180b",
        "葛\U000e0100飾 東京",
        "👩\u200d👧 🧑🏽\u200d🚀 🏳\ufe0f\u200d🌈 ❤\ufe0f\u200d🔥 👁\ufe0f\u200d🗨\ufe0f ☎\ufe0e",
        "1\ufe0f\u20e3 🇻🇳",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    ],
)
def test_what_scripts_and_emoji_need_stays(text: str) -> None:
    assert one_line(text) == text


@pytest.mark.parametrize(
    "part", ["\u0336", "\u200d", "👩\u200d", "a\u0336\u200d", "\U000e0067", "\u0915\u094d\u200d", "\ufe0f"]
)
def test_cleaning_takes_linear_time(part: str) -> None:
    cleaned(part * 300_000)  # pytest's timeout ends it otherwise


def test_an_emoji_that_the_end_cuts_leaves_no_joiner() -> None:
    assert one_line("x" * 197 + "👩\u200d👩\u200d👧") == "x" * 197 + "👩…"


def test_an_address_with_what_is_not_seen_is_left_out() -> None:
    assert safe_url("https://shop.example/\u00adpay") is None and safe_url("/a\u2060b") is None


def test_what_needs_no_look_has_nothing_to_remove() -> None:
    plain = [char for code in range(0x3000) if _PLAIN.fullmatch(char := chr(code))]
    assert len(plain) > 1_000
    assert not any(_INVISIBLE.match(char) or _SUSPECT.match(char) for char in plain)


@given(st.text(st.sampled_from("a1ệ  \u0301\u0323\u0336\u0489\u034f\u200d#\u20e3"), max_size=40))
def test_text_that_needs_no_look_is_what_a_look_at_it_would_give(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "_PLAIN", re.compile("(?!)"))
        looked_at = cleaned(text)
    assert not _PLAIN.fullmatch(text) or looked_at == text


def test_decomposed_vietnamese_needs_no_look() -> None:
    assert _PLAIN.fullmatch(unicodedata.normalize("NFD", "Trần Ưỡn đã thanh toán 1.250.000 ₫"))
    assert not _PLAIN.fullmatch("a" + 6 * "\u0336") and not _PLAIN.fullmatch(" \u0301a")


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_text_is_cleaned_once_for_all(text: str) -> None:
    assert cleaned(cleaned(text)) == cleaned(text)
