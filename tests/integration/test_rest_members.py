"""`/members` and `/grants`: what an administrator lists, adds, replaces and removes over REST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_rest_api import BASE, Desk, Reply

from nx_signal.identity.issuer import Issuer, open_issuer

ALL = [f"{what}.{verb}" for what in ("Member", "Grant") for verb in ("find", "create", "replace", "delete")]
SHOP: dict[str, Any] = {
    "organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]}, {"id": "o2", "merchants": []}],
    "members": [
        {"userId": "ann", "organizerId": "o1", "merchantId": "m1", "locale": "en"},
        {"userId": "ann", "organizerId": "o2", "role": "owner"},
        {"userId": "bob", "organizerId": "o1", "merchantId": "m2"},
    ],
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
async def desk(issuer: Issuer) -> Desk:
    desk = Desk(issuer)
    assert (await call(desk, "POST", "/members", SHOP)).json == {
        "organizers": 2, "merchants": 2, "members": 3,
    }  # fmt: skip
    return desk


async def call(desk: Desk, method: str, path: str, body: Any = None) -> Reply:
    return await desk.call(method, BASE + path, "admin", body=body, permissions=ALL)


async def memberships(desk: Desk, query: str = "") -> list[tuple[str, str, str | None, str]]:
    page = (await call(desk, "GET", f"/members?limit=100&{query}")).json
    assert page["nextCursor"] is None
    return [(m["userId"], m["organizerId"], m["merchantId"], m["role"]) for m in page["data"]]


IN_M1 = ("ann", "o1", "m1", "staff")
IN_O2 = ("ann", "o2", None, "owner")
IN_M2 = ("bob", "o1", "m2", "staff")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [IN_M1, IN_O2, IN_M2]),
        ("userId=ann", [IN_M1, IN_O2]),
        ("organizerId=o1", [IN_M1, IN_M2]),
        ("merchantId=m2", [IN_M2]),
        ("role=owner", [IN_O2]),
        ("userId=nobody", []),
    ],
)
async def test_memberships_are_listed(desk: Desk, query: str, found: list[Any]) -> None:
    assert await memberships(desk, query) == found


async def test_a_cursor_leads_through_all_pages(desk: Desk) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        page = (await call(desk, "GET", f"/members?limit=2&cursor={cursor}")).json
        seen += [member["userId"] for member in page["data"]]
        cursor = page["nextCursor"]
    assert seen == ["ann", "ann", "bob"]


@pytest.mark.parametrize("cursor", ["x", "%C3%A9", "W10=", "WzEsMiwzXQ=="])
async def test_a_cursor_of_no_page_is_a_400(desk: Desk, cursor: str) -> None:
    for path in ("/members", "/grants"):
        reply = await call(desk, "GET", f"{path}?cursor={cursor}")
        assert (reply.status, reply.code) == (400, "invalid_parameter")


async def test_a_membership_is_removed_and_named(desk: Desk) -> None:
    for dry_run in ("&dryRun=true", ""):
        assert await memberships(desk) == [IN_M1, IN_O2, IN_M2]
        reply = await call(desk, "DELETE", f"/members?userId=ann&organizerId=o1{dry_run}")
        assert reply.json["removed"] == 1
        assert reply.json["data"][0]["merchantId"] == "m1"
    assert await memberships(desk) == [IN_O2, IN_M2]


async def test_memberships_of_everybody_are_not_removed_at_once(desk: Desk) -> None:
    for path in ("/members", "/members?role=staff", "/grants", "/grants?permission=Activity.publish"):
        reply = await call(desk, "DELETE", path)
        assert (reply.status, reply.code) == (400, "invalid_parameter")
    assert len(await memberships(desk)) == 3


async def test_a_replacement_removes_what_it_does_not_list(desk: Desk) -> None:
    only_carl = {
        "organizers": [{"id": "o1", "merchants": ["m1", "m2"]}],
        "members": [{"userId": "carl", "organizerId": "o1", "merchantId": "m1"}],
    }
    for dry_run in ("?dryRun=true", ""):
        assert await memberships(desk) == [IN_M1, IN_O2, IN_M2]
        reply = await call(desk, "PUT", f"/members{dry_run}", only_carl)
        assert reply.json["removed"] == 2
        assert [each["userId"] for each in reply.json["data"]] == ["ann", "bob"]
    assert await memberships(desk) == [IN_O2, ("carl", "o1", "m1", "staff")]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_members_without_a_body_are_a_400(desk: Desk, method: str) -> None:
    answer = await call(desk, method, "/members")
    assert (answer.status, answer.json["detail"]) == (400, "The body is missing.")


async def test_a_grant_is_given_and_taken_away(desk: Desk) -> None:
    given = {
        "grants": [
            {"userId": "svc", "permission": "Activity.publish"},
            {"userId": "svc", "role": "signal-operator"},
        ]
    }
    assert (await call(desk, "POST", "/grants", given)).json == {"grants": 2}
    assert (await desk.call("GET", f"{BASE}/dead-letters", "svc")).status == 200
    removed = (await call(desk, "DELETE", "/grants?userId=svc&role=signal-operator")).json
    assert removed == {
        "removed": 1, "data": [{"userId": "svc", "role": "signal-operator", "permission": None}],
    }  # fmt: skip
    assert (await call(desk, "GET", "/grants?userId=svc")).json["data"] == [
        {"userId": "svc", "role": None, "permission": "Activity.publish"}
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/members", {"members": [{"userId": "", "organizerId": "o1"}]}),
        ("POST", "/members", {"members": [{"userId": "a"}]}),
        (
            "POST",
            "/members",
            {"organizers": [{"id": "o1", "merchants": ["m"]}, {"id": "o2", "merchants": ["m"]}]},
        ),
        ("POST", "/members", {"grants": [{"userId": "a", "role": "signal-operator"}]}),
        ("POST", "/members", []),
        ("PUT", "/members", {"organisers": []}),
        ("POST", "/grants", {"grants": [{"userId": "a"}]}),
        ("POST", "/grants", {"grants": [{"userId": "a", "permission": "Everything"}]}),
        ("POST", "/grants", {}),
    ],
)
async def test_a_roster_that_is_wrong_is_a_400_and_changes_nothing(
    desk: Desk, method: str, path: str, body: Any
) -> None:
    reply = await call(desk, method, path, body)
    assert reply.status == 400 and reply.json["detail"]
    assert len(await memberships(desk)) == 3


async def test_a_member_may_not_grant(desk: Desk) -> None:
    """Whoever may add members cannot become an operator by it."""
    reply = await desk.call(
        "POST", f"{BASE}/grants", "ann",
        body={"grants": [{"userId": "ann", "role": "signal-operator"}]}, permissions=["Member.create"],
    )  # fmt: skip
    assert reply.status == 403
    operator = {"members": [{"userId": "ann", "organizerId": "o1", "role": "signal-operator"}]}
    await desk.call("POST", f"{BASE}/members", "ann", body=operator, permissions=["Member.create"])
    assert (await desk.call("GET", f"{BASE}/grants", "ann")).status == 403
