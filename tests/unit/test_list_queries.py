"""rest/queries.py: what a list may be asked, and what is refused by name."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.model import InboxFilter
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import ListQuery, cursor, parse_list, row_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def parse(**args: str) -> ListQuery:
    return parse_list({name.rstrip("_"): value for name, value in args.items()}, "u1")


def refused(args: dict[str, str]) -> str:
    with pytest.raises(Problem) as caught:
        parse_list(args, "u1")
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    assert caught.value.detail
    return caught.value.detail


def form(**parts: Any) -> ListQuery:
    return parse(filter=json.dumps(parts))


def test_nothing_asked_is_the_newest_twenty() -> None:
    assert (
        parse() == parse(cursor="", isRead="", type="", unknown="x") == ListQuery(InboxFilter(), 20, None, 0)
    )


def test_every_parameter_has_its_place() -> None:
    query = parse(
        limit="100", isRead="false", type="A", organizerId="o", merchantId="m", subject="s",
        from_="2026-01-01T12:00:00Z", to="2026-01-01T19:00:00+07:00",
    )  # fmt: skip
    where = InboxFilter(False, "A", "o", "m", "s", NOON, NOON)
    assert query == ListQuery(where, 100)


def test_a_time_without_zone_is_utc() -> None:
    assert parse(from_="2026-01-01T12:00").where.created_from == NOON


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back_as_the_revision_it_was_made_of(rev: int) -> None:
    assert parse(cursor=cursor(rev)).before_rev == rev


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "-1"),
        ("limit", "1e1"),
        ("limit", "٣"),
        ("limit", "9" * 5000),
        ("cursor", "x"),
        ("cursor", "é"),
        ("cursor", "Mi4x"),
        ("cursor", cursor(2**63)),
        ("isRead", "yes"),
        ("type", "x" * 257),
        ("type", "a\x00b"),
        ("subject", "\ud800"),
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


def test_the_filter_form_says_the_same() -> None:
    where = {"isRead": {"eq": True}, "type": "A", "organizerId": "o", "merchantId": "m", "subject": "s"}
    assert form(where=where, limit=5, skip=3, order=["createdAt DESC"]) == ListQuery(
        InboxFilter(True, "A", "o", "m", "s"), 5, None, 3
    )


@pytest.mark.parametrize(
    ("condition", "start", "end"),
    [
        ({"gte": "2026-01-01T12:00:00Z"}, 0, None),
        ({"gt": "2026-01-01T12:00:00Z"}, 1, None),
        ({"lt": "2026-01-01T12:00:00Z"}, None, 0),
        ({"lte": "2026-01-01T12:00:00Z"}, None, 1),
        ("2026-01-01T12:00:00Z", 0, 1),
        ({"gt": "2026-01-01T12:00:00Z", "gte": "2026-01-01T11:00:00Z"}, 1, None),
    ],
)
def test_the_time_is_bounded_in_milliseconds(condition: Any, start: int | None, end: int | None) -> None:
    def at(ms: int | None) -> datetime | None:
        return None if ms is None else NOON.replace(microsecond=ms * 1000)

    where = form(where={"createdAt": condition}).where
    assert (where.created_from, where.created_to) == (at(start), at(end))


def test_a_plain_parameter_wins_over_the_filter() -> None:
    query = parse(filter='{"where":{"type":"A","subject":"s"},"limit":5}', type="B", limit="6")
    assert query == ListQuery(InboxFilter(type="B", subject="s"), 6)


def test_naming_oneself_as_recipient_changes_nothing() -> None:
    assert form(where={"recipientId": "u1"}) == ListQuery(InboxFilter())


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"fields": []}, "fields"),
        ({"where": {"content": "x"}}, "content"),
        ({"where": {"recipientId": "u2"}}, "recipientId"),
        ({"where": {"recipientId": {"eq": "u2"}}}, "recipientId"),
        ({"where": {"type": {"neq": "A"}}}, "neq"),
        ({"where": {"type": {}}}, "type"),
        ({"where": {"type": None}}, "type"),
        ({"where": {"isRead": 1.5}}, "isRead"),
        ({"where": {"createdAt": {"near": "2026-01-01"}}}, "near"),
        ({"where": {"createdAt": {"lte": "9999-12-31T23:59:59.999Z"}}}, "createdAt"),
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
def test_what_the_filter_does_not_know_is_refused_by_name(parts: dict[str, Any], named: str) -> None:
    assert named in refused({"filter": json.dumps(parts)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
names = st.sampled_from(["where", "limit", "skip", "order", "createdAt", "type", "isRead", "x"])


@given(st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=3), max_size=4))
def test_any_filter_is_parsed_or_refused(parts: dict[str, Any]) -> None:
    try:
        query = parse_list({"filter": json.dumps(parts)}, "u1")
    except Problem as problem:
        assert problem.status == 400
        (problem.detail or "").encode()
    else:
        assert 1 <= query.limit <= 100


@pytest.mark.parametrize("text", ["", "-1", "01", "1.0", "1e3", "٣", "9" * 30, str(2**63), "a", "1\x00"])
def test_what_is_no_snowflake_is_no_id(text: str) -> None:
    assert row_id(text) is None


def test_a_snowflake_is_an_id() -> None:
    assert row_id(str(2**63 - 1)) == 2**63 - 1
