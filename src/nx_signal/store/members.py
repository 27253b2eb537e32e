"""For operators: which memberships and grants there are, and taking them away (CONTRACT §5)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nx_signal.model import OPERATOR_ROLE, PERMISSIONS, Grant, Holding, Membership, Removed, Roster
from nx_signal.model.text import storable
from nx_signal.store.directory import MERCHANT, ORGANIZER, load_roster, policies, require_texts
from nx_signal.store.driver import Driver, Row, Tx

ALL = 2**31 - 1

MembershipKey = tuple[str, str, str]
"""(user, domain, role), by which a page goes on"""
GrantKey = tuple[str, str, str]
"""(user, variant, role or permission)"""


class Members:
    """Only what allows is listed and removed: a policy that denies stays, with its effect."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def memberships(
        self, where: Holding, limit: int, after: MembershipKey | None = None
    ) -> tuple[Sequence[Membership], MembershipKey | None]:
        """A page, ascending by key, and the key that the next one comes after; None at the end."""
        if not _storable(where, after):
            return (), None
        rows = await self._driver.read_one(_memberships, where, limit + 1, after)
        last = _membership_key(rows[limit - 1]) if len(rows) > limit else None
        return [_membership(row) for row in rows[:limit]], last

    async def grants(
        self, where: Holding, limit: int, after: GrantKey | None = None
    ) -> tuple[Sequence[Grant], GrantKey | None]:
        """As `memberships`."""
        if not _storable(where, after):
            return (), None
        rows = await self._driver.read_one(_grants, where, limit + 1, after)
        last = _grant_key(rows[limit - 1]) if len(rows) > limit else None
        return [_grant(row) for row in rows[:limit]], last

    async def remove(
        self, where: Holding, *, memberships: bool = True, grants: bool = True, dry_run: bool = False
    ) -> Removed:
        """All that `where` covers, of the kinds given, in one transaction; what was removed, or would be."""
        if not _storable(where, None):
            return Removed((), ())
        if dry_run:
            return await self._driver.read(_remove, where, memberships, grants, True)
        return await self._driver.write(_remove, where, memberships, grants, False)

    async def replace(self, roster: Roster, *, dry_run: bool = False) -> Removed:
        """Load the roster, and remove what it does not list: of each organizer that it names the memberships
        in the organization and in its merchants; where it lists grants, those of Signal's permissions, of
        the operator's role and of each role that it grants. One transaction. Raises StoreRejected."""
        require_texts(roster)
        if dry_run:
            return await self._driver.read(_replace, roster, True)
        return await self._driver.write(_replace, roster, False)


def _storable(where: Holding, after: Sequence[str] | None) -> bool:
    texts = (where.user_id, where.organizer_id, where.merchant_id, where.role, where.permission)
    return all(storable(text or "") for text in (*texts, *(after or ())))


# --- the scripts ---


async def _memberships(
    tx: Tx, where: Holding, limit: int, after: MembershipKey | None = None
) -> Sequence[Row]:
    if where.permission is not None:
        return []
    user, domain, role = after or ("", "", "")
    return await tx.all(
        "memberships_held",
        user_id=where.user_id,
        organizer_id=where.organizer_id,
        merchant_id=where.merchant_id,
        role=where.role,
        after_user=user,
        after_domain=domain,
        after_role=role,
        limit=limit,
    )


async def _grants(tx: Tx, where: Holding, limit: int, after: GrantKey | None = None) -> Sequence[Row]:
    if where.organizer_id is not None or where.merchant_id is not None:
        return []
    user, variant, target = after or ("", "", "")
    return await tx.all(
        "grants_held",
        user_id=where.user_id,
        role=where.role,
        permission=where.permission,
        after_user=user,
        after_variant=variant,
        after_target=target,
        limit=limit,
    )


async def _remove(tx: Tx, where: Holding, memberships: bool, grants: bool, dry_run: bool) -> Removed:
    return await _take_away(
        tx,
        await _memberships(tx, where, ALL) if memberships else (),
        await _grants(tx, where, ALL) if grants else (),
        dry_run,
    )


async def _replace(tx: Tx, roster: Roster, dry_run: bool) -> Removed:
    kept = {(user, domain, target) for user, target, domain, _, _ in policies(roster)}
    listed = {merchant for organizer in roster.organizers for merchant in organizer.merchants}
    organizers = {each.id for each in roster.organizers} | {each.organizer_id for each in roster.members}
    memberships = await tx.all(
        "memberships_within", organizer_ids=sorted(organizers), merchant_ids=sorted(listed)
    )
    roles = {OPERATOR_ROLE} | {grant.role for grant in roster.grants if grant.role is not None}
    grants = [
        row
        for row in (await _grants(tx, Holding(), ALL) if roster.grants else ())
        if row["target_id"] in (roles if row["variant"] == "group" else PERMISSIONS)
        and (row["user_id"], "", row["target_id"]) not in kept
    ]
    if not dry_run:
        await load_roster(tx, roster)
    surplus = [row for row in memberships if _membership_key(row) not in kept]
    return await _take_away(tx, surplus, grants, dry_run)


async def _take_away(tx: Tx, memberships: Collection[Row], grants: Collection[Row], dry_run: bool) -> Removed:
    if not dry_run:
        rows = sorted(
            (
                *((r["user_id"], r["role"], r["domain"], "group", "Role") for r in memberships),
                *((r["user_id"], r["target_id"], "", r["variant"], _TARGETS[r["variant"]]) for r in grants),
            )
        )
        await tx.many("remove_policy", [dict(zip(_POLICY, row, strict=True)) for row in rows])
    return Removed([_membership(row) for row in memberships], [_grant(row) for row in grants])


_POLICY = ("user_id", "target_id", "domain", "variant", "target_type")
"""In the order in which the roster is loaded, so that two writers cannot wait for each other in a circle."""
_TARGETS = {"group": "Role", "policy": "Permission"}


def _membership_key(row: Row) -> MembershipKey:
    return row["user_id"], row["domain"], row["role"]


def _grant_key(row: Row) -> GrantKey:
    return row["user_id"], row["variant"], row["target_id"]


def _membership(row: Row) -> Membership:
    user_id, domain, role = _membership_key(row)
    if domain.startswith(ORGANIZER):
        return Membership(user_id, domain.removeprefix(ORGANIZER), None, role, row["locale"])
    return Membership(user_id, row["organizer_id"], domain.removeprefix(MERCHANT), role, row["locale"])


def _grant(row: Row) -> Grant:
    by_role = row["variant"] == "group"
    return Grant(row["user_id"], row["target_id"] if by_role else None, None if by_role else row["target_id"])
