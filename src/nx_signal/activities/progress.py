"""How far a record is that is processed by itself, in portions."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from nx_signal.model import Rule

ALONE_ROWS = 100
"""Rows in one statement of a record that is processed by itself."""
PAUSES, LONGEST_PAUSE_S = 2.0, 0.25
"""Between two of them it pauses this many times as long as the last one took, at most so long: two thirds of
the time are left to the activities of others."""


@dataclass(slots=True)
class Progress:
    """What was done of a record, kept over repetitions."""

    head: str = ""
    """its first recipient"""
    rows: bool = False
    """whether any row was written, by this delivery and no other"""
    first: bool = False
    """whether the first recipient's was"""
    pushed: bool = False
    done: int = 0
    """of a record that is processed alone: how many recipients are through"""
    after: str = ""
    """the last of them"""
    rule: Rule | None = None
    max_rows: int = ALONE_ROWS
    """in one statement"""


def pause_s(began_s: float) -> float:
    """After a statement that began then."""
    return min(PAUSES * (trio.current_time() - began_s), LONGEST_PAUSE_S)
