"""Five minutes of scripts/soak, and what makes it fail."""

from __future__ import annotations

import pytest

from soak.history import (
    Activities,
    Counts,
    Marks,
    Received,
    Row,
    check_client,
    check_marks,
    check_rows,
)
from soak.rounds import main

MINUTES = 5
SEED = 2026
"""The same faults in each run; scripts/soak chooses others."""


@pytest.mark.full
@pytest.mark.timeout(MINUTES * 60 + 240)
def test_under_mixed_load_and_random_faults_nothing_is_lost_doubled_or_out_of_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["--minutes", str(MINUTES), "--seed", str(SEED)])
    assert status == 0, capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{capsys.readouterr().out}")


ROWS = [Row("e1", "ann", "11", 1, False, False), Row("e1", "binh", "12", 1, True, False)]
SENT = Activities({"e1": frozenset({"ann", "binh"})}, {"e1"})
MARKED = {"binh": Marks(read_asked={"12"}, read={"12"})}


def created(rev: int, activity: str = "e1") -> tuple[str, dict[str, object]]:
    return "created", {"rev": rev, "activityId": activity, "unread": rev, "history": f"h{rev}"}


def received(*frames: tuple[str, dict[str, object]]) -> Received:
    client = Received("ann on instance 0", "ann")
    for kind, data in frames:
        client.take(kind, data)
    return client


def test_a_history_that_holds_has_no_violation() -> None:
    assert check_rows(SENT, ROWS) == check_marks(MARKED, ROWS) == []
    assert check_client(received(created(1)), ROWS, Marks(), Counts(1, 1, 1)) == []


@pytest.mark.parametrize(
    ("rows", "violation"),
    [
        (ROWS[:1], "e1 has no row for binh."),
        ([*ROWS, ROWS[0]], "e1 has 2 rows for ann."),
        ([*ROWS, Row("e1", "chi", "13", 1, False, False)], "who is not a recipient"),
        ([*ROWS, Row("e2", "ann", "13", 2, False, False)], "e2 has rows and was never sent."),
    ],
)
def test_a_row_that_is_lost_doubled_or_another_persons_is_a_violation(
    rows: list[Row], violation: str
) -> None:
    assert violation in check_rows(SENT, rows)[0]


def test_an_activity_without_an_answer_has_all_its_rows_or_none() -> None:
    sent = Activities(SENT.recipients)
    assert check_rows(sent, ROWS) == check_rows(sent, []) == []
    assert check_rows(sent, ROWS[:1]) == ["e1 has no row for binh."]


@pytest.mark.parametrize(
    ("marks", "violation"),
    [
        (Marks(read_asked={"11"}, read={"11"}), "e1 of ann was marked as read, and is not."),
        (Marks(all_asked=1, all_read=1), "e1 of ann was marked as read, and is not."),
        (Marks(delete_asked={"11"}, deleted={"11"}), "e1 of ann was deleted, and is not."),
    ],
)
def test_a_mark_that_was_acknowledged_and_lost_is_a_violation(marks: Marks, violation: str) -> None:
    assert check_marks({**MARKED, "ann": marks}, ROWS) == [violation]


def test_a_mark_that_nobody_made_is_a_violation() -> None:
    assert check_marks({}, ROWS) == ["e1 of binh is read without a request for it."]
    gone = [Row("e1", "ann", "11", 1, False, True)]
    assert check_marks({}, gone) == ["e1 of ann is deleted without a request for it."]


RESET = ("state", {"reset": True, "rev": 1, "unread": 1})


@pytest.mark.parametrize(
    ("frames", "violation"),
    [
        ([], "has no frame for e1"),
        ([created(2)], "has revision 2 (created) after 0"),
        ([created(1), created(1)], "has revision 1 (created) after 1"),
        ([created(1), created(2)], "has 2 frames for e1"),
        ([created(1), created(2, "e9")], "has a frame for e9, which is not in the inbox"),
        ([RESET], "was reset at revision 0"),
    ],
)
def test_a_frame_that_is_lost_doubled_or_out_of_order_is_a_violation(
    frames: list[tuple[str, dict[str, object]]], violation: str
) -> None:
    found = check_client(received(*frames), ROWS, Marks(), Counts(1, 1, 1))
    assert any(violation in each for each in found)


def test_a_client_that_missed_a_mark_or_stands_elsewhere_is_a_violation() -> None:
    marks = Marks(read_asked={"11"}, read={"11"}, delete_asked={"11"}, deleted={"11"}, all_read=5)
    found = check_client(received(created(1)), ROWS, marks, Counts(4, 0, 1))
    assert [each.removeprefix("ann on instance 0 ") for each in found] == [
        "has no frame that marks e1 as read.",
        "has no frame that deletes 11.",
        "has no frame that marks all up to 5 as read.",
        "stands at revision 1 with 1 unread, the store at 4 with 0.",
    ]
