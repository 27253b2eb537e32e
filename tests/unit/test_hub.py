"""Who hears of what, and that whoever missed something is told by the store. On Trio's mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.model import Activity, Dispatch, Draft, Member, Roster, Rule
from nx_signal.ports import Listening, Received, RelayEvent
from nx_signal.stream.hub import HEAL_AFTER_S, RELAY_WITHIN_S, Hub
from nx_signal.stream.rooms import RoomRules
from nx_signal.telemetry.metrics import Metrics
from stream_kit import FakeClient

SWEEP_S = 10.0
OWN_CHANNELS = {"ws:broadcast", "signal:instances", "signal:instance:me"}


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Interest:
    """A relay that only remembers which channels are wanted."""

    def __init__(self) -> None:
        self.channels: set[str] = set()

    def listen(self, channels: Any) -> None:
        self.channels.update(channels)

    def unlisten(self, channels: Any) -> None:
        self.channels.difference_update(channels)

    async def run(self, outbound: Any, inbound: Any, task_status: Any) -> None:
        raise AssertionError("not run here")


class Instance:
    def __init__(self) -> None:
        self.database = MemoryDatabase(now)
        self.relay = Interest()
        to_relay, self.outbound = trio.open_memory_channel[tuple[Dispatch, ...]](8)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](8)
        self.hub = Hub(
            server_id="me",
            store=self.database.inbox,
            rules=RoomRules(self.database.directory, ()),
            relay=self.relay,
            outbound=to_relay,
            metrics=Metrics(),
            now=now,
            resume_limit=500,
            sweep_s=SWEEP_S,
        )

    async def connect(self, user_id: str, *, room: int | None = None) -> FakeClient:
        client = FakeClient(user_id, room=room, wants_heal=self.hub.heal_soon)
        self.hub.attach(client.session)
        head = await self.hub.baseline(user_id)
        client.session.begin(head.rev)
        return client

    async def notify(self, *user_ids: str, announce: bool = True, activity: str = "a") -> None:
        drafts = [Draft(u, activity, "T", "o", None, None, "en", "c", "<p>c</p>", None, {}) for u in user_ids]
        changes = await self.database.inbox.insert(drafts)
        if announce:
            self.hub.announce(changes)

    def relayed(self) -> Iterator[tuple[Dispatch, ...]]:
        """What was handed to the relay so far."""
        while self.outbound.statistics().current_buffer_used:
            yield self.outbound.receive_nowait()


@asynccontextmanager
async def running() -> AsyncIterator[Instance]:
    instance = Instance()
    async with trio.open_nursery() as nursery:
        await nursery.start(instance.hub.run, instance.inbound)
        yield instance
        nursery.cancel_scope.cancel()


def ephemeral(
    kind: Any, target: str | None, exclude: frozenset[str] = frozenset(), server: str | None = None
) -> Dispatch:
    return Dispatch(kind, target, "ping", b'{"n":1}', exclude, server)


async def test_a_new_row_reaches_every_session_of_its_recipient_and_nobody_else(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        phone, desk = await instance.connect("u1"), await instance.connect("u1")
        other = await instance.connect("u2")
        await instance.notify("u1")
        assert phone.revs == desk.revs == [1] and other.events == []
        assert phone.events[0][1]["unread"] == 1


async def test_a_row_committed_between_registering_and_connected_is_delivered(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        client = FakeClient("u1", wants_heal=instance.hub.heal_soon)
        instance.hub.attach(client.session)
        head = await instance.hub.baseline("u1")
        await instance.notify("u1")
        assert client.wire.frames == []
        client.session.begin(head.rev)
        await trio.sleep(HEAL_AFTER_S * 2)
        assert client.revs == [1]


async def test_handshakes_that_come_together_share_one_query(autojump_clock: MockClock) -> None:
    async with running() as instance:
        calls = 0

        async def count() -> None:
            nonlocal calls
            calls += 1
            await trio.sleep(0.1)

        instance.database.delay = count
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(instance.connect, f"u{n}")
        assert len(instance.hub.sessions) == 50
        assert calls <= 2


async def test_a_change_that_nobody_announced_is_found_by_the_sweep(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        await trio.sleep(SWEEP_S + 1)
        assert client.revs == [1]


async def test_a_gap_is_read_from_the_store_at_once_and_not_by_the_sweep(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False, activity="lost")
        await instance.notify("u1", activity="heard of")
        assert client.revs == []
        await trio.sleep(HEAL_AFTER_S * 2)
        assert client.revs == [1, 2]


async def test_once_the_relay_listens_again_what_was_missed_is_read(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        await instance.from_relay.send(
            Listening(frozenset({"ws:room:signal/notification/u1", "ws:broadcast"}))
        )
        await trio.sleep(HEAL_AFTER_S * 3)
        assert client.revs == [1]


async def test_a_change_announced_by_another_instance_is_one_of_the_log(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        data = b'{"rev":1,"id":"5"}'
        event = "observation/signal/notification/created"
        dispatch = Dispatch("room", "signal/notification/u1", event, data, server_id="another")
        await instance.from_relay.send(Received((dispatch, dispatch)))
        await wait_all_tasks_blocked()
        assert client.revs == [1]


async def test_a_sister_service_cannot_move_an_inbox_s_revision(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        event = "observation/signal/notification/created"
        forged = Dispatch("room", "signal/notification/u1", event, b'{"rev":7}', server_id="emitter")
        await instance.from_relay.send(Received((forged,)))
        await wait_all_tasks_blocked()
        assert client.events == [(event, {"rev": 7})], "delivered as it is"
        await instance.notify("u1")
        assert client.revs == [7, 1] and client.session.rev == 1


@pytest.mark.parametrize(
    ("kind", "target", "heard"),
    [
        ("broadcast", None, {"a", "b", "c"}),
        ("user", "u1", {"a", "b"}),
        ("room", "ws-default", {"a", "b", "c"}),
        ("room", "signal/merchant/m1", {"c"}),
        ("room", "signal/notification/u2", {"c"}),
        ("room", "nobody's", set()),
        ("client", "a", {"a"}),
        ("client", "gone", set()),
    ],
)
async def test_a_send_reaches_exactly_those_it_names(
    autojump_clock: MockClock, kind: str, target: str | None, heard: set[str]
) -> None:
    async with running() as instance:
        clients = {
            "a": await instance.connect("u1"),
            "b": await instance.connect("u1"),
            "c": await instance.connect("u2"),
        }
        instance.hub.join(clients["c"].session, ["signal/merchant/m1"])
        if kind == "client" and target == "a":
            target = clients["a"].session.client_id
        await instance.hub.send(ephemeral(kind, target))
        assert {name for name, client in clients.items() if client.events} == heard
        told = [dispatch for batch in instance.relayed() for dispatch in batch]
        assert ephemeral(kind, target) in told, "the other instances too"


@pytest.mark.parametrize(
    ("rule", "heard"), [("merchant", {"merchant's"}), ("org", {"organizer's"})], ids=["merchant", "org"]
)
async def test_an_activity_is_shown_in_the_room_that_its_rule_names(
    autojump_clock: MockClock, rule: Rule, heard: set[str]
) -> None:
    activity = Activity("e1", "INQUIRY_SUBMITTED", "org", "lan", {}, "o1", "m1", (), {"a": 1}, None, now())
    async with running() as instance:
        clients = {name: await instance.connect(name) for name in ("merchant's", "organizer's", "other")}
        instance.hub.join(clients["merchant's"].session, ["signal/merchant/m1"])
        instance.hub.join(clients["organizer's"].session, ["signal/organizer/o1"])
        instance.hub.join(clients["other"].session, ["signal/organizer/o2", "signal/merchant/m2"])
        await instance.hub.show(activity, rule)
        assert {name for name, client in clients.items() if client.events} == heard
        ((event, data),) = clients[heard.pop()].events
        assert event == "observation/signal/activity/created"
        assert (data["eventId"], data["data"], data["occurredAt"]) == (
            "e1",
            {"a": 1},
            "2026-01-01T00:00:00.000Z",
        )


async def test_excluded_clients_hear_nothing(autojump_clock: MockClock) -> None:
    async with running() as instance:
        one, two = await instance.connect("u1"), await instance.connect("u1")
        await instance.hub.send(ephemeral("room", "ws-default", frozenset({one.session.client_id})))
        assert one.events == [] and two.events == [("ping", {"n": 1})]


async def test_who_left_a_room_or_the_hub_hears_nothing_more(autojump_clock: MockClock) -> None:
    async with running() as instance:
        stays, goes = await instance.connect("u1"), await instance.connect("u1")
        instance.hub.join(stays.session, ["r"])
        instance.hub.join(goes.session, ["r"])
        instance.hub.leave(stays.session, ["r"])
        instance.hub.detach(goes.session)
        await instance.hub.send(ephemeral("room", "r"))
        await instance.notify("u1")
        assert [event for event, _ in stays.events] == ["observation/signal/notification/created"]
        assert goes.events == []


async def test_the_relay_is_asked_for_exactly_what_concerns_the_clients_here(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        assert instance.relay.channels == OWN_CHANNELS
        one, two = await instance.connect("u1"), await instance.connect("u1")
        instance.hub.join(one.session, ["r"])
        assert {
            "ws:user:u1",
            "ws:room:signal/notification/u1",
            "ws:room:r",
            "ws:room:ws-default",
        } <= instance.relay.channels
        assert f"ws:client:{one.session.client_id}" in instance.relay.channels
        instance.hub.detach(one.session)
        assert "ws:user:u1" in instance.relay.channels and "ws:room:r" not in instance.relay.channels
        instance.hub.detach(two.session)
        assert instance.relay.channels == OWN_CHANNELS


async def test_a_relay_that_takes_nothing_holds_up_no_announcement(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        for n in range(50):
            await instance.notify("u1", activity=f"a{n}")
        assert client.revs == list(range(1, 51))


async def test_one_stalled_client_changes_nothing_for_the_others(autojump_clock: MockClock) -> None:
    async with running() as instance:
        stalled, other = await instance.connect("u1", room=0), await instance.connect("u1")
        for n in range(20):
            await instance.notify("u1", activity=f"a{n}")
        assert other.revs == list(range(1, 21)) and stalled.events == []
        stalled.wire.drain()
        await trio.sleep(HEAL_AFTER_S * 2)
        assert stalled.revs == list(range(1, 21))


async def test_a_store_that_is_away_delays_healing_and_refuses_handshakes(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False, activity="lost")
        await instance.notify("u1", activity="heard of")
        instance.database.unavailable = True
        with pytest.raises(Exception, match="connect again"):
            await instance.connect("u2")
        await trio.sleep(5)
        assert client.revs == []
        instance.database.unavailable = False
        await trio.sleep(10)
        assert client.revs == [1, 2]


async def test_a_drain_tells_everybody_to_come_back_and_ends_them_1001(autojump_clock: MockClock) -> None:
    async with running() as instance:
        clients = [await instance.connect(f"u{n}") for n in range(5)]
        began = trio.current_time()
        await instance.hub.drain(2.0)
        assert trio.current_time() - began <= 2.0
        for client in clients:
            ((event, data),) = client.events
            assert event == "goaway" and 0 <= data["retryAfterMs"] <= 1000
            assert client.session.end_with == (1001, "Server shutting down")


async def test_a_disconnect_to_a_user_ends_the_user_s_connections_4006(autojump_clock: MockClock) -> None:
    async with running() as instance:
        one, two = await instance.connect("u1"), await instance.connect("u1")
        other = await instance.connect("u2")
        control = Dispatch("user", "u1", "disconnect", b"null", server_id="emitter")
        await instance.from_relay.send(Received((control,)))
        await wait_all_tasks_blocked()
        assert one.session.end_with == two.session.end_with == (4006, "Disconnected by operator")
        assert other.session.end_with is None and one.events == []


async def test_a_disconnect_of_one_token_spares_the_user_s_others(autojump_clock: MockClock) -> None:
    async with running() as instance:
        stolen, own = await instance.connect("u1"), await instance.connect("u1")
        stolen.session.principal = replace(stolen.session.principal, token_id="t1")
        await instance.hub.send(Dispatch("user", "u1", "disconnect", b'{"tokenId":"t1"}'))
        assert stolen.session.end_with == (4006, "Disconnected by operator")
        assert own.session.end_with is None


async def test_a_lost_membership_takes_its_room_away_within_a_minute(autojump_clock: MockClock) -> None:
    async with running() as instance:
        roster = Roster([], [Member("u1", "o1", "m1", "staff", None)], [])
        await instance.database.directory.load(roster)
        member, former = await instance.connect("u1"), await instance.connect("u2")
        for client in (member, former):
            instance.hub.join(client.session, ["signal/merchant/m1", "public"])
        await trio.sleep(60)
        await instance.hub.send(ephemeral("room", "signal/merchant/m1"))
        assert member.events == [("ping", {"n": 1})]
        ((event, data),) = former.events
        assert event == "error" and data["rooms"] == ["signal/merchant/m1"]
        assert "public" in former.session.rooms


async def test_a_handshake_waits_until_the_relay_hears_what_is_sent_to_the_client(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        client = FakeClient("u1", wants_heal=instance.hub.heal_soon)
        instance.hub.attach(client.session)
        heard = trio.Event()

        async def wait() -> None:
            await instance.hub.heard_everywhere(client.session)
            heard.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            some, others = frozenset({"ws:user:u1"}), frozenset(instance.relay.channels)
            await instance.from_relay.send(Listening(some))
            await wait_all_tasks_blocked()
            assert not heard.is_set()
            await instance.from_relay.send(Listening(others))
        assert heard.is_set() and trio.current_time() < RELAY_WITHIN_S


async def test_a_relay_that_is_away_holds_up_no_handshake_for_long(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = FakeClient("u1", wants_heal=instance.hub.heal_soon)
        instance.hub.attach(client.session)
        began = trio.current_time()
        await instance.hub.heard_everywhere(client.session)
        assert trio.current_time() - began == pytest.approx(RELAY_WITHIN_S)
