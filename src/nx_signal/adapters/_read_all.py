"""A read-all of many rows: recorded at once in `unsettled_read`, written into its rows in portions.

Until the last portion is written a row counts as read when its `is_read` says so or the recorded read-all
covers it. There is at most one for each recipient: the next read-all first finishes the one before."""

from __future__ import annotations

from collections.abc import Mapping

PORTION = 1_000
"""Rows that one transaction marks: 10 to 40 ms. With SQLite every writer waits for it, with PostgreSQL those
of the same inbox, and only for the first portion."""

_COVERS = """(u.recipient_id = n.recipient_id AND n.rev <= u.up_to_rev
        AND (u.type IS NULL OR u.type = n.type) AND (u.subject IS NULL OR u.subject = n.subject))"""
"""Row `u` of unsettled_read covers row `n`; in both dialects."""

IS_COVERED = f"EXISTS (SELECT 1 FROM unsettled_read AS u WHERE {_COVERS})"  # noqa: S608 - constant text


def with_covers(queries: Mapping[str, str]) -> dict[str, str]:
    """The named queries with `{covers}` filled in, and `{is_covered}`."""
    return {
        name: sql.replace("{covers}", _COVERS).replace("{is_covered}", IS_COVERED)
        for name, sql in queries.items()
    }
