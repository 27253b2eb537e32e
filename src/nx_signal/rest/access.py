"""Who may call a route, and how often."""

from __future__ import annotations

from typing import cast

from quart import g, request

from nx_signal.identity.permissions import Access
from nx_signal.identity.tickets import TicketPurpose, Tickets
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

    def __init__(self, verify: Verify, tickets: Tickets, access: Access, limits: RequestLimits) -> None:
        self._verify = verify
        self._tickets = tickets
        self._access = access
        self._limits = limits

    async def authorize(self, permission: str | None, purpose: TicketPurpose | None = None) -> Principal:
        """The caller of the current request. With `purpose` a ticket for it, in the parameter `ticket`, will
        do instead of a token. Raises a 401 or 429 Problem, TokenRejected, Forbidden, or the Unavailable of
        the issuer or the store."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            caller = await self._verify(token.strip())
        elif purpose is not None and (ticket := request.args.get("ticket")):
            caller = await self._tickets.use(ticket, purpose)
        else:
            or_ticket = "" if purpose is None else f", or ?ticket=… with one of the purpose {purpose}"
            raise unauthorized(f"Send a token: Authorization: Bearer …{or_ticket}", token_given=False)
        if (visit := cast("Visit | None", request.scope.get("visit"))) is not None:
            visit.authenticated(request=True)
        self._count(caller.user_id)
        if permission is not None:
            await self._access.require(caller, permission)
        return caller

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
