"""The recipients of an activity (CONTRACT §3, Recipients), and the language of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nx_signal.model import LOCALES, Activity, Audience, ReaderSettings, Rule
from nx_signal.store import Directory
from nx_signal.store.rows import MAX_INTEGER

MAX_READERS = 10_000
"""(user, organizer) pairs in one look-up of languages."""

_UNSET = ReaderSettings(None, None)


@dataclass(frozen=True, slots=True)
class Recipients:
    """Of an activity, each once. `rule` is what gave them."""

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
    """One look-up. Of the members of an organization or a merchant the first `most`."""
    requested = {audience for activity in activities if (audience := audience_of(activity)) is not None}
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
        resolved.append(ResolvedRecipients(each.activity, each.rule, each.users, locales, own[0].time_zone))
    return resolved


def audience_of(activity: Activity) -> Audience | None:
    """What must be looked up for this activity; None where it names its recipients itself."""
    if activity.scope == "org":
        return Audience(activity.organizer_id)
    if activity.scope == "merchant" and activity.merchant_id is not None:
        return Audience(activity.organizer_id, activity.merchant_id)
    return None


def recipients_of(
    activity: Activity, audiences: Mapping[Audience, Sequence[str]]
) -> tuple[Rule, Sequence[str]]:
    """The rule that gave the recipients, and these, each once. An empty scope gives the actor."""
    audience = audience_of(activity)
    if audience is not None:
        named = audiences[audience]
    else:
        named = activity.recipient_ids if activity.scope == "users" else ()
    return (activity.scope, named) if named else ("actor", (activity.actor_id,))


async def settings_of(
    directory: Directory, readers: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], ReaderSettings]:
    """As Directory.reader_settings, for any number of readers."""
    settings: dict[tuple[str, str], ReaderSettings] = {}
    for start in range(0, len(readers), MAX_READERS):
        settings.update(await directory.reader_settings(readers[start : start + MAX_READERS]))
    return settings
