"""The token issuer's public keys: a JWK Set (RFC 7517), fetched when it is needed and kept (CONTRACT §4)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import load_der_x509_certificate
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from nx_signal.errors import IssuerUnavailable, TokenRejected
from nx_signal.ports import KeySource

log = structlog.get_logger()

MAX_KEYS = 100
"""One issuer has a few keys; the rest of a longer set is ignored."""
MAX_TRIED = 20
"""Keys that one token is tried with, where it does not name one: 1 ms of RSA."""
MIN_RSA_BITS = 2048
REFRESH_S = 300.0
"""Keys of this age are fetched again in the background, well before a use has to wait for that."""
FRESH_S = 600.0
"""The first use of older keys fetches them again; until that succeeds the old ones serve."""
UNKNOWN_KEY_PAUSE_S = 30.0
"""CONTRACT §4: a `kid` that no known key has fetches again at most this often."""
REFETCHES_AT_ONCE = 3
REFETCH_EVERY_S = 10.0
"""For all unknown keys together, whatever number of names they have: the issuer is asked no more often, and a
new key is found this soon, whatever other tokens name unknown ones."""
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_ED25519 = frozenset({"EdDSA", "Ed25519"})
_ED448 = frozenset({"EdDSA", "Ed448"})
"""RFC 9864 deprecates the name EdDSA; issuers use both."""
ALGORITHMS = _RSA | frozenset(_EC.values()) | _ED25519 | _ED448
"""What a token may be signed with (RFC 7518 §3.1, 8037, 9864): signatures only, no shared secret."""

_PARAMETERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
"""By `kty`."""
_READ = frozenset({"kty", "use", "key_ops", "alg", "kid", "x5c"}.union(*_PARAMETERS.values()))
"""What of a JWK is read: no private part, and no URL (`jku`, `x5u`)."""

Jwk: TypeAlias = dict[str, str | list[str]]

PublicKey: TypeAlias = (
    rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
)


@dataclass(frozen=True, slots=True, eq=False)
class VerifyingKey:
    """The same object until the issuer's key set changes."""

    kid: str | None
    algorithms: frozenset[str]
    key: PublicKey


class IssuerKeys:
    """The cached key set of one issuer. Safe for concurrent use."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._jwks: list[Jwk] | None = None
        self._keys: tuple[VerifyingKey, ...] = ()
        self._fetching = trio.Lock()
        self._attempts = 0
        self._failure: str | None = None
        self._fetched_at = -math.inf
        """-inf as well after a failure: they are due"""
        self._retry_at = -math.inf
        self._retry_s = FIRST_RETRY_S
        self._refetched_at: dict[str | None, float] = {}
        """by kid, of the last UNKNOWN_KEY_PAUSE_S: the allowance bounds it"""
        self._allowance = float(REFETCHES_AT_ONCE)
        self._allowance_at = -math.inf

    async def check(self) -> None:
        """Keep the keys fresh, when called every few seconds. Raises IssuerUnavailable while they cannot be
        fetched, also where old ones serve, and where none of them can verify a token."""
        await self._freshen(REFRESH_S)
        if self._failure is not None:
            raise IssuerUnavailable(self._failure)
        if not self._keys:
            raise IssuerUnavailable(
                "The issuer's key set holds no key that can verify a token: check APP_ENV_JWKS_URL."
            )

    async def find(self, kid: str | None, alg: str) -> tuple[VerifyingKey, ...]:
        """The keys that a token may be signed with, at least one: those that it names, or all that suit it
        where it names none.

        Raises TokenRejected, or IssuerUnavailable while no key set is known. Waits only for a fetch."""
        attempts = self._attempts
        await self._freshen(FRESH_S)
        keys = self._cached(kid, alg)
        if not keys and self._attempts == attempts and await self.refetch(kid):
            keys = self._cached(kid, alg)
        if not keys:
            raise TokenRejected("The token is signed with a key that its issuer does not publish.")
        return keys

    async def refetch(self, kid: str | None) -> bool:
        """Fetch again, because no known key has signed a token that names this one; with pauses for each name
        and for all of them. Whether it was tried."""
        # A fetch that is under way is joined.
        if not self._fetching.locked() and not self._may_refetch(kid):
            return False
        await self._fetch(self._attempts)
        return True

    def _may_refetch(self, kid: str | None) -> bool:
        now = trio.current_time()
        recent = {k: at for k, at in self._refetched_at.items() if now < at + UNKNOWN_KEY_PAUSE_S}
        refilled = self._allowance + (now - self._allowance_at) / REFETCH_EVERY_S
        self._refetched_at, self._allowance = recent, min(refilled, REFETCHES_AT_ONCE)
        self._allowance_at = now
        if kid in recent or self._allowance < 1:
            return False
        self._refetched_at[kid] = now
        self._allowance -= 1
        return True

    def _cached(self, kid: str | None, alg: str) -> tuple[VerifyingKey, ...]:
        named = [key for key in self._keys if kid is not None and key.kid == kid]
        suitable = [
            key
            for key in named or [key for key in self._keys if kid is None or key.kid is None]
            if alg in key.algorithms
        ]
        if named and not suitable:
            raise TokenRejected("The token's alg does not fit the key that it names.")
        return tuple(suitable[:MAX_TRIED])

    async def _freshen(self, age_s: float) -> None:
        if self._jwks is None:
            await self._fetch(self._attempts)
            if self._jwks is None:
                raise IssuerUnavailable(self._failure or "The token issuer's keys are not fetched yet.")
        elif (
            trio.current_time() >= max(self._fetched_at + age_s, self._retry_at)
            and not self._fetching.locked()
        ):
            await self._fetch(self._attempts)  # one use waits, the others go on with the old keys

    async def _fetch(self, seen: int) -> None:
        """Fetch the keys unless there was an attempt since `seen`; failing, keep the old ones and pause.

        A lock, not a shared task: when the fetching use is cancelled, the next one takes over."""
        async with self._fetching:
            if self._attempts != seen or (self._jwks is None and trio.current_time() < self._retry_at):
                return
            try:
                jwks = _read(await self._source.jwks())
            except IssuerUnavailable as error:
                self._attempts += 1
                self._failure = str(error)  # logged by the part that watches this
                self._retry_at = trio.current_time() + self._retry_s
                self._fetched_at = -math.inf
                self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)
                return
            self._attempts += 1
            self._failure = None
            self._retry_s = FIRST_RETRY_S
            self._fetched_at = trio.current_time()
            if jwks != self._jwks:
                self._jwks, self._keys = jwks, _usable(jwks)
                log.info("issuer_keys", usable=len(self._keys))


def _read(jwks: Mapping[str, object]) -> list[Jwk]:
    """What is read of the set."""
    entries = jwks.get("keys")
    found = [_read_key(entry) for entry in entries[:MAX_KEYS]] if isinstance(entries, list) else []
    return [jwk for jwk in found if jwk is not None]


def _read_key(entry: object) -> Jwk | None:
    """None where a value has another type than it must have; a `kid` counts as absent then."""
    if not isinstance(entry, dict):
        return None
    jwk = {name: value for name, value in entry.items() if name in _READ and value is not None}
    if not isinstance(jwk.get("kid"), str):
        jwk.pop("kid", None)
    return jwk if all(map(_is_text, jwk.values())) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(each, str) for each in value)
    )


def _usable(jwks: list[Jwk]) -> tuple[VerifyingKey, ...]:
    """The keys of the set that can verify one of our algorithms; others are ignored. (PyJWKSet would also
    take symmetric and private keys, and refuses an empty set.)"""
    found = [_verifying_key(jwk) for jwk in jwks]
    return tuple(key for key in found if key is not None)


def _verifying_key(jwk: Jwk) -> VerifyingKey | None:
    if jwk.get("use") not in (None, "sig"):
        return None
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        key = _public_key(jwk)
    except (PyJWTError, LookupError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    algorithms = _algorithms_of(key)
    alg = jwk.get("alg")
    if alg is not None:
        if not isinstance(alg, str) or alg not in algorithms:
            return None
        if alg in _RSA or alg in _EC.values():  # the two names of EdDSA mean the same
            algorithms = frozenset({alg})
    kid = jwk.get("kid")
    return VerifyingKey(kid if isinstance(kid, str) else None, algorithms, key) if algorithms else None


def _public_key(jwk: Mapping[str, Any]) -> Any:
    """Its parameters, or where it has none the certificate in `x5c`, whose key it is then (RFC 7517 §4.7)."""
    kty, chain = jwk["kty"], jwk.get("x5c")
    names = _PARAMETERS[kty]
    if all(name in jwk for name in names):
        parameters = {name: jwk[name] for name in ("kty", *names)}
        return PyJWK(parameters, "EdDSA" if kty == "OKP" else None).key
    if not isinstance(chain, list) or not chain:
        raise ValueError("It has neither parameters nor a certificate.")
    return load_der_x509_certificate(base64.b64decode(chain[0])).public_key()


def _algorithms_of(key: Any) -> frozenset[str]:
    """Those that `key` can verify; none where it is too weak or of another kind."""
    match key:
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return _RSA
        case ec.EllipticCurvePublicKey() if key.curve.name in _EC:
            return frozenset({_EC[key.curve.name]})
        case ed25519.Ed25519PublicKey():
            return _ED25519
        case ed448.Ed448PublicKey():
            return _ED448
    return frozenset()
