"""Floods of frames: counted as they arrive, and ended with a code and a reason before others notice."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from abuse.bystander import Bystander
from abuse.flooder import CLOSE, KINDS, PING, UPGRADE
from nx_signal.server.limits import CLIENT_FRAMES
from serving import Instance, command

CONNECTIONS = 64
FLOOD_S = 4.0
SOON_S = 10.0
TOO_MANY = b"\x88\x1a\x03\xf0Too many frames or bytes"
TOO_MANY_FRAGMENTS = b"\x88\x21\x03\xf0Too many fragments in a message"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "APP_ENV_LOG_LEVEL": "warning",
        "APP_ENV_LAME_DUCK_S": "0",
    }
    instance = Instance(environment)
    instance.start()
    try:
        instance.wait_ready()
        yield instance
    finally:
        assert instance.signal(signal.SIGTERM) == 0


@pytest.fixture(scope="module")
def token(instance: Instance) -> str:
    return command(instance.environment, "token", "--user", "bystander")


def test_64_connections_that_flood_leave_a_bystander_s_delay_as_it_was(
    instance: Instance, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A generous bound, as the machine may be busy; scripts/bench/flood measures. Counting messages alone,
    the median was above 200 ms."""
    bystander = Bystander(instance.port, token)
    quiet = statistics.median(bystander.measure(1.0))
    flooder = [sys.executable, str(Path(__file__).with_name("flooder.py")), str(instance.port)]
    with subprocess.Popen(
        [*flooder, str(CONNECTIONS), "fragments", str(FLOOD_S), "--again"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"flooding\n"
        during = statistics.median(bystander.measure(FLOOD_S - 1))
        process.wait()
    bystander.close()
    with capsys.disabled():
        print(
            f"\nbystander: {quiet * 1000:.1f} ms quiet, {during * 1000:.1f} ms with {CONNECTIONS} floods",
            end=" ",
        )
    assert during < 5 * quiet + 0.05


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"nothing", "pings after a close"}))
async def test_a_stranger_that_floods_is_closed_with_1008(instance: Instance, kind: str) -> None:
    first, unit = KINDS[kind]
    async with await connected(instance) as client:
        assert (await flood(client, first, unit)).endswith((TOO_MANY, TOO_MANY_FRAGMENTS))


async def test_a_stranger_needs_far_fewer_frames_than_a_client_may_send(
    instance: Instance, token: str
) -> None:
    pings = int(CLIENT_FRAMES.burst) - 10
    async with await connected(instance) as client:
        assert b"\x8a\0" not in await flood(client, PING * pings, b"", until=TOO_MANY)
    bystander = Bystander(instance.port, token)
    bystander._socket.sendall(PING * pings)
    pongs = b""
    while len(pongs) < 2 * pings:
        pongs += bystander._socket.recv(4_096)
    assert pongs == b"\x8a\0" * pings
    bystander._socket.sendall(PING * pings)
    last = b""
    while part := bystander._socket.recv(4_096):
        last = (last + part)[-200:]
        if last.endswith(TOO_MANY):
            break
    assert last.endswith(TOO_MANY)
    bystander.close()


async def test_pings_behind_a_client_s_close_are_not_answered(instance: Instance) -> None:
    """The connection ends as after any close: with the answer to it, and nothing else."""
    async with await connected(instance) as client:
        assert await flood(client, CLOSE, PING) == b"\x88\x02\x03\xe8"


async def test_frames_sent_along_with_the_upgrade_count_too(instance: Instance) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", instance.port) as client:
        answer = await flood(client, UPGRADE + PING * 1_000, b"", until=TOO_MANY)
    head, _, frames = answer.partition(b"\r\n\r\n")
    assert b" 101 " in head and frames == TOO_MANY


async def connected(instance: Instance) -> trio.SocketStream:
    client = await trio.open_tcp_stream("127.0.0.1", instance.port)
    await client.send_all(UPGRADE)
    assert b" 101 " in await client.receive_some()
    return client


async def flood(client: trio.SocketStream, first: bytes, unit: bytes, until: bytes = b"") -> bytes:
    """Sends `first`, and then `unit` again and again, until the server closes or has sent `until`. What it
    sent."""
    received = bytearray()

    async def send() -> None:
        try:
            await client.send_all(first)
            while unit:
                await client.send_all(unit)
        except trio.BrokenResourceError:
            pass

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                while not (until and received.endswith(until)) and (part := await client.receive_some()):
                    received += part
                    if received.endswith((TOO_MANY, TOO_MANY_FRAGMENTS)):
                        break
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
    return bytes(received)
