"""Version 2 of the stream with a machine in between our client and a real server: what it cannot read,
change, leave out or pretend. The client for browsers, docs/stream-v2.mjs, is a third implementation."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import noise_peer
from abuse.middle import CLIENT, SERVER, Message, Middle, Seen, between, pass_on
from nx_signal.client.stream import Frame, HandshakeRefused, Stream, StreamClosed, open_stream
from nx_signal.client.websocket import open_websocket
from nx_signal.delivery.topics import REFRESHED, STATE
from nx_signal.identity.issuer import open_issuer
from serving import Instance

HERE = Path(__file__).resolve().parent
NOT_AUTHENTIC = (4010, "Message not authentic")
NODE_S = 30.0


class Site:
    """One server with everything embedded."""

    def __init__(self, data_dir: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
        environment |= {"APP_ENV_DATA_DIR": str(data_dir), "APP_ENV_LOG_LEVEL": "warning"}
        self.data_dir = data_dir
        self.instance = Instance(environment)

    def token(self, user: str) -> str:
        return open_issuer(self.data_dir, make=False).sign(user, 600, [], [], datetime.now(UTC))

    def keys(self) -> list[dict[str, str]]:
        found = httpx.get(f"{self.instance.url}/.well-known/jwks.json").json()["keys"]
        return list(found)

    @cached_property
    def server_key(self) -> bytes:
        return x_of(self.keys()[-1])


def x_of(key: dict[str, str]) -> bytes:
    return base64.urlsafe_b64decode(key["x"] + "=")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield from running(site.instance, site)


def running(instance: Instance, result: Any) -> Iterator[Any]:
    instance.start()
    try:
        instance.wait_ready()
        yield result
    finally:
        assert instance.process
        instance.process.kill()
        instance.process.wait()


def connect(
    site: Site, middle: Middle, user: str = "ann", *, resume: int | None = None
) -> AbstractAsyncContextManager[Stream]:
    return open_stream(middle.url, site.token(user), server_keys=[site.server_key], resume=resume)


# --- what can be read ------------------------------------------------------------------------------


async def test_the_token_is_never_in_clear_on_the_wire(site: Site) -> None:
    token, later = site.token("ann"), site.token("ann")
    async with between(site.instance.stream_url) as middle:
        async with open_stream(middle.url, token, server_keys=[site.server_key], resume=0) as stream:
            await stream.refresh(later)
            assert {(await stream.receive()).event for _ in range(2)} == {STATE, REFRESHED}
            await stream.heartbeat()
        assert len(middle.sent_by(CLIENT)) >= 4
        for secret in (*token.split("."), *later.split("."), "authenticate", "refresh", "connected", "ann"):
            assert not middle.holds(secret), secret


async def test_on_version_1_the_token_is_in_clear_as_the_documents_state(site: Site) -> None:
    """So the search of the test above finds what is there."""
    token = site.token("ann")
    async with between(site.instance.stream_url) as middle:
        async with open_stream(middle.url, token, version=1):
            pass
        assert middle.holds(token.split(".")[2]) and middle.holds("connected")


# --- what can be changed -----------------------------------------------------------------------------


def changed(message: Message) -> bytes:
    assert isinstance(message, bytes)
    return message[:5] + bytes([message[5] ^ 1]) + message[6:]


FIRST = 2
"""Of the messages of a side: after `hello`, `authenticate` and `connected`."""


class Tampering:
    """Changes the messages of one side from the `FIRST` on."""

    def __init__(self, sender: str, how: str) -> None:
        self.sender = sender
        self.how = how
        self.held: list[Seen] = []

    def __call__(self, seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender != self.sender or seen.number < FIRST:
            return pass_on(seen)
        to, message = seen.receiver, seen.message
        self.held.append(seen)
        first = len(self.held) == 1
        match self.how:
            case "left out":
                return [] if first else [(to, message)]
            case "repeated":
                return [(to, message), (to, message)]
            case "swapped":
                return [] if first else [(to, message), (to, self.held[0].message)]
            case "sent back":
                return [(seen.sender, message)]
            case "cut off":
                return [(to, message[:-1])]
            case "changed":
                return [(to, changed(message))]
            case "in clear":
                return [(to, '{"event":"heartbeat","data":{}}')]
            case "of version 1":
                return [(to, '{"event":"encrypted","data":{"iv":"AAAAAAAAAAAAAAAA","ct":"AAAA"}}')]
        raise ValueError(self.how)


ANSWER = Frame("error", {"message": "Already authenticated"})


async def exchange(stream: Stream, received: list[Frame]) -> None:
    """Three messages, each with an answer, then whatever comes."""
    for _ in range(3):
        await stream.send("authenticate", {"token": "another"})
    while True:
        received.append(await stream.receive())


HOW = ("left out", "repeated", "swapped", "sent back", "cut off", "changed", "in clear", "of version 1")


@pytest.mark.parametrize("how", HOW)
async def test_what_a_machine_in_between_does_to_the_servers_messages_ends_the_connection(
    site: Site, how: str
) -> None:
    async with between(site.instance.stream_url, Tampering(SERVER, how)) as middle:
        async with connect(site, middle) as stream:
            received: list[Frame] = []
            with pytest.raises(StreamClosed) as closed:
                await exchange(stream, received)
            assert received in ([], [ANSWER])
            assert closed.value.code == NOT_AUTHENTIC[0]
        by = SERVER if how == "sent back" else CLIENT
        assert await middle.closed_by(by) == NOT_AUTHENTIC


@pytest.mark.parametrize("how", HOW)
async def test_what_a_machine_in_between_does_to_the_clients_messages_ends_the_connection(
    site: Site, how: str
) -> None:
    async with between(site.instance.stream_url, Tampering(CLIENT, how)) as middle:
        async with connect(site, middle) as stream:
            with pytest.raises(StreamClosed) as closed:
                await exchange(stream, [])
        expected = (4004, "Encryption required") if how in ("in clear", "of version 1") else NOT_AUTHENTIC
        assert (closed.value.code, closed.value.reason) == expected


# --- what can be pretended ---------------------------------------------------------------------------


async def refusal(site: Site, middle: Middle) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as refused:
        async with connect(site, middle):
            raise AssertionError("must not connect")
    assert len(middle.sent_by(CLIENT)) == 1, "nothing after the hello: no token"
    return refused.value


def instead_of_hello(make: Callable[[str], str]) -> Callable[[Seen], Iterable[tuple[str, Message]]]:
    """Answers the client's hello in the server's place."""

    def tamper(seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender == CLIENT:
            assert isinstance(seen.message, str)
            return [(CLIENT, make(seen.message))]
        return []

    return tamper


@pytest.mark.parametrize(
    "answer",
    [
        '{"event":"error","data":{"message":"Not authenticated"}}',
        '{"event":"hello","data":{"version":1}}',
        '{"event":"connected","data":{"id":"c","userId":"ann","serverPublicKey":"AAAA","salt":"AAAA"}}',
        '{"event":"encrypted","data":{"iv":"","ct":""}}',
    ],
)
async def test_no_answer_makes_the_client_take_version_1(site: Site, answer: str) -> None:
    async with between(site.instance.stream_url, instead_of_hello(lambda hello: answer)) as middle:
        await refusal(site, middle)


@pytest.mark.parametrize("versions", [[2, 3], [1, 2], [2, 2]])
async def test_a_changed_offer_ends_the_handshake_before_the_token(site: Site, versions: list[int]) -> None:
    def tamper(seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender == CLIENT and seen.number == 0:
            hello = json.loads(seen.message)
            hello["data"]["versions"] = versions
            return [(SERVER, json.dumps(hello))]
        return pass_on(seen)

    async with between(site.instance.stream_url, tamper) as middle:
        await refusal(site, middle)


async def test_a_server_with_another_key_gets_no_token(site: Site) -> None:
    own = X25519PrivateKey.generate().private_bytes_raw()

    def answer(hello: str) -> str:
        return noise_peer.Peer("server", static=own).answer(hello)

    async with between(site.instance.stream_url, instead_of_hello(answer)) as middle:
        refused = await refusal(site, middle)
    assert "not the one expected" in refused.message


async def test_a_first_sealed_message_that_was_changed_is_refused_with_its_own_code(site: Site) -> None:
    def tamper(seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender == SERVER and seen.number == 1:
            return [(CLIENT, changed(seen.message))]
        return pass_on(seen)

    async with between(site.instance.stream_url, tamper) as middle:
        with pytest.raises(HandshakeRefused) as refused:
            async with connect(site, middle):
                raise AssertionError("must not connect")
        assert refused.value.code == NOT_AUTHENTIC[0]
        assert await middle.closed_by(CLIENT) == NOT_AUTHENTIC


async def test_what_was_recorded_of_one_connection_opens_no_other(site: Site) -> None:
    """Not even its token, which the server would take from its own client."""
    async with between(site.instance.stream_url) as middle:
        async with connect(site, middle, user="victim"):
            pass
        recorded = [message for message in middle.sent_by(CLIENT) if message]
    async with open_websocket(site.instance.stream_url) as thief:
        for message in recorded[:2]:
            await thief.send(partial(lambda message: message, message))
        assert json.loads(await thief.receive())["event"] == "hello"
        with pytest.raises(StreamClosed) as closed:
            await thief.receive()
    assert (closed.value.code, closed.value.reason) == NOT_AUTHENTIC


async def test_a_connection_that_is_cut_is_noticed_and_what_was_missed_comes_after_it(site: Site) -> None:
    """A close is not sealed: a machine in between can always end a connection, and gains nothing by that."""
    cut = trio.Event()

    def tamper(seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender == SERVER and seen.number == FIRST:
            cut.set()
            return []
        return pass_on(seen)

    async with between(site.instance.stream_url, tamper) as middle, connect(site, middle) as stream:
        await stream.send("resume", {"rev": 0})
        await cut.wait()
        await stream._socket.aclose()
        with pytest.raises(StreamClosed):
            await stream.receive()
    async with between(site.instance.stream_url) as middle, connect(site, middle, resume=0) as stream:
        assert (await stream.receive()).event == STATE


# --- the servers' keys and versions -----------------------------------------------------------------


async def test_a_client_finds_the_servers_key_by_itself(site: Site) -> None:
    async with open_stream(site.instance.stream_url, site.token("ann"), resume=0) as stream:
        assert stream.user_id == "ann"
        assert (await stream.receive()).event == STATE


@pytest.fixture(scope="module")
def strict(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Takes version 2 alone, with two keys of a file; the other server is the issuer of its tokens."""
    other = Site(tmp_path_factory.mktemp("strict"))
    pems = [
        X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for _ in range(2)
    ]
    file = other.data_dir / "stream.pem"
    file.write_bytes(b"".join(pems))
    file.chmod(0o600)
    other.instance.environment |= {
        "APP_ENV_STREAM_VERSIONS": "2",
        "APP_ENV_STREAM_KEY_FILE": str(file),
        "APP_ENV_JWKS_URL": f"{site.instance.url}/.well-known/jwks.json",
    }
    yield from running(other.instance, other)


async def test_a_server_can_refuse_version_1(site: Site, strict: Site) -> None:
    with pytest.raises(HandshakeRefused) as refused:
        async with open_stream(strict.instance.stream_url, site.token("ann"), version=1):
            raise AssertionError("must not connect")
    assert (refused.value.message, refused.value.code) == ("Encryption handshake failed", 4004)


async def test_with_another_issuer_the_keys_of_the_stream_are_published_alone(
    site: Site, strict: Site
) -> None:
    found = strict.keys()
    assert [(key["kty"], key["crv"], key["use"]) for key in found] == [("OKP", "X25519", "enc")] * 2
    url, token = strict.instance.stream_url, site.token("ann")
    async with open_stream(url, token, server_keys=[x_of(found[0])]):
        pass
    with pytest.raises(HandshakeRefused):
        async with open_stream(url, token, server_keys=[x_of(found[1])]):
            raise AssertionError("the second key is published for a later change, and not used yet")


# --- a client for browsers ---------------------------------------------------------------------------


def node(what: str, argument: str) -> dict[str, Any]:
    if shutil.which("node") is None:
        pytest.skip("The client for browsers needs Node.js 20; `node` is not installed.")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout
    if int(version.strip().removeprefix("v").partition(".")[0] or 0) < 20:
        pytest.skip(f"The client for browsers needs Node.js 20; this is {version.strip()}.")
    done = subprocess.run(
        ["node", "--experimental-websocket", "--no-warnings", HERE / "stream_v2.mjs", what, argument],
        capture_output=True,
        text=True,
        timeout=NODE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_client_for_browsers_is_to_the_byte_as_in_the_vectors() -> None:
    vectors = HERE.parent / "vectors" / "stream_v2.json"
    assert node("vectors", str(vectors)) == {"messages": len(json.loads(vectors.read_text())["messages"])}


def test_the_client_for_browsers_connects_resumes_and_refreshes(site: Site) -> None:
    origin = site.instance.url
    given = {"url": site.instance.stream_url, "origin": origin, "token": site.token("ann")}
    found = node("serve", json.dumps(given | {"later": site.token("ann")}))
    assert found["userId"] == "ann"
    assert found["events"] == ["connected", STATE, REFRESHED, STATE]


async def test_the_client_for_browsers_takes_nothing_after_a_message_that_was_changed(site: Site) -> None:
    def tamper(seen: Seen) -> Iterable[tuple[str, Message]]:
        if seen.sender == SERVER and seen.number == FIRST:
            return [(seen.receiver, changed(seen.message))]
        return pass_on(seen)

    async with between(site.instance.stream_url, tamper) as middle:
        given = {"url": middle.url, "origin": site.instance.url, "token": site.token("ann")}
        found = await trio.to_thread.run_sync(node, "exchange", json.dumps(given))
        assert found["events"] == ["connected"]
        assert await middle.closed_by(CLIENT) == NOT_AUTHENTIC


def test_the_client_for_browsers_refuses_another_server_key(site: Site) -> None:
    found = node("refuse", json.dumps({"url": site.instance.stream_url, "token": site.token("ann")}))
    assert "not the one expected" in found["refused"]
