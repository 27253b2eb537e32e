"""Version 2 of the stream's cryptography a second time, as docs/stream-v2.md states it, over the package
`noiseprotocol`: nothing is shared with nx_signal. `python tests/noise_peer.py` prints the test vectors."""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

PROTOCOL = b"Noise_NX_25519_AESGCM_SHA256"
LONGEST = 65_535
DIRECTIONS = {"client": b"\x01", "server": b"\x02"}


class Peer:
    """One side, `client` or `server`."""

    def __init__(
        self,
        side: str,
        *,
        ephemeral: bytes | None = None,
        static: bytes | None = None,
        offered: tuple[int, ...] = (2,),
        chosen: int = 2,
    ) -> None:
        self.side = side
        self.offered = offered
        self.chosen = chosen
        listed = ",".join(str(version) for version in offered)
        self.prologue = f"nx-signal stream;offered:{listed};chosen:{chosen}".encode()
        self.noise = NoiseConnection.from_name(PROTOCOL)
        self.noise.set_prologue(self.prologue)
        if side == "client":
            self.noise.set_as_initiator()
        else:
            self.noise.set_as_responder()
            self.noise.set_keypair_from_private_bytes(Keypair.STATIC, static)
        if ephemeral is not None:
            self.noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a preset ephemeral key is for testing
            self.noise.start_handshake()

    # --- the handshake ---

    def hello(self) -> str:
        """The client's."""
        message = base64.b64encode(self.noise.write_message()).decode()
        data = {"versions": list(self.offered), "message": message}
        return json.dumps({"event": "hello", "data": data}, separators=(",", ":"))

    def answer(self, hello: str) -> str:
        """The server's."""
        self.noise.read_message(base64.b64decode(json.loads(hello)["data"]["message"]))
        message = base64.b64encode(self.noise.write_message()).decode()
        data = {"version": self.chosen, "message": message}
        return json.dumps({"event": "hello", "data": data}, separators=(",", ":"))

    def finish(self, hello: str) -> bytes:
        """The client's; the server's static key."""
        handshake = self.noise.noise_protocol.handshake_state
        payload = self.noise.read_message(base64.b64decode(json.loads(hello)["data"]["message"]))
        assert payload == b""
        static: bytes = handshake.rs.public_bytes
        return static

    @property
    def handshake_hash(self) -> bytes:
        found: bytes = self.noise.get_handshake_hash()
        return found

    # --- sealed messages ---

    @property
    def sending(self) -> Any:
        return self.noise.noise_protocol.cipher_state_encrypt

    @property
    def receiving(self) -> Any:
        return self.noise.noise_protocol.cipher_state_decrypt

    @property
    def other(self) -> str:
        return "server" if self.side == "client" else "client"

    def ad(self, sender: str, last: bool, counter: int) -> bytes:
        return b"nx-signal stream 2" + DIRECTIONS[sender] + bytes([last]) + counter.to_bytes(8, "big")

    def seal(self, plaintext: bytes) -> bytes:
        size = LONGEST - 16
        parts = [plaintext[at : at + size] for at in range(0, len(plaintext), size)] or [b""]
        sealed = b""
        for number, part in enumerate(parts, 1):
            ad = self.ad(self.side, number == len(parts), self.sending.n)
            sealed += self.sending.encrypt_with_ad(ad, part)
            if self.sending.n % 2**20 == 0:
                self.sending.rekey()
        return sealed

    def open(self, sealed: bytes) -> bytes:
        parts = [sealed[at : at + LONGEST] for at in range(0, len(sealed), LONGEST)]
        plaintext = b""
        for number, part in enumerate(parts, 1):
            ad = self.ad(self.other, number == len(parts), self.receiving.n)
            plaintext += self.receiving.decrypt_with_ad(ad, part)
            if self.receiving.n % 2**20 == 0:
                self.receiving.rekey()
        return plaintext


CLIENT_EPHEMERAL, SERVER_EPHEMERAL, SERVER_STATIC = (
    hashlib.sha256(b"nx-signal test vector: " + name).digest()
    for name in (b"client ephemeral", b"server ephemeral", b"server static")
)

TOKEN = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln"
TOPIC = "observation/signal/notification/created"
CONVERSATION: list[dict[str, Any]] = [
    {
        "from": "client",
        "event": "authenticate",
        "data": {"type": "Bearer", "token": TOKEN},
    },
    {
        "from": "server",
        "event": "connected",
        "data": {
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "userId": "ann",
            "time": "2026-01-01T12:00:00.000Z",
        },
    },
    {"from": "client", "event": "heartbeat"},
    {"from": "server", "event": TOPIC, "data": {"content": "Nguyễn Văn An: 1.250.000 ₫", "rev": 1}},
    {"from": "client", "event": "refresh", "data": {"token": "eyJhbGciOiJFUzI1NiJ9.e30.bmV3"}, "rekey": True},
    {"from": "client", "event": "heartbeat"},
    {"from": "server", "event": TOPIC, "data": {"content": "before", "rev": 2}},
    {"from": "server", "event": "observation/signal/stream/refreshed", "data": {}, "rekey": True},
    {"from": "server", "event": TOPIC, "data": {"content": "after", "rev": 3}},
    {"from": "server", "event": "long", "data": "", "padded": 140_000},
    {"from": "client", "event": "heartbeat", "counter": 2**20 - 1},
    {"from": "client", "event": "heartbeat"},
]
"""`rekey`: the sender's direction has a new key after it. `padded`: `data` is that many letters x. `counter`:
as if so many messages were sent before in this direction, under the present key."""


def vectors() -> dict[str, Any]:
    client = Peer("client", ephemeral=CLIENT_EPHEMERAL)
    server = Peer("server", ephemeral=SERVER_EPHEMERAL, static=SERVER_STATIC)
    hello = client.hello()
    answer = server.answer(hello)
    static = client.finish(answer)
    assert static == X25519PrivateKey.from_private_bytes(SERVER_STATIC).public_key().public_bytes_raw()
    assert client.handshake_hash == server.handshake_hash
    sides = {"client": client, "server": server}
    messages = []
    for step in CONVERSATION:
        sender, receiver = sides[step["from"]], sides[sides[step["from"]].other]
        if "counter" in step:
            sender.sending.set_nonce(step["counter"])
            receiver.receiving.set_nonce(step["counter"])
        frame = {"event": step["event"]}
        if "data" in step:
            frame["data"] = "x" * step["padded"] if "padded" in step else step["data"]
        plaintext = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
        counter = sender.sending.n
        sealed = sender.seal(plaintext.encode())
        assert receiver.open(sealed) == plaintext.encode()
        if step.get("rekey"):
            sender.sending.rekey()
            receiver.receiving.rekey()
        message: dict[str, Any] = {"from": step["from"], "counter": counter}
        if len(sealed) > 1_000:
            message |= {
                "plaintextIs": f'{{"event":"long","data":"{step["padded"]} times x"}}',
                "padded": step["padded"],
                "bytes": len(sealed),
                "sha256": hashlib.sha256(sealed).hexdigest(),
            }
        else:
            message |= {"plaintext": plaintext, "sealed": sealed.hex()}
        if step.get("rekey"):
            message["thenRekey"] = True
        messages.append(message)
    return {
        "about": "Version 2 of the stream's cryptography (docs/stream-v2.md). Made by the Python package "
        "noiseprotocol 0.3.1, which shares no code with this project. Binary values are hexadecimal.",
        "protocol": PROTOCOL.decode(),
        "clientEphemeralPrivate": CLIENT_EPHEMERAL.hex(),
        "serverEphemeralPrivate": SERVER_EPHEMERAL.hex(),
        "serverStaticPrivate": SERVER_STATIC.hex(),
        "serverStaticPublic": static.hex(),
        "prologue": client.prologue.decode(),
        "clientHello": hello,
        "serverHello": answer,
        "handshakeHash": client.handshake_hash.hex(),
        "messages": messages,
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), ensure_ascii=False, indent=1))
