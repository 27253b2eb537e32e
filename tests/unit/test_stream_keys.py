"""The stream's static keys: of a file or of the store's secret, and as they are published."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from nx_signal.client.http import is_exposed
from nx_signal.client.server_keys import read_server_key
from nx_signal.errors import SettingsError, StoreUnavailable
from nx_signal.identity.key_file import others_have
from nx_signal.identity.keys import _usable
from nx_signal.identity.stream_keys import derive_key, keys_of_file, keys_of_secret, public_jwk, read_keys


def pem(key: X25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def file_of(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "stream.pem"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def raw(keys: Sequence[X25519PrivateKey]) -> list[bytes]:
    return [key.private_bytes_raw() for key in keys]


async def test_every_instance_of_a_store_has_the_same_key_and_another_store_another() -> None:
    async def secret() -> bytes:
        return b"of the store"

    one, two = keys_of_secret(secret), keys_of_secret(secret)
    assert raw([await one.current()]) == raw([await two.current()])
    assert raw([derive_key(b"of the store")]) != raw([derive_key(b"of a copy")])


async def test_a_store_that_is_away_is_asked_again_and_one_that_answered_is_not() -> None:
    answers: list[bytes | None] = [None, b"secret"]

    async def secret() -> bytes:
        answer = answers.pop(0)
        if answer is None:
            raise StoreUnavailable("away")
        return answer

    keys = keys_of_secret(secret)
    with pytest.raises(StoreUnavailable):
        await keys.current()
    assert await keys.jwks() == [public_jwk(await keys.current())]
    assert answers == []


async def test_many_clients_at_once_wait_for_one_try_of_a_store_that_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tries: list[float] = []

    async def secret() -> bytes:
        tries.append(trio.current_time())
        await trio.sleep(5)
        raise StoreUnavailable("away")

    keys = keys_of_secret(secret)

    async def use() -> None:
        with pytest.raises(StoreUnavailable, match="away"):
            await keys.current()

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(use)
    assert trio.current_time() - began == pytest.approx(5) and len(tries) == 1


async def test_the_first_key_of_a_file_is_used_and_all_are_published(tmp_path: Path) -> None:
    made = [X25519PrivateKey.generate() for _ in range(2)]
    keys = keys_of_file(file_of(tmp_path, b"# now\n" + pem(made[0]) + b"\n# next\n" + pem(made[1])))
    assert raw([await keys.current()]) == raw(made[:1])
    assert [jwk["x"] for jwk in await keys.jwks()] == [public_jwk(key)["x"] for key in made]


X25519_PEM = pem(X25519PrivateKey.generate())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nnot base64\n-----END PRIVATE KEY-----\n",
        pem(ec.generate_private_key(ec.SECP256R1())),
        X25519_PEM + pem(ec.generate_private_key(ec.SECP256R1())),
        pem(X25519PrivateKey.generate(), password=b"x"),
        X25519_PEM * 5,
    ],
)
def test_a_file_with_anything_else_is_an_error_that_states_what_to_do(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SettingsError, match="openssl genpkey -algorithm X25519"):
        read_keys(file_of(tmp_path, content))


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="chmod 600"):
        read_keys(file_of(tmp_path, X25519_PEM, mode=0o640))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_keys(tmp_path / "none.pem")


def test_a_published_key_is_a_jwk_with_its_thumbprint() -> None:
    jwk = public_jwk(X25519PrivateKey.generate())
    canonical = f'{{"crv":"X25519","kty":"OKP","x":"{jwk["x"]}"}}'.encode()
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode()
    assert jwk == {"kty": "OKP", "crv": "X25519", "x": jwk["x"], "kid": thumbprint, "use": "enc"}


def test_no_token_is_verified_with_a_key_of_the_stream() -> None:
    assert _usable([{**public_jwk(X25519PrivateKey.generate())}]) == ()


def test_a_pinned_key_is_the_x_of_its_jwk() -> None:
    key = X25519PrivateKey.generate()
    assert read_server_key(public_jwk(key)["x"]) == key.public_key().public_bytes_raw()


@pytest.mark.parametrize("text", ["", "AAAA", "é" * 43, "A" * 42, "A" * 44, "!" * 43, "A" * 64])
def test_what_is_no_key_is_not_pinned(text: str) -> None:
    with pytest.raises(ValueError, match="43 characters"):
        read_server_key(text)


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("wss://signal.example.com/stream", False),
        ("ws://localhost:1/stream", False),
        ("ws://127.0.0.2:1/stream", False),
        ("ws://[::1]:1/stream", False),
        ("https://signal/", False),
        ("http://127.0.0.1:1", False),
        ("http://signal:1", True),
        ("ws://signal/stream", True),
        ("ws://10.0.0.1/stream", True),
        ("ws://[2001:db8::1]/stream", True),
    ],
)
def test_what_goes_without_tls_beyond_this_machine_is_exposed(url: str, exposed: bool) -> None:
    assert is_exposed(url) is exposed


@pytest.mark.parametrize(
    ("mode", "owner", "user", "refused"),
    [
        (0o600, 10001, 10001, False),
        (0o440, 0, 10001, False),  # a secret of Kubernetes with fsGroup
        (0o640, 0, 10001, False),
        (0o440, 0, 0, True),
        (0o440, 10001, 10001, True),
        (0o460, 0, 10001, True),
        (0o444, 0, 10001, True),
    ],
)
def test_a_key_is_readable_for_its_user_alone_or_given_to_its_group_by_root(
    mode: int, owner: int, user: int, refused: bool
) -> None:
    found = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    assert others_have(found, user) is refused
