"""Operators see and steer connections on every instance; who does not answer is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

from nx_signal.adapters.memory.relay import MemoryBroker
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.model import Dispatch, SessionState
from nx_signal.ports import RelayEvent
from nx_signal.stream.hub import Hub
from nx_signal.stream.operator import Operator
from nx_signal.stream.peers import ABSENT_AFTER_S, ANSWER_WITHIN_S, PRESENCE_EVERY_S
from nx_signal.stream.rooms import RoomRules
from nx_signal.supervise import supervise
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from stream_kit import FakeClient


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Instance:
    def __init__(self, name: str, broker: MemoryBroker, database: MemoryDatabase) -> None:
        self.relay = broker.relay(name)
        self.to_relay, self.outbound = trio.open_memory_channel[tuple[Dispatch, ...]](100)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](100)
        self.hub = Hub(
            server_id=name,
            store=database.inbox,
            rules=RoomRules(database.directory, ()),
            relay=self.relay,
            outbound=self.to_relay,
            metrics=Metrics(),
            now=now,
            resume_limit=500,
            sweep_s=10,
        )
        self.operator = Operator(self.hub)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def part(task_status: trio.TaskStatus[None]) -> None:
            await self.relay.run(self.outbound, self.from_relay, task_status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, "relay", part, Health(("relay",), Metrics()))
            await nursery.start(self.hub.run, self.inbound)
            task_status.started()

    def connect(self, user_id: str) -> FakeClient:
        client = FakeClient(user_id, wants_heal=self.hub.heal_soon)
        self.hub.attach(client.session)
        client.session.begin(0)
        return client


class Three:
    def __init__(self) -> None:
        self.broker = MemoryBroker()
        database = MemoryDatabase(now)
        self.a, self.b, self.c = (Instance(name, self.broker, database) for name in "abc")
        self.scopes: dict[str, trio.CancelScope] = {}


@asynccontextmanager
async def three() -> AsyncIterator[Three]:
    world = Three()

    async def run(name: str, instance: Instance, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as world.scopes[name]:
            await instance.run(task_status)

    async with trio.open_nursery() as nursery:
        for name, instance in (("a", world.a), ("b", world.b), ("c", world.c)):
            await nursery.start(run, name, instance)
        await trio.sleep(PRESENCE_EVERY_S + 0.1)
        yield world
        nursery.cancel_scope.cancel()


async def test_instances_find_each_other_and_notice_who_is_gone(autojump_clock: MockClock) -> None:
    async with three() as world:
        assert world.a.operator.status()["instances"] == 3
        world.scopes["c"].cancel()
        await trio.sleep(ABSENT_AFTER_S + 0.1)
        assert world.a.operator.status()["instances"] == 2
        world.b.hub.peers.leave()
        await trio.sleep(0.1)
        assert "b" not in world.a.hub.peers.known, "a leave is noticed at once"


async def test_a_list_holds_the_clients_of_all_instances_page_by_page(autojump_clock: MockClock) -> None:
    async with three() as world:
        clients = [
            instance.connect(f"u{n % 4}") for n in range(4) for instance in (world.a, world.b, world.c)
        ]
        ids, after, pages = [], None, 0
        while pages == 0 or after is not None:
            page = await world.b.operator.clients(None, None, 5, after)
            assert page.total == 12 and page.unanswered == ()
            ids += [client["id"] for client in page.clients]
            after, pages = page.next_after, pages + 1
        assert ids == sorted(client.session.client_id for client in clients) and pages == 3


async def test_a_list_can_be_narrowed_to_a_user_and_a_room(autojump_clock: MockClock) -> None:
    async with three() as world:
        one, two, other = world.a.connect("u1"), world.b.connect("u1"), world.c.connect("u2")
        world.b.hub.join(two.session, ["r"])
        world.c.hub.join(other.session, ["r"])

        async def found(user: str | None, room: str | None) -> set[str]:
            return {c["id"] for c in (await world.a.operator.clients(user, room, 100, None)).clients}

        assert await found("u1", None) == {one.session.client_id, two.session.client_id}
        assert await found(None, "r") == {two.session.client_id, other.session.client_id}
        assert await found("u1", "r") == {two.session.client_id}
        assert await found("nobody", None) == set()


async def test_a_client_is_shown_as_the_contract_says_wherever_it_is(autojump_clock: MockClock) -> None:
    async with three() as world:
        client = world.c.connect("u1")
        shown, unanswered = await world.a.operator.client(client.session.client_id)
        assert shown is not None and unanswered == ()
        assert set(shown) == {
            *("id", "userId", "rooms", "state", "encrypted"),
            *("connectedAt", "lastActivity", "serverId", "queued"),
        }
        assert shown["serverId"] == "c" and shown["userId"] == "u1" and shown["encrypted"] is True
        assert await world.a.operator.client("unknown") == (None, ())


async def test_an_instance_that_does_not_answer_in_time_is_named(autojump_clock: MockClock) -> None:
    async with three() as world:
        here = world.a.connect("u1")
        world.b.connect("u2")
        world.broker.cut("b")
        began = trio.current_time()
        page = await world.a.operator.clients(None, None, 100, None)
        assert page.unanswered == ("b",)
        assert [client["id"] for client in page.clients] == [here.session.client_id]
        assert trio.current_time() - began == pytest.approx(ANSWER_WITHIN_S)


async def test_an_instance_of_another_release_is_named_as_unanswered(autojump_clock: MockClock) -> None:
    async with three() as world:
        world.b.hub.on_question = lambda question, data: ["something else"]
        page = await world.a.operator.clients(None, None, 100, None)
        assert page.unanswered == ("b",)


async def test_the_sessions_of_users_are_told_by_every_instance_with_where_they_stand(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        here, there = world.a.connect("u1"), world.c.connect("u1")
        world.b.connect("u2")
        there.session.since, there.session.rev, there.session.behind = 3, 5, True
        live = await world.a.operator.sessions_of(["u1", "nobody"])
        assert live.unanswered == ()
        assert live.sessions == (
            SessionState(here.session.client_id, "a", "u1", now(), 0, 0, False, False, 0),
            SessionState(there.session.client_id, "c", "u1", now(), 3, 5, True, False, 0),
        )
        there.session.end((1001, "gone"))
        live = await world.a.operator.sessions_of(["u1", "u2"])
        assert [(s.server_id, s.user_id) for s in live.sessions] == [("a", "u1"), ("b", "u2")]


async def test_an_instance_that_does_not_tell_its_sessions_is_named(autojump_clock: MockClock) -> None:
    async with three() as world:
        here = world.a.connect("u1")
        world.b.hub.on_question = lambda question, data: None  # an older release
        world.broker.cut("c")
        live = await world.a.operator.sessions_of(["u1"])
        assert [session.client_id for session in live.sessions] == [here.session.client_id]
        assert live.unanswered == ("b", "c")


async def test_sends_and_disconnects_reach_the_client_s_instance(autojump_clock: MockClock) -> None:
    async with three() as world:
        near, far, other = world.a.connect("u1"), world.c.connect("u1"), world.b.connect("u2")
        world.c.hub.join(far.session, ["r"])
        await trio.sleep(0.1)  # until the channels are in force
        await world.a.operator.send_to_client(far.session.client_id, "one", b"1")
        await world.a.operator.send_to_room("r", "two", b"2")
        await world.a.operator.broadcast("three", b"3")
        await world.a.operator.disconnect(far.session.client_id)
        await trio.sleep(0.1)
        assert far.events == [("one", 1), ("two", 2), ("three", 3)]
        assert near.events == other.events == [("three", 3)]
        assert far.session.end_with == (4006, "Disconnected by operator")
        assert near.session.end_with is None
