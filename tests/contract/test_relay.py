"""The contract of every relay between instances (ports.Relay), whatever carries the messages."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from memory_relay import MemoryBroker
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.redis.naming import Deployment
from nx_signal.adapters.redis.relay import RedisRelay
from nx_signal.model import RelayMessage
from nx_signal.ports import Received, Relay, RelayEvent, Subscribed

PATIENCE_S = 20.0  # a loaded machine; nothing below waits for it when all is well

Connect = Callable[[str], Relay]


@pytest.fixture(params=["memory", "redis"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A relay for a server id, all joined with each other."""
    if request.param == "memory":
        yield MemoryBroker().relay
    else:
        url = request.getfixturevalue("redis_url")

        async def deployment() -> Deployment:
            return Deployment(b"secret")

        yield lambda server_id: RedisRelay(url, server_id, deployment)


@dataclass
class Instance:
    """A running relay, and what it reported."""

    relay: Relay
    outbound: trio.MemorySendChannel[tuple[RelayMessage, ...]]
    inbound: trio.MemoryReceiveChannel[RelayEvent]
    messages: deque[RelayMessage] = field(default_factory=deque)
    confirmed: set[str] = field(default_factory=set)

    async def subscribe(self, *channels: str) -> None:
        """Returns once confirmed."""
        self.confirmed -= set(channels)
        self.relay.subscribe(channels)
        await self.confirmation(*channels)

    async def confirmation(self, *channels: str) -> None:
        while not self.confirmed >= set(channels):
            await self._next()

    async def receive(self) -> RelayMessage:
        while not self.messages:
            await self._next()
        return self.messages.popleft()

    async def _next(self) -> None:
        match await self.inbound.receive():
            case Subscribed(channels):
                self.confirmed |= channels
            case Received(messages):
                self.messages.extend(messages)


@asynccontextmanager
async def running(relay: Relay, room: float = 1_000) -> AsyncIterator[Instance]:
    to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1_000)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run, outbound, from_relay)
            yield Instance(relay, to_relay, inbound)
            nursery.cancel_scope.cancel()


def to_user(user: str, data: bytes = b"1", *, exclude: tuple[str, ...] = ()) -> RelayMessage:
    return RelayMessage("user", user, "topic", data, frozenset(exclude))


async def test_the_other_servers_receive_what_one_server_sends(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.subscribe("ws:broadcast", "ws:user:u1", "ws:client:c1", "ws:room:signal/merchant/m:1")
        sent = (
            RelayMessage("broadcast", None, "all", b'{"a": [1.0, "\xc3\xa9"]}'),
            RelayMessage("user", "u1", "one", b"null", frozenset({"c7", "c8"})),
            RelayMessage("client", "c1", "two", b'"x"'),
            RelayMessage("room", "signal/merchant/m:1", "three", b"[]"),
        )
        await a.outbound.send(sent)
        for each in sent:
            assert await b.receive() == RelayMessage(
                each.kind, each.target, each.event, each.data, each.exclude, server_id="a"
            )


async def test_a_step_of_an_inbox_log_arrives_with_its_revision_and_histories(connect: Connect) -> None:
    step = RelayMessage("inbox", "u1", "topic", b"{}", rev=7, history="9f", after="86")
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.subscribe("own:inbox:u1")
        await a.outbound.send((step,))
        received = await b.receive()
        assert (received.rev, received.history, received.after) == (7, "9f", "86")


async def test_a_server_does_not_receive_its_own_messages(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await a.subscribe("ws:user:u1")
        await a.outbound.send((to_user("u1", b'"own"'),))
        await b.outbound.send((to_user("u1", b'"other"'),))
        assert (await a.receive()).data == b'"other"'


async def test_messages_arrive_in_the_order_they_were_sent(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.subscribe("ws:user:u1")
        for start in range(0, 2_000, 50):
            await a.outbound.send(tuple(to_user("u1", b"%d" % n) for n in range(start, start + 50)))
        assert [int((await b.receive()).data) for _ in range(2_000)] == list(range(2_000))


async def test_what_is_sent_after_the_confirmation_arrives(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        for number in range(20):
            await b.subscribe(f"ws:user:{number}")
            await a.outbound.send((to_user(str(number)),))
            assert (await b.receive()).target == str(number)


async def test_channels_requested_before_the_start_are_subscribed_once_started(connect: Connect) -> None:
    relay = connect("b")
    relay.subscribe(f"ws:user:{number}" for number in range(2_500))
    async with running(connect("a")) as a, running(relay) as b:
        await a.outbound.send((to_user("0"), to_user("2499")))
        assert [(await b.receive()).target for _ in range(2)] == ["0", "2499"]
        await b.confirmation(*(f"ws:user:{number}" for number in range(2_500)))


async def test_nothing_arrives_from_an_unsubscribed_channel(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.subscribe("ws:user:u1", "ws:user:u2")
        b.relay.unsubscribe(["ws:user:u1"])
        await b.subscribe("ws:user:u3")
        await a.outbound.send((to_user("u1"), to_user("u4"), to_user("u2")))
        assert (await b.receive()).target == "u2"


async def test_each_subscription_is_confirmed_also_a_repeated_one(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.subscribe("ws:user:u1")
        await b.subscribe("ws:user:u1")
        b.relay.unsubscribe(["ws:user:u1"])
        await b.subscribe("ws:user:u1")
        await a.outbound.send((to_user("u1"),))
        assert (await b.receive()).target == "u1"


async def test_after_a_restart_every_subscription_is_confirmed_again(connect: Connect) -> None:
    relay = connect("b")
    async with running(relay) as b:
        await b.subscribe("ws:user:u1", "ws:user:u2")
    relay.unsubscribe(["ws:user:u1"])
    relay.subscribe(["ws:user:u3"])
    async with running(connect("a")) as a, running(relay) as b:
        await b.confirmation("ws:user:u2", "ws:user:u3")
        await a.outbound.send((to_user("u1"), to_user("u2")))
        assert (await b.receive()).target == "u2"


async def test_a_blocked_reader_does_not_delay_the_others(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b"), room=0) as stuck, running(connect("c")) as c:
        stuck.relay.subscribe(["ws:user:u1"])
        await c.subscribe("ws:user:u1")
        for number in range(500):
            await a.outbound.send((to_user("u1", b"%d" % number),))
        assert [int((await c.receive()).data) for _ in range(500)] == list(range(500))
        await stuck.outbound.send((to_user("u1", b'"still here"'),))
        assert (await c.receive()).data == b'"still here"'


async def test_after_dropping_messages_the_channels_are_reported_as_subscribed_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nx_signal.adapters.redis.relay.MAX_QUEUED_BYTES", 3_000)
    monkeypatch.setattr("memory_relay.MAX_QUEUED_EVENTS", 10)
    async with running(connect("a")) as a, running(connect("b"), room=0) as b, running(connect("c")) as c:
        await b.subscribe("ws:user:u1")
        await c.subscribe("ws:user:u2")
        for start in range(0, 1_000, 100):
            numbers = range(start, start + 100)
            await a.outbound.send(tuple(to_user("u1", b"%d" % number) for number in numbers))
            await a.outbound.send((to_user("u2"),))
            await c.receive()  # so far everything went out
        # The next confirmation is one without a request.
        b.confirmed.clear()
        await b.confirmation("ws:user:u1")
        numbers_received = [int(message.data) for message in b.messages]
        assert len(numbers_received) < 1_000
        assert numbers_received == sorted(numbers_received)
        b.messages.clear()
        await a.outbound.send((to_user("u1", b'"after"'),))
        assert (await b.receive()).data == b'"after"'


async def test_twenty_cancellations_leave_nothing_open(connect: Connect) -> None:
    async with running(connect("a")) as a:
        relay = connect("b")
        relay.subscribe(["ws:user:u1"])
        async with running(relay):
            pass
        tasks, files = open_now()
        for round_ in range(20):
            async with running(relay, room=0) as b:
                await a.outbound.send((to_user("u1"),))
                if round_ % 2:
                    await b.subscribe("ws:user:u2")
                await b.outbound.send((to_user("u3"),))
                if round_ % 3:
                    await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert open_now() == (tasks, files)


def open_now() -> tuple[int, int]:
    """(tasks of this run, open files of this process)"""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


async def test_a_relay_can_be_cancelled_while_it_connects(connect: Connect) -> None:
    to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](1)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](0)
    with to_relay, inbound:
        for pause_s in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
            with trio.fail_after(PATIENCE_S), trio.move_on_after(pause_s):
                await connect("a").run(outbound, from_relay, trio.TASK_STATUS_IGNORED)


# --- alone ---------------------------------------------------------------------------------------


async def test_a_single_process_confirms_every_subscription_and_receives_nothing() -> None:
    relay = LocalRelay()
    relay.subscribe(["ws:broadcast"])
    async with running(relay, room=10) as alone:
        await alone.confirmation("ws:broadcast")
        await alone.subscribe("ws:user:u1")
        for _ in range(2_000):  # more than its channel holds: they are taken
            await alone.outbound.send((to_user("u1"),))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            alone.inbound.receive_nowait()


# --- the faults that simulations inject ----------------------------------------------------------


async def test_a_cut_loses_what_is_sent_meanwhile() -> None:
    broker = MemoryBroker()
    relay = broker.relay("b")
    relay.subscribe(["ws:user:u1"])
    async with running(broker.relay("a")) as a:
        with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="cut off from b"), flatten_subgroups=True):
            async with running(relay):
                broker.cut("b")
                await trio.sleep_forever()
        await a.outbound.send((to_user("u1", b'"lost"'),))
        await trio.testing.wait_all_tasks_blocked()
        broker.restore("b")
        async with running(relay) as b:
            await a.outbound.send((to_user("u1", b'"received"'),))
            assert (await b.receive()).data == b'"received"'


async def test_messages_can_be_lost_silently() -> None:
    broker = MemoryBroker()
    broker.drop = lambda dispatch: dispatch.data == b"1"
    async with running(broker.relay("a")) as a, running(broker.relay("b")) as b:
        await b.subscribe("ws:user:u1")
        await a.outbound.send(tuple(to_user("u1", b"%d" % number) for number in range(3)))
        assert [(await b.receive()).data for _ in range(2)] == [b"0", b"2"]
