"""Memberships, permissions and languages (CONTRACT §5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from nx_signal.model import Audience, Memberships, Organizer, ReaderSettings, Roster
from nx_signal.model.text import require_storable, storable
from nx_signal.store.driver import Driver, Tx
from nx_signal.store.rows import MAX_INTEGER

ORGANIZER = "Organizer_"
MERCHANT = "Merchant_"
"""A membership names what it is in by the `domain` of a policy: one of these and the id."""


class Directory:
    """An id that no text column could hold belongs to no user."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def audiences(
        self, keys: Sequence[Audience], limit: int = MAX_INTEGER, after: str = ""
    ) -> Mapping[Audience, Sequence[str]]:
        """One query for all keys. Members of the organization or of one of its merchants (scope
        `org`), or of that merchant where it is under that organizer (scope `merchant`): each user
        once, ascending by code points. Of each key the first `limit` above `after`. An entry for every key,
        empty where there is no member."""
        found: dict[Audience, list[str]] = {key: [] for key in keys}
        wanted = [key for key in found if storable(key.organizer_id + (key.merchant_id or ""))]
        if wanted:
            for index, user_id in await self._driver.read_one(_audiences, wanted, limit, after):
                found[wanted[index]].append(user_id)
        return found

    async def locales(self, readers: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """One query for all (user_id, organizer_id): the user's locale, else the organizer's; no
        entry where neither is known. No organizer is called "": with it, the user's own alone."""
        settings = await self.reader_settings(readers)
        return {reader: each.locale for reader, each in settings.items() if each.locale is not None}

    async def reader_settings(
        self, readers: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], ReaderSettings]:
        """As `locales`, with the organizer's time zone; no entry where none of them is known."""
        wanted = [reader for reader in dict.fromkeys(readers) if storable("".join(reader))]
        return await self._driver.read_one(_reader_settings, wanted) if wanted else {}

    async def memberships(self, user_ids: Sequence[str]) -> Mapping[str, Memberships]:
        """One query for all users. An entry for every id, empty for an unknown user."""
        wanted = [user_id for user_id in user_ids if storable(user_id)]
        found = await self._driver.read_one(_memberships, wanted) if wanted else {}
        return {user_id: found.get(user_id, _NONE) for user_id in user_ids}

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        """Codes granted to the user directly, through the user's roles, or through `roles`."""
        held = [role for role in roles if storable(role)]
        return await self._driver.read_one(_permissions, user_id if storable(user_id) else None, held)

    async def load(self, roster: Roster) -> None:
        """Add or update; idempotent. Nothing that is absent from the roster is removed; of what is given
        twice the last counts. Raises StoreRejected."""
        require_texts(roster)
        await self._driver.write(load_roster, roster)


_NONE = Memberships(frozenset(), frozenset())


async def _audiences(tx: Tx, wanted: Sequence[Audience], limit: int, after: str) -> list[tuple[int, str]]:
    keys = json.dumps([(key.organizer_id, key.merchant_id) for key in wanted])
    rows = await tx.all("audiences", keys=keys, limit=limit, after=after)
    return [(row["index"], row["user_id"]) for row in rows]


async def _reader_settings(
    tx: Tx, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], ReaderSettings]:
    rows = await tx.all("reader_settings", readers=json.dumps(wanted))
    return {wanted[row["index"]]: ReaderSettings(row["locale"], row["time_zone"]) for row in rows}


async def _memberships(tx: Tx, user_ids: list[str]) -> dict[str, Memberships]:
    organizers: dict[str, set[str]] = {}
    merchants: dict[str, set[str]] = {}
    for row in await tx.all("memberships", user_ids=user_ids):
        user_id, domain, organizer_of_merchant = row["subject_id"], row["domain"], row["organizer_id"]
        if domain.startswith(ORGANIZER):
            organizers.setdefault(user_id, set()).add(domain.removeprefix(ORGANIZER))
        elif domain.startswith(MERCHANT):
            merchants.setdefault(user_id, set()).add(domain.removeprefix(MERCHANT))
            if organizer_of_merchant is not None:
                organizers.setdefault(user_id, set()).add(organizer_of_merchant)
    return {
        user_id: Memberships(frozenset(organizers.get(user_id, ())), frozenset(merchants.get(user_id, ())))
        for user_id in {*organizers, *merchants}
    }


async def _permissions(tx: Tx, user_id: str | None, roles: list[str]) -> frozenset[str]:
    return frozenset(row["code"] for row in await tx.all("permissions", user_id=user_id, roles=roles))


async def load_roster(tx: Tx, roster: Roster) -> None:
    """Each table's rows ascend, so that two loads cannot wait for each other in a circle."""
    organizers = {m.organizer_id: Organizer(m.organizer_id, None, ()) for m in roster.members}
    organizers |= {organizer.id: organizer for organizer in roster.organizers}
    await tx.many(
        "load_organizer",
        [
            {"id": id, "locale": organizers[id].locale, "time_zone": organizers[id].time_zone}
            for id in sorted(organizers)
        ],
    )
    merchants = {
        merchant: organizer.id for organizer in roster.organizers for merchant in organizer.merchants
    }
    of_members = {m.merchant_id: m.organizer_id for m in roster.members if m.merchant_id is not None}
    locales = {member.user_id: member.locale for member in roster.members if member.locale is not None}
    roles = {member.role for member in roster.members}
    roles |= {grant.role for grant in roster.grants if grant.role is not None}
    for query, key, value, pairs in (
        ("load_merchant", "id", "organizer_id", merchants),
        ("load_merchant_of_member", "id", "organizer_id", of_members),
        ("load_locale", "user_id", "locale", locales),
    ):
        await tx.many(query, [{key: each, value: pairs[each]} for each in sorted(pairs)])
    await tx.many("load_role", [{"identifier": role} for role in sorted(roles)])
    names = ("user_id", "target_id", "domain", "variant", "target_type")
    rows = [dict(zip(names, policy, strict=True)) for policy in sorted(set(policies(roster)))]
    await tx.many("load_policy", rows)


def policies(roster: Roster) -> Iterator[tuple[str, str, str, str, str]]:
    """(user, role or permission, domain, variant, type of the target)"""
    for member in roster.members:
        in_organizer = member.merchant_id is None
        domain = ORGANIZER + member.organizer_id if in_organizer else f"{MERCHANT}{member.merchant_id}"
        yield member.user_id, member.role, domain, "group", "Role"
    for grant in roster.grants:
        if grant.role is not None:
            yield grant.user_id, grant.role, "", "group", "Role"
        if grant.permission is not None:
            yield grant.user_id, grant.permission, "", "policy", "Permission"


def require_texts(roster: Roster) -> None:
    """Raises StoreRejected for a text that no column holds."""
    for text in _texts(roster):
        require_storable("The roster", text)


def _texts(roster: Roster) -> Iterator[str | None]:
    for organizer in roster.organizers:
        yield from (organizer.id, organizer.locale, organizer.time_zone, *organizer.merchants)
    for member in roster.members:
        yield from (member.user_id, member.organizer_id, member.merchant_id, member.role, member.locale)
    for grant in roster.grants:
        yield from (grant.user_id, grant.role, grant.permission)
