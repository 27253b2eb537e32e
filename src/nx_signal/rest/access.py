"""What every route stands on: the parts behind REST, who is calling, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quart import request

from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.preview import Preview
from nx_signal.activities.replay import Replay
from nx_signal.config import Settings
from nx_signal.identity.permissions import Access
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.inbox.service import Inbox
from nx_signal.model import Principal
from nx_signal.ports import DeadLetters, Journal
from nx_signal.rest.problems import Problem, unauthorized
from nx_signal.stream.limits import Buckets, Rate
from nx_signal.stream.operator import Operator
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

USER_REQUESTS = Rate(100, 1_000)
"""Of one user's token or tokens, all tabs and devices together: no person comes near it."""


class RequestLimits:
    """How many requests each user may make of this instance. `factor` scales it; 0 lifts it."""

    def __init__(self, factor: float) -> None:
        rate = Rate(USER_REQUESTS.per_s * factor, max(1.0, USER_REQUESTS.burst * factor))
        self._buckets = Buckets(rate) if factor else None
        self._rate = rate

    def take(self, user_id: str) -> Mapping[str, str]:
        """Count a request; the header fields that tell (draft-ietf-httpapi-ratelimit-headers-10: `q` and
        `r` requests, `w` and `t` seconds until all are there again). Raises a 429 Problem."""
        if self._buckets is None:
            return {}
        rate = self._rate
        allowed, left = self._buckets.take(user_id), self._buckets.left(user_id)
        refill_s = math.ceil((rate.burst - left) / rate.per_s)
        headers = {
            "RateLimit-Policy": f'"user";q={int(rate.burst)};w={math.ceil(rate.burst / rate.per_s)}',
            "RateLimit": f'"user";r={int(left)};t={refill_s}',
        }
        if not allowed:
            wait_s = max(1, math.ceil((1 - left) / rate.per_s))
            detail = f"These are too many requests; go on in {wait_s} s."
            raise Problem(429, detail, headers=headers | {"Retry-After": str(wait_s)})
        return headers


@dataclass(frozen=True)
class Api:
    """The parts behind REST; the composition root fills it in."""

    settings: Settings
    inbox: Inbox
    journal: Journal
    split_activities: Callable[[bytes], Sequence[tuple[str, bytes]]]
    """one message or a list → (event id, message) each; raises MessageRejected"""
    preview: Preview
    explain: Explain
    dead_letters: DeadLetters
    replay: Replay
    renderer: Renderer
    tokens: TokenVerifier
    access: Access
    limits: RequestLimits
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
