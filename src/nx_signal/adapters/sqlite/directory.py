"""Who belongs where, who may do what and who reads which language, in SQLite (CONTRACT §5)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from nx_signal.adapters._domains import MERCHANT, ORGANIZER, memberships_of
from nx_signal.adapters._values import require_storable, storable
from nx_signal.adapters.sqlite.file import SQL, SqliteFile
from nx_signal.model import Audience, Memberships, Roster


class SqliteDirectory:
    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def audiences(self, keys: Sequence[Audience]) -> Mapping[Audience, Sequence[str]]:
        asked = [k for k in dict.fromkeys(keys) if storable(k.organizer_id + (k.merchant_id or ""))]
        values = {"keys": json.dumps([(key.organizer_id, key.merchant_id) for key in asked])}

        def transaction(connection: sqlite3.Connection) -> Mapping[Audience, Sequence[str]]:
            found: dict[Audience, list[str]] = {key: [] for key in keys}
            for n, user_id in connection.execute(SQL["audiences"], values):
                found[asked[n]].append(user_id)
            return found

        return await self._file.read(transaction)

    async def locales(self, readers: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        asked = [reader for reader in dict.fromkeys(readers) if storable("".join(reader))]
        values = {"readers": json.dumps(asked)}
        return await self._file.read(
            lambda connection: {asked[n]: locale for n, locale in connection.execute(SQL["locales"], values)}
        )

    async def memberships(self, user_ids: Sequence[str]) -> Mapping[str, Memberships]:
        values = {"user_ids": json.dumps([user_id for user_id in user_ids if storable(user_id)])}
        return await self._file.read(
            lambda connection: memberships_of(user_ids, connection.execute(SQL["memberships"], values))
        )

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        values = {"user_id": user_id, "roles": json.dumps([role for role in roles if storable(role)])}
        return await self._file.read(
            lambda connection: frozenset(code for (code,) in connection.execute(SQL["permissions"], values))
        )

    async def load(self, roster: Roster) -> None:
        for text in _texts(roster):
            require_storable("The roster", text)

        def transaction(connection: sqlite3.Connection) -> None:
            def each(query: str, names: Sequence[str], rows: Iterator[tuple[str | None, ...]]) -> None:
                connection.executemany(SQL[query], [dict(zip(names, row, strict=True)) for row in rows])

            members = roster.members
            each("write_organizer", ("id", "locale"), ((o.id, o.locale) for o in roster.organizers))
            each("write_organizer", ("id", "locale"), ((m.organizer_id, None) for m in members))
            each(
                "write_merchant",
                ("id", "organizer_id"),
                ((merchant, o.id) for o in roster.organizers for merchant in o.merchants),
            )
            each(
                "add_merchant",
                ("id", "organizer_id"),
                ((m.merchant_id, m.organizer_id) for m in members if m.merchant_id is not None),
            )
            each(
                "write_locale",
                ("user_id", "locale"),
                ((m.user_id, m.locale) for m in members if m.locale is not None),
            )
            each("add_role", ("identifier",), ((m.role,) for m in members))
            each("add_role", ("identifier",), ((g.role,) for g in roster.grants if g.role is not None))
            each(
                "add_policy",
                ("variant", "user_id", "target_type", "target_id", "domain"),
                _policies(roster),
            )

        await self._file.write(transaction)


def _policies(roster: Roster) -> Iterator[tuple[str, ...]]:
    for member in roster.members:
        domain = (
            ORGANIZER + member.organizer_id if member.merchant_id is None else MERCHANT + member.merchant_id
        )
        yield "group", member.user_id, "Role", member.role, domain
    for grant in roster.grants:
        if grant.role is not None:
            yield "group", grant.user_id, "Role", grant.role, ""
        if grant.permission is not None:
            yield "policy", grant.user_id, "Permission", grant.permission, ""


def _texts(roster: Roster) -> Iterator[str | None]:
    for organizer in roster.organizers:
        yield from (organizer.id, organizer.locale, *organizer.merchants)
    for member in roster.members:
        yield from (member.user_id, member.organizer_id, member.merchant_id, member.role, member.locale)
    for grant in roster.grants:
        yield from (grant.user_id, grant.role, grant.permission)
