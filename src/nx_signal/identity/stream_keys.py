"""The static keys that the servers of a deployment prove on version 2 of the stream (docs/stream-v2.md): of a
file, or derived from the secret that the store keeps, so that all instances have the same."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
import trio
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nx_signal.errors import SettingsError, StoreUnavailable
from nx_signal.identity.key_file import read_key_file

log = structlog.get_logger()

DERIVED_INFO = b"nx-signal stream static key"
MAX_KEYS = 4
"""Of a file: the one in use, and those that follow or go."""

_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)


class StreamKeys:
    """The first key is proven, all are published. `load` is called until it succeeds, then never again."""

    def __init__(self, load: Callable[[], Awaitable[Sequence[X25519PrivateKey]]]) -> None:
        self._load = load
        self._keys: Sequence[X25519PrivateKey] = ()
        self._loading = trio.Lock()
        self._failures = 0
        self._failure = ""

    async def current(self) -> X25519PrivateKey:
        """Raises what `load` raises."""
        return (await self._known())[0]

    async def jwks(self) -> list[dict[str, str]]:
        """As JWKs (RFC 8037). Raises what `load` raises."""
        return [public_jwk(key) for key in await self._known()]

    async def _known(self) -> Sequence[X25519PrivateKey]:
        """A use that waits for a try shares its failure: so many uses at once take no longer than one."""
        if not self._keys:
            failures = self._failures
            async with self._loading:
                if failures != self._failures:
                    raise StoreUnavailable(self._failure)
                if not self._keys:
                    await self._try()
        return self._keys

    async def _try(self) -> None:
        try:
            self._keys = await self._load()
        except StoreUnavailable as error:
            self._failures += 1
            self._failure = str(error)
            raise
        log.info("stream_keys", kids=[public_jwk(key)["kid"] for key in self._keys])


def keys_of_file(path: Path) -> StreamKeys:
    """Blocking, milliseconds. Raises SettingsError."""
    keys = read_keys(path)

    async def load() -> Sequence[X25519PrivateKey]:
        await trio.lowlevel.checkpoint()
        return keys

    return StreamKeys(load)


def keys_of_secret(secret: Callable[[], Awaitable[bytes]]) -> StreamKeys:
    """`secret`: that of the deployment."""

    async def load() -> Sequence[X25519PrivateKey]:
        return [derive_key(await secret())]

    return StreamKeys(load)


def derive_key(secret: bytes) -> X25519PrivateKey:
    material = HKDF(algorithm=SHA256(), length=32, salt=None, info=DERIVED_INFO).derive(secret)
    return X25519PrivateKey.from_private_bytes(material)


def read_keys(path: Path) -> list[X25519PrivateKey]:
    """Each X25519 key in the PEM file, in its order. Raises SettingsError."""
    wrong = SettingsError(
        f"APP_ENV_STREAM_KEY_FILE names {path}, which does not hold 1 to {MAX_KEYS} unencrypted X25519 "
        "private keys in PEM; make one with: openssl genpkey -algorithm X25519"
    )
    try:
        blocks = _PEM.findall(read_key_file(path))
        keys = [load_pem_private_key(block, password=None) for block in blocks]
    except OSError as error:
        raise SettingsError(f"The stream's key {path} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise wrong from None
    found = [key for key in keys if isinstance(key, X25519PrivateKey)]
    if len(found) != len(keys) or not 1 <= len(keys) <= MAX_KEYS:
        raise wrong
    return found


def public_jwk(key: X25519PrivateKey) -> dict[str, str]:
    """With its thumbprint as `kid` (RFC 7638)."""
    jwk = {"crv": "X25519", "kty": "OKP", "x": _b64url(key.public_key().public_bytes_raw())}
    canonical = json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode()
    return {**jwk, "kid": _b64url(hashlib.sha256(canonical).digest()), "use": "enc"}


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
