"""Who may call a route, and how often."""

from __future__ import annotations

from typing import cast

from quart import g, request

from nx_signal.identity.permissions import Access
from nx_signal.model import Principal
from nx_signal.ports import Verify
from nx_signal.rest.problems import Problem, unauthorized
from nx_signal.server.gate import Visit
from nx_signal.server.limits import RequestLimits

PUBLIC = None
"""In the place of an Authorizer: the route takes no token."""


class Authorizer:
    """Admits requests that have a valid token, are within their user's rate and have the permission that the
    route requires."""

    def __init__(
        self, verify: Verify, access: Access, limits: RequestLimits, use_ticket: Verify | None = None
    ) -> None:
        self._verify = verify
        self._access = access
        self._limits = limits
        self._use_ticket = use_ticket

    def or_ticket(self, use_ticket: Verify) -> Authorizer:
        """For a route that takes a ticket in its query, too, from a client that cannot send a header."""
        return Authorizer(self._verify, self._access, self._limits, use_ticket)

    async def authorize(self, permission: str | None) -> Principal:
        """The caller of the current request. Raises a 401 or 429 Problem, TokenRejected, Forbidden, or the
        Unavailable of the issuer or the store."""
        caller = await self._authenticate()
        if (visit := cast("Visit | None", request.scope.get("visit"))) is not None:
            visit.authenticated(request=True)
        self._count(caller.user_id)
        if permission is not None:
            await self._access.require(caller, permission)
        return caller

    async def _authenticate(self) -> Principal:
        header, ticket = request.headers.get("Authorization", ""), request.args.get("ticket", "")
        if self._use_ticket is not None and ticket and not header:
            return await self._use_ticket(ticket)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise unauthorized("Send a token: Authorization: Bearer …", token_given=False)
        return await self._verify(token.strip())

    def _count(self, user_id: str) -> None:
        """Raises a 429 Problem for a request above the quota."""
        quota = self._limits.take(user_id)
        if quota is None:
            return
        fields = quota.fields("user")
        if quota.retry_after_s:
            detail = f"These are too many requests; go on in {quota.retry_after_s} s."
            raise Problem(429, detail, headers=fields)
        g.rate_limit = fields
