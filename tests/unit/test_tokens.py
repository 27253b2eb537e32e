"""identity/tokens.py and keys.py: which tokens are valid, and how keys are cached."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from trio.testing import MockClock

from nx_signal.errors import IssuerUnavailable, TokenRejected
from nx_signal.identity import keys as issuer_keys
from nx_signal.identity import tokens
from nx_signal.identity.tokens import MAX_CACHED_TOKENS, TokenVerifier
from nx_signal.model import Principal
from nx_signal.supervise import watch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

START = datetime(2026, 1, 1, tzinfo=UTC)
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
EC, OTHER_EC = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
K256 = ec.generate_private_key(ec.SECP256K1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    algorithm: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    if isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = OKPAlgorithm
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {**{k: v for k, v in made.items() if k != "key_ops"}, **({"kid": kid} if kid else {}), **more}


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Keys:
    """A KeySource that counts, fails and waits on demand."""

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.keys: list[Any] = list(keys)
        self.fetches = 0
        self.down = False
        self.gate: trio.Event | None = None

    async def jwks(self) -> Mapping[str, object]:
        self.fetches += 1
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise IssuerUnavailable("down")
        return {"keys": list(self.keys)}


class Signed:
    def __init__(self, keys: Keys, **settings: Any) -> None:
        self.clock = Clock()
        self.keys = keys
        given = {"issuer": None, "audience": None, "user_claim": "sub", "trusted_grants": False, **settings}
        self.verifier = TokenVerifier(keys, now=self.clock, **given)

    def token(self, key: Any = EC, alg: str = "ES256", kid: str | None = "ec", **claims: Any) -> str:
        payload = {"sub": "u1", "exp": self.clock().timestamp() + 60, **claims}
        payload = {name: value for name, value in payload.items() if value is not ...}
        return jwt.encode(payload, key, algorithm=alg, headers={"kid": kid} if kid else {})

    async def verify(self, **how: Any) -> Principal:
        return await self.verifier.verify(self.token(**how))

    async def rejects(self, token: str, match: str) -> None:
        with pytest.raises(TokenRejected, match=match) as caught:
            await self.verifier.verify(token)
        assert token[:40] not in str(caught.value)


@pytest.fixture
def signed() -> Signed:
    return Signed(Keys(jwk(EC, "ec"), jwk(RSA, "rsa"), jwk(ED, "ed")))


def raw(header: Any, payload: Any, sign: Any) -> str:
    parts = [
        base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=")
        for part in (header, payload)
    ]
    signature = base64.urlsafe_b64encode(sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


# --- what is accepted ---


@pytest.mark.parametrize(
    ("key", "alg", "kid"), [(RSA, "RS256", "rsa"), (EC, "ES256", "ec"), (ED, "EdDSA", "ed")]
)
async def test_a_token_of_each_algorithm_names_its_user(signed: Signed, key: Any, alg: str, kid: str) -> None:
    principal = await signed.verify(key=key, alg=alg, kid=kid, jti="t1")
    assert (principal.user_id, principal.token_id) == ("u1", "t1")
    assert principal.expires_at == START + timedelta(seconds=60)


async def test_a_token_without_kid_is_verified_by_the_only_key_of_its_algorithm(signed: Signed) -> None:
    assert (await signed.verify(kid=None)).user_id == "u1"


@pytest.mark.parametrize("kids", [("a", "b"), (None, None)])
async def test_a_token_without_kid_is_verified_by_each_key_that_fits_as_in_a_rotation(kids: Any) -> None:
    signed = Signed(Keys(jwk(RSA, "r"), jwk(OTHER_EC, kids[0]), jwk(EC, kids[1])))
    assert await signed.verify(kid=None)
    assert await signed.verify(key=OTHER_EC, kid=None)
    stranger = ec.generate_private_key(ec.SECP256R1())
    await signed.rejects(signed.token(key=stranger, kid=None), "signature is wrong")


async def test_a_token_is_tried_with_a_bounded_number_of_keys() -> None:
    signed = Signed(Keys(*(jwk(OTHER_EC, str(n)) for n in range(issuer_keys.MAX_TRIED)), jwk(EC, "last")))
    await signed.rejects(signed.token(kid=None), "signature is wrong")
    assert await signed.verify(kid="last")


async def test_a_token_with_a_kid_is_verified_by_a_key_that_has_none() -> None:
    assert await Signed(Keys(jwk(EC, None))).verify(kid="ec")


@pytest.mark.parametrize("kid", [None, "ec"])
async def test_a_key_that_was_replaced_under_the_same_name_is_fetched_after_a_wrong_signature(
    kid: str | None, autojump_clock: MockClock
) -> None:
    signed = Signed(Keys(jwk(EC, kid)))
    await signed.verify(kid=kid)
    signed.keys.keys = [jwk(OTHER_EC, kid)]
    assert await signed.verify(key=OTHER_EC, kid=kid)
    assert signed.keys.fetches == 2
    for _ in range(10):
        await signed.rejects(signed.token(key=EC, kid=kid), "signature is wrong")
    assert signed.keys.fetches == 2
    await trio.sleep(issuer_keys.UNKNOWN_KEY_PAUSE_S)
    await signed.rejects(signed.token(key=EC, kid=kid), "signature is wrong")
    assert signed.keys.fetches == 3


async def test_the_user_id_comes_from_the_configured_claim() -> None:
    signed = Signed(Keys(jwk(EC, "ec")), user_claim="uid")
    assert (await signed.verify(uid="u9")).user_id == "u9"
    await signed.rejects(signed.token(), "uid is not a user id")


async def test_an_audience_may_be_one_of_a_list() -> None:
    signed = Signed(Keys(jwk(EC, "ec")), issuer="me", audience="signal")
    assert await signed.verify(iss="me", aud=["other", "signal"])
    assert await signed.verify(iss="me", aud="signal")


async def test_grants_count_from_a_trusted_issuer_alone() -> None:
    claims: dict[str, Any] = {"permissions": ["A.b", 7], "roles": ["signal-operator"]}
    trusted = await Signed(Keys(jwk(EC, "ec")), trusted_grants=True).verify(**claims)
    assert (trusted.permissions, trusted.roles) == (frozenset({"A.b"}), frozenset({"signal-operator"}))
    foreign = await Signed(Keys(jwk(EC, "ec"))).verify(**claims)
    assert (foreign.permissions, foreign.roles) == (frozenset(), frozenset())


async def test_a_small_skew_of_the_issuers_clock_is_accepted(signed: Signed) -> None:
    ahead = START.timestamp() + 4
    assert await signed.verify(iat=ahead, nbf=ahead)


# --- what is refused ---


@pytest.mark.parametrize(
    ("claims", "match"),
    [
        ({"exp": ...}, "no exp"),
        ({"exp": None}, "no exp"),
        ({"exp": START.timestamp()}, "expired"),
        ({"exp": "soon"}, "exp is not a time"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": 1e300}, "exp is not a time"),
        ({"exp": 10**40}, "exp is not a time"),
        ({"exp": -1}, "exp is not a time"),
        ({"nbf": START.timestamp() + 6}, "nbf lies in the future"),
        ({"iat": START.timestamp() + 6}, "iat lies in the future"),
        ({"iat": [1]}, "iat is not a time"),
        ({"sub": ...}, "sub is not a user id"),
        ({"sub": ""}, "sub is not a user id"),
        ({"sub": 7}, "sub is not a user id"),
        ({"sub": "x" * 257}, "sub is not a user id"),
        ({"sub": "a\x00b"}, "sub is not a user id"),
        ({"iss": "you"}, "another issuer"),
        ({"iss": ...}, "another issuer"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": ...}, "another audience"),
        ({"aud": {"signal": 1}}, "another audience"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused(claims: dict[str, Any], match: str) -> None:
    signed = Signed(Keys(jwk(EC, "ec")), issuer="me", audience="signal")
    good: dict[str, Any] = {"iss": "me", "aud": "signal"}
    payload = {"sub": "u1", "exp": START.timestamp() + 60, **good, **claims}
    payload = {name: value for name, value in payload.items() if value is not ...}
    signer = ECAlgorithm(ECAlgorithm.SHA256)
    token = raw({"alg": "ES256", "kid": "ec"}, payload, lambda data: signer.sign(data, EC))
    await signed.rejects(token, match)


async def test_a_token_without_signature_is_refused(signed: Signed) -> None:
    token = jwt.encode({"sub": "u1", "exp": 2e9}, "", algorithm="none", headers={"kid": "ec"})
    await signed.rejects(token, "three parts")
    await signed.rejects(token + "AAAA", "alg is not one of")


async def test_the_public_key_is_not_a_shared_secret(signed: Signed) -> None:
    """The classic confusion: HS256 with the published RSA key as its secret."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = raw(
        {"alg": "HS256", "kid": "rsa"},
        {"sub": "u1", "exp": 2e9},
        lambda data: hmac.new(pem, data, hashlib.sha256).digest(),
    )
    await signed.rejects(token, "alg is not one of")


async def test_the_alg_must_fit_the_key_that_the_kid_names(signed: Signed) -> None:
    await signed.rejects(signed.token(key=EC, kid="rsa"), "does not fit the key")


async def test_another_keys_signature_is_refused(signed: Signed) -> None:
    await signed.rejects(signed.token(key=OTHER_EC), "signature is wrong")


async def test_a_changed_payload_is_refused(signed: Signed) -> None:
    head, _, signature = signed.token().split(".")
    body = base64.urlsafe_b64encode(json.dumps({"sub": "root", "exp": 2e9}).encode()).rstrip(b"=").decode()
    await signed.rejects(f"{head}.{body}.{signature}", "signature is wrong")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b",
        "a.b.c.d",
        "a b.c.d",
        "é.b.c",
        "\ud800.b.c",
        "....",
        "a.b.c",
        "A" * 8193,
        "bm90IGpzb24.e30.AAAA",
        base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":"ES256","kid":7}').decode().rstrip("=") + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":["ES256"]}').decode().rstrip("=") + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"ec"}').decode().rstrip("=") + ".e30.AAAA",
        base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"ec"}').decode().rstrip("=") + ".e30." + "A" * 86,
    ],
)
async def test_garbage_is_refused_as_a_token(signed: Signed, token: str) -> None:
    with pytest.raises(TokenRejected):
        await signed.verifier.verify(token)


@pytest.mark.parametrize("payload", [b"[1]", b"not json", b'{"exp":NaN,"sub":"u1"}', b"\xff{}", b"[" * 4000])
async def test_a_well_signed_payload_that_holds_no_claims_is_refused(signed: Signed, payload: bytes) -> None:
    signer = ECAlgorithm(ECAlgorithm.SHA256)
    token = raw({"alg": "ES256", "kid": "ec"}, payload, lambda data: signer.sign(data, EC))
    await signed.rejects(token, "claims cannot be read")


async def test_unknown_critical_extensions_are_refused(signed: Signed) -> None:
    signer = ECAlgorithm(ECAlgorithm.SHA256)
    header = {"alg": "ES256", "kid": "ec", "crit": ["b64"], "b64": False}
    token = raw(header, {"sub": "u1", "exp": 2e9}, lambda data: signer.sign(data, EC))
    await signed.rejects(token, "crit")


async def test_a_second_spelling_of_a_valid_signature_is_refused(signed: Signed) -> None:
    """The last character of 64 bytes in base64url has four unused bits."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    token = signed.token()
    respelled = token[:-1] + alphabet[alphabet.index(token[-1]) + 1]
    parts = (token.rpartition(".")[2], respelled.rpartition(".")[2])
    assert len({base64.urlsafe_b64decode(part + "==") for part in parts}) == 1
    await signed.rejects(respelled, "not a valid JWS")


async def test_a_key_that_the_token_itself_brings_is_not_used(signed: Signed) -> None:
    signer = ECAlgorithm(ECAlgorithm.SHA256)
    own = {"jwk": jwk(OTHER_EC, "ec"), "jku": "https://example.com/jwks", "x5u": "https://example.com/x5u"}
    header = {"alg": "ES256", "kid": "ec", **own}
    token = raw(header, {"sub": "u1", "exp": 2e9}, lambda data: signer.sign(data, OTHER_EC))
    await signed.rejects(token, "signature is wrong")


@pytest.mark.parametrize(
    "header", [b'{"alg":"ES256","alg":"RS256","kid":"ec"}', b'{"alg":"ES256","kid":null}']
)
async def test_an_ambiguous_header_is_refused(signed: Signed, header: bytes) -> None:
    signer = ECAlgorithm(ECAlgorithm.SHA256)
    token = raw(header, {"sub": "u1", "exp": 2e9}, lambda data: signer.sign(data, EC))
    with pytest.raises(TokenRejected):
        await signed.verifier.verify(token)


@pytest.mark.parametrize(
    "key",
    [
        jwk(EC, "ec", use="enc"),
        jwk(EC, "ec", alg="ES384"),
        jwk(EC, "ec", key_ops=["sign"]),
        jwk(EC, "ec", x="AAAA"),
        jwk(K256, "ec"),
        jwk(WEAK, "ec"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "ec"},
        {"kty": ["EC"], "kid": "ec"},
        {"kid": "ec"},
        "ec",
    ],
)
async def test_keys_that_cannot_verify_are_ignored(key: Any) -> None:
    signed = Signed(Keys(key, jwk(OTHER_EC, "other")))
    await signed.rejects(signed.token(), "does not publish")
    assert await signed.verify(key=OTHER_EC, kid="other")


# --- the cache of verified tokens ---


async def test_a_cached_token_is_refused_once_it_expires(signed: Signed) -> None:
    token = signed.token()
    assert await signed.verifier.verify(token) is await signed.verifier.verify(token)
    signed.clock.advance(60)
    await signed.rejects(token, "expired")


async def test_a_token_is_not_cached_beyond_its_key(signed: Signed, autojump_clock: MockClock) -> None:
    token = signed.token()
    await signed.verifier.verify(token)
    signed.keys.keys = [jwk(OTHER_EC, "other")]
    await trio.sleep(issuer_keys.FRESH_S)
    await signed.rejects(token, "does not publish")


async def test_the_cache_is_bounded(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CACHED_TOKENS <= 10_000
    monkeypatch.setattr(tokens, "MAX_CACHED_TOKENS", 3)
    for n in range(10):
        await signed.verify(jti=str(n))
    assert len(signed.verifier._verified) == 3


# --- keys ---


async def test_keys_are_fetched_once_for_concurrent_tokens(signed: Signed) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(signed.verifier.verify, signed.token(jti=str(n)))
    assert signed.keys.fetches == 1


async def test_a_new_key_is_found_at_once_and_a_kid_without_a_key_is_asked_for_again_after_30_s(
    signed: Signed, autojump_clock: MockClock
) -> None:
    await signed.verify()
    signed.keys.keys.append(jwk(OTHER_EC, "new"))
    assert await signed.verify(key=OTHER_EC, kid="new")
    assert signed.keys.fetches == 2
    for _ in range(29):
        await signed.rejects(signed.token(kid="unknown"), "does not publish")
        await trio.sleep(1)
    assert signed.keys.fetches == 3
    await trio.sleep(1)
    await signed.rejects(signed.token(kid="unknown"), "does not publish")
    assert signed.keys.fetches == 4


async def test_unknown_kids_of_others_delay_a_rotation_by_no_more_than_ten_seconds(
    signed: Signed, autojump_clock: MockClock
) -> None:
    await signed.verify()
    began, found_after = trio.current_time(), []

    async def rotate(kid: str) -> None:
        signed.keys.keys.append(jwk(OTHER_EC, kid))
        published = trio.current_time()
        while True:
            try:
                await signed.verify(key=OTHER_EC, kid=kid)
                break
            except TokenRejected:
                await trio.sleep(0.5)
        found_after.append(trio.current_time() - published)

    async with trio.open_nursery() as nursery:
        for second in range(300):
            if second % 37 == 0:
                nursery.start_soon(rotate, f"new{second}")
            await signed.rejects(signed.token(kid=f"unknown{second}"), "does not publish")
            await trio.sleep(1)
    assert len(found_after) == 9 and max(found_after) <= issuer_keys.REFETCH_EVERY_S + 1
    passed = trio.current_time() - began
    assert signed.keys.fetches <= 2 + issuer_keys.REFETCHES_AT_ONCE + passed / issuer_keys.REFETCH_EVERY_S


async def test_any_number_of_unknown_kids_takes_bounded_memory_and_fetches(
    signed: Signed, autojump_clock: MockClock
) -> None:
    await signed.verify()
    for n in range(500):
        await signed.rejects(signed.token(kid=f"{n}" * 100), "does not publish")
    assert signed.keys.fetches == 1 + issuer_keys.REFETCHES_AT_ONCE
    assert len(signed.verifier._keys._refetched_at) <= issuer_keys.REFETCHES_AT_ONCE


async def test_keys_are_refreshed_in_the_background_before_a_use_has_to_wait_for_it(
    signed: Signed, autojump_clock: MockClock
) -> None:
    health = Health(("issuer",), Metrics())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, "issuer", signed.verifier.check, health)
        await trio.sleep(1)
        token = signed.token()
        for _ in range(600):
            await trio.sleep(5)
            before = signed.keys.fetches
            assert await signed.verifier.verify(token)
            assert signed.keys.fetches == before
        assert 9 <= signed.keys.fetches <= 11
        signed.keys.keys = [jwk(OTHER_EC, "new")]
        await trio.sleep(issuer_keys.REFRESH_S + 6)
        before = signed.keys.fetches
        assert await signed.verify(key=OTHER_EC, kid="new")
        assert signed.keys.fetches == before
        nursery.cancel_scope.cancel()


async def test_a_key_set_of_any_depth_ends_nothing(signed: Signed) -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    for odd in (deep, {"kty": "EC", "crv": deep}, {"kid": deep}, {"x5c": [deep]}, {"kty": None, "alg": 5}):
        signed.keys.keys.append(odd)
    await signed.verify()
    for _ in range(2):
        await signed.verifier._keys.refetch("unknown")
        signed.keys.keys.append({"more": deep})
    assert await signed.verify()


async def test_an_unknown_kid_does_not_fetch_again_right_after_a_fetch(signed: Signed) -> None:
    await signed.rejects(signed.token(kid="unknown"), "does not publish")
    assert signed.keys.fetches == 1


async def test_concurrent_tokens_with_the_same_new_key_share_one_fetch(signed: Signed) -> None:
    await signed.verify()
    signed.keys.keys.append(jwk(OTHER_EC, "new"))
    async with trio.open_nursery() as nursery:
        for n in range(20):
            nursery.start_soon(signed.verifier.verify, signed.token(key=OTHER_EC, kid="new", jti=str(n)))
    assert signed.keys.fetches == 2


async def test_when_the_fetching_task_is_cancelled_the_next_takes_over(signed: Signed) -> None:
    signed.keys.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as first:
            nursery.start_soon(_cancel_when_blocked, first)
            await signed.verify()
        assert first.cancelled_caught
        signed.keys.gate.set()
        assert await signed.verify()
    assert signed.keys.fetches == 2


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_without_any_keys_the_issuer_is_unavailable_and_not_called_for_every_token(
    signed: Signed, autojump_clock: MockClock
) -> None:
    signed.keys.down = True
    for _ in range(10):
        with pytest.raises(IssuerUnavailable):
            await signed.verify()
    assert signed.keys.fetches == 1
    signed.keys.down = False
    await trio.sleep(issuer_keys.FIRST_RETRY_S)
    assert await signed.verify()


async def test_after_a_failed_fetch_for_an_unknown_key_the_issuer_is_tried_again_soon(
    signed: Signed, autojump_clock: MockClock
) -> None:
    assert await signed.verify()
    await trio.sleep(issuer_keys.UNKNOWN_KEY_PAUSE_S)
    signed.keys.down = True
    with pytest.raises(TokenRejected):
        await signed.verifier.verify(signed.token(kid="unknown"))
    with pytest.raises(IssuerUnavailable):
        await signed.verifier.check()
    signed.keys.down = False
    await trio.sleep(issuer_keys.FIRST_RETRY_S)
    await signed.verifier.check()


async def test_concurrent_tokens_share_one_failed_fetch(signed: Signed) -> None:
    signed.keys.down = True
    signed.keys.gate = trio.Event()

    async def fails() -> None:
        with pytest.raises(IssuerUnavailable):
            await signed.verify()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(fails)
        await trio.testing.wait_all_tasks_blocked()
        signed.keys.gate.set()
    assert signed.keys.fetches == 1


async def test_old_keys_serve_while_the_issuer_is_down_and_are_refetched_with_pauses(
    signed: Signed, autojump_clock: MockClock
) -> None:
    await signed.verify()
    signed.keys.down = True
    await trio.sleep(issuer_keys.FRESH_S)
    for _ in range(60):
        assert await signed.verify()
        await trio.sleep(1)
    assert 3 <= signed.keys.fetches - 1 <= 7
    signed.keys.down = False
    signed.keys.keys = [jwk(OTHER_EC, "new")]
    await trio.sleep(issuer_keys.MAX_RETRY_S)
    assert await signed.verify(key=OTHER_EC, kid="new")


async def test_an_issuer_that_hangs_delays_one_use_of_old_keys_and_no_other(
    signed: Signed, autojump_clock: MockClock
) -> None:
    await signed.verify()
    await trio.sleep(issuer_keys.FRESH_S)
    signed.keys.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(signed.verifier.verify, signed.token(jti="slow"))
        await trio.testing.wait_all_tasks_blocked()
        assert await signed.verify(jti="fast")
        signed.keys.gate.set()
