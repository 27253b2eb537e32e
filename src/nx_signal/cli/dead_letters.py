"""`nx-signal dead-letters`: look at what could not be handled, handle it again, or throw it away. Works on
the store itself, whether or not a server runs."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import partial

import trio

from nx_signal.cli.database import open_database
from nx_signal.config import Settings
from nx_signal.errors import MessageRejected, SignalError
from nx_signal.model import Json
from nx_signal.ports import Database

PORTION = 10
"""Letters in memory at once: each may hold a megabyte."""


def run(settings: Settings, verb: str, id: int, limit: int) -> None:
    """`id` is of show, replay and discard; `limit` of list."""
    match verb:
        case "list":
            work = partial(_list, limit)
        case "show":
            work = partial(_show, id)
        case "replay":
            work = partial(_replay, settings, id)
        case _:
            work = partial(_discard, id)

    async def main() -> None:
        async with open_database(settings) as database:
            await database.check()
            await work(database)

    trio.run(main)


async def _list(limit: int, database: Database) -> None:
    before_id, left = None, limit
    while left > 0:
        letters = await database.dead_letters.page(min(PORTION, left), before_id)
        if not letters:
            break
        for letter in letters:
            print(letter.id, _stamp(letter.created_at), letter.position, _one_line(letter.error), sep="\t")
        before_id, left = letters[-1].id, left - len(letters)
    if before_id is None:
        print("There are no dead letters.", file=sys.stderr)


async def _show(id: int, database: Database) -> None:
    letter = await database.dead_letters.get(id)
    if letter is None:
        raise _absent(id)
    shown = {
        "id": str(letter.id),
        "position": str(letter.position),
        "createdAt": _stamp(letter.created_at),
        "error": letter.error,
        "key": None if letter.key is None else _legible(letter.key.encode("utf-8", "surrogatepass")),
        "headers": {_one_line(name): _legible(value) for name, value in letter.headers.items()},
        "value": _legible(letter.value),
    }
    text = json.dumps(shown, ensure_ascii=False, indent=2)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


async def _replay(settings: Settings, id: int, database: Database) -> None:
    from nx_signal.activities.content import Renderer
    from nx_signal.activities.handling import Handling
    from nx_signal.activities.registry import Registry
    from nx_signal.activities.replay import Replay
    from nx_signal.telemetry.metrics import Metrics

    registry, metrics = Registry.discover(), Metrics()
    handling = Handling(
        registry=registry,
        renderer=Renderer(registry, settings.time_zone),
        database=database,
        announce=lambda changes: None,  # the servers' sweep finds the rows
        metrics=metrics,
    )
    try:
        trace = await Replay(handling, database, metrics).replay(id)
    except MessageRejected as error:
        raise MessageRejected(f"{id} failed again and stays: {error}") from None
    if trace is None:
        raise _absent(id)
    many = "1 recipient" if trace.recipients == 1 else f"{trace.recipients} recipients"
    already = "; their notifications were there already" if trace.outcome == "duplicate" else ""
    print(f"Replayed activity {_one_line(trace.activity_id)} for {many}{already}.")


async def _discard(id: int, database: Database) -> None:
    if not await database.dead_letters.remove(id):
        raise _absent(id)
    print(f"Discarded {id}.")


def _absent(id: int) -> SignalError:
    return SignalError(f"There is no dead letter {id}; see nx-signal dead-letters list.")


def _legible(value: bytes) -> Json:
    """The text; what is no UTF-8 as base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"base64": b64encode(value).decode()}


def _one_line(text: str) -> str:
    """Hostile text as a terminal may show it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _stamp(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
