"""How a membership names what it is in: the `domain` of a policy (CONTRACT §5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nx_signal.model import Memberships

ORGANIZER = "Organizer_"
MERCHANT = "Merchant_"


def memberships_of(
    user_ids: Sequence[str], rows: Iterable[tuple[str, str, str | None]]
) -> Mapping[str, Memberships]:
    """From (user, domain, the organizer of the domain's merchant); an entry for every user asked."""
    organizers: dict[str, set[str]] = {user_id: set() for user_id in user_ids}
    merchants: dict[str, set[str]] = {user_id: set() for user_id in user_ids}
    for user_id, domain, organizer_of_merchant in rows:
        if domain.startswith(ORGANIZER):
            organizers[user_id].add(domain.removeprefix(ORGANIZER))
        elif domain.startswith(MERCHANT):
            merchants[user_id].add(domain.removeprefix(MERCHANT))
            if organizer_of_merchant is not None:
                organizers[user_id].add(organizer_of_merchant)
    return {
        user_id: Memberships(frozenset(organizers[user_id]), frozenset(merchants[user_id]))
        for user_id in organizers
    }
