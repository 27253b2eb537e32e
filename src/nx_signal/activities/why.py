"""Why an activity gave a person no notification, as a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from nx_signal.activities.preview import described, reason_of_actor
from nx_signal.model import ActivityRow, Memberships, Reach, Trace

UNSAID = "There is no notification of this activity for this recipient"


def why_not(
    user_id: str,
    trace: Trace | None,
    row: ActivityRow | None,
    memberships: Memberships,
    *,
    had_newer: bool,
) -> str:
    """`row`: one of another recipient, None where there is none. `memberships`: those of the person now.
    `had_newer`: whether the person had a newer one with its collapse key when it was handled."""
    if trace is not None and trace.outcome not in ("stored", "duplicate"):
        return f"{UNSAID}: {_nobody(trace)}"
    context = None if trace is None else trace.context
    if context is not None and context.excluded_actor == user_id:
        return f"{UNSAID}: it is the actor, who gets nothing of it (excludeActor)."
    if trace is not None and trace.rule not in (None, "actor") and not trace.recipients:
        return f"{UNSAID}: {trace.reason}"
    if trace is None or row is None:
        return f"{UNSAID}, and what was done with it is no longer known."
    if had_newer:
        return f"{UNSAID}: a newer notification with its collapseKey {row.collapse_key} was there already."
    if context is not None and trace.rule == "audience":
        return f"{UNSAID}: {_not_in(context.audience, memberships)}"
    organizer, merchant = row.organizer_id, row.merchant_id
    match trace.rule:
        case "users":
            return f"{UNSAID}: it is not among the {trace.recipients} that recipientIds names."
        case "org":
            belongs = organizer in memberships.organizers
            place = f"organizer {organizer} or of one of its merchants"
        case "merchant":
            belongs = merchant in memberships.merchants
            place = f"merchant {merchant} of organizer {organizer}"
        case _:
            why = reason_of_actor(trace.scope or "users", organizer or "", merchant)
            return f"{UNSAID}: it went to {row.recipient_id} alone, the actor, because {why}."
    if belongs:
        return f"{UNSAID}: this user is a member of {place} now, and was none when it was handled."
    return f"{UNSAID}: this user is no member of {place}."


def _not_in(audience: Sequence[Reach], memberships: Memberships) -> str:
    belongs = [each for each in audience if _belongs(each, memberships)]
    if belongs:
        return f"this user is among the {described(belongs[0])} now, and was not when it was handled."
    return f"this user is not in its audience: {'; '.join(map(described, audience))}."


def _belongs(reach: Reach, memberships: Memberships) -> bool:
    match reach.scope:
        case "org":
            return reach.organizer_id in memberships.organizers
        case "merchant":
            return reach.merchant_id in memberships.merchants and reach.organizer_id in memberships.organizers
        case _:
            return False


def _nobody(trace: Trace) -> str:
    match trace.outcome:
        case "unknown_type":
            return f"its event type {trace.type} is not known here, so it was skipped."
        case "dead_letter":
            return f"it became a dead letter. {trace.reason or ''}".rstrip()
        case "expired":
            return "it was handled after its expiresAt."
        case "superseded":
            return "each recipient had a newer notification with its collapseKey."
        case "tombstone":
            return "it is a record without a value."
        case _:
            return trace.reason or f"its outcome is {trace.outcome}."
