"""Who belongs where, in memory. The same rules as the tables of CONTRACT §5."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from nx_signal.model import OPERATOR_ROLE, PERMISSIONS, Audience, Memberships, Roster


class MemoryDirectory:
    def __init__(self, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> None:
        self._begin = begin
        self._end = end
        self._organizer_of: dict[str, str] = {}  # by merchant
        self._organizer_locales: dict[str, str] = {}
        self._user_locales: dict[str, str] = {}
        self._of_organizers: set[tuple[str, str]] = set()  # (user, organizer)
        self._of_merchants: set[tuple[str, str]] = set()  # (user, merchant)
        self._roles: set[tuple[str, str]] = set()  # (user, role)
        self._granted: set[tuple[str, str]] = set()  # (user, permission)

    async def audiences(self, keys: Sequence[Audience]) -> Mapping[Audience, Sequence[str]]:
        await self._begin()
        found = {key: sorted(self._audience(key)) for key in keys}
        await self._end()
        return found

    def _audience(self, key: Audience) -> set[str]:
        users = {
            user
            for user, merchant in self._of_merchants
            if self._organizer_of.get(merchant) == key.organizer_id and key.merchant_id in (None, merchant)
        }
        if key.merchant_id is None:
            users |= {user for user, organizer in self._of_organizers if organizer == key.organizer_id}
        return users

    async def locales(self, readers: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        await self._begin()
        found = {}
        for user, organizer in readers:
            locale = self._user_locales.get(user) or self._organizer_locales.get(organizer)
            if locale is not None:
                found[user, organizer] = locale
        await self._end()
        return found

    async def memberships(self, user_ids: Sequence[str]) -> Mapping[str, Memberships]:
        await self._begin()
        found = {user_id: self._memberships(user_id) for user_id in user_ids}
        await self._end()
        return found

    def _memberships(self, user_id: str) -> Memberships:
        merchants = {merchant for user, merchant in self._of_merchants if user == user_id}
        organizers = {organizer for user, organizer in self._of_organizers if user == user_id}
        organizers |= {self._organizer_of[m] for m in merchants if m in self._organizer_of}
        return Memberships(frozenset(organizers), frozenset(merchants))

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        await self._begin()
        held = {*roles, *(role for user, role in self._roles if user == user_id)}
        codes = {code for user, code in self._granted if user == user_id}
        if OPERATOR_ROLE in held:
            codes |= set(PERMISSIONS)
        await self._end()
        return frozenset(codes)

    async def load(self, roster: Roster) -> None:
        await self._begin()
        for organizer in roster.organizers:
            for merchant in organizer.merchants:
                self._organizer_of[merchant] = organizer.id
            if organizer.locale is not None:
                self._organizer_locales[organizer.id] = organizer.locale
        for member in roster.members:
            if member.merchant_id is None:
                self._of_organizers.add((member.user_id, member.organizer_id))
            else:
                self._of_merchants.add((member.user_id, member.merchant_id))
                self._organizer_of.setdefault(member.merchant_id, member.organizer_id)
            if member.locale is not None:
                self._user_locales[member.user_id] = member.locale
        for grant in roster.grants:
            if grant.role is not None:
                self._roles.add((grant.user_id, grant.role))
            if grant.permission is not None:
                self._granted.add((grant.user_id, grant.permission))
        await self._end()
