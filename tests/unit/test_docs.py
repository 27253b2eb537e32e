"""The documents agree with the code and with each other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import nx_signal
from nx_signal.activities.types import SHIPPED
from nx_signal.config import Settings
from nx_signal.delivery.topics import EXPIRING, GOAWAY
from nx_signal.model import PERMISSIONS
from nx_signal.rest.route import camel
from nx_signal.server import problem

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = DOCS / "example_plugin"

DOCUMENTS = sorted([ROOT / "README.md", *DOCS.glob("*.md")])


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def headings(document: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def test_the_code_of_the_plug_in_document_is_the_example() -> None:
    text = (DOCS / "plugins.md").read_text("utf-8")
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    files = {
        str(path.relative_to(EXAMPLE)): path.read_text("utf-8")
        for path in EXAMPLE.rglob("*")
        if path.is_file() and path.suffix in (".py", ".po", ".toml")
    }
    assert shown == files


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in map(slug, headings(file))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    missing = []
    for path, name in re.findall(r"`(?:tests/)?(\w+/\w+\.py)(?:::(\w+))?`", document.read_text("utf-8")):
        file = ROOT / "tests" / path
        if not file.parent.is_dir() or not file.name.startswith("test_"):
            continue
        if not file.exists() or (name and f"def {name}(" not in file.read_text("utf-8")):
            missing.append(f"{path}::{name}")
    assert missing == []


def test_each_cell_of_the_comparison_leads_to_a_test_or_to_a_source() -> None:
    """But for what a program does not have."""
    text = (DOCS / "comparison.md").read_text("utf-8")
    sources = set(re.findall(r"^\[([\w-]+)\]: https://\S+$", text, re.MULTILINE))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [line for line in lines if len(line) == 8 and line[0] and not line[0].startswith("---")]
    assert len(rows) > 30
    for what, ours, *others in rows:
        assert ours.startswith(("no", "Apache-2.0")) or "test_" in ours, what
        for cell in others:
            named = re.findall(r"\]\[([\w-]+)\]", cell)
            assert set(named) <= sources, (what, cell)
            assert named or cell in ("–", "a service", "no: a service"), (what, cell)
    assert sources <= set(re.findall(r"\]\[([\w-]+)\]", text))


# --- the contract --------------------------------------------------------------------------------

REFERENCE = re.compile(r"CONTRACT\s+§(\d+)(?:,\s+([A-Za-z]+(?:\s[a-z]+)*)\))?")
"""`CONTRACT §4`, or with a heading within that section: `(CONTRACT §1, Topics pushed)`."""

SOURCES = [path for path in sorted((ROOT / "src").rglob("*")) if path.suffix in (".py", ".sql")]
REFERRING = [path for path in SOURCES if REFERENCE.search(path.read_text("utf-8"))]


def contract_sections() -> dict[str, list[str]]:
    """number → the headings within that section, in lower case"""
    sections: dict[str, list[str]] = {}
    for heading in headings(DOCS / "contract.md"):
        if numbered := re.match(r"(\d+)\. ", heading):
            within = sections[numbered[1]] = []
        elif sections:
            within.append(re.sub(r" \[\w+\]$", "", heading).lower())
    return sections


@pytest.mark.parametrize("path", REFERRING, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_reference_to_the_contract_leads_to_a_heading(path: Path) -> None:
    sections = contract_sections()
    for number, words in REFERENCE.findall(path.read_text("utf-8")):
        assert number in sections
        assert not words or " ".join(words.lower().split()) in sections[number], words


def test_the_code_refers_to_every_section_of_the_contract() -> None:
    referred = {number for path in REFERRING for number, _ in REFERENCE.findall(path.read_text("utf-8"))}
    assert referred == set(contract_sections())


def test_the_contract_names_every_permission_topic_and_error_code() -> None:
    text = (DOCS / "contract.md").read_text("utf-8")
    prefix = ""
    for permission in PERMISSIONS:
        owner, _, verb = permission.partition(".")
        assert f"`{permission}`" in text or (owner == prefix and f"`.{verb}`" in text), permission
        prefix = owner
    pushed = {
        topic for path in SOURCES for topic in re.findall(r'"(observation/\S+)"', path.read_text("utf-8"))
    }
    assert len(pushed) >= 5
    for topic in pushed | {GOAWAY, EXPIRING}:
        assert f"`{topic}`" in text
    raised = re.compile(r'Problem\(\d+, [^\n]*, "([a-z_]+)"')
    named = {code for path in SOURCES for code in raised.findall(path.read_text("utf-8"))}
    assert len(named) >= 5
    for code in {*problem._CODES.values(), *named}:
        assert f"`{code}`" in text, code
    for event_type in SHIPPED:
        assert f"`{event_type.name}`" in text


def test_the_contract_names_every_route() -> None:
    text = (DOCS / "contract.md").read_text("utf-8")
    found = 0
    for path in (Path(nx_signal.__file__).parent / "rest").glob("*.py"):
        if path.name == "doc.py":  # its pages are one sentence there
            continue
        for route in re.findall(r'@routes\.\w+\("(/[^"]+)"\)', path.read_text("utf-8")):
            step = re.sub(r"<(?:path:)?(\w+)>", lambda name: f"{{{camel(name[1])}}}", route)
            assert step in text, f"{path.name}: {route}"
            found += 1
    assert found > 20


# --- the glossary --------------------------------------------------------------------------------


def test_every_class_in_the_glossary_exists() -> None:
    names = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)*)`", (DOCS / "glossary.md").read_text("utf-8")))
    defined = "\n".join(path.read_text("utf-8") for path in SOURCES)
    assert names - {"Names"}
    missing = [
        name for name in names - {"Names"} if not re.search(rf"^(class )?{name}\b", defined, re.MULTILINE)
    ]
    assert missing == []


def test_the_table_of_limits_has_the_settings_and_their_defaults() -> None:
    text = (DOCS / "security.md").read_text("utf-8")
    rows = [line.split("|") for line in text.partition("## Limits")[2].partition("\n## ")[0].splitlines()]
    settings = {field.metadata["env"]: field for field in dataclasses.fields(Settings)}
    named = [(name, row[2]) for row in rows if len(row) > 4 for name in re.findall(r"APP_ENV_\w+", row[3])]
    assert len(named) > 15
    for name, stated in named:
        default = settings[name].default
        if type(default) is int:
            assert f"{default:,}" in stated or f"{default // 1024} KiB" in stated, name
