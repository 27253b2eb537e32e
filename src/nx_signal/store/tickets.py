"""Tickets: each stands in for a token once. The store holds their hashes, not the tickets."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from nx_signal.model import Principal
from nx_signal.store.driver import Driver, Tx
from nx_signal.store.maintenance import LOCK_NAMESPACE

USER_LOCKS = 0x5449434B
"""First key of the advisory locks of PostgreSQL, "TICK"; the second is a hash of the user id."""


class Tickets:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def add(
        self, hash: str, principal: Principal, purpose: str, lifetime: timedelta, most: int
    ) -> datetime:
        """When the ticket with this hash expires: after `lifetime`, or with the principal's token if that is
        sooner. A user has at most `most`: those that expire first are removed."""
        return await self._driver.write(_add, hash, principal, purpose, lifetime, most)

    async def use(self, hash: str, purpose: str) -> Principal | None:
        """The principal of the token that the ticket was made with; None where the hash is not known, the
        ticket has expired, or its purpose is another one. Either way the ticket is gone."""
        return await self._driver.write(_use, hash, purpose)

    async def remove_expired(self, limit: int) -> int:
        """Remove up to `limit` of those that have expired; how many. 0 as well while another instance is at
        it."""
        return await self._driver.write(_remove_expired, limit)


async def _add(
    tx: Tx, hash: str, principal: Principal, purpose: str, lifetime: timedelta, most: int
) -> datetime:
    user_id = principal.user_id
    expires_at = min(tx.now() + lifetime, principal.expires_at)
    await tx.all("lock_tickets", namespace=USER_LOCKS, user_id=user_id)
    await tx.run("remove_oldest_tickets", user_id=user_id, keep=most - 1, limit=most)
    await tx.run(
        "add_ticket",
        hash=hash,
        user_id=user_id,
        purpose=purpose,
        claims=_claims(principal),
        token_expires_at=principal.expires_at,
        expires_at=expires_at,
    )
    return expires_at


async def _use(tx: Tx, hash: str, purpose: str) -> Principal | None:
    row = await tx.one("use_ticket", hash=hash)
    if row is None or row["purpose"] != purpose or row["expires_at"] <= tx.now():
        return None
    claims = json.loads(row["claims"])
    return Principal(
        user_id=row["user_id"],
        token_id=claims["tokenId"],
        expires_at=row["token_expires_at"],
        permissions=frozenset(claims["permissions"]),
        roles=frozenset(claims["roles"]),
    )


async def _remove_expired(tx: Tx, limit: int) -> int:
    alone = await tx.one("expire_alone", namespace=LOCK_NAMESPACE)
    if alone is None or not alone["alone"]:
        return 0
    return await tx.run("remove_expired_tickets", moment=tx.now(), limit=limit)


def _claims(principal: Principal) -> str:
    """ASCII: a claim may hold characters that no column takes."""
    return json.dumps(
        {
            "tokenId": principal.token_id,
            "permissions": sorted(principal.permissions),
            "roles": sorted(principal.roles),
        }
    )
