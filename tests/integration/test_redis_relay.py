"""The Redis relay against a server that misbehaves, and against other senders on the same channels."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nx_signal.adapters import redis as redis_module
from nx_signal.adapters.redis import Malformed, RedisRelay, decode_message, encode_message
from nx_signal.errors import RelayLost, SettingsError
from nx_signal.model import Dispatch
from nx_signal.ports import Listening, Received, RelayEvent
from services import Redis

PATIENCE_S = 30.0


@asynccontextmanager
async def running(
    relay: RedisRelay, room: float = 1_000
) -> AsyncIterator[
    tuple[trio.MemorySendChannel[tuple[Dispatch, ...]], trio.MemoryReceiveChannel[RelayEvent]]
]:
    to_relay, outbound = trio.open_memory_channel[tuple[Dispatch, ...]](1_000)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run, outbound, from_relay)
            yield to_relay, inbound
            nursery.cancel_scope.cancel()


def lost(match: str = "is lost") -> pytest.RaisesGroup[RelayLost]:
    return pytest.RaisesGroup(pytest.RaisesExc(RelayLost, match=match), flatten_subgroups=True)


def refused(match: str) -> pytest.RaisesGroup[SettingsError]:
    return pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match=match), flatten_subgroups=True)


class Raw:
    """Speaks to the server without the relay: what a sister service, or anybody, may send."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=5)
        self._answers = self._socket.makefile("rb")

    def command(self, *words: str | bytes) -> bytes:
        """The first line of the answer."""
        coded = [word.encode() if isinstance(word, str) else word for word in words]
        lines = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in coded)
        self._socket.sendall(b"*%d\r\n%b" % (len(coded), lines))
        return self.line()

    def line(self) -> bytes:
        return self._answers.readline()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()


def message(**changes: Any) -> bytes:
    fields = {"serverId": "emitter", "type": "user", "target": "u1", "event": "topic", "data": {"a": 1}}
    fields |= changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


# --- messages ------------------------------------------------------------------------------------


async def test_a_sister_service_reaches_us(redis_url: str) -> None:
    relay = RedisRelay(redis_url, "here")
    relay.listen(["ws:user:u1"])
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Listening(frozenset({"ws:user:u1"}))
        with Raw(redis_url) as raw:
            raw.command("PUBLISH", "ws:user:u1", message(data={"n": 1}, exclude=["c1"]))
        assert await inbound.receive() == Received(
            (Dispatch("user", "u1", "topic", b'{"n": 1}', frozenset({"c1"}), "emitter"),)
        )


async def test_a_sister_service_understands_us(redis_url: str) -> None:
    sent = Dispatch("room", "r 1", "topic", b'{"kept":  "as it is"}', frozenset({"c2", "c1"}))
    async with running(RedisRelay(redis_url, "here")) as (outbound, _):
        with Raw(redis_url) as raw:
            assert raw.command("SUBSCRIBE", "ws:room:r 1") == b"*3\r\n"
            for _ in range(5):
                raw.line()
            await outbound.send((sent,))
            lines = await trio.to_thread.run_sync(lambda: [raw.line() for _ in range(7)])
    assert b'"data":{"kept":  "as it is"}' in lines[6]
    assert json.loads(lines[6]) == {
        "serverId": "here",
        "type": "room",
        "target": "r 1",
        "event": "topic",
        "data": {"kept": "as it is"},
        "exclude": ["c1", "c2"],
    }


MALFORMED = {
    "empty": b"",
    "not JSON": b"{oops",
    "not UTF-8": message().replace(b"topic", b"\xff\xfe"),
    "not UTF-8 inside data": message(data="xyz").replace(b"xyz", b"\xff"),
    "not an object": b"[1]",
    "null": b"null",
    "no event": message(event=...),
    "event of a wrong type": message(event=5),
    "no serverId": message(serverId=...),
    "no type": message(type=...),
    "unknown type": message(type="everybody"),
    "another type than its channel's": message(type="room"),
    "another target than its channel's": message(target="u2"),
    "target of a wrong type": message(target=5),
    "exclude of a wrong type": message(exclude="c1"),
    "exclude with a wrong member": message(exclude=[1]),
    "half a surrogate pair": message(event="\ud800"),
    "too deep": b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too large": message(data="x" * 1_048_576),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_named_as_such(payload: bytes) -> None:
    with pytest.raises(Malformed):
        decode_message("ws:user:u1", payload)


async def test_malformed_messages_are_dropped_and_logged_once_in_a_while(redis_url: str) -> None:
    relay = RedisRelay(redis_url, "here")
    relay.listen(["ws:user:u1"])
    with capture_logs() as logs:
        async with running(relay) as (_, inbound):
            await inbound.receive()
            with Raw(redis_url) as raw:
                for payload in MALFORMED.values():
                    assert raw.command("PUBLISH", "ws:user:u1", payload) == b":1\r\n"
                raw.command("PUBLISH", "ws:user:u1", message())
            event = await inbound.receive()
            assert isinstance(event, Received)
            assert [each.event for each in event.messages] == ["topic"]
    warnings = [entry for entry in logs if entry["event"] == "relay_malformed"]
    assert len(warnings) == 1
    assert "topic" not in str(warnings)


def test_a_missing_target_is_the_channels_and_missing_data_is_null() -> None:
    assert decode_message("ws:room:a:b", message(type="room", target=..., data=..., exclude=None)) == (
        Dispatch("room", "a:b", "topic", b"null", frozenset(), "emitter")
    )
    assert decode_message("ws:broadcast", message(type="broadcast", target=...)).target is None
    assert decode_message("ws:broadcast", message(type="broadcast", target=None)).target is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    kind=st.sampled_from(["client", "user", "room"]),
    target=st.text(st.characters(codec="utf-8")),
    event=st.text(st.characters(codec="utf-8")),
    data=json_values,
    exclude=st.frozensets(st.text(st.characters(codec="utf-8"))),
)
def test_what_is_encoded_is_decoded_again(
    kind: Any, target: str, event: str, data: Any, exclude: frozenset[str]
) -> None:
    text = json.dumps(data).encode()
    sent = Dispatch(kind, target, event, text, exclude)
    got = decode_message(f"ws:{kind}:{target}", encode_message(sent, "a"))
    assert got == Dispatch(kind, target, event, text, exclude, "a")


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_message_or_malformed(payload: bytes) -> None:
    with suppress(Malformed):
        decode_message("ws:user:u1", payload)


async def test_a_message_that_is_no_text_is_left_out_and_the_rest_is_sent(redis_url: str) -> None:
    relay = RedisRelay(redis_url, "there")
    relay.listen(["ws:user:u1"])
    async with running(relay) as (_, inbound), running(RedisRelay(redis_url, "here")) as (outbound, _):
        await inbound.receive()
        await outbound.send((Dispatch("user", "\ud800", "e", b"1"), Dispatch("user", "u1", "\ud800", b"2")))
        await outbound.send((Dispatch("user", "u1", "e", b"3"),))
        event = await inbound.receive()
        assert isinstance(event, Received)
        assert [each.data for each in event.messages] == [b"3"]


async def test_a_channel_that_is_no_text_does_not_take_the_others_with_it(redis_url: str) -> None:
    relay = RedisRelay(redis_url, "here")
    relay.listen(["ws:user:\ud800", "ws:user:u1"])
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Listening(frozenset({"ws:user:u1"}))
        relay.unlisten(["ws:user:\ud800"])
        relay.listen(["ws:user:u2"])
        assert await inbound.receive() == Listening(frozenset({"ws:user:u2"}))


# --- the server ----------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_lost_and_found(own_redis: Redis) -> None:
    relay = RedisRelay(own_redis.url, "here")
    relay.listen(["ws:user:u1"])
    await trio.to_thread.run_sync(own_redis.stop)
    with lost(f"Redis at {own_redis.address} is lost"):
        async with running(relay):
            pass
    await trio.to_thread.run_sync(own_redis.start)
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Listening(frozenset({"ws:user:u1"}))


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_server_that_goes_away_is_noticed_at_once_and_never_hidden(
    own_redis: Redis, end: str
) -> None:
    relay = RedisRelay(own_redis.url, "here")
    relay.listen(["ws:user:u1"])
    with trio.fail_after(redis_module.SILENCE_S / 2), lost():
        async with running(relay) as (_, inbound):
            await inbound.receive()
            await trio.to_thread.run_sync(getattr(own_redis, end))
            await trio.sleep_forever()
    await trio.to_thread.run_sync(own_redis.start)
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Listening(frozenset({"ws:user:u1"}))


async def test_a_frozen_server_is_lost_after_a_bounded_silence(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(redis_module, "SILENCE_S", 0.5)
    with lost("silent for 0.5 s"):
        async with running(RedisRelay(own_redis.url, "here")):
            own_redis.pause()
            await trio.sleep_forever()
    own_redis.resume()


async def test_a_frozen_server_does_not_hold_up_the_start_or_the_stop(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "CONNECT_TIMEOUT_S", 0.3)
    async with running(RedisRelay(own_redis.url, "here")) as (outbound, _):
        own_redis.pause()
        await outbound.send((Dispatch("user", "u1", "e", b"x" * 1_000_000),) * 20)
        await trio.sleep(0.05)  # the pipeline is under way
        began = trio.current_time()
    assert trio.current_time() - began < redis_module.CLOSE_TIMEOUT_S + 1
    with lost():
        async with running(RedisRelay(own_redis.url, "here")):
            pass
    own_redis.resume()


async def test_a_quiet_connection_stays(own_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "PING_EVERY_S", 0.05)
    monkeypatch.setattr(redis_module, "SILENCE_S", 0.5)
    with Raw(own_redis.url) as raw:
        raw.command("CONFIG", "SET", "timeout", "1")  # the server closes what is idle
    relay = RedisRelay(own_redis.url, "here")
    relay.listen(["ws:user:u1"])
    async with running(relay) as (outbound, inbound):
        await inbound.receive()
        await trio.sleep(2.5)
        await outbound.send((Dispatch("user", "u2", "e", b"1"),))
        with Raw(own_redis.url) as raw:
            raw.command("PUBLISH", "ws:user:u1", message())
        assert isinstance(await inbound.receive(), Received)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda address: f"redis://:wrong@{address}/0",
        lambda address: f"redis://nobody:wrong@{address}/0",
        lambda address: f"redis://{address}/0",
        lambda address: f"redis://:right@{address}/99",
    ],
    ids=["wrong password", "unknown user", "no password", "no such database"],
)
async def test_wrong_credentials_are_a_wrong_setting_and_not_shown(
    own_redis: Redis, wrong: Callable[[str], str]
) -> None:
    with Raw(own_redis.url) as raw:
        raw.command("CONFIG", "SET", "requirepass", "right")
    with refused("APP_ENV_REDIS_URL") as raised:
        async with running(RedisRelay(wrong(own_redis.address), "here")):
            pass
    assert "wrong" not in str(raised.value.exceptions[0])


async def test_a_user_that_may_not_subscribe_is_a_wrong_setting(own_redis: Redis) -> None:
    with Raw(own_redis.url) as raw:
        raw.command("ACL", "SETUSER", "small", "on", ">pw", "+@all", "resetchannels", "&ws:broadcast")
    relay = RedisRelay(f"redis://small:pw@{own_redis.address}/0", "here")
    relay.listen(["ws:user:u1"])
    with refused("APP_ENV_REDIS_URL"):
        async with running(relay):
            await trio.sleep_forever()


async def test_a_url_with_an_unknown_option_is_a_wrong_setting() -> None:
    with refused("APP_ENV_REDIS_URL"):
        async with running(RedisRelay("redis://localhost:1/0?colour=blue", "here")):
            pass


async def test_a_peer_that_is_no_redis_is_lost() -> None:
    async def babble(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100_000))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, babble, 0)
        port = listeners[0].socket.getsockname()[1]
        with lost():
            async with running(RedisRelay(f"redis://127.0.0.1:{port}", "here")):
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()
