"""A principal's permissions: those of its token and of the directory (CONTRACT §4)."""

from __future__ import annotations

from collections import OrderedDict

import trio

from nx_signal.errors import SignalError
from nx_signal.model import Principal
from nx_signal.store import Directory

FRESH_S = 5.0
"""How long a revoked grant may still work."""
MAX_CACHED = 10_000


class Forbidden(SignalError):
    """The principal is known, and lacks the permission that this needs."""


class Access:
    """Checks the token first, then the directory: one query per look-up, cached for FRESH_S."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._known: OrderedDict[tuple[str, frozenset[str]], tuple[float, frozenset[str]]] = OrderedDict()

    async def require(self, principal: Principal, code: str) -> None:
        """Raises Forbidden, or StoreUnavailable when the directory is needed and cannot be read."""
        if code not in principal.permissions and code not in await self._codes(principal):
            raise Forbidden(f"This needs the permission {code}.")

    async def _codes(self, principal: Principal) -> frozenset[str]:
        key = (principal.user_id, principal.roles)
        cached = self._known.get(key)
        if cached is not None and trio.current_time() < cached[0]:
            return cached[1]
        codes = await self._directory.permissions(principal.user_id, sorted(principal.roles))
        self._known[key] = (trio.current_time() + FRESH_S, codes)
        self._known.move_to_end(key)
        while len(self._known) > MAX_CACHED:
            self._known.popitem(last=False)
        return codes
