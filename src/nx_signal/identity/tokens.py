"""Verify a JWT (CONTRACT §4, RFC 7515, 7519): PyJWT checks the signature, this file the claims."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
import trio
from jwt import PyJWS
from jwt.algorithms import OKPAlgorithm
from jwt.exceptions import InvalidSignatureError, PyJWTError
from jwt.utils import base64url_decode

from nx_signal.errors import TokenRejected
from nx_signal.identity.keys import ALGORITHMS, IssuerKeys, VerifyingKey
from nx_signal.model import Principal
from nx_signal.model.json import decode_json
from nx_signal.model.text import storable
from nx_signal.ports import KeySource, Now

log = structlog.get_logger()

MAX_TOKEN_CHARS = 8192
MAX_USER_ID_CHARS = 256
MAX_CACHED_TOKENS = 10_000
MAX_TIME_S = 253_402_300_799
"""9999-12-31, the last that a datetime holds."""
LOGGED_EVERY_S = 60.0
"""Of each reason for a refusal: there are few, and many tokens."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_PARTS_OF_JWE = 5
_JWS = PyJWS(algorithms=sorted(ALGORITHMS - {"Ed25519", "Ed448"}))
for _name in ("Ed25519", "Ed448"):  # RFC 9864: PyJWT has them under the name EdDSA alone
    _JWS.register_algorithm(_name, OKPAlgorithm())


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: Any = None
    crit: Any = None
    nonce: Any = None


class TokenVerifier:
    """Verifies tokens. One per process; safe for concurrent use.

    `issuer`, `audience`: what `iss` and `aud` must hold, several separated by commas; None: not checked.
    `leeway_s`: by how much the clocks of the issuer and of this machine may differ, for `nbf` and `iat`;
    `expiry_leeway_s` for `exp`. `trusted_grants`: the claims `permissions` and `roles` count (the embedded
    issuer's tokens only)."""

    def __init__(
        self,
        keys: KeySource,
        *,
        now: Now,
        issuer: str | None,
        audience: str | None,
        user_claim: str,
        trusted_grants: bool,
        leeway_s: float = 5.0,
        expiry_leeway_s: float = 0.0,
    ) -> None:
        self._keys = IssuerKeys(keys)
        self.check = self._keys.check
        self._now = now
        self._issuers = _words(issuer)
        self._audiences = _words(audience)
        self._user_claim = user_claim
        self._trusted_grants = trusted_grants
        self._leeway_s = leeway_s
        self._expiry_leeway = timedelta(seconds=expiry_leeway_s)
        self._verified: OrderedDict[bytes, tuple[VerifyingKey, Principal]] = OrderedDict()
        self._logged_at: dict[str, float] = {}

    async def verify(self, token: str) -> Principal:
        """The principal of a valid token. Raises TokenRejected, or IssuerUnavailable while no keys are
        known. Waits only when keys have to be fetched."""
        await trio.lowlevel.checkpoint()
        try:
            return await self._verify(token)
        except TokenRejected as error:
            self._report(str(error))
            raise

    async def _verify(self, token: str) -> Principal:
        header = _header(token)
        keys = await self._keys.find(header.kid or None, header.alg)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        key, principal = self._verified.pop(digest, (None, None))
        if principal is None or key not in keys:
            key, payload = await self._signed(token, header, keys)
            principal = self._principal(payload)
        elif principal.expires_at <= self._now():
            raise TokenRejected("The token has expired; sign in again.")
        self._verified[digest] = key, principal
        while len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)
        return principal

    async def _signed(
        self, token: str, header: _Header, keys: tuple[VerifyingKey, ...]
    ) -> tuple[VerifyingKey, bytes]:
        """The key that signed the token, and the payload. An issuer may have a new key under an old name, or
        under none: then its keys are fetched again."""
        signed = _signed_by(token, header, keys)
        if signed is None and await self._keys.refetch(header.kid or None):
            signed = _signed_by(token, header, await self._keys.find(header.kid or None, header.alg))
        if signed is None and header.nonce is not None:
            raise TokenRejected(
                "The token's signature is wrong: a token with a nonce in its header is for Microsoft Graph "
                "alone; request one for a scope of this service's own."
            )
        if signed is None:
            raise TokenRejected("The token's signature is wrong.")
        return signed

    def _principal(self, payload: bytes) -> Principal:
        claims = _decode(payload, dict[str, Any], "claims")
        now_s = self._now().timestamp()
        exp = _time(claims, "exp")
        if exp is None:
            raise TokenRejected("The token has no exp; only tokens that expire are accepted.")
        expires_at = min(datetime.fromtimestamp(exp, UTC), _LAST - self._expiry_leeway) + self._expiry_leeway
        if expires_at <= self._now():
            raise TokenRejected("The token has expired; sign in again.")
        for claim in ("nbf", "iat"):
            starts_s = _time(claims, claim)
            if starts_s is not None and starts_s > now_s + self._leeway_s:
                raise TokenRejected(
                    f"The token's {claim} lies in the future: the clocks of its issuer and of this machine "
                    f"differ by more than {self._leeway_s:g} s."
                )
        self._check_issuer(claims.get("iss"))
        self._check_audience(claims)
        user_id = claims.get(self._user_claim)
        if not is_user_id(user_id):
            raise TokenRejected(f"The token's {self._user_claim} is not a user id.")
        token_id = claims.get("jti")
        return Principal(
            user_id=user_id,
            token_id=token_id if isinstance(token_id, str) else None,
            expires_at=expires_at,
            permissions=self._granted(claims, "permissions"),
            roles=self._granted(claims, "roles"),
        )

    def _check_issuer(self, issuer: object) -> None:
        if not self._issuers or issuer in self._issuers:
            return
        if isinstance(issuer, str) and issuer.rstrip("/") in {own.rstrip("/") for own in self._issuers}:
            raise TokenRejected(
                "The token is of another issuer (iss): it differs from APP_ENV_JWT_ISSUER in its last slash."
            )
        raise TokenRejected("The token is of another issuer (iss).")

    def _check_audience(self, claims: dict[str, Any]) -> None:
        """Amazon Cognito's access tokens have `client_id` in the place of `aud`."""
        if not self._audiences:
            return
        audience = claims.get("aud")
        if audience is None and claims.get("token_use") == "access":
            audience = claims.get("client_id")
        names = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(name, str) and name in self._audiences for name in names):
            raise TokenRejected(
                "The token is for another audience (aud); request one for this service."
                if audience is not None
                else "The token is for another audience: it has no aud; request one for this service."
            )

    def _granted(self, claims: dict[str, Any], claim: str) -> frozenset[str]:
        values = claims.get(claim) if self._trusted_grants else None
        return frozenset(v for v in values if isinstance(v, str)) if isinstance(values, list) else frozenset()

    def _report(self, why: str) -> None:
        now = trio.current_time()
        if now >= self._logged_at.get(why, now):
            self._logged_at[why] = now + LOGGED_EVERY_S
            log.info("token_refused", why=why)


_LAST = datetime.fromtimestamp(MAX_TIME_S, UTC)


def is_user_id(value: object) -> bool:
    """1-256 characters that every store can hold."""
    return isinstance(value, str) and 0 < len(value) <= MAX_USER_ID_CHARS and storable(value)


def _words(text: str | None) -> frozenset[str]:
    return frozenset(word.strip() for word in (text or "").split(",") if word.strip())


def _header(token: str) -> _Header:
    """What the token itself states, to find its key by. Nothing of it is trusted before `_signed_by`."""
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected(f"The token is longer than {MAX_TOKEN_CHARS} characters.")
    if token.count(".") + 1 == _PARTS_OF_JWE:
        raise TokenRejected(
            "The token is encrypted (JWE), not a signed JWT of three parts; request one for this service's "
            "audience."
        )
    if not _COMPACT.fullmatch(token):
        raise TokenRejected(
            "The token is not a signed JWT of three parts; an opaque token cannot be verified here."
        )
    try:
        head = base64url_decode(token.partition(".")[0])
    except ValueError:
        raise TokenRejected("The token is not base64url.") from None
    header: _Header = _decode(head, _Header, "header")
    if header.alg not in ALGORITHMS:
        raise TokenRejected(
            f"The token's alg is not one of {', '.join(sorted(ALGORITHMS))}{_other_alg(header.alg)}."
        )
    if header.crit is not None:  # PyJWT would take `b64`
        raise TokenRejected("The token's header requires extensions (crit) that are not supported.")
    typ = header.typ.lower() if isinstance(header.typ, str) else ""
    if typ.endswith("+jwt") and not typ.endswith("at+jwt"):  # RFC 8725 §3.11, 9068 §4
        raise TokenRejected("The token's typ shows that it is not an access token.")
    return header


def _other_alg(alg: str) -> str:
    if alg.startswith("HS"):
        return ": it is signed with a shared secret; have the issuer sign with a key pair"
    return ": it is not signed" if alg.lower() == "none" else ""


def _signed_by(
    token: str, header: _Header, keys: Iterable[VerifyingKey]
) -> tuple[VerifyingKey, bytes] | None:
    """The first of the keys that has signed the token, and the payload."""
    for key in keys:
        try:
            return key, _JWS.decode_complete(token, key.key, [header.alg])["payload"]
        except InvalidSignatureError:
            continue
        except PyJWTError:
            raise TokenRejected("The token is not a valid JWS (RFC 7515).") from None
    return None


def _decode(data: bytes, type: Any, what: str) -> Any:
    try:
        return decode_json(data, type)
    except msgspec.DecodeError:
        raise TokenRejected(f"The token's {what} cannot be read.") from None


def _time(claims: dict[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME_S:
        raise TokenRejected(f"The token's {claim} is not a time in seconds.")
    return float(value)
