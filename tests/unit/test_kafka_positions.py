"""Where a partition is read from, for everything that the broker and the store may have of it."""

from __future__ import annotations

from typing import Any

import pytest

from nx_signal.adapters.kafka.positions import start_of
from nx_signal.ports import SourcePosition

BEGUN = SourcePosition()
READ = SourcePosition("id", first_offset=4, next_offset=7)
IDLESS = SourcePosition(None, first_offset=4, next_offset=7)

CASES: dict[str, tuple[dict[str, Any], int, str | None, int]] = {
    "a new group": ({"kept": BEGUN}, 10, None, 0),
    "a new group, earliest": ({"kept": BEGUN, "fallback": "earliest"}, 2, None, 0),
    "as it was committed": ({"kept": READ, "committed": 8}, 8, None, 0),
    "reset by an operator to an earlier offset": ({"kept": READ, "committed": 3}, 3, None, 0),
    "reset by an operator to the end": ({"kept": READ, "committed": 10}, 10, None, 0),
    "a group of the release before": ({"kept": BEGUN, "committed": 8}, 8, None, 0),
    "a partition added since": ({"kept": None}, 2, None, 0),
    "the commit expired": ({"kept": READ}, 7, None, 0),
    "the commit expired, no ids": ({"kept": IDLESS}, 7, None, 0),
    "retention took the commit": ({"kept": READ, "committed": 1}, 2, "retention", 1),
    "retention took what the store has": ({"kept": READ, "beginning": 9}, 9, "retention", 2),
    "another topic of the name": ({"kept": READ, "topic_id": "new"}, 2, "topic_made_anew", 0),
    "another topic, the commit fits": (
        {"kept": READ, "topic_id": "new", "committed": 8},
        2,
        "topic_made_anew",
        0,
    ),
    "beyond the end": ({"kept": READ, "committed": 12}, 4, "end_moved_back", 0),
    "beyond the end, the group's first offset too": (
        {"kept": READ, "committed": 12, "end": 3},
        2,
        "end_moved_back",
        0,
    ),
    "beyond the end, no ids": (
        {"kept": IDLESS, "committed": 12, "topic_id": None},
        2,
        "end_moved_back",
        0,
    ),
    "what the store has is beyond the end": ({"kept": READ, "end": 6}, 4, "end_moved_back", 0),
}


@pytest.mark.parametrize(("facts", "start", "reason", "lost"), CASES.values(), ids=CASES.keys())
def test_every_state_of_a_partition_has_its_start(
    facts: dict[str, Any], start: int, reason: str | None, lost: int
) -> None:
    usual: dict[str, Any] = {
        "committed": None,
        "topic_id": "id",
        "beginning": 2,
        "end": 10,
        "fallback": "latest",
    }
    found, gap = start_of(("t", 0), **(usual | facts))
    assert found == start
    assert (None if gap is None else gap.reason) == reason
    if gap is not None:
        assert gap.lost == lost
        assert gap.why.startswith("Kafka's topic t, partition 0: ") and f" {start}" in gap.why
