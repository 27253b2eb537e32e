"""store.Members, sentence by sentence, on every database."""

from __future__ import annotations

import pytest

from contract.store_suite import Sql, unique
from nx_signal.errors import StoreRejected
from nx_signal.model import (
    OPERATOR_ROLE,
    Grant,
    Holding,
    Member,
    Membership,
    Memberships,
    Organizer,
    Removed,
    Roster,
)
from nx_signal.store import Database, Members


@pytest.fixture
def members(database: Database) -> Members:
    return database.members


class Shop:
    """Two organizations of its own: o with the merchants m and n, and p with q. ann is in o itself, in m and
    in q, bob in m; ann holds the operator's role and one permission."""

    def __init__(self) -> None:
        self.o, self.p, self.m, self.n, self.q = (unique(name) for name in "opmnq")
        self.ann, self.bob = unique("ann"), unique("bob")
        self.memberships = [
            Membership(self.ann, self.p, self.q, "staff", "vi"),
            Membership(self.ann, self.o, self.m, "staff", "vi"),
            Membership(self.ann, self.o, None, "owner", "vi"),
            Membership(self.bob, self.o, self.m, "staff", None),
        ]
        self.grants = (Grant(self.ann, OPERATOR_ROLE, None), Grant(self.ann, None, "DeadLetter.find"))

    def roster(self, *users: str, grants: tuple[Grant, ...] = ()) -> Roster:
        return Roster(
            (Organizer(self.o, None, (self.m, self.n)), Organizer(self.p, None, (self.q,))),
            [
                Member(each.user_id, each.organizer_id or "", each.merchant_id, each.role, each.locale)
                for each in self.memberships
                if each.user_id in users
            ],
            grants,
        )

    def held_by(self, user: str) -> list[Membership]:
        return sorted((m for m in self.memberships if m.user_id == user), key=_domain)


def _domain(each: Membership) -> str:
    return f"Merchant_{each.merchant_id}" if each.merchant_id else f"Organizer_{each.organizer_id}"


@pytest.fixture
async def shop(database: Database) -> Shop:
    shop = Shop()
    await database.directory.load(shop.roster(shop.ann, shop.bob, grants=shop.grants))
    return shop


async def of_user(members: Members, user: str) -> list[Membership]:
    return list((await members.memberships(Holding(user_id=user), 100))[0])


async def grants_of(members: Members, user: str) -> list[Grant]:
    return list((await members.grants(Holding(user_id=user), 100))[0])


async def test_memberships_are_listed_with_their_organizer_and_language(members: Members, shop: Shop) -> None:
    assert await of_user(members, shop.ann) == shop.held_by(shop.ann)
    assert await of_user(members, shop.bob) == shop.held_by(shop.bob)
    assert await grants_of(members, shop.ann) == list(shop.grants)
    assert await grants_of(members, shop.bob) == []


async def test_an_organization_covers_its_merchants(members: Members, shop: Shop) -> None:
    found, _ = await members.memberships(Holding(organizer_id=shop.o), 100)
    assert len(found) == 3 and {each.organizer_id for each in found} == {shop.o}
    found, _ = await members.memberships(Holding(merchant_id=shop.m), 100)
    assert [each.user_id for each in found] == sorted([shop.ann, shop.bob])
    found, _ = await members.memberships(Holding(organizer_id=shop.o, role="owner"), 100)
    assert [each.merchant_id for each in found] == [None]
    assert await members.memberships(Holding(organizer_id="nobody"), 100) == ([], None)


async def test_pages_go_on_after_their_key(members: Members, shop: Shop) -> None:
    seen: list[Membership] = []
    after = None
    for left in (2, 1, 0):
        page, after = await members.memberships(Holding(user_id=shop.ann), 1, after)
        assert len(page) == 1 and (after is None) == (left == 0)
        seen += page
    assert seen == shop.held_by(shop.ann)
    first, after_grant = await members.grants(Holding(user_id=shop.ann), 1)
    second, end = await members.grants(Holding(user_id=shop.ann), 1, after_grant)
    assert ([*first, *second], end) == (list(shop.grants), None)


async def test_what_is_removed_is_answered_and_gone(database: Database, members: Members, shop: Shop) -> None:
    where = Holding(user_id=shop.ann, organizer_id=shop.o)
    expected = Removed([each for each in shop.held_by(shop.ann) if each.organizer_id == shop.o], [])
    assert await members.remove(where, dry_run=True) == expected
    assert await of_user(members, shop.ann) == shop.held_by(shop.ann)
    assert await members.remove(where) == expected
    assert await members.remove(where) == Removed([], [])
    held = (await database.directory.memberships([shop.ann, shop.bob]))[shop.ann]
    assert held == Memberships(frozenset({shop.p}), frozenset({shop.q}))
    assert await of_user(members, shop.bob) == shop.held_by(shop.bob)
    assert await grants_of(members, shop.ann) == list(shop.grants)


async def test_a_person_who_leaves_keeps_nothing(database: Database, members: Members, shop: Shop) -> None:
    removed = await members.remove(Holding(user_id=shop.ann))
    assert (len(removed.memberships), list(removed.grants)) == (3, list(shop.grants))
    assert await database.directory.permissions(shop.ann, []) == frozenset()
    assert await of_user(members, shop.bob) == shop.held_by(shop.bob)


@pytest.mark.parametrize("by_role", [True, False])
async def test_one_grant_is_removed_alone(members: Members, shop: Shop, by_role: bool) -> None:
    where = Holding(
        user_id=shop.ann,
        role=OPERATOR_ROLE if by_role else None,
        permission=None if by_role else "DeadLetter.find",
    )
    removed = await members.remove(where)
    assert (list(removed.memberships), len(removed.grants)) == ([], 1)
    assert await grants_of(members, shop.ann) == [g for g in shop.grants if g not in removed.grants]
    assert await of_user(members, shop.ann) == shop.held_by(shop.ann)


async def test_a_replacement_removes_what_its_organizations_no_longer_list(
    members: Members, shop: Shop
) -> None:
    elsewhere = Member(shop.bob, unique("elsewhere"), None, "staff", None)
    await members.replace(Roster((), [elsewhere], ()))  # names another organization alone
    assert len(await of_user(members, shop.bob)) == 2
    new = Member(shop.bob, shop.o, shop.n, "staff", None)
    roster = Roster((Organizer(shop.o, None, (shop.m, shop.n)),), [new], ())
    expected = [each for each in shop.memberships if each.organizer_id == shop.o]
    preview = await members.replace(roster, dry_run=True)
    assert sorted(map(repr, preview.memberships)) == sorted(map(repr, expected))
    assert await of_user(members, shop.ann) == shop.held_by(shop.ann)
    assert await members.replace(roster) == preview
    assert [each.merchant_id for each in await of_user(members, shop.ann)] == [shop.q]
    assert {each.merchant_id for each in await of_user(members, shop.bob)} == {None, shop.n}
    assert await grants_of(members, shop.ann) == list(shop.grants)
    assert await members.replace(roster) == Removed([], [])


async def test_a_replacement_that_lists_grants_replaces_those_of_signal(
    database: Database, members: Members, shop: Shop
) -> None:
    foreign = Grant(shop.ann, unique("role-of-another-service"), None)
    await database.directory.load(Roster((), (), (foreign,)))
    kept = Grant(shop.ann, None, "DeadLetter.find")
    removed = await members.replace(Roster((), (), (kept,)))
    assert Grant(shop.ann, OPERATOR_ROLE, None) in removed.grants
    assert await grants_of(members, shop.ann) == [foreign, kept]


async def test_a_merchant_of_another_organization_keeps_its_members(members: Members, shop: Shop) -> None:
    """A member's line does not move a merchant, so it does not replace its members either."""
    await members.replace(Roster((), [Member(shop.bob, shop.p, shop.m, "guest", None)], ()))
    assert shop.held_by(shop.ann)[0] in await of_user(members, shop.ann)


async def test_what_denies_stays(members: Members, shop: Shop, sql: Sql, database: Database) -> None:
    columns = "variant, subject_type, subject_id, target_type, target_id, effect, domain"
    values = f"'group', 'User', '{shop.bob}', 'Role', 'staff', 'deny', 'Merchant_{shop.m}'"
    sql(f"INSERT INTO policy_definition ({columns}) VALUES ({values})")  # noqa: S608 - names of this test
    assert await of_user(members, shop.bob) == []
    assert await members.remove(Holding(user_id=shop.bob)) == Removed([], [])
    await database.directory.load(shop.roster(shop.bob))
    assert (await database.directory.memberships([shop.bob]))[shop.bob].merchants == frozenset()


@pytest.mark.parametrize("text", ["nul\0", "half \ud83d", "%", "_"])
async def test_what_names_nothing_covers_nothing(members: Members, shop: Shop, text: str) -> None:
    for where in (Holding(user_id=text), Holding(organizer_id=text), Holding(merchant_id=text)):
        found, after = await members.memberships(where, 10)
        removed = await members.remove(where)
        assert (len(found), after, len(removed.memberships), len(removed.grants)) == (0, None, 0, 0)


async def test_a_replacement_that_no_store_holds_is_refused_whole(members: Members, shop: Shop) -> None:
    with pytest.raises(StoreRejected, match="The roster"):
        await members.replace(Roster((), [Member("a\0b", shop.o, None, "staff", None)], ()))
    assert len(await of_user(members, shop.ann)) == 3
