"""Operators list, message and close connections on every instance; one that does not answer is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from memory_relay import MemoryBroker
from nx_signal.adapters.local_relay import LocalRelay
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.compose import compose_delivery
from nx_signal.delivery.cursor import Step
from nx_signal.delivery.operator import LocalClients
from nx_signal.delivery.peers import (
    ABSENT_AFTER_S,
    ANSWER_WITHIN_S,
    FORGOTTEN_AFTER_S,
    MAX_PEERS,
    PRESENCE_EVERY_S,
    Peers,
)
from nx_signal.delivery.sessions import SessionState
from nx_signal.delivery.transport import CloseReason
from nx_signal.errors import RelayLost
from nx_signal.model import InboxSummary, RelayMessage
from nx_signal.ports import RelayEvent
from nx_signal.supervise import LONGEST_PAUSE_S, supervise
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from stream_kit import FakeClient


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Instance:
    def __init__(self, name: str, broker: MemoryBroker, database: MemoryDatabase) -> None:
        self.database = database
        self.relay = broker.relay(name)
        self.to_relay, self.outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](100)
        self.delivery = compose_delivery(
            server_id=name,
            database=database,
            relay=self.relay,
            to_relay=self.to_relay,
            metrics=Metrics(),
            now=now,
            room_patterns=(),
            resume_limit=500,
            sweep_s=10,
        )
        self.hub = self.delivery.hub
        self.operator = self.delivery.operator

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async def part(task_status: trio.TaskStatus[None]) -> None:
            await self.delivery.run_relay(self.outbound, self.from_relay, task_status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, "relay", part, Health(("relay",), Metrics()))
            await nursery.start(self.delivery.run, self.inbound)
            task_status.started()

    def connect(self, user_id: str, rev: int = 0) -> FakeClient:
        client = FakeClient(user_id, request_read=self.delivery.recovery.request_read)
        self.hub.attach(client.session)
        client.session.begin(InboxSummary(user_id, rev, rev, rev))
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


async def test_instances_find_each_other_and_notice_when_one_stops(autojump_clock: MockClock) -> None:
    async with three() as world:
        assert world.a.operator.status()["instances"] == 3
        world.scopes["c"].cancel()
        await trio.sleep(ABSENT_AFTER_S + 0.1)
        assert world.a.operator.status()["instances"] == 2
        world.b.delivery.peers.leave()
        await trio.sleep(0.1)
        assert "b" not in world.a.delivery.peers.known, "a leave is noticed at once"


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
        assert await found("unknown", None) == set()


async def test_a_client_is_shown_as_in_the_contract_on_whichever_instance_it_is(
    autojump_clock: MockClock,
) -> None:
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


async def test_an_instance_of_another_release_is_named_as_unanswered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalClients, "reply", lambda self, question, data: ["something else"])
    async with three() as world:
        page = await world.a.operator.clients(None, None, 100, None)
        assert page.unanswered == ("b", "c")


async def test_every_instance_reports_the_sessions_of_users_and_their_places_in_the_log(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        here, there = world.a.connect("u1"), world.c.connect("u1", rev=3)
        world.b.connect("u2")
        for rev in (4, 5, 7):
            there.session.offer_change(Step(rev, b'{"event":"x","data":null}', None, None))
        live = await world.a.operator.sessions_of(["u1", "unknown"])
        assert live.unanswered == ()
        assert live.sessions == (
            SessionState(here.session.client_id, "a", "u1", now(), 0, 0, False, False, 0),
            SessionState(there.session.client_id, "c", "u1", now(), 3, 5, True, False, 0),
        )
        there.session.end(CloseReason.GOING_AWAY)
        live = await world.a.operator.sessions_of(["u1", "u2"])
        assert [(s.server_id, s.user_id) for s in live.sessions] == [("a", "u1"), ("b", "u2")]


async def test_a_session_is_encoded_for_the_other_instances_with_the_names_of_the_first_release() -> None:
    state = SessionState("c1", "a", "u1", now(), 3, 5, True, False, 70)
    assert msgspec.to_builtins(state) == {
        "client_id": "c1",
        "server_id": "a",
        "user_id": "u1",
        "connected_at": "2026-01-01T00:00:00Z",
        "since": 3,
        "rev": 5,
        "behind": True,
        "lagging": False,
        "queued_bytes": 70,
    }
    assert msgspec.convert(msgspec.to_builtins(state), SessionState) == state


async def test_an_instance_that_does_not_report_its_sessions_is_named(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalClients, "reply", lambda self, question, data: None)  # an older release
    async with three() as world:
        here = world.a.connect("u1")
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
        assert far.transport.closed_for is CloseReason.DISCONNECTED
        assert near.transport.closed_for is None


# --- what cannot be known ------------------------------------------------------------------------


async def cut(world: Three, *names: str) -> None:
    for name in names:
        world.broker.cut(name)
    await trio.sleep(0.1)


async def test_while_the_relay_is_away_every_answer_names_the_instances_that_cannot_be_asked(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        here, there = world.a.connect("u1"), world.b.connect("u1")
        await cut(world, "a")
        for waited_s in (0.0, 2 * ABSENT_AFTER_S, 2 * FORGOTTEN_AFTER_S):
            await trio.sleep(waited_s)
            others = ("*", "b", "c") if waited_s < FORGOTTEN_AFTER_S else ("*",)
            began = trio.current_time()
            page = await world.a.operator.clients(None, None, 100, None)
            assert ([c["id"] for c in page.clients], page.unanswered) == ([here.session.client_id], others)
            assert await world.a.operator.client(there.session.client_id) == (None, others)
            assert (await world.a.operator.sessions_of(["u1"])).unanswered == others
            assert world.a.operator.status()["unanswered"] == others
            assert trio.current_time() == began, "nobody is waited for"


async def test_an_instance_that_never_reached_the_relay_states_that_there_may_be_others(
    autojump_clock: MockClock,
) -> None:
    broker = MemoryBroker()
    broker.cut("a")
    alone = Instance("a", broker, MemoryDatabase(now))
    async with trio.open_nursery() as nursery:
        await nursery.start(alone.run)
        assert (await alone.operator.clients(None, None, 100, None)).unanswered == ("*",)
        assert (await alone.operator.client("c")) == (None, ("*",))
        nursery.cancel_scope.cancel()


async def test_once_the_relay_is_back_nobody_is_missing(autojump_clock: MockClock) -> None:
    async with three() as world:
        there = world.b.connect("u1")
        await cut(world, "a", "b", "c")
        await trio.sleep(2 * FORGOTTEN_AFTER_S)
        for name in "abc":
            world.broker.restore(name)
        await trio.sleep(LONGEST_PAUSE_S + 0.1)
        page = await world.a.operator.clients(None, None, 100, None)
        assert [client["id"] for client in page.clients] == [there.session.client_id]
        await trio.sleep(30)
        assert (await world.a.operator.clients(None, None, 100, None)).unanswered == ()


async def test_the_first_question_after_a_start_waits_until_the_others_are_known(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        there = world.c.connect("u1")
        new = Instance("d", world.broker, world.a.database)
        async with trio.open_nursery() as nursery:
            await nursery.start(new.run)
            await wait_all_tasks_blocked()
            client, unanswered = await new.operator.client(there.session.client_id)
            assert client is not None and unanswered == ()
            nursery.cancel_scope.cancel()


async def test_an_instance_that_fell_silent_is_named_until_it_is_forgotten_and_one_that_left_is_not(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        world.b.delivery.peers.leave()
        world.scopes["b"].cancel()
        world.scopes["c"].cancel()  # a crash, or a relay that only it cannot reach
        await trio.sleep(ABSENT_AFTER_S + 1)
        began = trio.current_time()
        assert (await world.a.operator.clients(None, None, 100, None)).unanswered == ("c",)
        assert trio.current_time() == began, "it is not waited for"
        assert world.a.operator.status()["instances"] == 1
        await trio.sleep(FORGOTTEN_AFTER_S)
        assert (await world.a.operator.clients(None, None, 100, None)).unanswered == ()


async def test_a_single_process_answers_for_all(autojump_clock: MockClock) -> None:
    to_relay, _outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](100)
    delivery = compose_delivery(
        server_id="a",
        database=MemoryDatabase(now),
        relay=LocalRelay(),
        to_relay=to_relay,
        metrics=Metrics(),
        now=now,
        room_patterns=(),
        resume_limit=500,
        sweep_s=10,
    )
    assert (await delivery.operator.clients(None, None, 100, None)).unanswered == ()
    assert await delivery.operator.client("c") == (None, ())
    assert await delivery.operator.broadcast("t", b"1") == ()
    assert await delivery.operator.disconnect("c") == ()
    assert delivery.operator.status()["unanswered"] == ()


async def test_a_send_names_the_instances_that_do_not_confirm_it(autojump_clock: MockClock) -> None:
    async with three() as world:
        far = world.b.connect("u1")
        await trio.sleep(0.1)
        assert await world.a.operator.broadcast("one", b"1") == ()
        assert far.events == [("one", 1)], "confirmed means received"
        await cut(world, "c")
        assert await world.a.operator.broadcast("two", b"2") == ("c",)
        assert await world.a.operator.send_to_room("ws-default", "three", b"3") == ("c",)
        assert await world.a.operator.send_to_client(far.session.client_id, "four", b"4") == ("c",)
        assert far.events == [("one", 1), ("two", 2), ("three", 3), ("four", 4)]


async def test_while_the_relay_is_away_a_send_reaches_this_instance_names_the_others_and_does_not_come_late(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        here, there = world.a.connect("u1"), world.b.connect("u1")
        await cut(world, "a")
        assert await world.a.operator.broadcast("one", b"1") == ("*", "b", "c")
        assert await world.a.operator.send_to_room("ws-default", "two", b"2") == ("*", "b", "c")
        assert await world.a.operator.send_to_client(here.session.client_id, "three", b"3") == ()
        world.broker.restore("a")
        await trio.sleep(30)
        assert here.events == [("one", 1), ("two", 2), ("three", 3)]
        assert there.events == []


async def test_while_the_relay_is_away_what_concerns_a_client_elsewhere_is_refused_and_not_sent_later(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        here, there = world.a.connect("u1"), world.b.connect("u1")
        await cut(world, "a")
        with pytest.raises(RelayLost):
            await world.a.operator.send_to_client(there.session.client_id, "t", b"1")
        with pytest.raises(RelayLost):
            await world.a.operator.disconnect(there.session.client_id)
        assert await world.a.operator.disconnect(here.session.client_id) == ()
        assert here.transport.closed_for is CloseReason.DISCONNECTED
        world.broker.restore("a")
        await trio.sleep(30)
        assert there.events == [] and there.transport.closed_for is None


# --- who else is on the server -------------------------------------------------------------------


def neighbour(event: str, server_id: str, deployment: str | None) -> RelayMessage:
    return RelayMessage("neighbours", None, event, json.dumps(deployment).encode(), server_id=server_id)


async def test_an_instance_of_the_release_before_is_named_as_not_asked_until_it_leaves(
    autojump_clock: MockClock,
) -> None:
    async with three() as world:
        peers = world.a.delivery.peers
        peers.notice(neighbour("hello", "old", None))
        peers.notice(neighbour("ask", "old", None))
        assert (await world.a.operator.clients(None, None, 100, None)).unanswered == ("old",)
        peers.notice(neighbour("bye", "old", None))
        assert (await world.a.operator.clients(None, None, 100, None)).unanswered == ()


async def test_another_deployment_is_reported_and_neither_counted_nor_asked(
    autojump_clock: MockClock,
) -> None:
    reported: list[str] = []
    peers = Peers("a", lambda messages: None, lambda question, data: None, report=reported.append)
    peers.relay_up()
    for _ in range(3):
        peers.notice(neighbour("hello", "x", "staging"))
        peers.notice(neighbour("hello", "y", "staging"))
    (fact,) = set(reported)
    assert "(staging)" in fact and "APP_ENV_REDIS_PREFIX" in fact
    assert peers.known == () and (await peers.query("clients", None)).missing == ()
    for n in range(9):
        peers.notice(neighbour("hello", "z", f"d{n}"))
    assert "(d0, d1, d2 and 7 more)" in reported[-1]


async def test_instances_that_ended_long_ago_leave_room_for_new_ones(autojump_clock: MockClock) -> None:
    """Though no operator asks this instance meanwhile."""
    published: list[RelayMessage] = []
    peers = Peers("a", published.extend, lambda question, data: None)
    peers.relay_up()
    for n in range(MAX_PEERS):
        peers.receive(RelayMessage("instances", None, "hello", b"null", server_id=f"old{n}"))
    await trio.sleep(FORGOTTEN_AFTER_S + 1)
    published.clear()
    ask = b'{"id":"1","question":"clients","data":null}'
    peers.receive(RelayMessage("instances", None, "ask", ask, server_id="new"))
    assert [message.event for message in published if message.target == "new"][-1:] == ["answer"]
