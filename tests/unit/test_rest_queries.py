"""rest/queries.py: the parameters of a list, and which values are refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.model import Condition, InboxFilter
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import ListParameters, ListQuery, cursor, list_of, row_id
from nx_signal.rest.route import read_query

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def parse_list(args: dict[str, str]) -> ListQuery:
    return list_of(read_query(args, ListParameters), "u1")


def parse(**args: str) -> ListQuery:
    return parse_list({name.rstrip("_"): value for name, value in args.items()})


def refused(args: dict[str, str]) -> str:
    with pytest.raises(Problem) as caught:
        parse_list(args)
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    assert caught.value.detail
    return caught.value.detail


def form(**parts: Any) -> ListQuery:
    return parse(filter=json.dumps(parts))


def test_without_parameters_a_page_is_the_newest_twenty() -> None:
    assert (
        parse() == parse(cursor="", isRead="", type="", unknown="x") == ListQuery(InboxFilter(), 20, None, 0)
    )


def test_every_parameter_has_its_place() -> None:
    query = parse(
        limit="100", isRead="false", type="A", organizerId="o", merchantId="m", subject="s", priority="high",
        from_="2026-01-01T12:00:00Z", to="2026-01-01T19:00:00+07:00",
    )  # fmt: skip
    where = InboxFilter.of(
        is_read=False,
        type="A",
        organizer_id="o",
        merchant_id="m",
        subject="s",
        priority="high",
        created_from=NOON,
        created_to=NOON,
    )
    assert query == ListQuery(where, 100)


def test_a_time_without_zone_is_utc() -> None:
    assert parse(from_="2026-01-01T12:00").where == InboxFilter.of(created_from=NOON)


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_is_decoded_to_the_revision_it_was_made_of(rev: int) -> None:
    assert parse(cursor=cursor(rev)).before_rev == rev


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "٣"),
        ("limit", "9" * 5000),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "Mi4x"),
        ("cursor", cursor(2**63)),
        ("isRead", "yes"),
        ("type", "x" * 257),
        ("type", "a\x00b"),
        ("from", "yesterday"),
        ("from", "2026-13-01"),
        ("to", "0001-01-01T00:00:00+14:00"),
        ("filter", "{"),
        ("filter", "[]"),
        ("filter", "[" * 4000),
        ("filter", '"' + "x" * 5000 + '"'),
        ("filter", "\ud800"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused_by_name(name: str, value: str) -> None:
    assert name in refused({name: value})


T1, T2 = "2026-01-01T12:00:00Z", "2026-01-01T13:00:00+01:00"


@pytest.mark.parametrize(
    ("where", "conditions"),
    [
        ({"type": "A"}, [("type", "eq", "A")]),
        ({"type": {"eq": "A"}}, [("type", "eq", "A")]),
        ({"type": {"neq": "A"}}, [("type", "neq", "A")]),
        ({"type": {"inq": ["A", "B"]}}, [("type", "in", ("A", "B"))]),
        ({"type": {"nin": []}}, [("type", "not_in", ())]),
        ({"type": {"like": "A%_"}}, [("type", "like", "A%_")]),
        ({"type": {}}, []),
        ({"subject": {"like": "order/%", "neq": "order/1"}},
         [("subject", "neq", "order/1"), ("subject", "like", "order/%")]),
        ({"subject": None, "merchantId": {"neq": None}},
         [("subject", "eq", None), ("merchant_id", "neq", None)]),
        ({"organizerId": {"inq": ["o1"]}}, [("organizer_id", "in", ("o1",))]),
        ({"isRead": False}, [("is_read", "eq", False)]),
        ({"isRead": {"neq": True}}, [("is_read", "neq", True)]),
        ({"priority": "high"}, [("priority", "eq", "high")]),
        ({"priority": {"neq": "normal"}}, [("priority", "neq", "normal")]),
        ({"id": "7"}, [("id", "eq", 7)]),
        ({"id": {"gt": "7", "inq": ["8", "9"]}}, [("id", "gt", 7), ("id", "in", (8, 9))]),
        ({"rev": {"between": [2, 5]}}, [("rev", "gte", 2), ("rev", "lte", 5)]),
        ({"createdAt": {"gte": T1, "lt": T2}}, [("created_at", "gte", NOON), ("created_at", "lt", NOON)]),
        ({"createdAt": {"between": [T1, T2]}}, [("created_at", "gte", NOON), ("created_at", "lte", NOON)]),
        ({"createdAt": "2026-01-01T12:00:00.000999"}, [("created_at", "eq", NOON)]),
        ({"recipientId": "u1"}, []),
        ({"recipientId": {"eq": "u1"}}, []),
    ],
)  # fmt: skip
def test_the_filter_is_conditions(where: Any, conditions: list[tuple[Any, Any, Any]]) -> None:
    expected = tuple(Condition(*each) for each in conditions)
    assert form(where=where) == ListQuery(InboxFilter(expected))


def test_the_filter_has_a_page_too() -> None:
    assert form(limit=5, skip=3, order=["createdAt DESC"]) == ListQuery(InboxFilter(), 5, None, 3)
    assert form(offset=3, order="rev DESC") == ListQuery(InboxFilter(), 20, None, 3)


def test_parameters_and_filter_hold_together_and_the_plain_limit_wins() -> None:
    query = parse(filter='{"where":{"type":"A"},"limit":5}', type="B", limit="6")
    assert query == ListQuery(InboxFilter.of(Condition("type", "eq", "A"), type="B"), 6)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"fields": []}, "fields"),
        ({"where": {"content": "x"}}, "content"),
        ({"where": {"recipientId": "u2"}}, "recipientId"),
        ({"where": {"recipientId": {"eq": "u2"}}}, "recipientId"),
        ({"where": {"recipientId": {"neq": "u1"}}}, "recipientId"),
        ({"where": {"type": {"regexp": "A"}}}, "regexp"),
        ({"where": {"type": {"gt": "A"}}}, "gt"),
        ({"where": {"merchantId": {"like": "A"}}}, "like"),
        ({"where": {"type": {"inq": ["A"] * 101}}}, "inq"),
        ({"where": {"type": {"inq": "A"}}}, "inq"),
        ({"where": {"type": {"inq": ["A", 7]}}}, "inq"),
        ({"where": {"type": {"like": "%" * 257}}}, "like"),
        ({"where": {"type": {"eq": None}}}, "eq"),
        ({"where": {"id": 7}}, "id"),
        ({"where": {"id": {"gt": "x"}}}, "id.gt"),
        ({"where": {"rev": "7"}}, "rev"),
        ({"where": {"rev": {"between": [1]}}}, "between"),
        ({"where": {"createdAt": {"like": "2026%"}}}, "like"),
        ({"where": {"createdAt": {"between": ["2026-01-01", "soon"]}}}, "createdAt.between"),
        ({"where": {"type": None}}, "type"),
        ({"where": {"isRead": 1.5}}, "isRead"),
        ({"where": {"createdAt": {"near": "2026-01-01"}}}, "near"),
        ({"where": {"or": []}}, "or"),
        ({"where": []}, "where"),
        ({"limit": 101}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"skip": -1}, "skip"),
        ({"skip": 10**30}, "skip"),
        ({"order": ["createdAt ASC"]}, "order"),
        ({"order": [7]}, "order"),
    ],
)
def test_an_unknown_part_of_the_filter_is_refused_by_name(parts: dict[str, Any], named: str) -> None:
    assert named in refused({"filter": json.dumps(parts)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
names = st.sampled_from(["where", "limit", "skip", "order", "createdAt", "type", "isRead", "x"])


@given(st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=3), max_size=4))
def test_any_filter_is_parsed_or_refused(parts: dict[str, Any]) -> None:
    try:
        query = parse_list({"filter": json.dumps(parts)})
    except Problem as problem:
        assert problem.status == 400
        (problem.detail or "").encode()
    else:
        assert 1 <= query.limit <= 100


@pytest.mark.parametrize("text", ["", "-1", "01", "1.0", "1e3", "٣", "9" * 30, str(2**63), "a", "1\x00"])
def test_what_is_not_a_snowflake_is_not_an_id(text: str) -> None:
    assert row_id(text) is None


def test_a_snowflake_is_an_id() -> None:
    assert row_id(str(2**63 - 1)) == 2**63 - 1
