"""`nx-signal dead-letters`: list, show, replay or discard. Works on the store directly, with or without a
running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import partial

import trio

from nx_signal.backends import open_database
from nx_signal.config import Settings
from nx_signal.errors import MessageRejected, SignalError
from nx_signal.model import Json, Outcome
from nx_signal.model.terminal import visible, visible_json
from nx_signal.model.timestamps import now
from nx_signal.store import Database

PORTION = 10
"""Dead letters in memory at once: each may hold a megabyte."""


def run(settings: Settings, verb: str, id: int, limit: int) -> None:
    """`id` is for show, replay and discard; `limit` is for list."""
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
        page = await database.dead_letters.page(min(PORTION, left), before_id)
        if not page:
            break
        for each in page:
            position, error = visible(str(each.position)), visible(each.error)
            print(each.id, _timestamp(each.created_at), position, error, sep="\t")
        before_id, left = page[-1].id, left - len(page)
    if before_id is None:
        print("There are no dead letters.", file=sys.stderr)


async def _show(id: int, database: Database) -> None:
    found = await database.dead_letters.get(id)
    if found is None:
        raise _absent(id)
    shown = {
        "id": str(found.id),
        "position": str(found.position),
        "createdAt": _timestamp(found.created_at),
        "error": found.error,
        "key": None if found.key is None else _legible(found.key.encode("utf-8", "surrogatepass")),
        "headers": {visible(name): _legible(value) for name, value in found.headers.items()},
        "value": _legible(found.value),
    }
    print(visible_json(json.dumps(shown, ensure_ascii=False, indent=2)))


async def _replay(settings: Settings, id: int, database: Database) -> None:
    from nx_signal.activities.compose import compose_activities
    from nx_signal.activities.content import Renderer
    from nx_signal.activities.loader import discover
    from nx_signal.telemetry.metrics import Metrics

    registry = discover()
    activities = compose_activities(
        database=database,
        registry=registry,
        renderer=Renderer(registry, settings.time_zone),
        announce=lambda changes: None,  # the servers' sweep finds the rows
        metrics=Metrics(),
        now=now,
        notification_bytes=settings.notification_bytes,
    )
    try:
        trace = await activities.replay.replay(id)
    except MessageRejected as error:
        raise MessageRejected(f"{id} failed again and stays: {error}") from None
    if trace is None:
        raise _absent(id)
    many = "1 recipient" if trace.recipients == 1 else f"{trace.recipients} recipients"
    so = _NOTHING_WRITTEN.get(trace.outcome, "")
    print(f"Replayed activity {visible(trace.activity_id)} for {many}{so}.")


_NOTHING_WRITTEN: Mapping[Outcome, str] = {
    "duplicate": "; their notifications were there already",
    "superseded": ", who had newer ones with its collapseKey",
    "expired": ": its expiresAt had passed",
}


async def _discard(id: int, database: Database) -> None:
    if not await database.dead_letters.remove(id):
        raise _absent(id)
    print(f"Discarded {id}.")


def _absent(id: int) -> SignalError:
    return SignalError(f"The dead letter {id} does not exist; see nx-signal dead-letters list.")


def _legible(value: bytes) -> Json:
    """The text; base64 where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        return {"base64": b64encode(value).decode()}


def _timestamp(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
