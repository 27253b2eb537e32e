"""A read-all of many rows: recorded at once in `unsettled_read`, written into its rows in portions.

Until the last portion is written a row counts as read when its `is_read` says so or the recorded read-all
covers it. There is at most one for each recipient: the next read-all first finishes the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nx_signal.model import Condition

PORTION = 1_000
"""Rows that one transaction marks: 10 to 40 ms. With SQLite every writer waits for it, with PostgreSQL those
of the same inbox, and only for the first portion."""

_COVERS = """(u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev
        AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject))"""
"""Row `u` of unsettled_read covers row `n`; in both dialects."""


def with_covers(queries: Mapping[str, str]) -> dict[str, str]:
    """The named queries with `{covers}` filled in."""
    return {name: sql.replace("{covers}", _COVERS) for name, sql in queries.items()}


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What a recorded read-all covers."""

    up_to_rev: int
    type: str | None
    subject: str | None

    def covers(self, prefix: str, bind: Callable[[Condition], str]) -> str:
        """As a condition that is never NULL, on the columns with this prefix."""
        conditions = [f"{prefix}rev <= {self.up_to_rev:d}"]
        if self.type is not None:
            conditions.append(f"{prefix}type = {bind(Condition('type', 'eq', self.type))}")
        if self.subject is not None:
            # `IS TRUE`: a row may have no subject
            conditions.append(f"({prefix}subject = {bind(Condition('subject', 'eq', self.subject))}) IS TRUE")
        return "(" + " AND ".join(conditions) + ")"
