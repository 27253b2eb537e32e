"""The recipients of an activity (CONTRACT §3, Recipients), and the language of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from nx_signal.activities.audience import look_ups
from nx_signal.model import LOCALES, Activity, Audience, ReaderSettings, Rule
from nx_signal.store import Directory
from nx_signal.store.rows import MAX_INTEGER

MAX_READERS = 10_000
"""(user, organizer) pairs in one look-up of languages."""

_UNSET = ReaderSettings(None, None)


@dataclass(frozen=True, slots=True)
class Recipients:
    """Of an activity, each once. `rule` is what gave them. None are left where the actor is excluded and the
    scope has no other."""

    activity: Activity
    rule: Rule
    users: Sequence[str]


@dataclass(frozen=True, slots=True)
class ResolvedRecipients:
    """An activity with its recipients, each once, and for each of them the locale that the directory has.
    `time_zone` is the organization's own, if it has one."""

    activity: Activity
    rule: Rule
    recipients: Sequence[str]
    locales: Sequence[str]
    time_zone: str | None


async def find_recipients(
    directory: Directory, activities: Sequence[Activity], most: int = MAX_INTEGER
) -> list[Recipients]:
    """One look-up. Of the members of an organization or a merchant the first `most`, and of those of an
    audience at least as many."""
    requested = {audience for activity in activities for audience in audiences_of(activity)}
    most = min(most + 1, MAX_INTEGER)  # one may be the actor, who is left out
    audiences = await directory.audiences(tuple(requested), most) if requested else {}
    return [Recipients(activity, *recipients_of(activity, audiences)) for activity in activities]


async def resolve(directory: Directory, found: Sequence[Recipients]) -> list[ResolvedRecipients]:
    """With the languages and time zones: one look-up, a further one for every MAX_READERS readers."""
    readers = list({(user, each.activity.organizer_id) for each in found for user in each.users})
    settings = await settings_of(directory, readers)
    resolved = []
    for each in found:
        own = [settings.get((user, each.activity.organizer_id), _UNSET) for user in each.users]
        locales = [setting.locale or LOCALES[0] for setting in own]
        time_zone = own[0].time_zone if own else None
        resolved.append(ResolvedRecipients(each.activity, each.rule, each.users, locales, time_zone))
    return resolved


def audiences_of(activity: Activity) -> tuple[Audience, ...]:
    """What must be looked up for this activity; nothing where it names its recipients itself."""
    match activity.scope:
        case "org":
            return (Audience(activity.organizer_id),)
        case "merchant" if activity.merchant_id is not None:
            return (Audience(activity.organizer_id, activity.merchant_id),)
        case "audience":
            return look_ups(activity.audience)
        case _:
            return ()


def recipients_of(
    activity: Activity, audiences: Mapping[Audience, Sequence[str]]
) -> tuple[Rule, Sequence[str]]:
    """The rule that gave the recipients, and these, each once: of an audience ascending by code points."""
    found = [audiences[audience] for audience in audiences_of(activity)]
    named = activity.recipient_ids if activity.scope in ("users", "audience") else ()
    if activity.scope == "audience":
        return given(activity, sorted({*named, *chain(*found)}))
    return given(activity, found[0] if found else named)


def given(activity: Activity, named: Sequence[str]) -> tuple[Rule, Sequence[str]]:
    """The rule that gave the recipients, and these, of those that the scope names. An empty scope gives the
    actor; with `exclude_actor` there is no recipient."""
    if activity.exclude_actor:
        return activity.scope, [user for user in named if user != activity.actor_id]
    return (activity.scope, named) if named else ("actor", (activity.actor_id,))


async def settings_of(
    directory: Directory, readers: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], ReaderSettings]:
    """As Directory.reader_settings, for any number of readers."""
    settings: dict[tuple[str, str], ReaderSettings] = {}
    for start in range(0, len(readers), MAX_READERS):
        settings.update(await directory.reader_settings(readers[start : start + MAX_READERS]))
    return settings
