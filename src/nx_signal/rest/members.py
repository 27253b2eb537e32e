"""`/members` and `/grants`: who belongs to which organization and merchant, and who is permitted what."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from quart import Blueprint

from nx_signal.errors import SettingsError
from nx_signal.identity.roster import GrantEntry, Id, MemberEntry, OrganizerEntry, RosterFile, roster_of
from nx_signal.model import Grant, Holding, Membership, Removed, Roster
from nx_signal.model.json import decode_json
from nx_signal.model.wire import Count
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.queries import DEFAULT_LIMIT, Limit
from nx_signal.rest.route import Call, Example, route
from nx_signal.rest.shapes import PlainText
from nx_signal.store import Directory, Members

BODY = "the body"
Cursor = Annotated[str, Meta(min_length=1, max_length=8_192, description="The nextCursor of a page.")]
MAX_NAMED = 1_000
"""Memberships and grants that an answer names as removed."""


class MemberParameters(Struct, rename="camel"):
    """Which memberships: those for which all that is given holds; `organizerId` covers its merchants."""

    user_id: PlainText | UnsetType = UNSET
    organizer_id: PlainText | UnsetType = UNSET
    merchant_id: PlainText | UnsetType = UNSET
    role: PlainText | UnsetType = UNSET


class MemberPageParameters(MemberParameters, rename="camel"):
    """Which memberships, and which page of them."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor | UnsetType = UNSET


class MemberRemovalParameters(MemberParameters, rename="camel"):
    """Which memberships. `dryRun`: only answer what would be removed."""

    dry_run: bool = False


class GrantParameters(Struct, rename="camel"):
    """Which grants: those for which all that is given holds."""

    user_id: PlainText | UnsetType = UNSET
    role: PlainText | UnsetType = UNSET
    permission: PlainText | UnsetType = UNSET


class GrantPageParameters(GrantParameters, rename="camel"):
    """Which grants, and which page of them."""

    limit: Limit = DEFAULT_LIMIT
    cursor: Cursor | UnsetType = UNSET


class GrantRemovalParameters(GrantParameters, rename="camel"):
    """Which grants. `dryRun`: only answer what would be removed."""

    dry_run: bool = False


class DryRun(Struct, rename="camel"):
    """`dryRun`: only answer what would be removed."""

    dry_run: bool = False


class MemberRoster(Struct, forbid_unknown_fields=True):
    """As `nx-signal members load` takes it, without grants."""

    organizers: list[OrganizerEntry] = []
    members: list[MemberEntry] = []


class GrantRoster(Struct, forbid_unknown_fields=True):
    """Of each either the role or the permission."""

    grants: list[GrantEntry]


class HeldMembership(Struct, rename="camel"):
    """`merchantId` is null for the organization itself; `organizerId` where the merchant's is not known."""

    user_id: Id
    organizer_id: Id | None
    merchant_id: Id | None
    role: Id
    locale: str | None


class HeldGrant(Struct, rename="camel"):
    """Either a role or a permission."""

    user_id: Id
    role: Id | None
    permission: Id | None


class MembershipPage(Struct, rename="camel"):
    data: list[HeldMembership]
    next_cursor: str | None


class GrantPage(Struct, rename="camel"):
    data: list[HeldGrant]
    next_cursor: str | None


class Loaded(Struct):
    """How many were given; those that existed already count."""

    organizers: Count
    merchants: Count
    members: Count


class LoadedGrants(Struct):
    """How many were given; those that existed already count."""

    grants: Count


class RemovedMemberships(Struct):
    """How many were removed, or would be; the first 1,000 are named."""

    removed: Count
    data: list[HeldMembership]


class RemovedGrants(Struct):
    """How many were removed, or would be; the first 1,000 are named."""

    removed: Count
    data: list[HeldGrant]


_ROSTER = {
    "organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1"]}],
    "members": [{"userId": "ann", "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": "en"}],
}
_HELD = {"userId": "ann", "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": "en"}
_GRANT = {"userId": "ann", "role": None, "permission": "Activity.publish"}


def member_routes(authorizer: Authorizer, directory: Directory, members: Members) -> Blueprint:
    routes = Blueprint("members", __name__)

    @routes.get("/members")
    @route(
        authorizer,
        "List memberships",
        permission="Member.find",
        query=MemberPageParameters,
        answers={200: MembershipPage},
        example=Example(query={"userId": "ann"}, answer={"data": [_HELD], "nextCursor": None}),
    )
    async def list_(call: Call[MemberPageParameters, None]) -> MembershipPage:
        """By user. `nextCursor` leads to the next page and is null on the last."""
        where, after = _members_of(call.query), _after(call.query.cursor)
        page, following = await members.memberships(where, call.query.limit, after)
        return MembershipPage([_held(each) for each in page], _cursor(following))

    @routes.post("/members")
    @route(
        authorizer,
        "Add memberships",
        permission="Member.create",
        body=MemberRoster,
        answers={200: Loaded},
        example=Example(body=_ROSTER, answer={"organizers": 1, "merchants": 1, "members": 1}),
    )
    async def add(call: Call[None, MemberRoster]) -> Loaded:
        """Add or update organizations, merchants, memberships and languages, all or none. Nothing is removed;
        repeating it changes nothing."""
        roster = _checked(RosterFile(call.body.organizers, call.body.members))
        await directory.load(roster)
        return Loaded(
            len(roster.organizers),
            sum(len(each.merchants) for each in roster.organizers),
            len(roster.members),
        )

    @routes.put("/members")
    @route(
        authorizer,
        "Replace the memberships of organizations",
        permission="Member.replace",
        query=DryRun,
        body=MemberRoster,
        answers={200: RemovedMemberships},
        example=Example(query={"dryRun": "true"}, body=_ROSTER, answer={"removed": 0, "data": []}),
    )
    async def replace(call: Call[DryRun, MemberRoster]) -> RemovedMemberships:
        """As adding them; and of each organization that is named here, the memberships in it and in its
        merchants that are not listed are removed. All or none."""
        roster = _checked(RosterFile(call.body.organizers, call.body.members))
        return _removed_memberships(await members.replace(roster, dry_run=call.query.dry_run))

    @routes.delete("/members")
    @route(
        authorizer,
        "Remove memberships",
        permission="Member.delete",
        query=MemberRemovalParameters,
        answers={200: RemovedMemberships},
        example=Example(query={"userId": "ann", "merchantId": "m1"}, answer={"removed": 1, "data": [_HELD]}),
    )
    async def remove(call: Call[MemberRemovalParameters, None]) -> RemovedMemberships:
        """All for which what is given holds; it names at least a user, an organization or a merchant. A
        connected client leaves the rooms of a membership that is gone within a minute."""
        where = _members_of(call.query)
        if where.user_id is None and where.organizer_id is None and where.merchant_id is None:
            raise Problem(400, "Give userId, organizerId or merchantId.", "invalid_parameter")
        return _removed_memberships(await members.remove(where, grants=False, dry_run=call.query.dry_run))

    @routes.get("/grants")
    @route(
        authorizer,
        "List grants",
        permission="Grant.find",
        query=GrantPageParameters,
        answers={200: GrantPage},
        example=Example(query={"userId": "ann"}, answer={"data": [_GRANT], "nextCursor": None}),
    )
    async def list_grants(call: Call[GrantPageParameters, None]) -> GrantPage:
        """By user. `nextCursor` leads to the next page and is null on the last."""
        where, after = _grants_of(call.query), _after(call.query.cursor)
        page, following = await members.grants(where, call.query.limit, after)
        return GrantPage([_held_grant(each) for each in page], _cursor(following))

    @routes.post("/grants")
    @route(
        authorizer,
        "Grant roles and permissions",
        permission="Grant.create",
        body=GrantRoster,
        answers={200: LoadedGrants},
        example=Example(
            body={"grants": [{"userId": "ann", "permission": "Activity.publish"}]}, answer={"grants": 1}
        ),
    )
    async def grant(call: Call[None, GrantRoster]) -> LoadedGrants:
        """All or none; repeating it changes nothing."""
        roster = _checked(RosterFile(grants=call.body.grants))
        await directory.load(roster)
        return LoadedGrants(len(roster.grants))

    @routes.delete("/grants")
    @route(
        authorizer,
        "Remove grants",
        permission="Grant.delete",
        query=GrantRemovalParameters,
        answers={200: RemovedGrants},
        example=Example(
            query={"userId": "ann", "permission": "Activity.publish"}, answer={"removed": 1, "data": [_GRANT]}
        ),
    )
    async def revoke(call: Call[GrantRemovalParameters, None]) -> RemovedGrants:
        """All for which what is given holds; it names the user. A removed grant may still work for 5 s."""
        where = _grants_of(call.query)
        if where.user_id is None:
            raise Problem(400, "Give userId.", "invalid_parameter")
        return _removed_grants(await members.remove(where, memberships=False, dry_run=call.query.dry_run))

    return routes


def _members_of(query: MemberParameters) -> Holding:
    return Holding(
        _given(query.user_id), _given(query.organizer_id), _given(query.merchant_id), _given(query.role)
    )


def _grants_of(query: GrantParameters) -> Holding:
    return Holding(
        user_id=_given(query.user_id), role=_given(query.role), permission=_given(query.permission)
    )


def _given(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text


def _checked(file: RosterFile) -> Roster:
    try:
        return roster_of(file, [f"members[{index}]" for index in range(len(file.members))], BODY)
    except SettingsError as error:
        raise Problem(400, str(error)[:1].upper() + str(error)[1:], "invalid_parameter") from None


def _held(each: Membership) -> HeldMembership:
    return HeldMembership(each.user_id, each.organizer_id, each.merchant_id, each.role, each.locale)


def _held_grant(each: Grant) -> HeldGrant:
    return HeldGrant(each.user_id, each.role, each.permission)


def _removed_memberships(removed: Removed) -> RemovedMemberships:
    named = [_held(each) for each in removed.memberships[:MAX_NAMED]]
    return RemovedMemberships(len(removed.memberships), named)


def _removed_grants(removed: Removed) -> RemovedGrants:
    return RemovedGrants(len(removed.grants), [_held_grant(each) for each in removed.grants[:MAX_NAMED]])


def _cursor(key: Sequence[str] | None) -> str | None:
    if key is None:
        return None
    return base64.urlsafe_b64encode(json.dumps(key, ensure_ascii=False).encode()).decode()


def _after(cursor: Cursor | UnsetType) -> tuple[str, str, str] | None:
    if cursor is UNSET:
        return None
    try:
        key: tuple[str, str, str] = decode_json(base64.urlsafe_b64decode(cursor), tuple[str, str, str])
    except ValueError:  # msgspec.DecodeError is one
        raise Problem(400, "cursor takes the nextCursor of a page.", "invalid_parameter") from None
    return key
