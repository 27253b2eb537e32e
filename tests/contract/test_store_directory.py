"""store.Directory, sentence by sentence, on every database."""

from __future__ import annotations

import pytest

from contract.store_suite import unique
from nx_signal.errors import StoreRejected
from nx_signal.model import (
    OPERATOR_ROLE,
    PERMISSIONS,
    Audience,
    Grant,
    Member,
    Memberships,
    Organizer,
    ReaderSettings,
    Roster,
)
from nx_signal.store import Database, Directory

O1, O2, M1, M2, M3 = (unique(name) for name in ("o1", "o2", "m1", "m2", "m3"))
"""o1 has m1 and m2; o2 has m3"""


@pytest.fixture
def directory(database: Database) -> Directory:
    return database.directory


@pytest.fixture
def user() -> str:
    return unique("user")


def roster(*members: Member, grants: tuple[Grant, ...] = (), locale: str | None = None) -> Roster:
    organizers = (Organizer(O1, locale, (M1, M2)), Organizer(O2, None, (M3,)))
    return Roster(organizers, members, grants)


def member(user: str, organizer: str, merchant: str | None = None, locale: str | None = None) -> Member:
    return Member(user, organizer, merchant, "staff", locale)


# --- audiences -----------------------------------------------------------------------------------


async def test_an_organizations_audience_is_its_members_and_its_merchants_each_once(
    directory: Directory,
) -> None:
    o = unique("o")
    m, n = unique("m"), unique("n")
    await directory.load(
        Roster(
            (Organizer(o, None, (m, n)),),
            [
                member("c", o),
                member("b", o, m),
                member("a", o, n),
                member("c", o, m),
                member("c", o, n),
                Member("c", o, None, "owner", None),
                member("é", o),
                member("B", o),
            ],
            (),
        )
    )
    asked = [Audience(o), Audience(o, m), Audience(o, n)]
    assert {k: list(v) for k, v in (await directory.audiences(asked)).items()} == {
        Audience(o): ["B", "a", "b", "c", "é"],
        Audience(o, m): ["b", "c"],
        Audience(o, n): ["a", "c"],
    }


async def test_an_audience_is_found_in_portions(directory: Directory) -> None:
    o, p = unique("o"), unique("p")
    users = ["B", *(f"a{n}" for n in range(5)), "é"]
    members = [member(user, each) for user in users for each in (o, p)]
    await directory.load(Roster((), [*members, member("a3", o, unique("m"))], ()))
    one, other = Audience(o), Audience(p)
    found = await directory.audiences([one, other], 3)
    assert [list(found[each]) for each in (one, other)] == [users[:3], users[:3]]
    seen: list[str] = []
    after = ""
    while portion := (await directory.audiences([one], 2, after))[one]:
        seen += portion
        after = portion[-1]
    assert seen == users


async def test_a_merchant_of_another_organizer_gives_nobody(directory: Directory, user: str) -> None:
    await directory.load(roster(member(user, O1, M1)))
    found = await directory.audiences([Audience(O2, M1), Audience(O1, M1)])
    assert list(found[Audience(O2, M1)]) == []
    assert user in found[Audience(O1, M1)]


async def test_a_member_of_the_organization_is_in_no_merchants_audience(
    directory: Directory, user: str
) -> None:
    await directory.load(roster(member(user, O1)))
    found = await directory.audiences([Audience(O1), Audience(O1, M1), Audience(O2)])
    assert [user in found[key] for key in (Audience(O1), Audience(O1, M1), Audience(O2))] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["", "nobody-knows", "a\0b", "\ud800", "%", "_"])
async def test_every_key_asked_has_an_entry(directory: Directory, user: str, name: str) -> None:
    await directory.load(roster(member(user, O1, M1)))
    asked = [Audience(name), Audience(O1, name), Audience(name, M1), Audience(O1, M1)]
    found = await directory.audiences([*asked, asked[0]])
    assert set(found) == set(asked)
    assert [len(found[key]) for key in asked[:3]] == [0, 0, 0]
    assert user in found[asked[3]]
    assert await directory.audiences([]) == {}


async def test_a_merchant_known_from_its_member_alone_is_under_that_organizer(
    directory: Directory, user: str
) -> None:
    o, m = unique("o"), unique("m")
    await directory.load(Roster((), [member(user, o, m)], ()))
    found = await directory.audiences([Audience(o), Audience(o, m)])
    assert [list(found[Audience(o)]), list(found[Audience(o, m)])] == [[user], [user]]


async def test_a_member_entry_does_not_move_a_merchant_and_an_organizer_entry_does(
    directory: Directory, user: str
) -> None:
    o, p, m = unique("o"), unique("p"), unique("m")
    await directory.load(Roster((Organizer(o, None, (m,)),), [member(user, p, m)], ()))
    assert list((await directory.audiences([Audience(o, m)]))[Audience(o, m)]) == [user]
    await directory.load(Roster((Organizer(p, None, (m,)),), (), ()))
    found = await directory.audiences([Audience(o, m), Audience(p, m)])
    assert [list(found[Audience(o, m)]), list(found[Audience(p, m)])] == [[], [user]]


# --- time zones ----------------------------------------------------------------------------------


async def test_an_organizations_time_zone_comes_with_each_of_its_readers(directory: Directory) -> None:
    user, o, p = unique("user"), unique("o"), unique("p")
    organizers = (Organizer(o, None, (), "Asia/Ho_Chi_Minh"), Organizer(p, "vi", ()))
    await directory.load(Roster(organizers, [member(user, o, locale="en")], ()))
    readers = [(user, o), (user, p), ("x", o), ("x", p), ("x", "nowhere")]
    expected = {
        (user, o): ReaderSettings("en", "Asia/Ho_Chi_Minh"),
        (user, p): ReaderSettings("en", None),
        ("x", o): ReaderSettings(None, "Asia/Ho_Chi_Minh"),
        ("x", p): ReaderSettings("vi", None),
    }
    assert await directory.reader_settings(readers) == expected
    await directory.load(Roster((Organizer(o, "vi", ()),), (), ()))  # says nothing of the time zone
    assert await directory.reader_settings([("x", o)]) == {("x", o): ReaderSettings("vi", "Asia/Ho_Chi_Minh")}


# --- locales -------------------------------------------------------------------------------------


async def test_a_users_locale_wins_over_the_organizers(directory: Directory) -> None:
    vi, none = unique("vi"), unique("none")
    reads_en, reads_any = unique("en"), unique("any")
    await directory.load(
        Roster(
            (Organizer(vi, "vi", ()), Organizer(none, None, ())),
            [member(reads_en, vi, locale="en"), member(reads_any, vi), member(reads_any, none)],
            (),
        )
    )
    readers = [(u, o) for u in (reads_en, reads_any, "stranger") for o in (vi, none, "elsewhere")]
    assert await directory.locales([*readers, readers[0]]) == {
        (reads_en, vi): "en",
        (reads_en, none): "en",
        (reads_en, "elsewhere"): "en",
        (reads_any, vi): "vi",
        ("stranger", vi): "vi",
    }
    assert await directory.locales([]) == {}


async def test_a_locale_can_be_changed_and_is_not_forgotten_where_left_out(
    directory: Directory, user: str
) -> None:
    o = unique("o")
    await directory.load(Roster((Organizer(o, "vi", ()),), [member(user, o, locale="vi")], ()))
    await directory.load(Roster((Organizer(o, None, ()),), [member(user, o)], ()))
    assert await directory.locales([(user, o), ("x", o)]) == {(user, o): "vi", ("x", o): "vi"}
    await directory.load(Roster((Organizer(o, "en", ()),), [member(user, o, locale="en")], ()))
    assert await directory.locales([(user, o), ("x", o)]) == {(user, o): "en", ("x", o): "en"}


async def test_hostile_readers_have_no_locale(directory: Directory, user: str) -> None:
    o = unique("o")
    await directory.load(Roster((Organizer(o, "vi", ()),), [member(user, o, locale="en")], ()))
    readers = [(user + "\0", "x"), ("\ud800", "x"), (user, "\ud800"), ("x", o + "\0")]
    assert await directory.locales(readers) in ({}, {(user, "\ud800"): "en"})


# --- memberships ---------------------------------------------------------------------------------


async def memberships(directory: Directory, user: str) -> Memberships:
    return (await directory.memberships([user]))[user]


async def test_memberships_of_many_users_are_each_their_own(directory: Directory, user: str) -> None:
    other, stranger = unique("u"), unique("u")
    await directory.load(roster(member(user, O1, M1), member(other, O2)))
    assert await directory.memberships([user, other, stranger, "a\0b"]) == {
        user: Memberships(frozenset({O1}), frozenset({M1})),
        other: Memberships(frozenset({O2}), frozenset()),
        stranger: Memberships(frozenset(), frozenset()),
        "a\0b": Memberships(frozenset(), frozenset()),
    }


async def test_memberships_include_the_organizers_of_ones_merchants(directory: Directory, user: str) -> None:
    await directory.load(roster(member(user, O1, M1), member(user, O1, M2)))
    assert await memberships(directory, user) == Memberships(frozenset({O1}), frozenset({M1, M2}))
    await directory.load(roster(member(user, O2)))
    assert await memberships(directory, user) == Memberships(frozenset({O1, O2}), frozenset({M1, M2}))


@pytest.mark.parametrize("name", ["nobody-knows", "", "a\0b"])
async def test_a_stranger_has_no_memberships_and_no_permissions(directory: Directory, name: str) -> None:
    await directory.load(roster(member(unique("u"), O1, M1)))
    assert await memberships(directory, name) == Memberships(frozenset(), frozenset())
    assert await directory.permissions(name, [name]) == frozenset()


async def test_an_id_with_an_underscore_is_no_other_domain(directory: Directory, user: str) -> None:
    o = unique("Merchant_x")
    await directory.load(Roster((), [member(user, o)], ()))
    assert await memberships(directory, user) == Memberships(frozenset({o}), frozenset())


# --- permissions ---------------------------------------------------------------------------------


async def test_the_seeded_operator_role_holds_every_permission(directory: Directory, user: str) -> None:
    assert await directory.permissions(user, []) == frozenset()
    await directory.load(roster(grants=(Grant(user, OPERATOR_ROLE, None),)))
    assert await directory.permissions(user, []) == frozenset(PERMISSIONS)


async def test_roles_of_the_token_count_like_those_of_the_user(directory: Directory, user: str) -> None:
    assert await directory.permissions(user, ["x", OPERATOR_ROLE]) == frozenset(PERMISSIONS)
    assert await directory.permissions(user, ["x"]) == frozenset()


async def test_a_permission_is_granted_directly(directory: Directory, user: str) -> None:
    grants = (Grant(user, None, "DeadLetter.find"), Grant(unique("x"), None, "DeadLetter.replay"))
    await directory.load(roster(grants=grants))
    assert await directory.permissions(user, []) == {"DeadLetter.find"}


async def test_a_role_within_an_organization_grants_nothing_outside_it(
    directory: Directory, user: str
) -> None:
    await directory.load(roster(Member(user, O1, None, OPERATOR_ROLE, None)))
    assert await directory.permissions(user, []) == frozenset()


async def test_a_grant_is_no_membership(directory: Directory, user: str) -> None:
    await directory.load(roster(grants=(Grant(user, "staff", None), Grant(user, None, "DeadLetter.find"))))
    assert await memberships(directory, user) == Memberships(frozenset(), frozenset())


# --- load ----------------------------------------------------------------------------------------


async def test_loading_twice_changes_nothing_and_removes_nothing(directory: Directory, user: str) -> None:
    first = roster(member(user, O1, M1, "en"), grants=(Grant(user, OPERATOR_ROLE, None),), locale="vi")
    for each in (first, first, roster(), Roster((), (), ())):
        await directory.load(each)
        assert await memberships(directory, user) == Memberships(frozenset({O1}), frozenset({M1}))
        assert await directory.permissions(user, []) == frozenset(PERMISSIONS)
        assert list((await directory.audiences([Audience(O1, M1)]))[Audience(O1, M1)]).count(user) == 1
        assert await directory.locales([(user, O1), ("x", O1)]) == {(user, O1): "en", ("x", O1): "vi"}


@pytest.mark.parametrize("text", ["nul\0", "half \ud83d"])
async def test_a_roster_with_a_text_that_no_store_holds_is_refused_whole(
    directory: Directory, user: str, text: str
) -> None:
    for bad in (Member(user, text, None, "staff", "vi"), Member(user, "o1", None, text, "vi")):
        with pytest.raises(StoreRejected, match="The roster"):
            await directory.load(Roster((), [Member(user, "o1", None, "staff", "vi"), bad], ()))
    assert await directory.locales([(user, "")]) == {}
