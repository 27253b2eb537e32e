"""What every relay between instances must hold to (ports.Relay), whatever carries the messages."""

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

from nx_signal.adapters.memory.relay import LocalRelay, MemoryBroker
from nx_signal.adapters.redis import RedisRelay
from nx_signal.model import Dispatch
from nx_signal.ports import Listening, Received, Relay, RelayEvent

PATIENCE_S = 20.0  # a loaded machine; nothing below waits for it when all is well

Connect = Callable[[str], Relay]


@pytest.fixture(params=["memory", "redis"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A relay for a server id, all joined with each other."""
    if request.param == "memory":
        yield MemoryBroker().relay
    else:
        url = request.getfixturevalue("redis_url")
        yield lambda server_id: RedisRelay(url, server_id)


@dataclass
class Instance:
    """A relay at work, and what it reported."""

    relay: Relay
    outbound: trio.MemorySendChannel[tuple[Dispatch, ...]]
    inbound: trio.MemoryReceiveChannel[RelayEvent]
    messages: deque[Dispatch] = field(default_factory=deque)
    confirmed: set[str] = field(default_factory=set)

    async def listen(self, *channels: str) -> None:
        """Returns once confirmed."""
        self.confirmed -= set(channels)
        self.relay.listen(channels)
        await self.hear(*channels)

    async def hear(self, *channels: str) -> None:
        while not self.confirmed >= set(channels):
            await self._next()

    async def receive(self) -> Dispatch:
        while not self.messages:
            await self._next()
        return self.messages.popleft()

    async def _next(self) -> None:
        match await self.inbound.receive():
            case Listening(channels):
                self.confirmed |= channels
            case Received(messages):
                self.messages.extend(messages)


@asynccontextmanager
async def running(relay: Relay, room: float = 1_000) -> AsyncIterator[Instance]:
    to_relay, outbound = trio.open_memory_channel[tuple[Dispatch, ...]](1_000)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](room)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run, outbound, from_relay)
            yield Instance(relay, to_relay, inbound)
            nursery.cancel_scope.cancel()


def to_user(user: str, data: bytes = b"1", *, exclude: tuple[str, ...] = ()) -> Dispatch:
    return Dispatch("user", user, "topic", data, frozenset(exclude))


async def test_what_one_server_sends_the_others_receive(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.listen("ws:broadcast", "ws:user:u1", "ws:client:c1", "ws:room:signal/merchant/m:1")
        sent = (
            Dispatch("broadcast", None, "all", b'{"a": [1.0, "\xc3\xa9"]}'),
            Dispatch("user", "u1", "one", b"null", frozenset({"c7", "c8"})),
            Dispatch("client", "c1", "two", b'"x"'),
            Dispatch("room", "signal/merchant/m:1", "three", b"[]"),
        )
        await a.outbound.send(sent)
        for each in sent:
            assert await b.receive() == Dispatch(
                each.kind, each.target, each.event, each.data, each.exclude, server_id="a"
            )


async def test_a_server_does_not_receive_its_own_messages(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await a.listen("ws:user:u1")
        await a.outbound.send((to_user("u1", b'"own"'),))
        await b.outbound.send((to_user("u1", b'"other"'),))
        assert (await a.receive()).data == b'"other"'


async def test_messages_come_in_the_order_they_were_sent(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.listen("ws:user:u1")
        for start in range(0, 2_000, 50):
            await a.outbound.send(tuple(to_user("u1", b"%d" % n) for n in range(start, start + 50)))
        assert [int((await b.receive()).data) for _ in range(2_000)] == list(range(2_000))


async def test_what_is_sent_after_the_confirmation_arrives(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        for number in range(20):
            await b.listen(f"ws:user:{number}")
            await a.outbound.send((to_user(str(number)),))
            assert (await b.receive()).target == str(number)


async def test_once_started_everything_wanted_before_is_in_force(connect: Connect) -> None:
    relay = connect("b")
    relay.listen(f"ws:user:{number}" for number in range(2_500))
    async with running(connect("a")) as a, running(relay) as b:
        await a.outbound.send((to_user("0"), to_user("2499")))
        assert [(await b.receive()).target for _ in range(2)] == ["0", "2499"]
        await b.hear(*(f"ws:user:{number}" for number in range(2_500)))


async def test_nothing_comes_from_a_channel_that_is_not_wanted_any_more(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.listen("ws:user:u1", "ws:user:u2")
        b.relay.unlisten(["ws:user:u1"])
        await b.listen("ws:user:u3")
        await a.outbound.send((to_user("u1"), to_user("u4"), to_user("u2")))
        assert (await b.receive()).target == "u2"


async def test_each_wish_is_confirmed_also_a_repeated_one(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b")) as b:
        await b.listen("ws:user:u1")
        await b.listen("ws:user:u1")
        b.relay.unlisten(["ws:user:u1"])
        await b.listen("ws:user:u1")
        await a.outbound.send((to_user("u1"),))
        assert (await b.receive()).target == "u1"


async def test_run_again_it_confirms_everything_wanted_anew(connect: Connect) -> None:
    relay = connect("b")
    async with running(relay) as b:
        await b.listen("ws:user:u1", "ws:user:u2")
    relay.unlisten(["ws:user:u1"])
    relay.listen(["ws:user:u3"])
    async with running(connect("a")) as a, running(relay) as b:
        await b.hear("ws:user:u2", "ws:user:u3")
        await a.outbound.send((to_user("u1"), to_user("u2")))
        assert (await b.receive()).target == "u2"


async def test_a_reader_that_stands_still_holds_up_nobody(connect: Connect) -> None:
    async with running(connect("a")) as a, running(connect("b"), room=0) as stuck, running(connect("c")) as c:
        stuck.relay.listen(["ws:user:u1"])
        await c.listen("ws:user:u1")
        for number in range(500):
            await a.outbound.send((to_user("u1", b"%d" % number),))
        assert [int((await c.receive()).data) for _ in range(500)] == list(range(500))
        await stuck.outbound.send((to_user("u1", b'"still here"'),))
        assert (await c.receive()).data == b'"still here"'


async def test_having_dropped_messages_it_reports_listening_anew(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nx_signal.adapters.redis.MAX_WAITING_MESSAGES", 10)
    monkeypatch.setattr("nx_signal.adapters.memory.relay.MAX_WAITING_EVENTS", 10)
    async with running(connect("a")) as a, running(connect("b"), room=0) as b, running(connect("c")) as c:
        await b.listen("ws:user:u1")
        await c.listen("ws:user:u2")
        for start in range(0, 1_000, 100):
            numbers = range(start, start + 100)
            await a.outbound.send(tuple(to_user("u1", b"%d" % number) for number in numbers))
            await a.outbound.send((to_user("u2"),))
            await c.receive()  # so far everything went out
        # The next confirmation is one that nobody asked for.
        b.confirmed.clear()
        await b.hear("ws:user:u1")
        numbers_heard = [int(message.data) for message in b.messages]
        assert len(numbers_heard) < 1_000
        assert numbers_heard == sorted(numbers_heard)
        b.messages.clear()
        await a.outbound.send((to_user("u1", b'"after"'),))
        assert (await b.receive()).data == b'"after"'


async def test_twenty_cancellations_leave_nothing_open(connect: Connect) -> None:
    async with running(connect("a")) as a:
        relay = connect("b")
        relay.listen(["ws:user:u1"])
        async with running(relay):
            pass
        tasks, files = open_now()
        for round_ in range(20):
            async with running(relay, room=0) as b:
                await a.outbound.send((to_user("u1"),))
                if round_ % 2:
                    await b.listen("ws:user:u2")
                await b.outbound.send((to_user("u3"),))
                if round_ % 3:
                    await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert open_now() == (tasks, files)


def open_now() -> tuple[int, int]:
    """(tasks of this run, open files of this process)"""
    return trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd"))


async def test_it_can_be_cancelled_while_it_connects(connect: Connect) -> None:
    to_relay, outbound = trio.open_memory_channel[tuple[Dispatch, ...]](1)
    from_relay, inbound = trio.open_memory_channel[RelayEvent](0)
    with to_relay, inbound:
        for pause_s in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
            with trio.fail_after(PATIENCE_S), trio.move_on_after(pause_s):
                await connect("a").run(outbound, from_relay, trio.TASK_STATUS_IGNORED)


# --- alone ---------------------------------------------------------------------------------------


async def test_alone_every_wish_is_confirmed_and_nothing_is_received() -> None:
    relay = LocalRelay()
    relay.listen(["ws:broadcast"])
    async with running(relay, room=10) as alone:
        await alone.hear("ws:broadcast")
        await alone.listen("ws:user:u1")
        for _ in range(2_000):  # more than its channel holds: they are taken
            await alone.outbound.send((to_user("u1"),))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            alone.inbound.receive_nowait()


# --- the faults that simulations inject ----------------------------------------------------------


async def test_a_cut_loses_what_is_sent_meanwhile() -> None:
    broker = MemoryBroker()
    relay = broker.relay("b")
    relay.listen(["ws:user:u1"])
    async with running(broker.relay("a")) as a:
        with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="cut off from b"), flatten_subgroups=True):
            async with running(relay):
                broker.cut("b")
                await trio.sleep_forever()
        await a.outbound.send((to_user("u1", b'"lost"'),))
        await trio.testing.wait_all_tasks_blocked()
        broker.restore("b")
        async with running(relay) as b:
            await a.outbound.send((to_user("u1", b'"heard"'),))
            assert (await b.receive()).data == b'"heard"'


async def test_messages_can_be_lost_without_a_sign() -> None:
    broker = MemoryBroker()
    broker.drop = lambda dispatch: dispatch.data == b"1"
    async with running(broker.relay("a")) as a, running(broker.relay("b")) as b:
        await b.listen("ws:user:u1")
        await a.outbound.send(tuple(to_user("u1", b"%d" % number) for number in range(3)))
        assert [(await b.receive()).data for _ in range(2)] == [b"0", b"2"]
