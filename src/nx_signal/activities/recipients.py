"""Who hears of an activity (CONTRACT §3, Recipients), and in which language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nx_signal.model import LOCALES, Activity, Audience, Rule
from nx_signal.ports import Directory

MAX_READERS = 10_000
"""(user, organizer) pairs in one look-up of languages."""


@dataclass(frozen=True, slots=True)
class Addressed:
    """An activity with its recipients, each once, and for each of them the locale that the directory has."""

    activity: Activity
    rule: Rule
    recipients: Sequence[str]
    locales: Sequence[str]


async def address(directory: Directory, activities: Sequence[Activity]) -> list[Addressed]:
    """One look-up of recipients and one of languages (a further one for every MAX_READERS readers)."""
    wanted = {audience for activity in activities if (audience := audience_of(activity)) is not None}
    audiences = await directory.audiences(tuple(wanted)) if wanted else {}
    resolved = [(activity, *resolve(activity, audiences)) for activity in activities]
    readers = list({(user, activity.organizer_id) for activity, _, users in resolved for user in users})
    locales = await locales_of(directory, readers)
    return [
        Addressed(
            activity,
            rule,
            recipients,
            [locales.get((user, activity.organizer_id), LOCALES[0]) for user in recipients],
        )
        for activity, rule, recipients in resolved
    ]


def audience_of(activity: Activity) -> Audience | None:
    """What must be looked up for this activity; None when it names its recipients itself."""
    if activity.scope == "org":
        return Audience(activity.organizer_id)
    if activity.scope == "merchant" and activity.merchant_id is not None:
        return Audience(activity.organizer_id, activity.merchant_id)
    return None


def resolve(activity: Activity, audiences: Mapping[Audience, Sequence[str]]) -> tuple[Rule, Sequence[str]]:
    """The recipients, each once, and what gave them. Nobody in scope: the actor."""
    audience = audience_of(activity)
    if audience is not None:
        named = audiences[audience]
    else:
        named = activity.recipient_ids if activity.scope == "users" else ()
    return (activity.scope, named) if named else ("actor", (activity.actor_id,))


async def locales_of(
    directory: Directory, readers: Sequence[tuple[str, str]]
) -> Mapping[tuple[str, str], str]:
    """As Directory.locales, for any number of readers."""
    locales: dict[tuple[str, str], str] = {}
    for start in range(0, len(readers), MAX_READERS):
        locales.update(await directory.locales(readers[start : start + MAX_READERS]))
    return locales
