"""Named queries and the steps of the schema, read once from the .sql files beside this module.

A query begins with a line `-- name: some_name` and runs to the next such line; its arguments are `:name`.
Those in `queries` are the same in every dialect, `<dialect>/queries` has the others. A step is one file
`<dialect>/migrations/NNNN_name.sql`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal, TypeAlias

DialectName: TypeAlias = Literal["sqlite", "postgres"]

_NAME = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)
_COMMENT = re.compile(r"(?:^|\s)-- .*$", re.MULTILINE)
_ADDITIVE = "-- additive:"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schema, applied in one transaction. Never changed once released.

    `additive`: releases that know only the steps before it go on working, so that the instances of two
    releases can run beside each other."""

    version: int
    name: str
    sql: str
    additive: bool


@cache
def queries(dialect: DialectName) -> Mapping[str, str]:
    """All named queries of a dialect, without comments. A name that is used twice is a ValueError."""
    found: dict[str, str] = {}
    for file, text in (*_files("queries"), *_files(dialect, "queries")):
        pieces = _NAME.split(text)
        for name, sql in zip(pieces[1::2], pieces[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file} names the query {name}, which exists already.")
            found[name] = _COMMENT.sub("", sql).strip()
    return MappingProxyType(found)


def query(dialect: DialectName, name: str) -> str:
    """One of them."""
    found = queries(dialect).get(name)
    if found is None:
        raise LookupError(f"There is no query {name} for {dialect}: write it in store/sql.")
    return found


@cache
def steps(dialect: DialectName) -> tuple[Step, ...]:
    """Ascending by version, from 1 without a gap."""
    found = []
    for file, text in _files(dialect, "migrations"):
        number, _, name = file.removesuffix(".sql").partition("_")
        found.append(Step(int(number), name, text, text.startswith(_ADDITIVE)))
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"The migrations of {dialect} are not numbered 1, 2, 3, …")
    return tuple(found)


def _files(*path: str) -> Iterator[tuple[str, str]]:
    folder = resources.files(__name__).joinpath(*path)
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            yield file.name, file.read_text(encoding="utf-8")
