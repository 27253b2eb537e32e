"""Named queries and migrations, read once per dialect from the .sql files beside this module.

A query begins with a line `-- name: some_name` and runs to the next such line. A migration is one file
`NNNN_name.sql`; the table `schema_version` (version, name, applied_at) says which were applied."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal, TypeAlias

Dialect: TypeAlias = Literal["sqlite", "postgres"]

_NAME = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, applied in one transaction. Never changed once released."""

    version: int
    name: str
    sql: str


@cache
def queries(dialect: Dialect) -> Mapping[str, str]:
    """All named queries of a dialect. A name that is used twice is a ValueError."""
    found: dict[str, str] = {}
    for file, text in _files(dialect, "queries"):
        pieces = _NAME.split(text)
        for name, sql in zip(pieces[1::2], pieces[2::2], strict=True):
            if name in found:
                raise ValueError(f"{file} names the query {name}, which exists already.")
            found[name] = sql.strip().rstrip(";")
    return MappingProxyType(found)


@cache
def migrations(dialect: Dialect) -> tuple[Migration, ...]:
    """Ascending by version, from 1 without a gap."""
    found = []
    for file, text in _files(dialect, "migrations"):
        number, _, name = file.removesuffix(".sql").partition("_")
        found.append(Migration(int(number), name, text))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"The migrations of {dialect} are not numbered 1, 2, 3, …")
    return tuple(found)


def _files(dialect: Dialect, kind: str) -> Iterator[tuple[str, str]]:
    folder = resources.files(__name__) / dialect / kind
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".sql"):
            yield file.name, file.read_text(encoding="utf-8")
