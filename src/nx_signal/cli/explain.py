"""`nx-signal explain`: what was done with an activity, or what a person received and what not.

It reads the store directly, with or without a running server, and then states nothing of connected
clients; with a URL it asks that server, which asks every instance for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
import trio

from nx_signal.activities.explain import Explain
from nx_signal.activities.identity import source_of
from nx_signal.backends import open_database
from nx_signal.cli.exposure import warn_if_exposed
from nx_signal.cli.token import mint
from nx_signal.client.rest import RestRefused, open_rest
from nx_signal.config import Settings
from nx_signal.delivery.sessions import LiveSessions
from nx_signal.errors import SettingsError, SignalError
from nx_signal.model.terminal import visible, visible_json
from nx_signal.model.timestamps import format_timestamp, now, to_milliseconds
from nx_signal.rest.explain import (
    ActivitiesAround,
    ActivityCorrection,
    ActivityExplanation,
    ExplainedRecipient,
    explained,
    explained_around,
)

TOKEN_TTL_S = 60
NOT_FOUND = 404
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

T = TypeVar("T")


def run(
    settings: Settings,
    event: str | None,
    recipient: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    url: str | None,
    token: str | None,
    *,
    as_json: bool,
) -> None:
    """Print sentences, or the JSON that REST answers. Raises NotKnown."""
    if event is None and (recipient is None or since is None):
        raise SettingsError("Name an event, or --recipient and --since.")
    if token is not None and url is None:
        raise SettingsError("--token is for --url: without it the store is read.")
    begin, end = _moment("--since", since), _moment("--until", until)
    asked = _Asked(event, recipient, source, begin, end, limit)
    if url is None:
        found = trio.run(_from_store, settings, asked)
    else:
        token = token or mint(
            settings,
            "nx-signal-explain",
            ttl_s=TOKEN_TTL_S,
            permissions=["Activity.explain"],
            instead="pass one of that issuer with --token",
        )
        warn_if_exposed("explain", url)
        found = trio.run(_from_server, url, token, asked)
    if as_json:
        print(visible_json(msgspec.json.format(msgspec.json.encode(found)).decode()))
    elif isinstance(found, ActivityExplanation):
        print("\n".join(_lines(found)))
    else:
        _print_around(found)


class _Asked(msgspec.Struct, frozen=True):
    event: str | None
    recipient: str | None
    source: str | None
    since: datetime | None
    until: datetime | None
    limit: int


class NotKnown(SignalError):
    """Nothing is known of the event."""


def _not_known(event: str) -> NotKnown:
    return NotKnown(
        f"Nothing is known of {event!r}: it was never handled here, or so long ago that its record is gone."
    )


async def _from_store(settings: Settings, asked: _Asked) -> ActivityExplanation | ActivitiesAround:
    async with open_database(settings) as database:
        await database.check()
        explain = Explain(
            database.inbox, database.traces, database.corrections, database.directory, _no_instance_asked
        )
        if asked.event is None:
            recipient, since, until = asked.recipient or "", asked.since or now(), asked.until or now()
            return explained_around(
                recipient, since, until, await explain.around(recipient, since, until, asked.limit)
            )
        found = await explain.identities(asked.event, asked.source)
        if len(found) > 1:
            sources = ", ".join(str(source_of(each)) for each in found)
            raise SettingsError(f"Several sources have this event; name one with --source: {sources}.")
        activity = await explain.explain(found[0], asked.recipient) if found else None
        if activity is None:
            raise _not_known(asked.event)
        return explained(asked.event, activity)


async def _no_instance_asked(user_ids: Sequence[str]) -> LiveSessions:
    return LiveSessions((), ("*",))


async def _from_server(url: str, token: str, asked: _Asked) -> ActivityExplanation | ActivitiesAround:
    query = {
        "recipientId": asked.recipient,
        "source": asked.source,
        "since": asked.since and format_timestamp(asked.since),
        "until": asked.until and format_timestamp(asked.until),
        "limit": str(asked.limit),
    }
    given = {name: value for name, value in query.items() if value}
    async with open_rest(url, token) as rest:
        if asked.event is None:
            return await rest.explain_around(ActivitiesAround, given)
        try:
            return await rest.explain(ActivityExplanation, asked.event, given)
        except RestRefused as error:
            if error.status == NOT_FOUND:
                raise _not_known(asked.event) from None
            raise


def _moment(flag: str, text: str | None) -> datetime | None:
    """ISO 8601, or so long ago, such as 90m, 2h or 3d. Raises SettingsError."""
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
            return now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
        return to_milliseconds((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC))
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{flag} is {text!r}; it takes a time such as 2026-01-31T10:00:00Z, or how long ago: 90m, 2h, 3d."
        ) from None


def _print_around(found: ActivitiesAround) -> None:
    print(visible(f"Of {found.recipient_id!r}, from {found.since} to {found.until}:"))
    for heading, activities in (
        ("Received", found.received),
        ("Handled without a notification for this recipient", found.missed),
    ):
        print(f"\n{heading}: {len(activities) or 'nothing'}.")
        for each in activities:
            print("\n" + "\n".join(_lines(each)))
    _note_unanswered(found.unanswered)


def _lines(found: ActivityExplanation) -> list[str]:
    trace = found.trace
    lines = [f"{found.event_id}: what was done with it is no longer known."]
    if trace is None and found.corrections and not found.rows:
        lines = [f"{found.event_id}: only what is below came of it so far, or its record is gone."]
    if trace is not None:
        kind = trace.type or "a message"
        lines = [
            f"{found.event_id}: {kind} at {trace.position}, handled {trace.handled_at}: {trace.outcome}."
        ]
        if trace.reason:
            lines.append(f"  {trace.reason}")
        if trace.rule is not None:
            rule = (
                "to the actor, as the scope has no recipients"
                if trace.rule == "actor"
                else f"by {trace.rule}"
            )
            lines.append(f"  Scope {trace.scope}: {trace.recipients} recipients, {rule}.")
        if trace.excluded_actor is not None:
            lines.append(f"  Without the actor {trace.excluded_actor!r}.")
        for name in ("traceparent", "tracestate", "dataschema"):
            if (value := getattr(trace, name)) is not None:
                lines.append(f"  {name}: {value}")
    lines += [f"  {_correction(each)}" for each in found.corrections]
    lines.append(f"  Notifications: {found.rows}.")
    lines += [f"  {_recipient(each)}" for each in found.deliveries]
    return [visible(line) for line in lines]


def _correction(each: ActivityCorrection) -> str:
    what = "Retracted" if each.action == "retract" else "Corrected"
    state = f"{each.changed} notifications changed" if each.stands else "another one stands"
    return f"{what} at {each.position}, as of {each.occurred_at}, handled {each.handled_at}: {state}."


def _recipient(each: ExplainedRecipient) -> str:
    row = each.row
    if row is None:
        return f"{each.recipient_id!r}: {each.why}"
    state = "deleted" if row.deleted else "read" if row.is_read else "unread"
    return (
        f"{each.recipient_id!r}: notification {row.id}, rev {row.rev}, {row.created_at}, {state}. {each.why}"
    )


def _note_unanswered(unanswered: Sequence[str]) -> None:
    if unanswered:
        print("Connected clients were not asked for everywhere; --url asks a server.", file=sys.stderr)
