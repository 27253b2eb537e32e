"""Imports run downwards only; the composition root alone knows the adapters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nx_signal

ROOT = Path(nx_signal.__file__).parent

GROUND = {"model", "errors"}
LEAVES = GROUND | {"telemetry", "supervise"}
"""Anybody may import these: data, errors, logs and metrics, the back-off."""

MAY_IMPORT = {
    "model": set(),
    "errors": set(),
    "telemetry": GROUND,
    "supervise": GROUND | {"telemetry"},
    "config": {"errors"},
    "ports": GROUND,
    "sql": set(),
    "adapters": LEAVES | {"ports", "sql"},
    "identity": LEAVES | {"ports"},
    "inbox": LEAVES | {"ports"},
    "activities": LEAVES | {"ports", "identity", "inbox"},
    "stream": LEAVES | {"ports", "identity", "inbox"},
    "rest": LEAVES | {"ports", "config", "identity", "inbox", "activities", "stream"},
    "client": LEAVES | {"stream", "config"},
}
"""package → what it may import beside itself; `service`, `cli` and `__main__` compose and may import all."""

ASYNCIO = {"asyncio", "aiokafka", "asyncpg", "redis"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    if package in ("service", "cli", "__main__", "__init__"):
        return
    used = {name.split(".")[1] for name in imported(path) if name.startswith("nx_signal.")}
    assert used - {package, "__version__"} <= MAY_IMPORT[package]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_asyncio_stays_behind_the_border(path: Path) -> None:
    outside = {name.split(".")[0] for name in imported(path)}
    if package_of(path) != "adapters":
        assert not outside & ASYNCIO
    if path.name != "_aio.py":
        assert "trio_asyncio" not in outside


def test_every_package_has_its_place() -> None:
    known = {*MAY_IMPORT, "service", "cli", "__main__", "__init__"}
    assert {package_of(path) for path in modules()} == known
