"""What the two versions of the stream's cryptography cost, in microseconds: to seal a frame, and the server's
part of a handshake. Medians of alternating runs, and the ratio of version 2 to version 1."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from nx_signal.websocket.channel import Hello, answer, read_offer
from nx_signal.websocket.frames import binary_frame, text_frame
from nx_signal.websocket.sealing import SALT_BYTES, KeyPair, Sealer, agree, b64, read_public_key

ROUNDS = 15
SIZES = (200, 600, 4_000, 60_000)


def per_call_us(call: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times * 1e6


def compare(name: str, one: Callable[[], object], two: Callable[[], object], times: int) -> None:
    found = [(per_call_us(one, times), per_call_us(two, times)) for _ in range(ROUNDS)]
    first, second = (statistics.median(column) for column in zip(*found, strict=True))
    ratio = statistics.median(b / a for a, b in found)
    print(f"{name:<28} {first:>9.1f} {second:>9.1f} {ratio:>8.2f}")


def main() -> None:
    print(f"{'':<28} {'version 1':>9} {'version 2':>9} {'ratio':>8}")
    static = X25519PrivateKey.generate()
    offer = read_offer(Hello().data)
    _, channel = answer(offer, static)
    sealer = Sealer(os.urandom(32))
    for size in SIZES:
        payload = os.urandom(size)
        compare(
            f"seal a frame of {size} bytes",
            lambda payload=payload: text_frame(sealer.seal(payload)),  # type: ignore[misc]
            lambda payload=payload: binary_frame(channel.seal(payload)),  # type: ignore[misc]
            2_000,
        )
    public = KeyPair.generate().public_b64

    def handshake_1() -> None:
        pair, salt = KeyPair.generate(), os.urandom(SALT_BYTES)
        Sealer(agree(pair, read_public_key(public), salt))
        assert pair.public_b64 and b64(salt)

    compare("the server's handshake", handshake_1, lambda: answer(offer, static), 200)
