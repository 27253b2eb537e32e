"""A package that adds an event type: how a mistake in it is reported when the server starts."""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from nx_signal import plugin
from nx_signal.activities.loader import discover
from nx_signal.activities.types import SHIPPED
from nx_signal.errors import SettingsError
from nx_signal.testing import check

TYPE = """
from datetime import datetime
from decimal import Decimal
import msgspec
from nx_signal.plugin import *

class Stock(msgspec.Struct):
    left: int
    item: str = "tea"

class StockLow(EventType[Stock]):
    LEFT = Message("left", ("count", "item"))
    GONE = Message("gone", ("item",))

    name = "STOCK_LOW"
    schema = Stock
    messages = (LEFT, GONE)
    examples = ({"left": 2}, {"left": 0})

    def message_arguments(self, data, activity):
        if data.left:
            return MessageArguments(self.LEFT, {"count": data.left, "item": data.item})
        return MessageArguments(self.GONE, {"item": data.item})
"""

ENGLISH = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "left"
msgid_plural "left"
msgstr[0] "The last {item}"
msgstr[1] "{count} of {item} left"

msgid "gone"
msgstr "No {item} left"
"""

VIETNAMESE = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

msgid "left"
msgid_plural "left"
msgstr[0] "Còn {count} {item}"

msgid "gone"
msgstr "Hết {item}"
"""

_numbers = itertools.count()


@dataclass
class Package:
    """A distribution `acme-signal` 1.2 in a folder on sys.path."""

    site: Path
    module: str

    def write(self, path: str, text: str) -> None:
        file = self.site / self.module / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), "utf-8")

    def replace(self, path: str, old: str, new: str) -> None:
        file = self.site / self.module / path
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")

    def offer(self, *values: str, name: str = "acme-signal", version: str = "1.2") -> None:
        """Write the metadata of a distribution with these entry points."""
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"t{n} = {value}" for n, value in enumerate(values)]
        (info / "entry_points.txt").write_text("\n".join(["[nx_signal.event_types]", *lines, ""]))

    def error(self) -> str:
        with pytest.raises(SettingsError) as caught:
            discover()
        return str(caught.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """One without a mistake."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    package = Package(tmp_path, f"acme_{next(_numbers)}")
    package.write("__init__.py", TYPE)
    package.write("locales/en/LC_MESSAGES/signal.po", ENGLISH)
    package.write("locales/vi/LC_MESSAGES/signal.po", VIETNAMESE)
    package.offer(f"{package.module}:StockLow")
    return package


def test_an_installed_type_is_registered_beside_the_shipped_ones(package: Package) -> None:
    assert discover().names == {each.name for each in SHIPPED} | {"STOCK_LOW"}


def test_without_packages_the_shipped_types_are_registered() -> None:
    assert discover().names == {each.name for each in SHIPPED}


def test_check_returns_each_example_in_each_language(package: Package) -> None:
    rendered = check(type(discover().get("STOCK_LOW")))
    assert [(each.locale, each.content) for each in rendered] == [
        ("en", "2 of tea left"),
        ("vi", "Còn 2 tea"),
        ("en", "No tea left"),
        ("vi", "Hết tea"),
    ]


def test_everything_in_the_public_module_is_exported_and_documented() -> None:
    document = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    for name in plugin.__all__:
        assert hasattr(plugin, name)
        assert f"`{name}`" in document, f"docs/plugins.md lacks {name}"


# --- mistakes in the class -----------------------------------------------------------------------

IN_THE_CLASS = [
    ("no name", '    name = "STOCK_LOW"\n', "", "its `name` is missing; set it"),
    ("empty name", '"STOCK_LOW"', '""', "its `name` is ''; set it"),
    ("name is not a str", '"STOCK_LOW"', "5", "its `name` is 5; set it"),
    ("name in lower case", '"STOCK_LOW"', '"stock_low"', "its `name` is 'stock_low'; set it"),
    ("name with spaces", '"STOCK_LOW"', '"STOCK LOW"', "its `name` is 'STOCK LOW'; set it"),
    ("name of a shipped type", '"STOCK_LOW"', '"PAYMENT_SUCCESS"', "belongs to nx-signal itself; choose"),
    ("no schema", "    schema = Stock\n", "", "its `schema` is missing; set it"),
    ("schema is not a Struct", "schema = Stock", "schema = dict", "its `schema` is <class 'dict'>; set it"),
    ("schema is an instance", "schema = Stock", "schema = Stock(1)", "its `schema` is Stock(left=1"),
    ("no messages", "    messages = (LEFT, GONE)\n", "", "its `messages` are missing; set them"),
    ("empty messages", "(LEFT, GONE)", "()", "its `messages` are empty; set them"),
    ("one message without a tuple", "(LEFT, GONE)", "LEFT", "its `messages` are Message("),
    ("messages of another kind", "(LEFT, GONE)", '("left", "gone")', "hold 'left'; each must be a Message"),
    ("two messages of one id", 'Message("gone"', 'Message("left"', "two messages have the id left; rename"),
    ("a message without an id", 'Message("gone"', 'Message(""', "a message's id is ''; set it"),
    ("placeholders are a str", '("item",)', '("item")', "the placeholders of gone are 'item'; set them"),
    ("placeholder in capitals", '("item",)', '("Item",)', "the placeholders of gone are ('Item',); set them"),
    ("placeholder twice", '("item",)', '("item", "item")', "gone declares a placeholder twice; remove one"),
    (
        "no examples",
        '    examples = ({"left": 2}, {"left": 0})\n',
        "",
        "its `examples` are missing; set them",
    ),
    ("empty examples", '({"left": 2}, {"left": 0})', "()", "its `examples` are empty; set them"),
    (
        "one example without a tuple",
        '({"left": 2}, {"left": 0})',
        '{"left": 2}',
        "its `examples` are {'left'",
    ),
    ("a message without an example", ', {"left": 0})', ",)", "none of its examples leads to gone; add one"),
    ("example of other data", '{"left": 0}', '{"left": "x"}', "example 2 is refused (data.left: expected"),
    ("pushed_to_members is not a bool", "schema =", "pushed_to_members = 1\n    schema =", "is not a bool"),
    (
        "method left out",
        "def message_arguments",
        "def phrase",
        "it does not implement message_arguments; add",
    ),
    (
        "constructor with arguments",
        "    def message_arguments",
        "    def __init__(self, x): pass\n    def message_arguments",
        "STOCK_LOW cannot be constructed (TypeError: ",
    ),
    (
        "constructor that raises",
        "    def message_arguments",
        "    def __init__(self): 1 / 0\n    def message_arguments",
        "STOCK_LOW cannot be constructed (ZeroDivisionError: ",
    ),
]

IN_THE_ARGUMENTS = [
    ("no value", '"count": data.left, ', "", "example 1: left is not given its placeholder count; add"),
    (
        "another value",
        '{"item": data.item})',
        '{"item": data.item, "x": 1})',
        "gone is given x, which is not",
    ),
    (
        "nothing returned",
        "        return MessageArguments(self.GONE",
        "        (self.GONE",
        "returns None; return",
    ),
    ("a str returned", "return MessageArguments(self.GONE", "return str(self.GONE", "raises TypeError"),
    ("an unlisted message", "(LEFT, GONE)", "(LEFT,)", "the message gone is not in `messages`; add it"),
    (
        "values are not a dict",
        '{"item": data.item})',
        '["item"])',
        "the values of gone are ['item']; use a dict",
    ),
    ("a float", '{"item": data.item})', '{"item": 0.5})', "the placeholder item of gone is 0.5; use a str"),
    ("a bool", '{"item": data.item})', '{"item": True})', "the placeholder item of gone is True; use a str"),
    ("None", '{"item": data.item})', '{"item": None})', "the placeholder item of gone is None; use a str"),
    (
        "a naive datetime",
        '{"item": data.item})',
        '{"item": datetime(2026, 1, 1)})',
        "without a time zone; use",
    ),
    ("an infinite number", '{"item": data.item})', '{"item": Decimal("inf")})', "not a finite number; use"),
    ("money of a float", '{"item": data.item})', '{"item": Money(0.5, "VND")})', "make it with money()"),
    ("money without a currency", '{"item": data.item})', '{"item": Money(Decimal(1), "x")})', "with money()"),
    ("a count that is not an int", '"count": data.left', '"count": "2"', "is '2'; it picks the plural form"),
    ("an error", "if data.left:", "if data.right:", "example 1 raises AttributeError: "),
    (
        "a field that messages may leave out",
        "if data.left:",
        'if activity.actor["name"] and data.left:',
        "example 1 raises KeyError: 'name' where actor, merchantId and subject are absent; correct",
    ),
    (
        "an action_url that raises",
        "    def message_arguments",
        "    def action_url(self, data): 1 / 0\n    def message_arguments",
        "example 1 cannot be rendered in en (ZeroDivisionError: ",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [pytest.param(*rest, id=mistake) for mistake, *rest in IN_THE_CLASS + IN_THE_ARGUMENTS],
)
def test_a_mistake_in_the_class_stops_the_start_with_package_and_correction(
    package: Package, old: str, new: str, sentence: str
) -> None:
    package.replace("__init__.py", old, new)
    error = package.error()
    assert error.startswith(
        f"The event type {package.module}:StockLow of the package acme-signal 1.2 cannot be used: "
    )
    assert sentence in error


def test_a_type_that_depends_on_more_than_its_data_gives_a_whole_activity_as_example(
    package: Package,
) -> None:
    package.replace("__init__.py", "if data.left:", 'if activity.actor.get("type") != "DEVICE":')
    assert "none of its examples leads to gone" in package.error()
    del sys.modules[package.module]
    activity = (
        'Activity("e", "STOCK_LOW", "users", "a", {"type": "DEVICE"}, "o", None, (), {"left": 0}, None, '
        "moment('2026-01-01', 'occurredAt'))"
    )
    package.replace("__init__.py", '{"left": 0}', activity)
    assert "STOCK_LOW" in discover().names


def test_two_packages_with_one_name_are_both_named(package: Package) -> None:
    other = Package(package.site, f"other_{package.module}")
    other.write("__init__.py", TYPE)
    other.write("locales/en/LC_MESSAGES/signal.po", ENGLISH)
    other.offer(f"{other.module}:StockLow", name="other-signal", version="3.0")
    assert (
        f"The event type {other.module}:StockLow of the package other-signal 3.0 cannot be used: the name "
        f"STOCK_LOW belongs to {package.module}:StockLow of the package acme-signal 1.2; choose another."
    ) in package.error()


# --- mistakes in the entry point and its module --------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        (":Missing", "has no Missing; correct the entry point."),
        (":StockLow.Missing", "has no StockLow.Missing; correct the entry point."),
        ("", "it is not a subclass of EventType; name the class itself."),
        (":Stock", "it is not a subclass of EventType"),
        (":StockLow.LEFT", "it is not a subclass of EventType"),
        (".missing:StockLow", ".missing cannot be imported (ModuleNotFoundError: No module named"),
    ],
)
def test_an_entry_point_that_does_not_name_a_type_stops_the_start(
    package: Package, attribute: str, sentence: str
) -> None:
    package.offer(package.module + attribute)
    error = package.error()
    assert sentence in error
    assert "of the package acme-signal 1.2 cannot be used" in error


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)."),
        ("import acme_that_is_missing", "cannot be imported (ModuleNotFoundError: "),
        ("raise SystemExit('usage: acme')", "cannot be imported (SystemExit: usage: acme)."),
        ("def broken(:", "cannot be imported (SyntaxError: "),
        ("from nx_signal.plugin import nothing", "cannot be imported (ImportError: "),
    ],
)
def test_a_module_whose_import_fails_stops_the_start(package: Package, statement: str, sentence: str) -> None:
    package.write("__init__.py", statement)
    assert sentence in package.error()


def test_a_module_outside_a_package_has_no_catalogs_and_stops_the_start(package: Package) -> None:
    (package.site / f"{package.module}_single.py").write_text(TYPE)
    package.offer(f"{package.module}_single:StockLow")
    assert f"the module {package.module}_single is not in a package, so it has no folder" in package.error()


# --- mistakes in the catalogs --------------------------------------------------------------------

EN, VI = "locales/en/LC_MESSAGES/signal.po", "locales/vi/LC_MESSAGES/signal.po"

IN_THE_CATALOGS = [
    (
        "absent",
        EN,
        'msgid "gone"\nmsgstr "No {item} left"\n',
        "",
        "has no text for gone in en, or an unfinished",
    ),
    ("unfinished", EN, '"No {item} left"', '""', "has no text for gone in en, or an unfinished"),
    (
        "unfinished plural",
        EN,
        '"{count} of {item} left"',
        '""',
        "has no text for left in en, or an unfinished",
    ),
    ("fuzzy", EN, 'msgid "gone"', '#, fuzzy\nmsgid "gone"', "has no text for gone in en, or an unfinished"),
    ("not a PO file", EN, 'msgid "gone"', 'msgid "gone', "is not a catalog of messages ("),
    ("a plural rule that is not one", EN, "(n != 1)", "(n !=", "is not a catalog of messages ("),
    (
        "too few plural forms",
        EN,
        "plural=(n != 1)",
        "plural=n",
        "left has fewer forms than the header Plural-Forms",
    ),
    (
        "too many plural forms",
        VI,
        'msgstr[0] "Còn',
        'msgstr[1] "x"\nmsgstr[0] "Còn',
        "is not a catalog of mess",
    ),
    (
        "plural of none",
        VI,
        'msgid "gone"\nmsgstr',
        'msgid "gone"\nmsgid_plural "gone"\nmsgstr[0]',
        "gone has a",
    ),
    (
        "no plural",
        VI,
        'msgid_plural "left"\nmsgstr[0]',
        "msgstr",
        "left has no msgid_plural, which a message with",
    ),
    ("undeclared placeholder", VI, "Hết {item}", "Hết {item} {x}", "gone of STOCK_LOW in vi must use these"),
    ("required placeholder left out", VI, "Hết {item}", "Hết", "gone of STOCK_LOW in vi must use these"),
    ("a stray brace", VI, "Hết {item}", "Hết {item", "gone of STOCK_LOW in vi is unusable: placeholders are"),
    (
        "a placeholder in a link",
        VI,
        "Hết {item}",
        "[x](/{item})",
        "gone of STOCK_LOW in vi is unusable: a place",
    ),
]


@pytest.mark.parametrize(
    ("path", "old", "new", "sentence"),
    [pytest.param(*rest, id=mistake) for mistake, *rest in IN_THE_CATALOGS],
)
def test_a_mistake_in_a_catalog_stops_the_start_with_package_and_correction(
    package: Package, path: str, old: str, new: str, sentence: str
) -> None:
    package.replace(path, old, new)
    error = package.error()
    assert error.startswith(
        f"The event type {package.module}:StockLow of the package acme-signal 1.2 cannot be used: "
    )
    assert sentence in error


def test_a_package_without_its_folder_of_catalogs_stops_the_start(package: Package) -> None:
    (package.site / package.module / "locales").rename(package.site / "elsewhere")
    assert re.search(r"the folder \S+/locales does not exist; add it to the package", package.error())


def test_a_package_without_english_stops_the_start(package: Package) -> None:
    (package.site / package.module / EN).unlink()
    assert "STOCK_LOW has no English texts; add them in " in package.error()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return 'locales'", "its locales() returns 'locales'; return a Traversable."),
        ("1 / 0", "its locales() raises ZeroDivisionError: division by zero; correct it."),
    ],
)
def test_a_locales_method_that_gives_no_folder_stops_the_start(
    package: Package, body: str, sentence: str
) -> None:
    method = f"    def locales(self): {body}\n    def message_arguments"
    package.replace("__init__.py", "    def message_arguments", method)
    assert sentence in package.error()


def test_what_is_not_translated_yet_does_not_stop_the_start(package: Package) -> None:
    package.replace(VI, '"Hết {item}"', '""')
    assert "STOCK_LOW" in discover().names
