"""The Redis relay behind sentinels and in a cluster: real servers, killed and failed over."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from nx_signal.adapters.redis import relay as relay_module
from nx_signal.adapters.redis.address import parse_address
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.redis.relay import RedisRelay
from nx_signal.adapters.redis.servers import Cluster, OneServer, Sentinels, Servers, servers_of
from nx_signal.errors import RelayLost, SettingsError
from nx_signal.model import RelayMessage
from nx_signal.ports import Received, RelayEvent, Subscribed
from nx_signal.supervise import supervise
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from services import READY_S, Redis, free_port

PATIENCE_S = 30.0


def relay_to(url: str, server_id: str) -> RedisRelay:
    async def deployment() -> Deployment:
        return Deployment(b"secret")

    return RedisRelay(url, server_id, deployment)


SERVICE = "mymaster"

DOWN_AFTER_MS = 1_000
PERIODS_MS = {"INFO-PERIOD": 100, "PUBLISH-PERIOD": 100, "ASK-PERIOD": 100, "PING-PERIOD": 500}
"""Of a sentinel; by default it takes up to 10 s until the sentinels find each other. With the master down it
sends INFO to the replica every 1,000 ms, whatever INFO-PERIOD is, and promotes it only when the reply is
younger than five ping periods; otherwise it tries again after 4 s. It reconnects once in a ping period, so
that DOWN_AFTER_MS has to be longer."""


def query(address: str, *words: object) -> str:
    """The raw answer of one command; an error is raised."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"*%d\r\n" % len(words))
        for word in (str(word).encode() for word in words):
            connection.sendall(b"$%d\r\n%b\r\n" % (len(word), word))
        connection.shutdown(socket.SHUT_WR)  # so that the server closes when it has answered
        with connection.makefile("rb") as answers:
            answer = answers.read().decode()
    if answer.startswith("-"):
        raise ValueError(answer.strip())
    return answer


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {READY_S:g} s")


class Flagged(Redis):
    """Valkey with further options."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self._options = options

    def command(self) -> Sequence[str | Path]:
        more = (word for key, value in self._options.items() for word in _flag(key, value))
        return [*super().command(), *more]


def _flag(key: str, value: object) -> Iterator[str]:
    yield f"--{key.replace('_', '-')}"
    yield from str(value).split()


class Sentinel(Redis):
    """One sentinel of `master`, with short timeouts."""

    def __init__(self, master: Redis, quorum: int = 1) -> None:
        super().__init__()
        self._master = master
        self._quorum = quorum

    def prepare(self) -> None:
        (self.directory / "sentinel.conf").write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master.port} {self._quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )

    def command(self) -> Sequence[str | Path]:
        return [super().command()[0], "sentinel.conf", "--sentinel"]

    def start(self) -> None:
        super().start()
        for period, milliseconds in PERIODS_MS.items():
            query(self.address, "SENTINEL", "DEBUG", period, milliseconds)


@dataclass(frozen=True)
class Watched:
    """A master with one replica, and sentinels that agree on them."""

    master: Redis
    replica: Redis
    sentinels: tuple[Sentinel, ...]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(each.address for each in self.sentinels)}/{SERVICE}"


@pytest.fixture
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        master = stack.enter_context(Flagged(repl_diskless_sync_delay=0))
        replica = stack.enter_context(Flagged(replicaof=f"127.0.0.1 {master.port}"))
        wait_until("replication", lambda: "master_link_status:up" in query(replica.address, "INFO"))
        sentinels = tuple(stack.enter_context(Sentinel(master, quorum=2)) for _ in range(3))
        for each in sentinels:
            wait_until("the quorum", lambda each=each: _agreed(each))  # type: ignore[misc]
        yield Watched(master, replica, sentinels)


def _agreed(sentinel: Sentinel) -> bool:
    """It has found the replica and both other sentinels."""
    info = query(sentinel.address, "INFO", "sentinel")
    return "status=ok" in info and "slaves=1" in info and "sentinels=3" in info


@pytest.fixture
def cluster() -> Iterator[list[Redis]]:
    """Three masters that divide the slots among them."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(3)]
        nodes = [
            stack.enter_context(Flagged(cluster_enabled="yes", cluster_port=bus, cluster_node_timeout=1000))
            for bus in buses
        ]
        for node, slots in zip(nodes, [(0, 5461), (5462, 10922), (10923, 16383)], strict=True):
            query(node.address, "CLUSTER", "ADDSLOTSRANGE", *slots)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            query(nodes[0].address, "CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in nodes:
            wait_until("the cluster", lambda node=node: _joined(node))  # type: ignore[misc]
        yield list(nodes)


def _joined(node: Redis) -> bool:
    """It is linked with both others."""
    info = query(node.address, "CLUSTER", "INFO")
    return "cluster_state:ok" in info and query(node.address, "CLUSTER", "NODES").count(" connected") == 3


class Instance:
    """A running relay, run again whenever it is lost, and what it reports."""

    def __init__(
        self,
        outbound: trio.MemorySendChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemoryReceiveChannel[RelayEvent],
    ) -> None:
        self.outbound = outbound
        self.inbound = inbound

    async def confirmation_of(self, channel: str) -> None:
        """Returns with the next confirmation."""
        while await self.inbound.receive() != Subscribed(frozenset({channel})):
            pass

    async def receive(self) -> list[bytes]:
        event = await self.inbound.receive()
        assert isinstance(event, Received)
        return [message.data for message in event.messages]


@asynccontextmanager
async def supervised(url: str, *channels: str) -> AsyncIterator[Instance]:
    """Two instances differ in their id and share nothing else."""
    to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](100)
    relay = relay_to(url, f"server-{id(outbound)}")
    relay.subscribe(channels)

    async def part(task_status: trio.TaskStatus[None]) -> None:
        await relay.run(outbound, from_relay, task_status)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, "relay", part, Health(("relay",), Metrics()))
            yield Instance(to_relay, inbound)
            nursery.cancel_scope.cancel()


def to_user(data: bytes) -> tuple[RelayMessage, ...]:
    return (RelayMessage("user", "u1", "topic", data),)


async def run_once(url: str) -> None:
    send, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1)
    inbound, receive = trio.open_memory_channel[RelayEvent](100)
    with trio.fail_after(PATIENCE_S), send, receive:
        await relay_to(url, "here").run(outbound, inbound, trio.TASK_STATUS_IGNORED)


def ends(error: type[Exception], match: str) -> pytest.RaisesGroup[Exception]:
    return pytest.RaisesGroup(
        pytest.RaisesExc(error, match=match), flatten_subgroups=True, allow_unwrapped=True
    )


# --- sentinels -----------------------------------------------------------------------------------


async def test_after_a_failover_the_relays_subscribe_again_on_the_new_master(watched: Watched) -> None:
    async with supervised(watched.url, "ws:user:u1") as here, supervised(watched.url) as there:
        await here.confirmation_of("ws:user:u1")
        assert "ws:user:u1" in query(watched.master.address, "PUBSUB", "CHANNELS")
        await there.outbound.send(to_user(b'"before"'))
        assert await here.receive() == [b'"before"']

        await trio.to_thread.run_sync(watched.master.kill)
        await here.confirmation_of("ws:user:u1")
        assert "ws:user:u1" in query(watched.replica.address, "PUBSUB", "CHANNELS")
        # The other one may still be on its way there: what it sends waits for it.
        await there.outbound.send(to_user(b'"after"'))
        assert await here.receive() == [b'"after"']


async def test_unavailable_and_frozen_sentinels_are_skipped(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nx_signal.adapters.redis.driver.SEED_TIMEOUT_S", 0.2)
    with Sentinel(own_redis) as frozen, Sentinel(own_redis) as good:
        frozen.pause()
        hosts = f"127.0.0.1:{free_port()},{frozen.address},{good.address}"
        async with supervised(f"redis+sentinel://{hosts}/{SERVICE}", "ws:user:u1") as here:
            await here.confirmation_of("ws:user:u1")


async def test_the_user_of_the_url_is_for_the_master_and_for_sentinels_that_require_one(
    own_redis: Redis,
) -> None:
    query(own_redis.address, "CONFIG", "SET", "requirepass", "right")
    with Sentinel(own_redis) as sentinel:
        url = f"redis+sentinel://:right@{sentinel.address}/{SERVICE}"
        for closed in (False, True):
            if closed:
                query(sentinel.address, "ACL", "SETUSER", "default", "resetpass", ">right")
            async with supervised(url, "ws:user:u1") as here:
                await here.confirmation_of("ws:user:u1")
            with ends(SettingsError, "refuses this user.*APP_ENV_REDIS_URL") as raised:
                await run_once(url.replace("right", "wrong"))
            assert ":wrong" not in repr(raised.value)


async def test_a_service_that_no_sentinel_monitors_is_a_settings_error(own_redis: Redis) -> None:
    with Sentinel(own_redis) as one, Sentinel(own_redis) as other:
        url = f"redis+sentinel://{one.address},{other.address}/other"
        with ends(SettingsError, "monitors a service 'other': check its name in APP_ENV_REDIS_URL"):
            await run_once(url)
        one.kill()
        with ends(RelayLost, "no sentinel names the master of other"):  # that one may monitor it
            await run_once(url)


async def test_without_any_sentinel_the_relay_is_lost_and_names_them() -> None:
    first, second = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with ends(RelayLost, f"sentinels {first},{second} is lost: .*{first}: .*{second}: "):
        await run_once(f"redis+sentinel://{first},{second}/{SERVICE}")


@asynccontextmanager
async def naming(port: int) -> AsyncIterator[str]:
    """The URL of a sentinel that always names this port as the master's."""

    async def answer(stream: trio.SocketStream) -> None:
        async for received in stream:
            for _ in range(received.count(b"CLIENT\r\n")):
                await stream.send_all(b"+OK\r\n")
            if b"SENTINEL" in received:
                await stream.send_all(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        yield f"redis+sentinel://127.0.0.1:{listeners[0].socket.getsockname()[1]}/{SERVICE}"
        nursery.cancel_scope.cancel()


async def test_a_master_that_became_a_replica_unnoticed_is_left(
    own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "PING_INTERVAL_S", 0.1)
    send, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1)
    inbound, receive = trio.open_memory_channel[RelayEvent](100)
    async with naming(own_redis.port) as url:
        relay = relay_to(url, "here")
        with trio.fail_after(PATIENCE_S), send, receive, ends(RelayLost, f"not the master of {SERVICE}"):
            async with trio.open_nursery() as nursery:
                await nursery.start(relay.run, outbound, inbound)
                query(own_redis.address, "REPLICAOF", "127.0.0.1", own_redis.port)
        with ends(RelayLost, f"not the master of {SERVICE}"):  # nor taken for one
            await run_once(url)


# --- a cluster -----------------------------------------------------------------------------------


async def test_relays_at_different_nodes_of_a_cluster_receive_each_others_messages(
    cluster: list[Redis],
) -> None:
    first, second, _ = (f"redis+cluster://{node.address}" for node in cluster)
    async with supervised(first, "ws:user:u1") as here, supervised(second, "ws:user:u1") as there:
        await here.confirmation_of("ws:user:u1")
        await there.confirmation_of("ws:user:u1")
        await here.outbound.send(to_user(b'"from here"'))
        assert await there.receive() == [b'"from here"']
        await there.outbound.send(to_user(b'"from there"'))
        assert await here.receive() == [b'"from there"']


async def test_a_relay_moves_to_another_node_and_subscribes_again(cluster: list[Redis]) -> None:
    url = f"redis+cluster://{','.join(node.address for node in cluster)}/0"
    async with supervised(url, "ws:user:u1") as here:
        await here.confirmation_of("ws:user:u1")
        (at,) = (node for node in cluster if "u1" in query(node.address, "PUBSUB", "CHANNELS"))
        rest = [node for node in cluster if node is not at]
        await trio.to_thread.run_sync(at.kill)
        await here.confirmation_of("ws:user:u1")
        (now_at,) = (node for node in rest if "u1" in query(node.address, "PUBSUB", "CHANNELS"))
        (other,) = (node for node in rest if node is not now_at)
        async with supervised(f"redis+cluster://{other.address}") as there:
            await there.outbound.send(to_user(b'"after"'))
            assert await here.receive() == [b'"after"']


async def test_a_server_that_is_not_in_a_cluster_is_a_settings_error(own_redis: Redis) -> None:
    with ends(SettingsError, "does not accept what APP_ENV_REDIS_URL requests: .*cluster support disabled"):
        await run_once(f"redis+cluster://{own_redis.address}")


# --- URLs ----------------------------------------------------------------------------------------


def servers_at(url: str) -> Servers:
    return servers_of(parse_address(url))


def test_a_url_with_sentinels_is_parsed() -> None:
    servers = servers_at("rediss+sentinel://ann:a%2Fb@s1,[::1]:2,s3:3/my%20master/4?ssl_check_hostname=false")
    assert isinstance(servers, Sentinels)
    assert servers.service == "my master"
    assert [(each.options["host"], each.options["port"]) for each in servers.sentinels] == [
        ("s1", 26379),
        ("::1", 2),
        ("s3", 3),
    ]
    master = servers.sentinels[0].at("m", 1)
    assert master.connection_class.__name__ == "SSLConnection"
    assert (master.options["username"], master.options["password"], master.options["db"]) == ("ann", "a/b", 4)
    assert master.options["ssl_check_hostname"] is False
    assert "ann" not in servers.name


def test_a_url_with_a_clusters_nodes_is_parsed() -> None:
    servers = servers_at("redis+cluster://n1:1,n2:2")
    assert isinstance(servers, Cluster)
    assert [(each.options["host"], each.options["port"]) for each in servers.nodes] == [("n1", 1), ("n2", 2)]
    assert servers.nodes[0].connection_class.__name__ == "Connection"


def test_an_ordinary_url_is_one_server() -> None:
    assert isinstance(servers_at("redis://:pw@h:1/0"), OneServer)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:secret@h:1",
        "redis+sentinel://u:secret@h:1/",
        "redis+sentinel://u:secret@h:1/service/main",
        "redis+sentinel://u:secret@/service",
        "redis+sentinel://u:secret@h:1,/service",
        "redis+sentinel://u:secret@h:1,:2/service",
        "redis+sentinel://u:secret@h:1,h:port/service",
        "redis+sentinel://u:secret@h:99999/service",
        "redis+sentinel://u:sec/secret@h:1/service",
        "redis+cluster://u:secret@h:1 h:2",
        "redis+cluster://u:secret@h:1/service",
        "redis+cluster://u:sec/secret@h:1,h:2",
        "redis+cluster://u:sec#secret@h:1,h:2",
        "redis+cluster://u:sec?secret@h:1,h:2",
        "redis+cluster://u:secret@h:1?colour=secret",
        "redis+cluster://u:secret@h:1?db=secret",
    ],
)
def test_a_malformed_url_is_a_settings_error_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="APP_ENV_REDIS_URL") as raised:
        servers_at(url)
    assert "sec" not in str(raised.value)
