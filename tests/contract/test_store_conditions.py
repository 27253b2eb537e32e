"""model.Condition, sentence by sentence, on every database; and any of them agrees with plain Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.store_suite import SOME, Clock, OpenDatabase, a_draft, row_of, unique
from nx_signal.model import Condition, InboxFilter, InboxSummary, Notification
from nx_signal.store import Database, InboxStore

ROWS: list[dict[str, Any]] = [
    {"type": "PAYMENT", "subject": "order/1", "merchant_id": None},
    {"type": "payment", "subject": None, "merchant_id": "m1"},
    {"type": "ORDER", "subject": "order/2", "merchant_id": "m2"},
    {"type": "ORDER", "subject": "%_", "merchant_id": "m1"},
]


@pytest.fixture
def inbox(database: Database) -> InboxStore:
    return database.inbox


async def four_rows(inbox: InboxStore, clock: Clock) -> tuple[str, list[Notification]]:
    """A user with the rows above, a millisecond apart; the first one is read."""
    user, rows = unique("user"), []
    for changes in ROWS:
        clock.tick()
        rows.append(row_of((await inbox.insert([a_draft(user, **changes)]))[0]))
    await inbox.mark(user, rows[0].id, "read", None)
    return user, rows


async def found(inbox: InboxStore, user: str, *conditions: Condition) -> list[int]:
    where = InboxFilter(conditions)
    page = await inbox.page(user, where, 100, None, 0)
    counted, head = await inbox.count(user, where)
    assert page.matching == counted == len(page.rows)
    assert page.head == head == InboxSummary(user, 5, 4, 3, SOME, unseen=3)
    return [row.rev for row in reversed(page.rows)]


@pytest.mark.parametrize(
    ("field", "operator", "value", "revs"),
    [
        ("type", "eq", "ORDER", [3, 4]),
        ("type", "neq", "ORDER", [1, 2]),
        ("type", "in", ("ORDER", "payment"), [2, 3, 4]),
        ("type", "in", (), []),
        ("type", "not_in", ("ORDER", "payment"), [1]),
        ("type", "not_in", (), [1, 2, 3, 4]),
        ("type", "like", "PAY%", [1]),
        ("type", "like", "%", [1, 2, 3, 4]),
        ("type", "like", "O_DER", [3, 4]),
        ("type", "like", "ORDE", []),
        ("type", "like", "", []),
        ("subject", "like", "order/_", [1, 3]),
        ("subject", "like", "%", [1, 3, 4]),
        ("subject", "eq", "%_", [4]),
        ("subject", "neq", "order/1", [2, 3, 4]),
        ("subject", "not_in", ("order/1", "order/2"), [2, 4]),
        ("subject", "eq", None, [2]),
        ("subject", "neq", None, [1, 3, 4]),
        ("merchant_id", "eq", "m1", [2, 4]),
        ("merchant_id", "neq", "m1", [1, 3]),
        ("organizer_id", "eq", "o1", [1, 2, 3, 4]),
        ("is_read", "eq", True, [1]),
        ("is_read", "eq", False, [2, 3, 4]),
        ("is_read", "neq", True, [2, 3, 4]),
        ("rev", "gt", 2, [3, 4]),
        ("rev", "gte", 2, [2, 3, 4]),
        ("rev", "lt", 2, [1]),
        ("rev", "lte", 2, [1, 2]),
        ("rev", "eq", 10**30, []),
        ("rev", "lt", 10**30, [1, 2, 3, 4]),
        ("rev", "gt", -(10**30), [1, 2, 3, 4]),
        ("rev", "in", (1, 4, 99, 10**30), [1, 4]),
    ],
)
async def test_a_condition_chooses_rows(
    inbox: InboxStore, clock: Clock, field: Any, operator: Any, value: Any, revs: list[int]
) -> None:
    user, _ = await four_rows(inbox, clock)
    assert await found(inbox, user, Condition(field, operator, value)) == revs


@pytest.mark.parametrize(
    ("operator", "revs"),
    [("eq", [2]), ("neq", [1, 3, 4]), ("gt", [3, 4]), ("gte", [2, 3, 4]), ("lt", [1]), ("lte", [1, 2])],
)
@pytest.mark.parametrize("field", ["id", "created_at"])
async def test_ids_and_times_are_ordered(
    inbox: InboxStore, clock: Clock, field: Any, operator: Any, revs: list[int]
) -> None:
    user, rows = await four_rows(inbox, clock)
    assert await found(inbox, user, Condition(field, operator, getattr(rows[1], field))) == revs


async def test_all_conditions_must_hold_together_with_the_named_fields(
    inbox: InboxStore, clock: Clock
) -> None:
    user, rows = await four_rows(inbox, clock)
    where = InboxFilter.of(
        Condition("subject", "like", "order/%"),
        Condition("type", "neq", "payment"),
        is_read=False,
        type="ORDER",
        created_from=rows[2].created_at,
        created_to=rows[3].created_at + timedelta(milliseconds=1),
    )
    assert [row.rev for row in (await inbox.page(user, where, 10, None, 0)).rows] == [3]


@pytest.mark.parametrize("type", [None, "PAYMENT", "ORDER", "none of it", ""])
@pytest.mark.parametrize("is_read", [None, True, False])
async def test_a_count_that_is_kept_is_that_of_the_rows(
    inbox: InboxStore, clock: Clock, is_read: bool | None, type: str | None
) -> None:
    user, _ = await four_rows(inbox, clock)
    both = Condition("type", "eq", type), Condition("is_read", "eq", is_read)
    payment = Condition("type", "eq", "PAYMENT")
    for conditions in (
        both,
        both[::-1],
        both[:1],
        both[1:],
        (*both, *both),
        (*both, both[1]),
        (payment, *both),
    ):
        await found(inbox, user, *conditions)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize(
    ("operator", "wrap", "revs"),
    [
        ("eq", str, []),
        ("like", str, []),
        ("neq", str, [1, 2, 3, 4]),
        ("in", lambda text: (text, "ORDER"), [3, 4]),
        ("not_in", lambda text: (text, "ORDER"), [1, 2]),
    ],
)
async def test_a_text_that_no_store_holds_equals_nothing(
    inbox: InboxStore, clock: Clock, text: str, operator: Any, wrap: Callable[[str], Any], revs: list[int]
) -> None:
    user, _ = await four_rows(inbox, clock)
    assert await found(inbox, user, Condition("type", operator, wrap(text))) == revs


@pytest.mark.parametrize("text", ["'; DROP TABLE recipient_head; --", "' OR '1'='1", "{0}", "$1", ":where_0"])
@pytest.mark.parametrize("operator", ["eq", "like", "in"])
async def test_a_value_is_never_a_part_of_the_statement(
    inbox: InboxStore, clock: Clock, text: str, operator: Any
) -> None:
    user, _ = await four_rows(inbox, clock)
    value = (text,) if operator == "in" else text
    assert await found(inbox, user, Condition("subject", operator, value)) == []


@pytest.mark.parametrize(("field", "operator"), [("id; --", "eq"), ("data", "eq"), ("id", "= 1 OR 1")])
async def test_a_name_that_is_none_is_refused(
    open_database: OpenDatabase, clock: Clock, field: Any, operator: Any
) -> None:
    async with open_database() as database:
        await database.migrate()
        user, _ = await four_rows(database.inbox, clock)
        with pytest.raises((KeyError, ValueError)):
            await database.inbox.count(user, InboxFilter((Condition(field, operator, 1),)))


LETTERS = st.text("aAb%_*?[]\\/\n ", max_size=5)


def holds(row: dict[str, Any], how: str, value: Any) -> bool:
    text = row["subject"]
    match how:
        case "eq":
            return bool(text == value)
        case "neq":
            return bool(text != value)
        case "in":
            return text in value
        case "not_in":
            return text not in value
    pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in value)
    return text is not None and re.fullmatch(pattern, text, re.DOTALL) is not None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    subjects=st.lists(LETTERS | st.none(), min_size=1, max_size=6),
    asked=st.lists(
        st.tuples(st.sampled_from(["eq", "neq", "like"]), LETTERS)
        | st.tuples(st.sampled_from(["in", "not_in"]), st.lists(LETTERS, max_size=4).map(tuple)),
        min_size=1,
        max_size=10,
    ),
)
def test_any_condition_on_a_text_agrees_with_python(
    open_database: OpenDatabase, subjects: list[str | None], asked: list[tuple[Any, Any]]
) -> None:
    async def main() -> None:
        async with open_database() as database:
            await database.migrate()
            user = unique("user")
            await database.inbox.insert([a_draft(user, subject=subject) for subject in subjects])
            for how, value in asked:
                where = InboxFilter((Condition("subject", how, value),))
                page = await database.inbox.page(user, where, 100, None, 0)
                expected = [s for s in reversed(subjects) if holds({"subject": s}, how, value)]
                assert [row.subject for row in page.rows] == expected

    trio.run(main)
