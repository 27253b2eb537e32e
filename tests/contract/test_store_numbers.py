"""Numbers from a message to a browser: through the decoder, each store and both encoders."""

from __future__ import annotations

import json
from decimal import Decimal

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.store_suite import OpenDatabase, a_draft, unique
from nx_signal.activities.message import decode
from nx_signal.model import Activity, Created, Json, Position, Record, wire
from nx_signal.model.wire import MAX_EXACT_INTEGER, encode_change, encode_json
from nx_signal.store import Database

MESSAGE = (
    '{"eventType": "X", "recipientScope": "org", "actorId": "a", "organizerId": "o", '
    '"occurredAt": "2026-11-21T10:25:00Z", "data": {"list": [%s]}}'
)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(-(10**300), 10**300).map(str),
    st.integers(-3, 3).map(lambda step: str(2**53 + step)),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-(10**30), 10**30, places=20).map(str),
    st.builds("{}{}e{}".format, st.integers(), st.sampled_from(["", ".0", ".50"]), st.integers(-300, 280)),
)
SHOWN = {
    "12.50": "12.50",
    "9007199254740991": "9007199254740991",
    "9007199254740992": '"9007199254740992"',
    "-9007199254740993": '"-9007199254740993"',
    "9007199254740993.0": '"9007199254740993.0"',
    "132452764876836864": '"132452764876836864"',
    "123456789012345678901234567890": '"123456789012345678901234567890"',
    "0.1000000000000000055511151231257827": '"0.1000000000000000055511151231257827"',
    "0.30000000000000004": "0.30000000000000004",
    "0.10000000000000001": "0.10000000000000001",
    "999999999999999.99": '"999999999999999.99"',
    "123456789012345.68": '"123456789012345.68"',
    "1e22": "1E+22",
    "1e-400": '"1E-400"',
    '"12345678901234567890.50"': '"12345678901234567890.50"',
    "true": "true",
}
"""A number of `data`, and how it leaves: what a double does not hold as a string."""


def activity(numbers: str) -> Activity:
    decoded = decode(Record(Position("t", 0, 0), None, (MESSAGE % numbers).encode()), {"X"})
    assert isinstance(decoded, Activity)
    return decoded


async def pushed_and_listed(database: Database, numbers: str) -> tuple[bytes, bytes]:
    """The JSON of `data` as pushed when it is written, and as REST lists it."""
    user = unique("user")
    (change,) = await database.inbox.insert([a_draft(user, data=activity(numbers).data)])
    _, frame = encode_change(change)
    (replayed,) = (await database.inbox.changes_since({user: 0}, 10))[user].changes
    assert isinstance(replayed, Created)
    assert encode_change(replayed) == encode_change(change)
    row = await database.inbox.get(user, change.notification.id)
    assert row is not None
    return _data(frame), _data(encode_json(wire.notification(row)))


def _data(body: bytes) -> bytes:
    begin = body.index(b'"data":') + len(b'"data":')
    return body[begin : body.index(b"]}", begin) + 2]


async def test_a_number_that_a_browser_would_change_is_sent_as_a_string(database: Database) -> None:
    pushed, listed = await pushed_and_listed(database, ", ".join(SHOWN))
    assert pushed.decode() == '{"list":[' + ",".join(SHOWN.values()) + "]}"
    assert listed == pushed


def test_every_number_arrives_at_a_browser_as_it_was_sent(open_database: OpenDatabase) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(NUMBERS, min_size=1, max_size=12))
    def check(numbers: list[str]) -> None:
        pushed, listed = trio.run(_opened, numbers)
        assert pushed == listed
        for sent, arrived in zip(numbers, json.loads(pushed)["list"], strict=True):  # as JSON.parse reads it
            assert _same(Decimal(sent), arrived), (sent, arrived)

    async def _opened(numbers: list[str]) -> tuple[bytes, bytes]:
        async with open_database() as database:
            await database.migrate()
            return await pushed_and_listed(database, ", ".join(numbers))

    check()


def _same(sent: Decimal, arrived: Json) -> bool:
    if isinstance(arrived, str):
        return Decimal(arrived) == sent
    if isinstance(arrived, int):
        return arrived == sent and abs(arrived) <= MAX_EXACT_INTEGER
    # Of a double, programs write up to 17 digits: those stay that double.
    digits = len(sent.as_tuple().digits)
    return Decimal(repr(arrived)) == sent or (digits <= 17 and Decimal(f"{arrived:.{digits}g}") == sent)
