"""Who belongs where, who may do what, who reads which language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nx_signal.adapters._domains import MERCHANT, ORGANIZER, memberships_of
from nx_signal.adapters._values import storable
from nx_signal.adapters.postgres.session import Connection, Session, transaction
from nx_signal.model import Audience, Memberships, Roster
from nx_signal.sql import queries

_SQL = queries("postgres")


class PostgresDirectory:
    """ports.Directory. An id that no text column could hold is nobody's."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def audiences(self, keys: Sequence[Audience]) -> Mapping[Audience, Sequence[str]]:
        found: dict[Audience, list[str]] = {key: [] for key in keys}
        asked = [key for key in found if storable(key.organizer_id) and storable(key.merchant_id or "")]
        if asked:
            for index, user_id in await self._session.call(_aio_audiences, asked):
                found[asked[index]].append(user_id)
        return found

    async def locales(self, readers: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        asked = [reader for reader in dict.fromkeys(readers) if all(map(storable, reader))]
        return await self._session.call(_aio_locales, asked) if asked else {}

    async def memberships(self, user_ids: Sequence[str]) -> Mapping[str, Memberships]:
        asked = [user_id for user_id in user_ids if storable(user_id)]
        rows = await self._session.call(_aio_memberships, asked) if asked else []
        return memberships_of(user_ids, rows)

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        roles = [role for role in roles if storable(role)]
        return await self._session.call(_aio_permissions, user_id if storable(user_id) else None, roles)

    async def load(self, roster: Roster) -> None:
        await self._session.call(_aio_load, roster)


async def _aio_audiences(connection: Connection, asked: Sequence[Audience]) -> list[tuple[int, str]]:
    organizers, merchants = [key.organizer_id for key in asked], [key.merchant_id for key in asked]
    rows = await connection.fetch(_SQL["audiences"], organizers, merchants)
    return [(row["index"], row["user_id"]) for row in rows]


async def _aio_locales(
    connection: Connection, asked: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    users, organizers = [user for user, _ in asked], [organizer for _, organizer in asked]
    rows = await connection.fetch(_SQL["locales"], users, organizers)
    return {(user, organizer): locale for user, organizer, locale in rows}


async def _aio_memberships(
    connection: Connection, user_ids: Sequence[str]
) -> list[tuple[str, str, str | None]]:
    """(user, domain, the organizer of the domain's merchant)"""
    rows = await connection.fetch(_SQL["memberships"], user_ids)
    return [(row["subject_id"], row["domain"], row["organizer_id"]) for row in rows]


async def _aio_permissions(
    connection: Connection, user_id: str | None, roles: Sequence[str]
) -> frozenset[str]:
    rows = await connection.fetch(_SQL["permissions"], user_id, roles)
    return frozenset(row["code"] for row in rows)


async def _aio_load(connection: Connection, roster: Roster) -> None:
    """Of what is given twice the last counts."""
    organizers = {o.id: o.locale for o in roster.organizers}
    merchants = {merchant: o.id for o in roster.organizers for merchant in o.merchants}
    implied = {m.merchant_id: m.organizer_id for m in roster.members if m.merchant_id is not None}
    locales = {m.user_id: m.locale for m in roster.members if m.locale is not None}
    roles = {m.role for m in roster.members} | {g.role for g in roster.grants if g.role is not None}
    policies = [
        ("group", m.user_id, "Role", m.role, _domain(m.organizer_id, m.merchant_id)) for m in roster.members
    ]
    for grant in roster.grants:
        if grant.role is not None:
            policies.append(("group", grant.user_id, "Role", grant.role, ""))
        if grant.permission is not None:
            policies.append(("policy", grant.user_id, "Permission", grant.permission, ""))
    async with transaction(connection):
        for name, pairs in (
            ("load_organizers", organizers),
            ("load_merchants", merchants),
            ("load_merchants_of_members", implied),
            ("load_locales", locales),
        ):
            await connection.execute(_SQL[name], list(pairs), list(pairs.values()))
        await connection.execute(_SQL["load_roles"], list(roles))
        columns = zip(*policies, strict=True) if policies else ([],) * 5
        await connection.execute(_SQL["load_policies"], *columns)


def _domain(organizer_id: str, merchant_id: str | None) -> str:
    return ORGANIZER + organizer_id if merchant_id is None else MERCHANT + merchant_id
