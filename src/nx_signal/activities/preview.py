"""Who would get what, in which language: an activity taken through the pipeline's steps up to the drafts.
Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.handling import drafts_of, render, why
from nx_signal.activities.message import UnknownType, decode, rejected
from nx_signal.activities.recipients import address, locales_of
from nx_signal.activities.registry import Registry
from nx_signal.model import Activity, Position, Record, Rule, Scope
from nx_signal.ports import Directory

MAX_SHOWN = 1_000
"""Recipients in one answer."""

LocaleFrom: TypeAlias = Literal["reader", "organizer", "default"]

_UNSENT = Position("unsent", 0, 0)
_NO_ORGANIZER = ""


@dataclass(frozen=True, slots=True)
class Reader:
    """`locale` is the one that the content would be written in; `locale_from` says whose it is."""

    recipient_id: str
    locale: str
    locale_from: LocaleFrom


@dataclass(frozen=True, slots=True)
class Previewed:
    """`event_id` is None where the message has none: it is given one when it is published. `recipients`
    are the first MAX_SHOWN of `total`."""

    event_id: str | None
    type: str
    scope: Scope | None
    rule: Rule | None
    why: str
    recipients: tuple[Reader, ...]
    total: int
    renderings: Mapping[str, Rendered]
    """for each language that any of the recipients reads"""

    @property
    def known(self) -> bool:
        """False: the type is not known here, and the message would be skipped."""
        return self.rule is not None


class Preview:
    def __init__(self, registry: Registry, renderer: Renderer, directory: Directory) -> None:
        self._registry = registry
        self._renderer = renderer
        self._directory = directory

    async def preview(self, message: bytes) -> Previewed:
        """Raises MessageRejected with the sentence that its dead letter would have."""
        activity = decode(Record(_UNSENT, None, message), self._registry.names)
        if isinstance(activity, UnknownType):
            text = "Nobody here knows this event type: the message would be skipped."
            return Previewed(None, activity.type, None, None, text, (), 0, {})
        (addressed,) = await address(self._directory, [activity])
        try:
            rendered = render(self._renderer, addressed)
        except Exception as error:
            raise rejected(why(error)) from error
        shown = list(drafts_of(addressed, rendered))[:MAX_SHOWN]
        organizer = activity.organizer_id
        users = [draft.recipient_id for draft in shown]
        known = await locales_of(
            self._directory, [(user, each) for user in users for each in (organizer, _NO_ORGANIZER)]
        )
        readers = []
        for draft in shown:
            user, locale_from = draft.recipient_id, "default"
            if (user, _NO_ORGANIZER) in known:
                locale_from = "reader"
            elif (user, organizer) in known:
                locale_from = "organizer"
            readers.append(Reader(user, draft.locale, locale_from))  # type: ignore[arg-type]
        return Previewed(
            event_id=None if activity.id == str(_UNSENT) else activity.id,
            type=activity.type,
            scope=activity.scope,
            rule=addressed.rule,
            why=reason_of(activity, addressed.rule),
            recipients=tuple(readers),
            total=len(addressed.recipients),
            renderings={text.locale: text for text in rendered.values()},
        )


def reason_of(activity: Activity, rule: Rule) -> str:
    """Why these recipients, as a sentence."""
    organizer, merchant = activity.organizer_id, activity.merchant_id
    match rule:
        case "org":
            return f"A member of organizer {organizer} or of one of its merchants."
        case "merchant":
            return f"A member of merchant {merchant} of organizer {organizer}."
        case "users":
            return "Named in recipientIds."
        case "actor":
            nobody = {
                "org": f"organizer {organizer} has no members",
                "merchant": f"merchant {merchant} of organizer {organizer} has no members"
                if merchant
                else "the message names no merchant",
                "users": "recipientIds names nobody",
            }
            return f"The actor, because {nobody[activity.scope]}."
