"""JSON from outside: whatever it holds, each place that decodes it has an answer."""

from __future__ import annotations

import ast
import base64
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import nx_signal
from nx_signal.activities.message import best_effort_ids, check, decode, split
from nx_signal.adapters.redis.codec import Malformed, decode_message
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.client.rest import _problem
from nx_signal.delivery.hub import _token_id
from nx_signal.errors import MessageRejected, SettingsError
from nx_signal.identity.roster import read_roster
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.model import Position, Record
from nx_signal.model.json import MAX_NESTING, TooDeep, decode_json
from nx_signal.model.text import encode_json
from nx_signal.model.timestamps import now
from nx_signal.rest.members import _after
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import Filter
from nx_signal.rest.route import _read_form
from nx_signal.websocket.protocol import Protocol

DEPTHS = (190, 199, 200, 201, 202, 500, *range(930, 1_000, 10), 100_000)
"""The interpreter's limit is 1,000 calls: what passes one decoder may be too deep for the next step."""
ROOT = Path(nx_signal.__file__).parent
OWN = {
    *("model/text.py", "store/dead_letters.py", "store/rows.py", "store/tickets.py"),
    *("activities/identity.py", "delivery/polling.py", "sse/encoding.py"),
}
"""These read what this service has written."""


def nested(depth: int, kind: str = "[|]") -> bytes:
    opening, closing = kind.split("|")
    return (opening * depth + closing * depth).encode()


def message_of(deep: bytes) -> bytes:
    return b'{"eventType":"T","recipientScope":"org","actorId":"a","organizerId":"o",' + (
        b'"occurredAt":"2026-01-01T00:00:00Z","data":{"x":' + deep + b'},"y":' + deep + b"}"
    )


def as_record(deep: bytes) -> None:
    for value in (message_of(deep), deep):
        record = Record(Position("t", 0, 0), None, value, {})
        best_effort_ids(record)
        decode(record, {"T"})


def as_list(deep: bytes) -> None:
    split(b"[" + message_of(deep) + b"]")
    check(deep)


def as_token(deep: bytes) -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"ES256","x":' + deep + b"}").rstrip(b"=").decode()

    class Keys:
        async def jwks(self) -> dict[str, object]:
            return {"keys": [{"kty": "EC", "crv": "P-256", "x": X, "y": Y}]}

    async def verify() -> None:
        verifier = TokenVerifier(
            Keys(), now=now, issuer=None, audience=None, user_claim="sub", trusted_grants=False
        )
        await verifier.verify(f"{head}.e30.AAAA")

    trio.run(verify)


X, Y = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"


def as_frame(deep: bytes) -> None:
    Protocol(0.0).receive(b'{"event":"authenticate","data":' + deep + b"}", 0.0)


def as_relayed(deep: bytes) -> None:
    deployment = Deployment(b"s" * 32, "", None)
    text = b'{"serverId":"emitter","type":"client","target":"c","event":"disconnect","data":' + deep + b"}"
    message = decode_message("ws:client:c", text, deployment)
    assert message is not None and _token_id(message.data) is None
    decode_message("signal:instances", text.replace(b'"client"', b'"neighbours"'), deployment)


def as_disconnect(deep: bytes) -> None:
    assert _token_id(b'{"x":' + deep + b"}") is None


def as_answer(deep: bytes) -> None:
    assert _problem(httpx.Response(400, content=b'{"x":' + deep + b"}"))[0] == "unknown"


def as_filter(deep: bytes) -> None:
    _read_form("filter", '{"where":{"x":' + deep.decode() + "}}", Filter)


def as_cursor(deep: bytes) -> None:
    _after(base64.urlsafe_b64encode(deep).decode())


def as_roster(deep: bytes) -> None:
    read_roster(b'{"members":' + deep + b"}", "members.json")


EXPECTED = (MessageRejected, SettingsError, Malformed, Problem, nx_signal.errors.TokenRejected)


KINDS = ("[|]", '{"a":|}', '[{"\\"[{":|}]')
READERS = (
    as_record,
    as_list,
    as_frame,
    as_relayed,
    as_disconnect,
    as_answer,
    as_filter,
    as_cursor,
    as_roster,
)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("kind", ["[|]", '{"a":|}', "[|"])
def test_no_depth_of_nesting_is_more_than_an_answer(read: Callable[[bytes], None], kind: str) -> None:
    for depth in DEPTHS:
        deep = nested(depth, kind)
        with contextlib.suppress(*EXPECTED):
            read(deep)


def test_no_depth_of_a_tokens_header_is_more_than_a_refusal() -> None:
    for depth in (150, 199, 200, 201, *range(930, 1_000, 10), 2_500):
        with pytest.raises(nx_signal.errors.TokenRejected):
            as_token(nested(depth))


@given(st.integers(0, 400), st.sampled_from(KINDS))
def test_what_is_decoded_can_be_encoded_and_the_rest_is_too_deep(depth: int, kind: str) -> None:
    levels = depth * (2 if kind.startswith("[{") else 1)
    text = nested(depth, kind).replace(b":}", b":0}") if depth else b"0"
    if levels > MAX_NESTING:
        with pytest.raises(TooDeep):
            decode_json(text)
    else:
        assert decode_json(encode_json(decode_json(text))) == decode_json(text)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_value_or_no_json(raw: bytes) -> None:
    with contextlib.suppress(msgspec.DecodeError):
        decode_json(raw)


@pytest.mark.parametrize(
    "raw", [b"NaN", b"Infinity", b"-Infinity", b"1" * 5_000, b'"\\ud800"', b'"\xff"', "\ud800", b"1e999", b""]
)
def test_what_json_does_not_have_is_no_json(raw: bytes | str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_json(raw)


@pytest.mark.parametrize("part", [b'"', b'\\"', b"[", b'["', b'\\"[{', b'"\\'])
def test_the_depth_takes_linear_time(part: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_json(b'"' + part * 300_000 + b"[" * 300)  # pytest's timeout ends it otherwise


def test_json_from_outside_is_decoded_in_one_place() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and re.search(r"\bjson\.(loads?|decode|Decoder|JSONDecoder)$", ast.unparse(node))
    }
    # message.py reads once more, for the name of the field, what the one decoder has refused
    assert found <= {"model/json.py", "activities/message.py"} | OWN
