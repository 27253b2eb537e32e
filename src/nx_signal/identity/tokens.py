"""Verify a JWT against a JWK Set (CONTRACT §4, RFC 7515, 7517, 7519), with cached keys and results."""

from __future__ import annotations

import binascii
import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from nx_signal.errors import IssuerUnavailable, TokenRejected
from nx_signal.model import Principal
from nx_signal.ports import KeySource, Now

log = structlog.get_logger()

MAX_TOKEN_CHARS = 8192
MAX_USER_ID_CHARS = 256
MAX_KEYS = 100
"""More in one set is no key set of one issuer; the rest is ignored."""
LEAST_RSA_BITS = 2048
LEEWAY_S = 5
"""How far the issuer's clock may be ahead, for `nbf` and `iat`; `exp` has none."""
FRESH_S = 600.0
"""Older keys are fetched anew by the next use; until that succeeds they go on serving."""
UNKNOWN_KID_PAUSE_S = 30.0
"""CONTRACT §4: an unknown `kid` refetches at most this often."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 30.0
MAX_CACHED_TOKENS = 10_000
LAST_TIME_S = 253_402_300_799
"""9999-12-31, the last that a datetime holds."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)

# (kty, crv) → alg. Nothing else verifies: no HS*, no none, and a key serves one algorithm only.
_ALG_OF_KEY = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_ALGORITHMS: dict[str, Algorithm] = {
    "RS256": RSAAlgorithm(RSAAlgorithm.SHA256),
    "ES256": ECAlgorithm(ECAlgorithm.SHA256),
    "EdDSA": OKPAlgorithm(),
}


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str | None
    alg: str
    key: Any


class TokenVerifier:
    """Tells who a token speaks for. One per process; safe for concurrent use.

    `trusted_grants`: the claims `permissions` and `roles` count (the embedded issuer's tokens only)."""

    def __init__(
        self,
        keys: KeySource,
        *,
        now: Now,
        issuer: str | None,
        audience: str | None,
        user_claim: str,
        trusted_grants: bool,
    ) -> None:
        self._source = keys
        self._now = now
        self._issuer = issuer
        self._audience = audience
        self._user_claim = user_claim
        self._trusted_grants = trusted_grants
        self._jwks: Mapping[str, object] | None = None
        self._keys: tuple[_Key, ...] = ()
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()
        self._fetching = trio.Lock()
        self._attempts = 0
        self._stale_at = -math.inf
        self._retry_at = -math.inf
        self._retry_s = FIRST_RETRY_S
        self._unknown_kid_at = -math.inf

    async def verify(self, token: str) -> Principal:
        """The principal of a valid token. Raises TokenRejected, or IssuerUnavailable while no keys are
        known. Waits only when keys have to be fetched."""
        await trio.lowlevel.checkpoint()
        header, signed, signature, payload = _parse(token)
        attempts = self._attempts
        await self._freshen()
        digest = hashlib.sha256(token.encode("ascii")).digest()
        known = self._verified.get(digest)
        if known is not None:
            if known.expires_at <= self._now():
                del self._verified[digest]
                raise TokenRejected("The token has expired; sign in again.")
            self._verified.move_to_end(digest)
            return known
        key = self._find(header)
        if key is None and self._attempts == attempts:
            await self._refetch_for_unknown_kid(attempts)
            key = self._find(header)
        if key is None:
            raise TokenRejected("The token is signed with a key that its issuer does not publish.")
        if not _ALGORITHMS[key.alg].verify(signed, key.key, signature):
            raise TokenRejected("The token's signature is wrong.")
        principal = self._principal(payload)
        self._verified[digest] = principal
        while len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)
        return principal

    def _find(self, header: _Header) -> _Key | None:
        """The key that the token names, or the only suitable one where it names none."""
        if header.kid is None:
            suitable = [key for key in self._keys if key.alg == header.alg]
            if len(suitable) > 1:
                raise TokenRejected("The token names no key (kid) although its issuer has several.")
            return suitable[0] if suitable else None
        named = [key for key in self._keys if key.kid == header.kid]
        if not named:
            return None
        for key in named:
            if key.alg == header.alg:
                return key
        raise TokenRejected("The token's alg does not fit the key that it names.")

    # --- keys ---

    async def _freshen(self) -> None:
        """Have keys, and young ones where the issuer can be reached."""
        if self._jwks is None:
            await self._fetch(self._attempts)
            if self._jwks is None:
                raise IssuerUnavailable("The token issuer's keys cannot be fetched; try again shortly.")
        elif trio.current_time() >= max(self._stale_at, self._retry_at) and not self._fetching.locked():
            await self._fetch(self._attempts)  # one use waits, the others go on with the old keys

    async def _refetch_for_unknown_kid(self, seen: int) -> None:
        if self._fetching.locked():
            await self._fetch(seen)  # join the fetch that is under way
        elif trio.current_time() >= self._unknown_kid_at + UNKNOWN_KID_PAUSE_S:
            self._unknown_kid_at = trio.current_time()
            await self._fetch(seen)

    async def _fetch(self, seen: int) -> None:
        """Fetch the keys unless somebody tried since `seen`; failing, keep the old ones and pause.

        A lock, not a shared task: when the fetching use is cancelled, the next one takes over."""
        async with self._fetching:
            if self._attempts != seen or (self._jwks is None and trio.current_time() < self._retry_at):
                return
            try:
                jwks = await self._source.jwks()
            except IssuerUnavailable as error:
                self._attempts += 1
                self._retry_at = trio.current_time() + self._retry_s
                self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)
                log.warning("issuer_unavailable", why=str(error), serving_old_keys=self._jwks is not None)
                return
            self._attempts += 1
            self._retry_s = FIRST_RETRY_S
            self._stale_at = trio.current_time() + FRESH_S
            if jwks != self._jwks:
                self._jwks, self._keys = jwks, _usable(jwks)
                self._verified.clear()
                log.info("issuer_keys", usable=len(self._keys))

    # --- claims ---

    def _principal(self, payload: bytes) -> Principal:
        claims = _decode(payload, dict[str, Any], "claims")
        now_s = self._now().timestamp()
        expires_s = _time(claims, "exp")
        if expires_s is None:
            raise TokenRejected("The token has no exp; only tokens that expire are accepted.")
        if expires_s <= now_s:
            raise TokenRejected("The token has expired; sign in again.")
        for claim in ("nbf", "iat"):
            starts_s = _time(claims, claim)
            if starts_s is not None and starts_s > now_s + LEEWAY_S:
                raise TokenRejected(f"The token's {claim} lies in the future.")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise TokenRejected("The token is of another issuer (iss).")
        if self._audience is not None:
            audience = claims.get("aud")
            if self._audience not in (audience if isinstance(audience, list) else [audience]):
                raise TokenRejected("The token is for another audience (aud).")
        user_id = claims.get(self._user_claim)
        if not is_user_id(user_id):
            raise TokenRejected(f"The token's {self._user_claim} is not a user id.")
        token_id = claims.get("jti")
        return Principal(
            user_id=user_id,
            token_id=token_id if isinstance(token_id, str) else None,
            expires_at=datetime.fromtimestamp(expires_s, UTC),
            permissions=self._granted(claims, "permissions"),
            roles=self._granted(claims, "roles"),
        )

    def _granted(self, claims: dict[str, Any], claim: str) -> frozenset[str]:
        values = claims.get(claim) if self._trusted_grants else None
        return frozenset(v for v in values if isinstance(v, str)) if isinstance(values, list) else frozenset()


def is_user_id(value: object) -> bool:
    """1-256 characters that every store can hold."""
    return isinstance(value, str) and 0 < len(value) <= MAX_USER_ID_CHARS and is_plain(value)


def is_plain(text: str) -> bool:
    """No NUL, which PostgreSQL cannot hold, and no lone surrogate, which UTF-8 cannot."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _parse(token: str) -> tuple[_Header, bytes, bytes, bytes]:
    """(header, what is signed, signature, payload) of a compact JWS."""
    if len(token) > MAX_TOKEN_CHARS:
        raise TokenRejected(f"The token is longer than {MAX_TOKEN_CHARS} characters.")
    if not _COMPACT.fullmatch(token):
        raise TokenRejected("The token is not a signed JWT of three parts.")
    head, body, signature = token.encode("ascii").split(b".")
    header = _decode(_b64(head), _Header, "header")
    if header.alg not in _ALGORITHMS:
        raise TokenRejected("The token's alg is not one of RS256, ES256 and EdDSA.")
    if header.crit is not None:
        raise TokenRejected("The token's header asks for extensions (crit) that are not known here.")
    return header, head + b"." + body, _b64(signature), _b64(body)


def _b64(part: bytes) -> bytes:
    try:
        return binascii.a2b_base64(part.translate(_FROM_URL) + b"=" * (-len(part) % 4))
    except binascii.Error:
        raise TokenRejected("The token is not base64url.") from None


_FROM_URL = bytes.maketrans(b"-_", b"+/")


def _decode(data: bytes, type: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise TokenRejected(f"The token's {what} cannot be read.") from None


def _time(claims: dict[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_TIME_S:
        raise TokenRejected(f"The token's {claim} is not a time in seconds.")
    return float(value)


def _usable(jwks: Mapping[str, object]) -> tuple[_Key, ...]:
    """The keys of the set that can verify one of our algorithms; others are passed over."""
    entries = jwks.get("keys")
    keys = []
    for entry in entries[:MAX_KEYS] if isinstance(entries, list) else []:
        if isinstance(entry, dict) and (key := _key(entry)) is not None:
            keys.append(key)
    return tuple(keys)


def _key(jwk: dict[str, Any]) -> _Key | None:
    kty, crv, kid = jwk.get("kty"), jwk.get("crv"), jwk.get("kid")
    if not isinstance(kty, str) or not isinstance(crv, str | None) or not isinstance(kid, str | None):
        return None
    alg = _ALG_OF_KEY.get((kty, crv))
    operations = jwk.get("key_ops", ["verify"])
    if (
        alg is None
        or jwk.get("alg", alg) != alg
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        return None
    public = {name: value for name, value in jwk.items() if name in ("kty", "crv", "n", "e", "x", "y")}
    try:
        key: Any = _ALGORITHMS[alg].from_jwk(public)
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < LEAST_RSA_BITS:
        return None
    return _Key(kid=kid, alg=alg, key=key)
