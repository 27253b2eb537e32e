"""server/listener.py: what an address means, and which requests are the stream's."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from gate_kit import a_listener, open_gate
from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.server.listener import is_stream_upgrade, may_be_stream, open_listeners, stream_paths


@pytest.mark.parametrize("host", ["*", "::", "[::]", "all", " * "])
async def test_all_addresses_are_those_of_both_families_on_one_listener(host: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    settings = Settings.load({"host": host}, {})
    (listener,) = await open_listeners(settings.host, 0)
    port = listener.socket.getsockname()[1]
    async with listener:
        for address in ("127.0.0.1", "::1"):
            async with await trio.open_tcp_stream(address, port), await listener.accept() as accepted:
                assert accepted.socket.getpeername()[0] in (address, f"::ffff:{address}")


async def test_all_addresses_are_those_of_ipv4_without_ipv6(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    (listener,) = await open_listeners("::", 0)
    async with listener, await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1]):
        await (await listener.accept()).aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_a_taken_port_is_a_sentence(host: str) -> None:
    taken = socket.create_server(("0.0.0.0", 0))  # noqa: S104 - for the moment of a test
    with taken, pytest.raises(SettingsError, match="choose another --host or --port"):
        await open_listeners(host, taken.getsockname()[1])


@pytest.mark.parametrize(
    ("target", "prefix", "stream"),
    [
        ("/stream", "", True),
        ("/stream?x=1", "/signal", True),
        ("/signal/stream", "/signal", True),
        ("/a/b/stream?x=1", "/a/b", True),
        ("/signal/stream", "", False),
        ("/signal/streams", "/signal", False),
        ("/signal/signal/stream", "/signal", False),
        ("/signals/stream", "/signal", False),
    ],
)
def test_the_stream_is_at_its_path_with_and_without_prefix(target: str, prefix: str, stream: bool) -> None:
    paths = stream_paths(prefix)
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n".encode()
    assert is_stream_upgrade(head, paths) is stream
    assert not stream or all(may_be_stream(head[:n], paths) for n in range(len(head)))


@pytest.mark.parametrize("sent", [b"", b"GET /str"])
async def test_connections_without_a_request_do_not_hold_up_a_drain(sent: bytes) -> None:
    async def unused(*_: object) -> None:
        raise AssertionError("No request is expected.")

    listeners = await open_listeners("127.0.0.1", 0)
    listener = a_listener(unused, unused, open_gate())
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run, listeners)
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as client:
            await client.send_all(sent)
            await trio.testing.wait_all_tasks_blocked()
            listener.stop_accepting()
            with trio.fail_after(2):
                await listener.wait_empty()
                assert await client.receive_some() == b""
