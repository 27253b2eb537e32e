"""sse/encoding.py: events, and the ids from which clients resume."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.client.events import EventParser
from nx_signal.delivery.topics import GOAWAY, NOTIFICATIONS, STATE, frame
from nx_signal.model.wire import CREATED, MAX_REV, encode_json
from nx_signal.sse.encoding import HEARTBEAT, EventEncoder, Place, event_of, read_place


def test_a_step_of_the_log_has_its_place_as_id() -> None:
    payload = frame(CREATED, encode_json({"id": "1", "rev": 42, "history": "132"}))
    assert event_of(payload) == (
        b"id: 42.132\nevent: observation/signal/notification/created\n"
        b'data: {"id":"1","rev":42,"history":"132"}\n\n'
    )


def test_a_state_has_its_place_as_id() -> None:
    payload = frame(STATE, encode_json({"rev": 7, "history": "ab", "reset": True}))
    assert event_of(payload).startswith(b"id: 7.ab\n")


def test_the_place_of_an_inbox_without_changes_is_its_revision_alone() -> None:
    assert event_of(frame(STATE, encode_json({"rev": 0, "history": ""}))).startswith(b"id: 0\n")


def test_a_step_without_a_history_has_its_revision_as_id() -> None:
    assert event_of(frame(CREATED, encode_json({"rev": 5}))).startswith(b"id: 5\n")


def test_a_topic_of_a_newer_release_without_a_place_has_no_id() -> None:
    assert event_of(frame(NOTIFICATIONS + "newer", b"{}")).startswith(b"event: ")


@pytest.mark.parametrize("topic", [GOAWAY, "shop/notice", "observation/signal/lost"])
def test_what_is_not_of_the_log_has_no_id(topic: str) -> None:
    assert b"id:" not in event_of(frame(topic, b"{}"))


def test_line_ends_between_the_values_of_another_programs_json_are_no_lines() -> None:
    assert event_of(b'{"event":"shop","data":{"a":\r\n1,\n"b":2}}') == (
        b'event: shop\ndata: {"a":  1, "b":2}\n\n'
    )


def test_the_name_of_an_event_cannot_begin_another_field() -> None:
    event = event_of(frame("a\ndata: forged\r\nid: 1", b"1"))
    assert event == b"event: a data: forged  id: 1\ndata: 1\n\n"


@given(event=st.text(min_size=1), data=st.recursive(st.text() | st.integers() | st.none(), st.lists))
def test_a_reader_gets_one_event_whatever_its_name_and_data(event: str, data: object) -> None:
    payload = json.dumps({"event": event, "data": data}).encode()
    (read,) = EventParser().feed(HEARTBEAT + event_of(payload) + HEARTBEAT)
    assert read.event == event.replace("\r", " ").replace("\n", " ")
    assert read.data == data


@given(
    rev=st.integers(1, MAX_REV), history=st.text(st.sampled_from("0123456789abcdef"), min_size=1, max_size=19)
)
def test_an_id_is_read_as_the_place_it_was_made_of(rev: int, history: str) -> None:
    parser = EventParser()
    parser.feed(event_of(frame(CREATED, encode_json({"rev": rev, "history": history}))))
    assert parser.last_event_id is not None
    assert read_place(parser.last_event_id) == Place(rev, history)


def test_a_reader_whose_connection_is_cut_within_an_event_resumes_before_it() -> None:
    parser = EventParser("1.a")
    event = event_of(frame(CREATED, encode_json({"rev": 2, "history": "b"})))
    parser.feed(event[:-1])
    assert parser.last_event_id == "1.a"
    parser.feed(event[-1:])
    assert parser.last_event_id == "2.b"


def test_a_revision_alone_is_a_place() -> None:
    assert read_place("42") == Place(42, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "+1",
        "1.",
        ".a",
        "01",
        "1.a b",
        "1 ",
        "1.\n",
        "1.é",
        "٣",
        str(MAX_REV + 1),
        "1." + "a" * 65,
    ],
)
def test_what_is_no_id_of_this_stream_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the id of an event"):
        read_place(text)


def test_one_payload_for_many_clients_is_encoded_once() -> None:
    encode = EventEncoder()
    payload = frame("a", b"1")
    assert encode(payload) is encode(payload)
    assert encode(frame("b", b"2")) == event_of(frame("b", b"2"))
