"""`/dead-letters`: the activities that could not be processed, and their replay."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint

from nx_signal.activities.replay import Replay
from nx_signal.errors import MessageRejected
from nx_signal.model import DeadLetter, Outcome
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import Count, Id, Time
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import DEFAULT_LIMIT, Limit, RowId, row_id
from nx_signal.rest.route import Call, Example, route
from nx_signal.store import DeadLetters

MAX_LISTED_BYTES = 4_096
"""Of each value in a list; one letter by itself is shown whole."""
PORTION = 10
"""Letters read at once: each may hold a megabyte."""


class DeadLetterParameters(Struct):
    """Which page."""

    limit: Limit = DEFAULT_LIMIT
    cursor: RowId | UnsetType = UNSET


class Raw(Struct):
    """Bytes as they came: the text where they are UTF-8, else base64. `bytes`: how many there are, also
    where `truncated` is true, a list shows only the first of them."""

    encoding: Literal["utf-8", "base64"]
    text: str
    bytes: Count
    truncated: bool


class Letter(Struct, rename="camel"):
    """A message that could not be handled, where it stood in its source, and why."""

    id: Id
    position: Annotated[str, Meta(description="topic/partition/offset")]
    key: Raw | None
    value: Raw
    headers: dict[str, Raw]
    error: str
    created_at: Time | None


class LetterPage(Struct, rename="camel"):
    """Newest first."""

    data: list[Letter]
    next_cursor: str | None


ReplayOutcome: TypeAlias = Literal["stored", "duplicate", "superseded", "expired"]

_REPLAYED: Mapping[Outcome, ReplayOutcome] = {
    "stored": "stored",
    "superseded": "superseded",
    "expired": "expired",
}


class Replayed(Struct, rename="camel"):
    """`duplicate`: its notifications were there already; `superseded`: each recipient had a newer one with
    its collapseKey; `expired`: its expiresAt had passed. `recipients`: how many it was for."""

    event_id: str
    outcome: ReplayOutcome
    recipients: Count


_ID = "132452764876836865"
_VALUE = {
    "eventType": "ORDER_COMPLETED",
    "eventId": "order-7",
    "recipientScope": "merchant",
    "organizerId": "o1",
    "merchantId": "m1",
    "actorId": "customer",
    "data": {"order": {"number": 7}},
    "occurredAt": "2026-01-01T11:59:00Z",
}
_TEXT = msgspec.json.encode(_VALUE).decode()
_LETTER = {
    "id": _ID,
    "position": "signal.activity-notification/0/41",
    "key": {"encoding": "utf-8", "text": "o1", "bytes": 2, "truncated": False},
    "value": {"encoding": "utf-8", "text": _TEXT, "bytes": len(_TEXT), "truncated": False},
    "headers": {},
    "error": "Internal error KeyError while handling this message.",
    "createdAt": "2026-01-01T12:00:00.000Z",
}


def dead_letter_routes(authorizer: Authorizer, letters: DeadLetters, replay: Replay) -> Blueprint:
    routes = Blueprint("dead-letters", __name__, url_prefix="/dead-letters")

    @routes.get("")
    @route(
        authorizer,
        "List dead letters",
        permission="DeadLetter.find",
        query=DeadLetterParameters,
        answers={200: LetterPage},
        example=Example(query={"limit": "10"}, answer={"data": [_LETTER], "nextCursor": None}),
    )
    async def list_(call: Call[DeadLetterParameters, None]) -> LetterPage:
        """Newest first. Long values are shown in part."""
        limit = call.query.limit
        shown: list[Letter] = []
        before_id = None if call.query.cursor is UNSET else row_id(call.query.cursor)
        while len(shown) <= limit:  # one more, to know whether there is a next page
            portion = await letters.page(min(PORTION, limit + 1 - len(shown)), before_id)
            if not portion:
                break
            shown += [_letter(letter, MAX_LISTED_BYTES) for letter in portion]
            before_id = portion[-1].id
        return LetterPage(shown[:limit], shown[limit - 1].id if len(shown) > limit else None)

    @routes.get("/<id>")
    @route(
        authorizer,
        "Get a dead letter",
        permission="DeadLetter.find",
        answers={200: Letter},
        problems=(404,),
        example=Example(path={"id": _ID}, answer=_LETTER),
    )
    async def get(call: Call[None, None], id: str) -> Letter:
        """Its value whole."""
        letter = await letters.get(_number(id))
        if letter is None:
            raise Problem(404)
        return _letter(letter, None)

    @routes.post("/<id>/replay")
    @route(
        authorizer,
        "Replay a dead letter",
        permission="DeadLetter.replay",
        answers={200: Replayed},
        problems=(404, 422),
        example=Example(
            path={"id": _ID}, answer={"eventId": "order-7", "outcome": "stored", "recipients": 1}
        ),
    )
    async def replay_(call: Call[None, None], id: str) -> Replayed:
        """As its first success would have been: under its own eventId or original position, each
        notification once, pushed to the connected clients. Then the letter is gone. Where it fails again
        the answer is a 422 with the reason, and the letter stays with it. Harmless to repeat."""
        try:
            trace = await replay.replay(_number(id))
        except MessageRejected as error:
            raise Problem(422, str(error), "replay_failed") from None
        if trace is None:
            raise Problem(404)
        return Replayed(trace.activity_id, _REPLAYED.get(trace.outcome, "duplicate"), trace.recipients)

    @routes.delete("/<id>")
    @route(
        authorizer,
        "Discard a dead letter",
        permission="DeadLetter.delete",
        answers={204: None},
        problems=(404,),
        example=Example(path={"id": _ID}),
    )
    async def delete(call: Call[None, None], id: str) -> None:
        """Its message is lost then, unless its source still has it."""
        if not await letters.remove(_number(id)):
            raise Problem(404)

    return routes


def _number(id: str) -> int:
    number = row_id(id)
    if number is None:
        raise Problem(404)
    return number


def _letter(letter: DeadLetter, max_bytes: int | None) -> Letter:
    return Letter(
        id=str(letter.id),
        position=str(letter.position),
        key=None if letter.key is None else _raw(letter.key.encode("utf-8", "surrogatepass"), max_bytes),
        value=_raw(letter.value, max_bytes),
        headers={_legible(name): _raw(value, max_bytes) for name, value in letter.headers.items()},
        error=_legible(letter.error),
        created_at=format_timestamp(letter.created_at),
    )


def _raw(value: bytes, max_bytes: int | None) -> Raw:
    shown = value[:max_bytes]
    truncated = len(shown) < len(value)
    try:
        value.decode()
    except UnicodeDecodeError:
        return Raw("base64", b64encode(shown).decode(), len(value), truncated)
    return Raw("utf-8", shown.decode("utf-8", "ignore"), len(value), truncated)  # may end in half a character


def _legible(text: str) -> str:
    """JSON has no half surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()
