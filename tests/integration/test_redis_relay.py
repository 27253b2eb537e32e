"""The Redis relay with a faulty server, and with other senders on the same channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nx_signal.adapters.redis import driver
from nx_signal.adapters.redis import relay as relay_module
from nx_signal.adapters.redis.codec import Malformed, decode_message, encode_message
from nx_signal.adapters.redis.naming import TAG_CHARS, Deployment
from nx_signal.errors import RelayLost, SettingsError
from nx_signal.model import RelayMessage
from nx_signal.ports import Received, Subscribed
from redis_kit import HERE, Raw, relay_to, running
from services import Redis


def lost(match: str = "is lost") -> pytest.RaisesGroup[RelayLost]:
    return pytest.RaisesGroup(pytest.RaisesExc(RelayLost, match=match), flatten_subgroups=True)


def refused(match: str) -> pytest.RaisesGroup[SettingsError]:
    return pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match=match), flatten_subgroups=True)


def decoded(channel: str, payload: bytes) -> RelayMessage:
    message = decode_message(channel, payload, HERE)
    assert message is not None
    return message


def message(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "serverId": "emitter",
        "type": "user",
        "target": "u1",
        "event": "topic",
        "data": {"a": 1},
    }
    fields |= changes
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


# --- messages ------------------------------------------------------------------------------------


async def test_messages_of_a_sister_service_are_received(redis_url: str) -> None:
    relay = relay_to(redis_url, "here")
    relay.subscribe(["ws:user:u1"])
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Subscribed(frozenset({"ws:user:u1"}))
        with Raw(redis_url) as raw:
            raw.command("PUBLISH", "ws:user:u1", message(data={"n": 1}, exclude=["c1"]))
        assert await inbound.receive() == Received(
            (RelayMessage("user", "u1", "topic", b'{"n": 1}', frozenset({"c1"}), "emitter"),)
        )


async def test_a_sister_service_can_decode_our_messages(redis_url: str) -> None:
    sent = RelayMessage("room", "r 1", "topic", b'{"kept":  "as it is"}', frozenset({"c2", "c1"}))
    async with running(relay_to(redis_url, "here")) as (outbound, _):
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
    "unknown type": message(type="all"),
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
        decoded("ws:user:u1", payload)


async def test_malformed_messages_are_dropped_and_logged_once_per_interval(redis_url: str) -> None:
    relay = relay_to(redis_url, "here")
    relay.subscribe(["ws:user:u1"])
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
    assert decoded("ws:room:a:b", message(type="room", target=..., data=..., exclude=None)) == (
        RelayMessage("room", "a:b", "topic", b"null", frozenset(), "emitter")
    )
    assert decoded("ws:broadcast", message(type="broadcast", target=...)).target is None
    assert decoded("ws:broadcast", message(type="broadcast", target=None)).target is None


# --- channels of one deployment ------------------------------------------------------------------

CREATED = "observation/signal/notification/created"
STEP = RelayMessage("inbox", "u1", CREATED, b'{"rev":8}', rev=8)
ELSEWHERE = Deployment(b"another secret")
OTHER_NAMESPACE = Deployment(b"secret", namespace="staging")


def test_a_step_of_an_inbox_log_is_decoded_with_its_revision() -> None:
    step = encode_message(STEP, "a", HERE)
    assert decoded("own:inbox:u1", step) == msgspec.structs.replace(STEP, server_id="a")


def test_a_message_without_a_revision_has_no_such_field() -> None:
    assert "rev" not in json.loads(encode_message(RelayMessage("user", "u1", "topic", b"1"), "here", HERE))


@pytest.mark.parametrize("sender", ["emitter", "another-instance"])
@pytest.mark.parametrize("rev", [7, "any", -1, {"nested": []}])
def test_no_message_on_a_channel_that_others_use_is_a_step_of_a_log(sender: str, rev: Any) -> None:
    inbox = "signal/notification/u1"
    sent = message(serverId=sender, type="room", target=inbox, event=CREATED, data={"rev": 7}, rev=rev)
    assert decoded(f"ws:room:{inbox}", sent).rev is None


@pytest.mark.parametrize(
    "payload",
    [
        encode_message(STEP, "a", ELSEWHERE),
        encode_message(STEP, "a", OTHER_NAMESPACE),
        encode_message(STEP, "a", HERE)[TAG_CHARS:],
        encode_message(STEP, "a", HERE).replace(b'"rev":8', b'"rev":9'),
        b"0" * TAG_CHARS + encode_message(STEP, "a", HERE)[TAG_CHARS:],
        "é".encode() * TAG_CHARS,
        b"",
    ],
    ids=[
        *("another deployment's", "another namespace's", "without a tag", "changed", "a guessed tag"),
        *("not ASCII", "empty"),
    ],
)
def test_what_was_not_made_by_an_instance_of_this_deployment_is_no_step(payload: bytes) -> None:
    with pytest.raises(Malformed, match="not from one of its instances"):
        decoded("own:inbox:u1", payload)


def test_a_step_that_is_repeated_on_the_channel_of_another_user_is_refused() -> None:
    with pytest.raises(Malformed, match="its target contradicts its channel"):
        decoded("own:inbox:u2", encode_message(STEP, "a", HERE))


@pytest.mark.parametrize("rev", [None, 0, -1, 2**63, 2**64 - 1])
def test_a_step_has_a_revision(rev: int | None) -> None:
    with pytest.raises(Malformed, match="its rev is not a revision"):
        decoded("own:inbox:u1", encode_message(msgspec.structs.replace(STEP, rev=rev), "a", HERE))


def test_own_channels_are_named_after_the_store_and_all_of_them_begin_with_the_prefix() -> None:
    with_prefix = Deployment(b"secret", prefix="eu:", namespace="shop")
    assert with_prefix.on_redis("ws:room:r") == "eu:ws:room:r"
    assert with_prefix.on_redis("own:inbox:u1") == "eu:signal:shop:inbox:u1"
    assert with_prefix.on_redis("signal:instances") == "eu:signal:instances"
    assert HERE.on_redis("own:inbox:u1") != ELSEWHERE.on_redis("own:inbox:u1")
    assert HERE.on_redis("ws:room:r") == ELSEWHERE.on_redis("ws:room:r") == "ws:room:r"
    for channel in ("ws:room:own:x", "own:inbox:signal:u", "own:instances", "signal:instances"):
        for deployment in (HERE, with_prefix):
            assert deployment.channel(deployment.on_redis(channel)) == channel


async def test_two_deployments_on_one_server_receive_nothing_of_each_other_but_their_presence(
    redis_url: str,
) -> None:
    relays = [relay_to(redis_url, f"server-{n}", d) for n, d in enumerate((HERE, HERE, ELSEWHERE))]
    relays[0].subscribe(["own:inbox:u1", "own:instances", "signal:instances"])
    async with (
        running(relays[0]) as (_, inbound),
        running(relays[1]) as (same, _),
        running(relays[2]) as (other, _),
    ):
        await inbound.receive()
        presence = RelayMessage("neighbours", None, "hello", b"null")
        await other.send((STEP, RelayMessage("instances", None, "ask", b"{}"), presence))
        event = await inbound.receive()
        assert isinstance(event, Received)
        (received,) = event.messages
        assert (received.kind, json.loads(received.data)) == ("neighbours", ELSEWHERE.id)
        await same.send((presence, STEP))
        assert await inbound.receive() == Received((msgspec.structs.replace(STEP, server_id="server-1"),))


async def test_an_instance_of_the_release_before_is_noticed_without_a_deployment(redis_url: str) -> None:
    relay = relay_to(redis_url, "here")
    relay.subscribe(["signal:instances"])
    async with running(relay) as (_, inbound):
        await inbound.receive()
        with Raw(redis_url) as raw:
            for odd in ("", "a\n\x1b[31m", "x" * 65):  # operators are shown such names
                raw.command(
                    "PUBLISH",
                    "signal:instances",
                    message(serverId=odd, type="instances", target=..., event="hello"),
                )
                data = {"deployment": odd}
                raw.command(
                    "PUBLISH",
                    "signal:instances",
                    message(serverId="x", type="instances", target=..., event="hello", data=data),
                )
            hello = message(serverId="old", type="instances", target=..., event="hello", data=None)
            raw.command("PUBLISH", "signal:instances", hello)
        event = await inbound.receive()
        assert event == Received((RelayMessage("neighbours", None, "hello", b"null", server_id="old"),))


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
    sent = RelayMessage(kind, target, event, text, exclude)
    got = decoded(f"ws:{kind}:{target}", encode_message(sent, "a", HERE))
    assert got == RelayMessage(kind, target, event, text, exclude, "a")


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_input_is_a_message_or_malformed(payload: bytes) -> None:
    with suppress(Malformed):
        decoded("ws:user:u1", payload)


async def test_a_message_that_cannot_be_encoded_is_left_out_and_the_rest_is_sent(redis_url: str) -> None:
    relay = relay_to(redis_url, "there")
    relay.subscribe(["ws:user:u1"])
    async with running(relay) as (_, inbound), running(relay_to(redis_url, "here")) as (outbound, _):
        await inbound.receive()
        await outbound.send(
            (RelayMessage("user", "\ud800", "e", b"1"), RelayMessage("user", "u1", "\ud800", b"2"))
        )
        await outbound.send((RelayMessage("user", "u1", "e", b"3"),))
        event = await inbound.receive()
        assert isinstance(event, Received)
        assert [each.data for each in event.messages] == [b"3"]


async def test_a_channel_that_cannot_be_encoded_does_not_affect_the_others(redis_url: str) -> None:
    relay = relay_to(redis_url, "here")
    relay.subscribe(["ws:user:\ud800", "ws:user:u1"])
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Subscribed(frozenset({"ws:user:u1"}))
        relay.unsubscribe(["ws:user:\ud800"])
        relay.subscribe(["ws:user:u2"])
        assert await inbound.receive() == Subscribed(frozenset({"ws:user:u2"}))


# --- the server ----------------------------------------------------------------------------------


async def test_a_stopped_server_is_lost_until_it_is_started_again(own_redis: Redis) -> None:
    relay = relay_to(own_redis.url, "here")
    relay.subscribe(["ws:user:u1"])
    await trio.to_thread.run_sync(own_redis.stop)
    with lost(f"Redis at {own_redis.address} is lost"):
        async with running(relay):
            pass
    await trio.to_thread.run_sync(own_redis.start)
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Subscribed(frozenset({"ws:user:u1"}))


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_lost_server_is_reported_at_once_and_never_hidden(own_redis: Redis, end: str) -> None:
    relay = relay_to(own_redis.url, "here")
    relay.subscribe(["ws:user:u1"])
    with trio.fail_after(relay_module.SILENCE_TIMEOUT_S / 2), lost():
        async with running(relay) as (_, inbound):
            await inbound.receive()
            await trio.to_thread.run_sync(getattr(own_redis, end))
            await trio.sleep_forever()
    await trio.to_thread.run_sync(own_redis.start)
    async with running(relay) as (_, inbound):
        assert await inbound.receive() == Subscribed(frozenset({"ws:user:u1"}))


async def test_a_frozen_server_is_lost_after_a_bounded_silence(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(relay_module, "SILENCE_TIMEOUT_S", 0.5)
    with lost("silent for 0.5 s"):
        async with running(relay_to(own_redis.url, "here")):
            own_redis.pause()
            await trio.sleep_forever()
    own_redis.resume()


async def test_a_frozen_server_does_not_delay_the_start_or_the_stop(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "CONNECT_TIMEOUT_S", 0.3)
    async with running(relay_to(own_redis.url, "here")) as (outbound, _):
        own_redis.pause()
        await outbound.send((RelayMessage("user", "u1", "e", b"x" * 1_000_000),) * 20)
        await trio.sleep(0.05)  # the pipeline is under way
        began = trio.current_time()
    assert trio.current_time() - began < relay_module.CLOSE_TIMEOUT_S + 1
    with lost():
        async with running(relay_to(own_redis.url, "here")):
            pass
    own_redis.resume()


async def test_an_idle_connection_stays_open(own_redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(relay_module, "SILENCE_TIMEOUT_S", 0.5)
    with Raw(own_redis.url) as raw:
        raw.command("CONFIG", "SET", "timeout", "1")  # the server closes what is idle
    relay = relay_to(own_redis.url, "here")
    relay.subscribe(["ws:user:u1"])
    async with running(relay) as (outbound, inbound):
        await inbound.receive()
        await trio.sleep(2.5)
        await outbound.send((RelayMessage("user", "u2", "e", b"1"),))
        with Raw(own_redis.url) as raw:
            raw.command("PUBLISH", "ws:user:u1", message())
        assert isinstance(await inbound.receive(), Received)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda address: f"redis://:wrong@{address}/0",
        lambda address: f"redis://unknown:wrong@{address}/0",
        lambda address: f"redis://{address}/0",
        lambda address: f"redis://:right@{address}/99",
    ],
    ids=["wrong password", "unknown user", "no password", "no such database"],
)
async def test_wrong_credentials_are_a_settings_error_and_not_shown(
    own_redis: Redis, wrong: Callable[[str], str]
) -> None:
    with Raw(own_redis.url) as raw:
        raw.command("CONFIG", "SET", "requirepass", "right")
    with refused("APP_ENV_REDIS_URL") as raised:
        async with running(relay_to(wrong(own_redis.address), "here")):
            pass
    assert "wrong" not in str(raised.value.exceptions[0])


async def test_a_user_that_may_not_subscribe_is_a_settings_error(own_redis: Redis) -> None:
    with Raw(own_redis.url) as raw:
        raw.command("ACL", "SETUSER", "small", "on", ">pw", "+@all", "resetchannels", "&ws:broadcast")
    relay = relay_to(f"redis://small:pw@{own_redis.address}/0", "here")
    relay.subscribe(["ws:user:u1"])
    with refused("APP_ENV_REDIS_URL"):
        async with running(relay):
            await trio.sleep_forever()
