"""Who hears of an activity (CONTRACT §3, Recipients)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nx_signal.model import Activity, Audience


def audience_of(activity: Activity) -> Audience | None:
    """What must be looked up for this activity; None when it names its recipients itself."""
    if activity.scope == "org":
        return Audience(activity.organizer_id)
    if activity.scope == "merchant" and activity.merchant_id is not None:
        return Audience(activity.organizer_id, activity.merchant_id)
    return None


def recipients_of(activity: Activity, audiences: Mapping[Audience, Sequence[str]]) -> Sequence[str]:
    """Each once. Nobody in scope: the actor."""
    audience = audience_of(activity)
    if audience is not None:
        named = audiences[audience]
    else:
        named = activity.recipient_ids if activity.scope == "users" else ()
    return named or (activity.actor_id,)
