"""identity/issuer.py: one key per data directory, private, made once."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from nx_signal.errors import SettingsError
from nx_signal.identity.issuer import ISSUER, KEY_FILE, open_issuer
from nx_signal.identity.tokens import TokenVerifier

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def test_a_verifier_accepts_its_tokens_with_their_grants(tmp_path: Path) -> None:
    issuer = open_issuer(tmp_path)
    token = issuer.sign("u1", 60, ["Activity.publish"], ["signal-operator"], NOW)
    verifier = TokenVerifier(
        issuer, now=lambda: NOW, issuer=ISSUER, audience=None, user_claim="sub", trusted_grants=True
    )
    principal = await verifier.verify(token)
    assert principal.user_id == "u1"
    assert principal.permissions == {"Activity.publish"}
    assert principal.roles == {"signal-operator"}
    assert principal.expires_at == NOW + timedelta(seconds=60)
    assert principal.token_id
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["kid"]) == ("ES256", issuer.kid)


def test_two_tokens_alike_differ_in_their_id(tmp_path: Path) -> None:
    issuer = open_issuer(tmp_path)
    assert issuer.sign("u1", 60, (), (), NOW) != issuer.sign("u1", 60, (), (), NOW)


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    first = open_issuer(data_dir)
    assert open_issuer(data_dir).kid == first.kid
    assert stat.S_IMODE((data_dir / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert [path.name for path in data_dir.iterdir()] == [KEY_FILE]


def test_the_kid_is_the_thumbprint_of_rfc_7638(tmp_path: Path) -> None:
    pem = ec.derive_private_key(1, ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / KEY_FILE
    path.write_bytes(pem)
    path.chmod(0o600)
    issuer = open_issuer(tmp_path)
    # The private key 1: its public point is the generator of P-256 (SEC 2).
    assert issuer.kid == "xx0BcA-wMohw8atYDJOe6peGModklG2wRHBlXHMvl0M"
    keys = json.loads(json.dumps(issuer.public_jwks))["keys"]
    assert keys[0]["kid"] == issuer.kid
    assert "d" not in keys[0]


def test_a_process_that_starts_second_uses_the_key_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link
    winner: list[str] = []

    def slow_link(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        winner.append(open_issuer(tmp_path).kid)
        link(source, target)

    monkeypatch.setattr(os, "link", slow_link)
    assert open_issuer(tmp_path).kid == winner[0]
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    open_issuer(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        open_issuer(tmp_path)


def _pem(key: object, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(ed25519.Ed25519PrivateKey.generate()),
        _pem(ec.generate_private_key(ec.SECP256R1()), b"secret"),
    ],
)
def test_a_file_that_holds_no_p256_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="not an unencrypted P-256 private key"):
        open_issuer(tmp_path)
    assert path.read_bytes() == content


def test_a_data_directory_that_is_a_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(SettingsError, match="give a data directory"):
        open_issuer(tmp_path / "data")


@pytest.mark.parametrize("user", ["", "x" * 257, "a\x00b", "\ud800"])
def test_a_user_that_no_verifier_would_accept_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(SettingsError, match="user id"):
        open_issuer(tmp_path).sign(user, 60, (), (), NOW)


@pytest.mark.parametrize("ttl_s", [0, -1, 10**12])
def test_a_lifetime_out_of_bounds_is_refused(tmp_path: Path, ttl_s: int) -> None:
    with pytest.raises(SettingsError, match="valid for 1 to"):
        open_issuer(tmp_path).sign("u1", ttl_s, (), (), NOW)


def test_only_a_server_makes_a_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"issuer-key\.pem does not exist, .*nx-signal serve"):
        open_issuer(tmp_path / "data", make=False)
    assert not (tmp_path / "data").exists()
    assert open_issuer(tmp_path / "data").kid == open_issuer(tmp_path / "data", make=False).kid
