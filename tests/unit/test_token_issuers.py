"""Key sets and tokens in the shapes of the issuers that people use, after their documentation: each token is
accepted, or refused with a sentence that states what to change."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from nx_signal.errors import TokenRejected
from nx_signal.identity.keys import ALGORITHMS
from nx_signal.identity.tokens import TokenVerifier

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
RSA = rsa.generate_private_key(65537, 2048)
NEXT_RSA = rsa.generate_private_key(65537, 2048)
KEYS: Mapping[str, Any] = {
    "RSA": RSA,
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "Ed448": ed448.Ed448PrivateKey.generate(),
}
for _name in ("Ed25519", "Ed448"):
    jwt.register_algorithm(_name, OKPAlgorithm())


def public(key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any = OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = ECAlgorithm
    made = algorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in made.items() if name != "key_ops"} | more


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "realm")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=900))
        .not_valid_after(NOW - timedelta(days=800))  # issuers do not renew them
        .sign(RSA, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


class Issuer:
    def __init__(self, keys: list[Any], **settings: Any) -> None:
        self.keys = keys
        given = {"issuer": None, "audience": None, "user_claim": "sub", "leeway_s": 60, **settings}
        self.verifier = TokenVerifier(self, now=lambda: NOW, trusted_grants=False, **given)

    async def jwks(self) -> Mapping[str, object]:
        return {"keys": self.keys}

    async def user(self, token: str) -> str:
        return (await self.verifier.verify(token)).user_id

    async def refuses(self, token: str, match: str) -> None:
        with pytest.raises(TokenRejected, match=match) as caught:
            await self.verifier.verify(token)
        assert not any(part and part in str(caught.value) for part in token.split("."))


def signed(claims: Mapping[str, Any], key: Any = RSA, alg: str = "RS256", **header: Any) -> str:
    payload = {"iat": NOW_S, "exp": NOW_S + 300, **claims}
    return jwt.encode(payload, key, algorithm=alg, headers={"typ": "JWT", **header})


# --- issuers ---


async def test_keycloak() -> None:
    """An encryption key beside the signing key; the audience is `account` until a mapper adds one; a
    refresh token is signed with a shared secret."""
    signing = public(RSA, kid="k1", alg="RS256", use="sig", x5t="x", x5c=[certificate(RSA)])
    encryption = public(NEXT_RSA, kid="k2", alg="RSA-OAEP", use="enc", x5c=[certificate(NEXT_RSA)])
    realm = "https://id.example.com/realms/shop"
    issuer = Issuer([encryption, signing], issuer=realm, audience="signal")
    claims = {"iss": realm, "sub": "6a1c", "typ": "Bearer", "azp": "web", "aud": ["signal", "account"]}
    assert await issuer.user(signed(claims, kid="k1")) == "6a1c"
    await issuer.refuses(signed(claims | {"aud": "account"}, kid="k1"), "another audience")
    await issuer.refuses(signed(claims | {"iss": realm + "/"}, kid="k1"), "last slash")
    refresh = jwt.encode(claims, "s" * 64, algorithm="HS512", headers={"kid": "k3"})
    await issuer.refuses(refresh, "shared secret")


async def test_auth0() -> None:
    """The issuer ends with a slash; without an audience in the request the access token is encrypted."""
    domain = "https://shop.eu.auth0.com/"
    key = public(RSA, kid="a1", alg="RS256", use="sig", x5c=[certificate(RSA)], x5t="t")
    issuer = Issuer([key], issuer=domain, audience="https://signal.example.com")
    claims = {
        "iss": domain,
        "sub": "google-oauth2|123",
        "aud": ["https://signal.example.com", domain + "userinfo"],
        "azp": "client",
        "scope": "openid",
    }
    assert await issuer.user(signed(claims, kid="a1")) == "google-oauth2|123"
    assert await issuer.user(signed(claims, typ="at+jwt", kid="a1")) == "google-oauth2|123"
    await issuer.refuses("eyJhbGciOiJkaXIifQ..aaaa.bbbb.cccc", "encrypted")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_entra(version: str) -> None:
    """Keys without `alg`; a token for Microsoft Graph is signed over another header than its own."""
    tenant = {"1.0": "https://sts.windows.net/t/", "2.0": "https://login.microsoftonline.com/t/v2.0"}[version]
    key = public(RSA, kid="e1", use="sig", x5t="e1", x5c=[certificate(RSA)], issuer=tenant)
    issuer = Issuer([key], issuer=tenant, audience="api://signal,8d1f", user_claim="oid")
    claims = {"iss": tenant, "aud": "api://signal", "oid": "o-1", "sub": "pairwise", "ver": version}
    assert await issuer.user(signed(claims, kid="e1", x5t="e1")) == "o-1"
    assert await issuer.user(signed(claims | {"aud": "8d1f"}, kid="e1", x5t="e1")) == "o-1"
    await issuer.refuses(signed(claims, key=NEXT_RSA, kid="e1", nonce="n"), "Microsoft Graph")


async def test_cognito() -> None:
    """An access token has `client_id` and no `aud`, an id token the reverse."""
    pool = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x"
    keys = [public(key, kid=kid, alg="RS256", use="sig") for key, kid in ((RSA, "c1="), (NEXT_RSA, "c2="))]
    issuer = Issuer(keys, issuer=pool, audience="client1")
    access = {"iss": pool, "sub": "aaaa", "token_use": "access", "client_id": "client1", "scope": "openid"}
    assert await issuer.user(signed(access, kid="c1=")) == "aaaa"
    id_token = {"iss": pool, "sub": "aaaa", "token_use": "id", "aud": "client1"}
    assert await issuer.user(signed(id_token, key=NEXT_RSA, kid="c2=")) == "aaaa"
    await issuer.refuses(signed(access | {"client_id": "client2"}, kid="c1="), "another audience")
    await issuer.refuses(signed(access | {"token_use": "id"}, kid="c1="), "has no aud")


async def test_google() -> None:
    """`iss` has two spellings, each application of a project a client id; access tokens are opaque."""
    keys = [public(key, kid=kid, alg="RS256", use="sig") for key, kid in ((RSA, "g1"), (NEXT_RSA, "g2"))]
    names = "https://accounts.google.com, accounts.google.com"
    issuer = Issuer(keys, issuer=names, audience="web.apps,ios.apps")
    claims = {"sub": "1100", "aud": "ios.apps", "azp": "ios.apps", "email": "a@example.com"}
    for name in names.split(", "):
        assert await issuer.user(signed(claims | {"iss": name}, key=NEXT_RSA, kid="g2")) == "1100"
    await issuer.refuses("ya29.a0AfB_byDexample", "opaque")


async def test_okta() -> None:
    """Access tokens of the organization's own server are for Okta alone, under a `typ` of their own."""
    server = "https://shop.okta.com/oauth2/default"
    issuer = Issuer([public(RSA, kid="o1", alg="RS256", use="sig")], issuer=server, audience="api://default")
    claims = {"ver": 1, "iss": server, "aud": "api://default", "cid": "c", "uid": "00u", "sub": "a@b.example"}
    assert await issuer.user(signed(claims, kid="o1")) == "a@b.example"
    own = claims | {"iss": "https://shop.okta.com", "aud": "https://shop.okta.com"}
    await issuer.refuses(signed(own, kid="o1", typ="application/okta-internal-at+jwt"), "another issuer")


async def test_zitadel() -> None:
    """Web keys of several kinds beside each other while one replaces another."""
    ed = KEYS["Ed25519"]
    keys = [public(RSA, kid="z1", alg="RS256", use="sig"), public(ed, kid="z2", alg="EdDSA", use="sig")]
    issuer = Issuer(keys, issuer="https://zitadel.example.com", audience="project")
    claims = {"iss": "https://zitadel.example.com", "sub": "163", "aud": ["client", "project"]}
    assert await issuer.user(signed(claims, kid="z1")) == "163"
    assert await issuer.user(signed(claims, key=ed, alg="EdDSA", kid="z2")) == "163"
    await issuer.refuses("V2-abcdefghij", "opaque")


# --- algorithms, keys, clocks, types ---

PAIRS = [
    *(("RSA", alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *(("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512")),
    *(("Ed25519", "EdDSA"), ("Ed25519", "Ed25519"), ("Ed448", "EdDSA"), ("Ed448", "Ed448")),
]


@pytest.mark.parametrize(("kind", "alg"), PAIRS)
@pytest.mark.parametrize("declared", [True, False])
async def test_each_algorithm_is_verified_by_its_kind_of_key(kind: str, alg: str, declared: bool) -> None:
    assert {alg for _, alg in PAIRS} == ALGORITHMS
    others = [public(key, kid="k") for name, key in KEYS.items() if name != kind]
    issuer = Issuer([*others, public(KEYS[kind], kid="k", **({"alg": alg} if declared else {}))])
    token = signed({"sub": "u"}, key=KEYS[kind], alg=alg, kid="k")
    assert await issuer.user(token) == "u"


@pytest.mark.parametrize(("declared", "alg"), [("EdDSA", "Ed25519"), ("Ed25519", "EdDSA")])
async def test_both_names_of_eddsa_mean_the_same(declared: str, alg: str) -> None:
    issuer = Issuer([public(KEYS["Ed25519"], kid="k", alg=declared)])
    assert await issuer.user(signed({"sub": "u"}, key=KEYS["Ed25519"], alg=alg, kid="k")) == "u"


@pytest.mark.parametrize("declared", ["PS256", "RS512"])
async def test_a_key_that_is_for_one_algorithm_verifies_no_other(declared: str) -> None:
    issuer = Issuer([public(RSA, kid="k", alg=declared)])
    assert await issuer.user(signed({"sub": "u"}, alg=declared, kid="k")) == "u"
    await issuer.refuses(signed({"sub": "u"}, kid="k"), "does not fit the key")


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "Ed25519"])
async def test_a_key_that_stands_in_its_certificate_alone_is_used(kind: str) -> None:
    key = KEYS[kind]
    alg = dict(reversed([pair for pair in PAIRS if pair[0] == kind]))[kind]
    kty = public(key)["kty"]
    issuer = Issuer([{"kty": kty, "kid": "k", "x5c": [certificate(key)]}])
    assert await issuer.user(signed({"sub": "u"}, key=key, alg=alg, kid="k")) == "u"


@pytest.mark.parametrize(
    "odd",
    [
        *(
            None,
            7,
            "k",
            [],
            {},
            {"kty": None},
            {"kty": ["RSA"]},
            {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"},
        ),
        *(
            {"kty": "RSA"},
            {"kty": "RSA", "x5c": []},
            {"kty": "RSA", "x5c": ["%%%"]},
            {"kty": "RSA", "x5c": [7]},
        ),
        *(
            {"kty": "RSA", "n": 7, "e": "AQAB"},
            {"kty": "RSA", "n": "", "e": ""},
            {"kty": "EC", "crv": "P-999"},
        ),
        *({"kty": "EC", "crv": [], "x": "", "y": ""}, {"kty": "OKP", "crv": "X25519", "x": "AAAA"}),
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        public(RSA, kid="k") | {"alg": ["RS256"]},
        public(RSA, kid="k") | {"alg": {"RS256": 1}},
    ],
)
async def test_a_key_of_another_shape_is_skipped_and_the_others_serve(odd: Any) -> None:
    keys = [
        odd,
        odd | {"kid": "k"} if isinstance(odd, dict) else odd,
        public(RSA, kid="k", use=None, alg=None),
    ]
    assert await Issuer(keys).user(signed({"sub": "u"}, kid="k")) == "u"


@pytest.mark.parametrize("skew_s", [20, 59])
async def test_the_issuers_clock_may_be_ahead_or_behind_by_the_leeway(skew_s: int) -> None:
    issuer = Issuer([public(RSA, kid="k")], expiry_leeway_s=60)
    ahead = {"iat": NOW_S + skew_s, "nbf": NOW_S + skew_s}
    assert await issuer.user(signed({"sub": "u", **ahead}, kid="k")) == "u"
    assert await issuer.user(signed({"sub": "u", "exp": NOW_S - skew_s}, kid="k")) == "u"


async def test_a_clock_beyond_the_leeway_is_named() -> None:
    issuer = Issuer([public(RSA, kid="k")], expiry_leeway_s=60)
    for claim in ("iat", "nbf"):
        await issuer.refuses(signed({"sub": "u", claim: NOW_S + 61}, kid="k"), "differ by more than 60 s")
    await issuer.refuses(signed({"sub": "u", "exp": NOW_S - 60}, kid="k"), "expired")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Bearer"])
async def test_an_access_tokens_types_are_taken(typ: str) -> None:
    assert await Issuer([public(RSA, kid="k")]).user(signed({"sub": "u"}, kid="k", typ=typ)) == "u"


@pytest.mark.parametrize("typ", ["logout+jwt", "dpop+jwt", "secevent+jwt", "application/kb+jwt"])
async def test_a_token_of_another_purpose_is_refused(typ: str) -> None:
    await Issuer([public(RSA, kid="k")]).refuses(
        signed({"sub": "u"}, kid="k", typ=typ), "not an access token"
    )
