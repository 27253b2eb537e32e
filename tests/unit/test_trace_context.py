"""W3C Trace Context: what is kept of it, and what is ignored (CONTRACT §3, CloudEvents)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.activities.message import decode
from nx_signal.activities.trace_context import trace_context
from nx_signal.model import Activity, ActivityContext, Position, Record

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
MESSAGE = {
    "eventType": "T",
    "recipientScope": "org",
    "actorId": "u1",
    "organizerId": "o1",
    "occurredAt": "2026-11-21T10:25:00Z",
}


def kept(headers: dict[str, str] | None = None, **fields: Any) -> ActivityContext | None:
    encoded = {name: value.encode("utf-8", "surrogateescape") for name, value in (headers or {}).items()}
    found = decode(Record(Position("t", 0, 1), None, json.dumps(MESSAGE | fields).encode(), encoded), {"T"})
    assert isinstance(found, Activity)
    return found.context


@pytest.mark.parametrize(
    "parent", [PARENT, OTHER, PARENT[:-2] + "00", "01" + PARENT[2:], f"cc{PARENT[2:]}-more"]
)
def test_a_valid_parent_is_kept_as_it_came(parent: str) -> None:
    assert trace_context(parent, None) == (parent, None)


@pytest.mark.parametrize(
    "parent",
    [
        "", "x", PARENT.upper(), PARENT + "-more", PARENT[:-1], "ff" + PARENT[2:], PARENT + "\n",
        " " + PARENT,
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "01" + PARENT[2:] + "-" + "x" * 200, "01" + PARENT[2:] + "-\x07", None, 5, [PARENT],
    ],
)  # fmt: skip
def test_an_invalid_parent_is_ignored_with_its_state(parent: object) -> None:
    assert trace_context(parent, STATE) == (None, None)


@pytest.mark.parametrize("state", [STATE, "a=1", "a=1,,b=2, c=3", "tenant@system=x", "a*/_-=y"])
def test_a_valid_state_is_kept_beside_its_parent(state: str) -> None:
    assert trace_context(PARENT, state) == (PARENT, state)


@pytest.mark.parametrize(
    "state",
    [
        "", ",", "a", "A=1", "a=", "a=1,a=2", "a=\x07", "a=é", ",".join(f"k{n}=1" for n in range(33)),
        "a=" + "x" * 511, None, {"a": 1},
    ],
)  # fmt: skip
def test_an_invalid_state_is_ignored_and_its_parent_is_kept(state: object) -> None:
    assert trace_context(PARENT, state) == (PARENT, None)


def test_a_state_of_512_characters_is_kept() -> None:
    state = "a=" + "x" * 254 + ",b=" + "y" * 253
    assert len(state) == 512 and trace_context(PARENT, state) == (PARENT, state)


def test_the_message_counts_before_the_headers_of_its_record() -> None:
    headers = {"traceparent": OTHER, "tracestate": STATE}
    assert kept(headers) == ActivityContext(OTHER, STATE)
    assert kept(headers, traceparent=PARENT) == ActivityContext(PARENT)
    assert kept(headers, traceparent="broken") == ActivityContext(OTHER, STATE)
    assert kept() is None


def test_a_payload_that_mentions_a_trace_is_no_trace() -> None:
    assert kept(data={"traceparent": PARENT}) is None


@given(st.text(), st.text(), st.text())
def test_whatever_it_is_it_is_never_an_error(parent: str, state: str, schema: str) -> None:
    kept(traceparent=parent, tracestate=state, dataschema=[schema])
    trace_context(PARENT, state)


@given(st.binary(), st.binary())
def test_whatever_the_headers_hold_is_never_an_error(parent: bytes, state: bytes) -> None:
    value = json.dumps(MESSAGE).encode()
    decode(Record(Position("t", 0, 1), None, value, {"traceparent": parent, "tracestate": state}), {"T"})
