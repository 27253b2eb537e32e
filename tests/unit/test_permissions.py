"""identity/permissions.py: the token's grants first, then the directory's, queried rarely."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from nx_signal.errors import StoreUnavailable
from nx_signal.identity import permissions
from nx_signal.identity.permissions import Access, Forbidden
from nx_signal.model import Principal
from nx_signal.store import Directory


class Grants:
    def __init__(self) -> None:
        self.of_user: dict[str, set[str]] = {}
        self.of_role: dict[str, set[str]] = {}
        self.queries: list[tuple[str, tuple[str, ...]]] = []

    async def permissions(self, user_id: str, roles: Sequence[str]) -> frozenset[str]:
        await trio.lowlevel.checkpoint()
        self.queries.append((user_id, tuple(roles)))
        granted = set(self.of_user.get(user_id, ()))
        return frozenset(granted.union(*(self.of_role.get(role, set()) for role in roles)))


def caller(user_id: str = "op", **grants: Any) -> Principal:
    return Principal(user_id, None, datetime(2030, 1, 1, tzinfo=UTC), **grants)


@pytest.fixture
def grants() -> Grants:
    return Grants()


@pytest.fixture
def access(grants: Grants) -> Access:
    return Access(cast(Directory, grants))


async def test_a_permission_in_the_token_needs_no_query(access: Access, grants: Grants) -> None:
    await access.require(caller(permissions=frozenset({"A.b"})), "A.b")
    assert grants.queries == []


async def test_a_permission_of_the_directory_counts(access: Access, grants: Grants) -> None:
    grants.of_user["op"] = {"A.b"}
    await access.require(caller(), "A.b")
    with pytest.raises(Forbidden, match=r"A\.c"):
        await access.require(caller(), "A.c")


async def test_a_role_in_the_token_gives_what_the_directory_grants_it(access: Access, grants: Grants) -> None:
    grants.of_role["r"] = {"A.b"}
    await access.require(caller(roles=frozenset({"r"})), "A.b")
    with pytest.raises(Forbidden):
        await access.require(caller(), "A.b")


async def test_one_query_answers_for_five_seconds(
    access: Access, grants: Grants, autojump_clock: MockClock
) -> None:
    grants.of_user["op"] = {"A.b"}
    for _ in range(10):
        await access.require(caller(), "A.b")
    assert len(grants.queries) == 1
    grants.of_user["op"] = set()
    await trio.sleep(5)
    with pytest.raises(Forbidden):
        await access.require(caller(), "A.b")


async def test_what_is_remembered_is_bounded(
    access: Access, grants: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "MAX_CACHED", 3)
    grants.of_user = {f"u{n}": {"A.b"} for n in range(10)}
    for n in range(10):
        await access.require(caller(f"u{n}"), "A.b")
    assert len(access._known) == 3


async def test_an_unavailable_store_is_not_a_refusal(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(user_id: str, roles: Sequence[str]) -> frozenset[str]:
        raise StoreUnavailable("away")

    monkeypatch.setattr(access._directory, "permissions", away)
    with pytest.raises(StoreUnavailable):
        await access.require(caller(), "A.b")
