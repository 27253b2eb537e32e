"""What every route stands on: the parts behind REST, and who is calling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quart import request

from nx_signal.config import Settings
from nx_signal.identity.permissions import Access
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.inbox.service import Inbox
from nx_signal.model import Principal
from nx_signal.ports import Journal
from nx_signal.rest.problems import unauthorized
from nx_signal.stream.operator import Operator
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Api:
    """The parts behind REST; the composition root fills it in."""

    settings: Settings
    inbox: Inbox
    journal: Journal
    split_activities: Callable[[bytes], Sequence[tuple[str, bytes]]]
    """one message or a list → (event id, message) each; raises MessageRejected"""
    tokens: TokenVerifier
    access: Access
    operator: Operator
    health: Health
    metrics: Metrics
    jwks: Mapping[str, object] | None
    """the embedded issuer's public keys; None with an issuer elsewhere"""


async def authenticate(api: Api) -> Principal:
    """The caller of the current request. Raises a 401 Problem, TokenRejected or IssuerUnavailable."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("Send a token: Authorization: Bearer …", token_given=False)
    return await api.tokens.verify(token.strip())


async def require(api: Api, permission: str) -> Principal:
    """The caller, who holds `permission`. Raises as `authenticate`, and Forbidden."""
    principal = await authenticate(api)
    await api.access.require(principal, permission)
    return principal
