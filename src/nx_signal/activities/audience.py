"""The audience of a message: several scopes, united (CONTRACT §3, Recipients)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from nx_signal.activities.fields import MAX_RECIPIENTS, Id, rejected
from nx_signal.activities.repair import REPLACEMENT
from nx_signal.model import Audience, OneScope, Reach, Scope

MAX_ENTRIES = 16


class AudienceEntry(msgspec.Struct, rename="camel"):
    """`org` takes the message's organizerId as its `id`, or none; `merchant` the `id` of a merchant of that
    organizer; `users` takes `ids`."""

    scope: OneScope
    id: Id | None = None
    ids: Annotated[list[Id], msgspec.Meta(max_length=MAX_RECIPIENTS)] | None = None


Entries = Annotated[list[AudienceEntry], msgspec.Meta(min_length=1, max_length=MAX_ENTRIES)]


def addressed(
    scope: OneScope | None,
    ids: Sequence[str] | None,
    entries: Sequence[AudienceEntry] | None,
    organizer_id: str,
) -> tuple[Scope, tuple[Reach, ...], tuple[str, ...]]:
    """The scope of a message, what the entries of its audience name, and the users that are named, each once.
    Raises MessageRejected."""
    if entries is None:
        if scope is None:
            raise rejected("recipientScope is missing.")
        return scope, (), tuple(dict.fromkeys(ids or ()))
    if scope is not None:
        raise rejected("audience: send either recipientScope or audience, not both.")
    if ids is not None:
        raise rejected("recipientIds: beside an audience, name users in an entry of it with scope `users`.")
    return "audience", *_read(entries, organizer_id)


def _read(entries: Sequence[AudienceEntry], organizer_id: str) -> tuple[tuple[Reach, ...], tuple[str, ...]]:
    reaches: dict[Reach, None] = {}
    users: dict[str, None] = {}
    for index, entry in enumerate(entries):
        where = f"audience[{index}]"
        if entry.scope == "users":
            if entry.ids is None:
                raise rejected(f"{where}.ids is missing: name the users of scope `users` there.")
            users |= dict.fromkeys(entry.ids)
            continue
        if entry.ids is not None:
            raise rejected(f"{where}.ids is for scope `users`; name users in an entry of that scope.")
        if entry.scope == "org":
            if entry.id not in (None, organizer_id):
                raise rejected(
                    f"{where}.id is another organizer than organizerId; send a message of that organizer."
                )
            reaches[Reach("org", organizer_id)] = None
        else:
            if entry.id is None:
                raise rejected(f"{where}.id is missing: the merchant of scope `merchant`.")
            if REPLACEMENT in entry.id:
                raise rejected(
                    f"{where}.id must hold no NUL character, half of a surrogate pair or invalid UTF-8."
                )
            reaches[Reach("merchant", organizer_id, entry.id)] = None
    if len(users) > MAX_RECIPIENTS:
        raise rejected(f"audience: at most {MAX_RECIPIENTS} users in all entries, these are {len(users)}.")
    if users:
        reaches[Reach("users", organizer_id, named=len(users))] = None
    return tuple(reaches), tuple(users)


def look_ups(reaches: Sequence[Reach]) -> tuple[Audience, ...]:
    return tuple(Audience(each.organizer_id, each.merchant_id) for each in reaches if each.scope != "users")
