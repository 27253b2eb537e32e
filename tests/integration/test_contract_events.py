"""Each example of CloudEvents in the contract runs: of Kafka through the pipeline, of HTTP over REST."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_rest_api import Desk
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.activities.batches import unbatched
from nx_signal.activities.message import decode
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import Activity, Position, Record
from nx_signal.ports import Batch
from pipeline_kit import running

CONTRACT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```(kafka|http)\n(.*?)^```", CONTRACT, re.DOTALL | re.MULTILINE)
TYPES = {"com.acme.payment.cleared": "PAYMENT_SUCCESS"}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def taken_apart(text: str) -> tuple[list[tuple[str, str]], bytes]:
    """(headers, value)"""
    head, _, value = text.partition("\n\n")
    headers = [
        (name, value) for name, mark, value in (line.partition(": ") for line in head.splitlines()) if mark
    ]
    return headers, value.strip().encode()


def of(kind: str) -> list[tuple[list[tuple[str, str]], bytes]]:
    return [taken_apart(text) for each, text in EXAMPLES if each == kind]


def activities(headers: dict[str, bytes], value: bytes) -> list[Activity]:
    record = Record(Position("t", 0, 0), None, value, headers)
    members = [each for part in unbatched(Batch((record,), lambda: None)) for each in part.records]
    found = [decode(member, {"PAYMENT_SUCCESS"}, types=TYPES) for member in members]
    return [each for each in found if isinstance(each, Activity)]


def test_there_is_an_example_of_each_mode() -> None:
    assert len(of("kafka")) == len(of("http")) == 3


def test_the_examples_of_kafka_are_the_activities_that_they_look_like() -> None:
    (binary,), (structured,), batch = (
        activities({name: text.encode() for name, text in headers}, value) for headers, value in of("kafka")
    )
    assert (binary.id, binary.scope, binary.merchant_id) == ('["42","/payments"]', "merchant", "m1")
    assert binary.context is not None and binary.context.traceparent == PARENT
    assert (structured.type, structured.scope, structured.data) == (
        "PAYMENT_SUCCESS",
        "org",
        {"payment": {"amount": 5}},
    )
    assert [(each.scope, each.recipient_ids) for each in batch] == [
        ("users", ("ann", "binh")), ("audience", ("owner",)),
    ]  # fmt: skip


async def test_the_examples_of_kafka_become_notifications(autojump_clock: MockClock) -> None:
    async with running(types=TYPES) as line:
        for offset, (headers, value) in enumerate(of("kafka")):
            encoded = {name: text.encode() for name, text in headers}
            await line.give(Record(Position("t", 0, offset), None, value, encoded))
        await wait_all_tasks_blocked()
        assert await line.dead_letters() == []
        rows = [
            sorted(row.activity_id for row in await line.inbox(user)) for user in ("ann", "binh", "owner")
        ]
        assert [[id[2:4] for id in each] for each in rows] == [
            ["42", "43", "45"],
            ["42", "43", "44", "45"],
            ["43", "45"],
        ]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize(("headers", "value"), of("http"))
async def test_the_examples_of_http_are_accepted_and_are_activities(
    issuer: Issuer, headers: list[tuple[str, str]], value: bytes
) -> None:
    desk = Desk(issuer)
    reply = await desk.call(
        "POST",
        "/v1/api/signal/activities",
        data=value,
        headers=dict(headers),
        permissions=["Activity.publish"],
    )
    assert reply.status == 202, reply.body
    ((id, message),) = desk.journal.appended
    assert reply.json == {"accepted": [{"eventId": id}]}
    (found,) = activities({"ce_id": id.encode()}, message)
    assert found.id == json.dumps([id, "/payments"], separators=(",", ":")) and found.organizer_id == "o1"
    if "ce-subject" in dict(headers):
        assert found.subject == "Café Mai"
        assert found.context is not None and found.context.tracestate == "vendor=1"
