"""The embedded issuer: an ES256 key in the data directory that signs and verifies this machine's tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import jwt
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nx_signal.data_dir import make_private
from nx_signal.errors import SettingsError
from nx_signal.identity.key_file import read_key_file
from nx_signal.identity.tokens import is_user_id

ISSUER = "nx-signal"
KEY_FILE = "issuer-key.pem"
MAX_TTL_S = 10 * 365 * 86_400


class Issuer:
    """Signs tokens with one P-256 key, and publishes its public half (a KeySource)."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        point = key.public_key().public_numbers()
        jwk = {"crv": "P-256", "kty": "EC", "x": _b64url(point.x), "y": _b64url(point.y)}
        canonical = json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()  # RFC 7638 §3
        self.kid = _b64(hashlib.sha256(canonical).digest())
        self.public_jwks: Mapping[str, object] = {
            "keys": [{**jwk, "kid": self.kid, "alg": "ES256", "use": "sig"}]
        }

    async def jwks(self) -> Mapping[str, object]:
        await trio.lowlevel.checkpoint()
        return self.public_jwks

    def sign(
        self,
        user_id: str,
        ttl_s: int,
        permissions: Iterable[str],
        roles: Iterable[str],
        now: datetime,
    ) -> str:
        """A token for `user_id`, valid for `ttl_s` seconds. Raises SettingsError for values that
        the verifier would refuse."""
        if not is_user_id(user_id):
            raise SettingsError("A user id has 1 to 256 characters, none of them NUL.")
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise SettingsError(f"A token is valid for 1 to {MAX_TTL_S} seconds.")
        issued_s = int(now.timestamp())
        claims = {
            "iss": ISSUER,
            "sub": user_id,
            "iat": issued_s,
            "exp": issued_s + ttl_s,
            "jti": secrets.token_urlsafe(16),
            "permissions": sorted(set(permissions)),
            "roles": sorted(set(roles)),
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.kid})


def open_issuer(data_dir: Path, *, make: bool = True) -> Issuer:
    """The issuer of this data directory; its key is made where `make` is given, by a server.

    Blocking file I/O, milliseconds. Raises SettingsError when the key cannot be used."""
    path = data_dir / KEY_FILE
    try:
        if make:
            make_private(data_dir)
        try:
            pem = read_key_file(path)
        except FileNotFoundError:
            if not make:
                raise SettingsError(
                    f"{path} does not exist, so no server would accept a token of it: give the --data-dir of "
                    "the server, which makes the key at its first start (nx-signal serve)."
                ) from None
            _create(path)
            pem = read_key_file(path)
    except OSError as error:
        raise SettingsError(
            f"The issuer's key {path} cannot be used ({error.strerror}); "
            "give a data directory that this user can write to."
        ) from error
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SettingsError(
            f"{path} is not an unencrypted P-256 private key; move it away, and a new one is made."
        )
    return Issuer(key)


def _create(path: Path) -> None:
    """Write a new key, whole and on disk before it gets its name; a key that is there already wins."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # the umask may have taken rights away
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, this never replaces the key of another process
        except FileExistsError:
            return
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _b64url(coordinate: int) -> str:
    return _b64(coordinate.to_bytes(32, "big"))
