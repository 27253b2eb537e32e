"""Imports run downwards only; `backends` and the commands alone choose adapters."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import nx_signal

ROOT = Path(nx_signal.__file__).parent

GROUND = {"model", "errors"}
LEAVES = GROUND | {"telemetry", "supervise", "data_dir"}
"""Every package may import these: data, errors, logs and metrics, the back-off."""

MAY_IMPORT = {
    "model": {"errors"},
    "errors": set(),
    "telemetry": GROUND,
    "supervise": GROUND | {"telemetry"},
    "data_dir": set(),
    "setting_values": {"model"},
    "setting_fields": {"errors"},
    "config": {"errors", "setting_values", "setting_fields"},
    "ports": GROUND,
    "store": LEAVES | {"ports"},
    "adapters": LEAVES | {"ports", "store"},
    "server": LEAVES | {"ports"},
    "identity": LEAVES | {"ports", "store"},
    "inbox": LEAVES | {"ports", "store"},
    "activities": LEAVES | {"ports", "store", "identity", "inbox", "delivery"},
    "delivery": LEAVES | {"ports", "store"},
    "websocket": LEAVES | {"ports", "delivery", "server"},
    "sse": LEAVES | {"ports", "delivery", "server"},
    "rest": LEAVES
    | {
        "ports",
        "store",
        "config",
        "identity",
        "inbox",
        "activities",
        "delivery",
        "websocket",
        "sse",
        "server",
    },
    "client": LEAVES | {"websocket", "delivery", "config"},
    "process": {"errors"},
    "backends": LEAVES | {"ports", "store", "config", "identity", "adapters", "process"},
    "composition": LEAVES
    | {"ports", "store", "identity", "inbox", "activities", "delivery", "websocket", "sse", "server"},
    "service": LEAVES
    | {
        "ports",
        "config",
        "identity",
        "inbox",
        "activities",
        "rest",
        "server",
        "backends",
        "composition",
        "process",
    },
    "plugin": GROUND | {"activities"},
    "testing": GROUND | {"activities"},
}
"""package → what it may import besides itself; `cli` and `__main__` may import all."""

MAY_IMPORT_FILES = {
    "delivery/transport.py": set(),
    "delivery/cursor.py": {"model", "delivery.cursor_states"},
    "delivery/cursor_states.py": set(),
    "delivery/backlog.py": set(),
    "delivery/session.py": {
        "model",
        "delivery.backlog",
        "delivery.cursor",
        "delivery.topics",
        "delivery.transport",
    },
    "delivery/sessions.py": set(),
    "delivery/writer.py": {"delivery.kernel", "delivery.transport"},
    "websocket/sealing.py": set(),
    "websocket/wire.py": {"delivery.writer", "websocket.frames", "websocket.observer"},
}
"""What may be read and tested alone: file → all that it imports of this package."""

ASYNCIO = {"asyncio", "aiokafka", "asyncpg", "redis"}
BRIDGE = "adapters/asyncio_bridge.py"
DRIVER_SIDE = {
    "adapters/kafka/codecs.py",
    "adapters/kafka/diagnosis.py",
    "adapters/kafka/errors.py",
    "adapters/kafka/producer_driver.py",
    "adapters/kafka/protocol.py",
    "adapters/kafka/unreadable.py",
    "adapters/postgres/connect.py",
    "adapters/postgres/errors.py",
    "adapters/postgres/lease.py",
    "adapters/redis/errors.py",
    "adapters/redis/servers.py",
}
"""These belong to asyncio's side, too."""


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    package = package_of(path)
    if package in ("cli", "__main__", "__init__"):
        return
    used = {name.split(".")[1] for name in imported(path) if name.startswith("nx_signal.")}
    assert used - {package, "__version__"} <= MAY_IMPORT[package]


def uses(path: Path) -> set[str]:
    """The packages that a module imports from."""
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_asyncio_is_imported_in_drivers_alone_and_they_import_no_trio(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name == BRIDGE:
        return
    assert "trio_asyncio" not in uses(path)
    if (package_of(path) == "adapters" and path.name == "driver.py") or name in DRIVER_SIDE:
        assert "trio" not in uses(path)
    else:
        assert not uses(path) & ASYNCIO


@pytest.mark.parametrize("name", sorted(DRIVER_SIDE))
def test_only_files_that_import_asyncio_are_listed_with_the_drivers(name: str) -> None:
    assert uses(ROOT / name) & ASYNCIO


@pytest.mark.parametrize("name", MAY_IMPORT_FILES)
def test_a_file_that_stands_alone_imports_only_what_it_names(name: str) -> None:
    used = {
        module.removeprefix("nx_signal.")
        for module in modules_imported_by(ROOT / name)
        if module != "nx_signal"
    }
    assert {file if file in MAY_IMPORT_FILES[name] else file.split(".")[0] for file in used} <= (
        MAY_IMPORT_FILES[name]
    )


def test_no_files_import_each_other_in_a_cycle() -> None:
    graph = {module_of(path): modules_imported_by(path) for path in modules()}
    assert cycles(graph) == set()


def module_of(path: Path) -> str:
    return ".".join(["nx_signal", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(path) for path in modules()}


def modules_imported_by(path: Path) -> set[str]:
    """Of this package, inside functions too. A package counts where one of its own names is imported."""
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return names & MODULES - {module_of(path)}


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components of more than one node: those that reach each other."""
    reached = {node: reachable(node, graph) for node in graph}
    components = {
        frozenset(other for other in reached[node] if node in reached[other]) | {node} for node in graph
    }
    return {component for component in components if len(component) > 1}


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, {frozenset("ab")}),
        ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}, {frozenset("abc"), frozenset("de")}),
    ],
)
def test_a_cycle_is_found(graph: dict[str, set[str]], expected: set[frozenset[str]]) -> None:
    assert cycles(graph) == expected


def test_every_package_has_its_place() -> None:
    known = {*MAY_IMPORT, "cli", "__main__", "__init__"}
    assert {package_of(path) for path in modules()} == known
