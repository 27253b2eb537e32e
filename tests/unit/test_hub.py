"""The sessions that a change or a send reaches, and the recovery of what a session missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery.admission import SUBSCRIBED_WITHIN_S
from nx_signal.delivery.compose import compose_delivery
from nx_signal.delivery.recovery import HINTS_EVERY_S, READ_AFTER_S
from nx_signal.delivery.transport import CloseReason
from nx_signal.model import (
    Activity,
    ChangesSince,
    Draft,
    InboxSummary,
    Member,
    RelayMessage,
    Roster,
    Rule,
    Unknown,
)
from nx_signal.model.wire import CREATED
from nx_signal.ports import Received, RelayEvent, Subscribed
from nx_signal.telemetry.metrics import Metrics
from stream_kit import FakeClient

SWEEP_S = 10.0
OWN_CHANNELS = {"ws:broadcast", "own:instances", "own:instance:me", "signal:instances"}


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class Interest:
    """A relay that only records which channels are subscribed."""

    alone = False

    def __init__(self) -> None:
        self.channels: set[str] = set()

    def subscribe(self, channels: Any) -> None:
        self.channels.update(channels)

    def unsubscribe(self, channels: Any) -> None:
        self.channels.difference_update(channels)

    async def run(self, outbound: Any, inbound: Any, task_status: Any) -> None:
        raise AssertionError("not run here")


class Instance:
    def __init__(self, room_patterns: tuple[str, ...] = ()) -> None:
        self.database = MemoryDatabase(now)
        self.relay = Interest()
        self.metrics = Metrics()
        to_relay, self.outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](8)
        self.from_relay, self.inbound = trio.open_memory_channel[RelayEvent](8)
        self.delivery = compose_delivery(
            server_id="me",
            database=self.database,
            relay=self.relay,
            to_relay=to_relay,
            metrics=self.metrics,
            now=now,
            room_patterns=room_patterns,
            resume_limit=500,
            sweep_s=SWEEP_S,
        )
        self.hub = self.delivery.hub

    async def connect(self, user_id: str, *, room: int | None = None) -> FakeClient:
        client = FakeClient(user_id, room=room, request_read=self.delivery.recovery.request_read)
        self.hub.attach(client.session)
        head = await self.delivery.admission.baseline(user_id)
        client.session.begin(head)
        return client

    async def notify(self, *user_ids: str, announce: bool = True, activity: str = "a") -> None:
        drafts = [
            Draft(
                recipient_id=u,
                activity_id=activity,
                type="T",
                organizer_id="o",
                merchant_id=None,
                subject=None,
                locale="en",
                content="c",
                content_html="<p>c</p>",
                action_url=None,
                data={},
            )
            for u in user_ids
        ]
        changes = await self.database.inbox.insert(drafts)
        if announce:
            self.hub.announce(changes)

    def relayed(self) -> Iterator[tuple[RelayMessage, ...]]:
        """What was passed to the relay so far."""
        while self.outbound.statistics().current_buffer_used:
            yield self.outbound.receive_nowait()


@asynccontextmanager
async def running(room_patterns: tuple[str, ...] = ()) -> AsyncIterator[Instance]:
    instance = Instance(room_patterns)
    async with trio.open_nursery() as nursery:
        await nursery.start(instance.delivery.run, instance.inbound)
        yield instance
        nursery.cancel_scope.cancel()


def ephemeral(
    kind: Any, target: str | None, exclude: frozenset[str] = frozenset(), server: str | None = None
) -> RelayMessage:
    return RelayMessage(kind, target, "ping", b'{"n":1}', exclude, server)


async def test_a_new_row_reaches_every_session_of_its_recipient_and_no_other(
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
        client = FakeClient("u1", request_read=instance.delivery.recovery.request_read)
        instance.hub.attach(client.session)
        head = await instance.delivery.admission.baseline("u1")
        await instance.notify("u1")
        assert client.transport.payloads == []
        client.session.begin(head)
        await trio.sleep(READ_AFTER_S * 2)
        assert client.revs == [1]


async def test_concurrent_handshakes_share_one_query(autojump_clock: MockClock) -> None:
    async with running() as instance:
        calls = 0

        async def count() -> None:
            nonlocal calls
            calls += 1
            await trio.sleep(0.1)

        instance.database.driver.delay = count
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(instance.connect, f"u{n}")
        assert len(instance.hub.sessions) == 50
        assert calls <= 2


async def test_an_unannounced_change_is_found_by_the_sweep(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        await trio.sleep(SWEEP_S + 1)
        assert client.revs == [1]


async def test_a_gap_is_read_from_the_store_at_once_and_not_by_the_sweep(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False, activity="lost")
        await instance.notify("u1", activity="announced")
        assert client.revs == []
        await trio.sleep(READ_AFTER_S * 2)
        assert client.revs == [1, 2]


async def test_once_the_relay_has_subscribed_again_what_was_missed_is_read(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        await instance.from_relay.send(Subscribed(frozenset({"own:inbox:u1", "ws:broadcast"})))
        await trio.sleep(READ_AFTER_S * 3)
        assert client.revs == [1]


async def test_a_change_announced_by_another_instance_is_one_of_the_log(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)
        data = b'{"rev":1,"id":"5"}'
        event = "observation/signal/notification/created"
        dispatch = RelayMessage("inbox", "u1", event, data, server_id="another", rev=1)
        await instance.from_relay.send(Received((dispatch, dispatch)))
        await wait_all_tasks_blocked()
        assert client.revs == [1]


async def test_a_step_of_the_log_on_a_topic_of_a_newer_release_is_pushed_like_any_other(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        event = "observation/signal/notification/archived"
        message = RelayMessage("inbox", "u1", event, b'{"rev":1}', server_id="newer", rev=1)
        await instance.from_relay.send(Received((message, message)))
        await wait_all_tasks_blocked()
        assert client.events == [(event, {"rev": 1})] and client.session.cursor.rev == 1


async def test_a_change_of_a_newer_release_is_a_reset_and_counted(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False)

        async def newer(cursors: Any, limit: int) -> Any:
            head = InboxSummary("u1", 1, 1, 1)
            return {"u1": ChangesSince(head, (Unknown("u1", 1, 1, 1, 1, "1", "", "archived"),))}

        monkeypatch.setattr(instance.delivery.recovery._store, "changes_since", newer)
        await trio.sleep(SWEEP_S + 1)
        assert [(event, data["reset"]) for event, data in client.events] == [
            ("observation/signal/notification/state", True)
        ]
        assert b"signal_unknown_changes_total 1.0" in instance.metrics.exposition()


@pytest.mark.parametrize("patterns", [(), ("signal/*",), ("*",)])
async def test_the_bare_inbox_room_of_older_pages_means_one_s_own_and_is_nobody_s_otherwise(
    autojump_clock: MockClock, patterns: tuple[str, ...]
) -> None:
    async with running(patterns) as instance:
        mine, other = await instance.connect("u1"), await instance.connect("u2")
        admission = instance.delivery.admission
        for client in (mine, other):
            rooms = ["signal/notification", f"signal/notification/{client.session.user_id}"]
            assert await admission.join(client.session, rooms) == set(rooms), "no error"
            assert "signal/notification" not in client.session.rooms
        for room in ("signal/notification", "signal/notification/u2"):
            for server in ("emitter", "another"):
                sent = ephemeral("room", room, server=server)
                await instance.from_relay.send(Received((sent,)))
            await instance.hub.send(ephemeral("room", room))
        await wait_all_tasks_blocked()
        await instance.notify("u2")
        assert mine.events == [], "nothing of another user"
        assert [event for event, _ in other.events] == ["ping"] * 3 + [CREATED]
        assert "ws:room:signal/notification" not in instance.relay.channels
        admission.leave(mine.session, ["signal/notification"])
        await instance.notify("u1")
        assert mine.revs == [1], "a client that leaves it keeps its own inbox"


@pytest.mark.parametrize("sender", ["emitter", "another"])
@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("room", "signal/notification/u1"),
        ("room", "signal/merchant/m1"),
        ("room", "ws-default"),
        ("user", "u1"),
        ("client", None),
        ("broadcast", None),
    ],
)
@pytest.mark.parametrize("topic", ["notification/created", "notification/state", "activity/created", "new"])
async def test_no_frame_is_made_of_signal_s_own_topics_on_a_channel_that_others_use(
    autojump_clock: MockClock, sender: str, kind: Any, target: str | None, topic: str
) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        instance.hub.join(client.session, ["signal/merchant/m1"])
        target = client.session.client_id if kind == "client" else target
        data = b'{"rev":1,"unread":7,"history":"h","reset":true}'
        forged = RelayMessage(kind, target, f"observation/signal/{topic}", data, server_id=sender * 1_000)
        with capture_logs() as logs:
            await instance.from_relay.send(Received((forged, forged)))
            await trio.sleep(HINTS_EVERY_S + 1)
        assert client.events == []
        (warning,) = logs
        assert (warning["event"], warning["count"]) == ("relay_own_topic_refused", 1)
        assert len(warning["sender"]) <= 100
        await instance.notify("u1")
        assert client.revs == [1], "its own first change is pushed all the same"


async def test_what_the_release_before_announces_in_an_inbox_room_is_read_from_the_store_within_a_second(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        event = "observation/signal/notification/created"
        for n in range(1, 4):
            await instance.notify("u1", announce=False, activity=f"a{n}")
            data = b'{"rev":%d}' % n
            hint = RelayMessage("room", "signal/notification/u1", event, data, server_id="older")
            await instance.from_relay.send(Received((hint,)))
            await trio.sleep(HINTS_EVERY_S + READ_AFTER_S * 3)
            assert client.revs == list(range(1, n + 1))


async def test_hints_that_anybody_may_send_cause_at_most_one_query_a_second(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        await instance.connect("u1")
        queries = 0

        async def count() -> None:
            nonlocal queries
            queries += 1
            await trio.lowlevel.checkpoint()

        instance.database.driver.delay = count
        event = "observation/signal/notification/created"
        hint = RelayMessage("room", "signal/notification/u1", event, b"{}", server_id="emitter")
        began = trio.current_time()
        for _ in range(300):
            await instance.from_relay.send(Received((hint,) * 10))
            await trio.sleep(0.01)
        assert trio.current_time() - began < SWEEP_S
        assert 1 <= queries <= 4


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        ("broadcast", None, {"a", "b", "c"}),
        ("user", "u1", {"a", "b"}),
        ("room", "ws-default", {"a", "b", "c"}),
        ("room", "signal/merchant/m1", {"c"}),
        ("room", "signal/notification/u2", {"c"}),
        ("room", "unknown", set()),
        ("client", "a", {"a"}),
        ("client", "gone", set()),
    ],
)
async def test_a_send_reaches_exactly_those_it_names(
    autojump_clock: MockClock, kind: str, target: str | None, expected: set[str]
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
        assert {name for name, client in clients.items() if client.events} == expected
        published = [dispatch for batch in instance.relayed() for dispatch in batch]
        assert ephemeral(kind, target) in published, "the other instances too"


@pytest.mark.parametrize(
    ("rule", "expected"), [("merchant", {"merchant's"}), ("org", {"organizer's"})], ids=["merchant", "org"]
)
async def test_an_activity_is_shown_in_the_room_that_its_rule_names(
    autojump_clock: MockClock, rule: Rule, expected: set[str]
) -> None:
    activity = Activity("e1", "INQUIRY_SUBMITTED", "org", "lan", {}, "o1", "m1", (), {"a": 1}, None, now())
    async with running() as instance:
        clients = {name: await instance.connect(name) for name in ("merchant's", "organizer's", "other")}
        instance.hub.join(clients["merchant's"].session, ["signal/merchant/m1"])
        instance.hub.join(clients["organizer's"].session, ["signal/organizer/o1"])
        instance.hub.join(clients["other"].session, ["signal/organizer/o2", "signal/merchant/m2"])
        await instance.hub.push_to_members(activity, rule)
        assert {name for name, client in clients.items() if client.events} == expected
        ((event, data),) = clients[expected.pop()].events
        assert event == "observation/signal/activity/created"
        assert (data["eventId"], data["data"], data["occurredAt"]) == (
            "e1",
            {"a": 1},
            "2026-01-01T00:00:00.000Z",
        )


async def test_excluded_clients_receive_nothing(autojump_clock: MockClock) -> None:
    async with running() as instance:
        one, two = await instance.connect("u1"), await instance.connect("u1")
        await instance.hub.send(ephemeral("room", "ws-default", frozenset({one.session.client_id})))
        assert one.events == [] and two.events == [("ping", {"n": 1})]


async def test_a_client_that_left_a_room_or_the_hub_receives_nothing_more(autojump_clock: MockClock) -> None:
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


async def test_the_relay_is_subscribed_to_exactly_the_channels_of_the_clients_here(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        assert instance.relay.channels == OWN_CHANNELS
        one, two = await instance.connect("u1"), await instance.connect("u1")
        instance.hub.join(one.session, ["r"])
        assert {
            "ws:user:u1",
            "own:inbox:u1",
            "ws:room:signal/notification/u1",
            "ws:room:r",
            "ws:room:ws-default",
        } <= instance.relay.channels
        assert f"ws:client:{one.session.client_id}" in instance.relay.channels
        instance.hub.detach(one.session)
        assert "ws:user:u1" in instance.relay.channels and "ws:room:r" not in instance.relay.channels
        instance.hub.detach(two.session)
        assert instance.relay.channels == OWN_CHANNELS


async def test_a_blocked_relay_delays_no_announcement(autojump_clock: MockClock) -> None:
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
        stalled.transport.drain()
        await trio.sleep(READ_AFTER_S * 2)
        assert stalled.revs == list(range(1, 21))


async def test_an_unavailable_store_delays_recovery_and_refuses_handshakes(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = await instance.connect("u1")
        await instance.notify("u1", announce=False, activity="lost")
        await instance.notify("u1", activity="announced")
        instance.database.driver.unavailable = True
        with pytest.raises(Exception, match="connect again"):
            await instance.connect("u2")
        await trio.sleep(5)
        assert client.revs == []
        instance.database.driver.unavailable = False
        await trio.sleep(10)
        assert client.revs == [1, 2]


async def test_a_drain_sends_every_client_goaway_and_closes_it(autojump_clock: MockClock) -> None:
    async with running() as instance:
        clients = [await instance.connect(f"u{n}") for n in range(5)]
        began = trio.current_time()
        await instance.delivery.drain(2.0)
        assert trio.current_time() - began <= 2.0
        for client in clients:
            ((event, data),) = client.events
            assert event == "goaway" and 0 <= data["retryAfterMs"] <= 1000
            assert client.transport.closed_for is CloseReason.GOING_AWAY


async def test_a_disconnect_of_a_user_ends_that_user_s_sessions_alone(autojump_clock: MockClock) -> None:
    async with running() as instance:
        one, two = await instance.connect("u1"), await instance.connect("u1")
        other = await instance.connect("u2")
        control = RelayMessage("user", "u1", "disconnect", b"null", server_id="emitter")
        await instance.from_relay.send(Received((control,)))
        await wait_all_tasks_blocked()
        assert one.transport.closed_for is two.transport.closed_for is CloseReason.DISCONNECTED
        assert other.transport.closed_for is None and one.events == []


async def test_a_disconnect_of_one_token_spares_the_user_s_others(autojump_clock: MockClock) -> None:
    async with running() as instance:
        stolen, own = await instance.connect("u1"), await instance.connect("u1")
        stolen.session.principal = replace(stolen.session.principal, token_id="t1")
        await instance.hub.send(RelayMessage("user", "u1", "disconnect", b'{"tokenId":"t1"}'))
        assert stolen.transport.closed_for is CloseReason.DISCONNECTED
        assert own.transport.closed_for is None


async def test_a_client_leaves_the_room_of_a_lost_membership_within_a_minute(
    autojump_clock: MockClock,
) -> None:
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


async def test_a_handshake_waits_until_the_relay_has_subscribed_the_channels_of_the_client(
    autojump_clock: MockClock,
) -> None:
    async with running() as instance:
        client = FakeClient("u1", request_read=instance.delivery.recovery.request_read)
        instance.hub.attach(client.session)
        confirmed = trio.Event()

        async def wait() -> None:
            await instance.delivery.admission.wait_subscribed(client.session)
            confirmed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            some, others = frozenset({"ws:user:u1"}), frozenset(instance.relay.channels)
            await instance.from_relay.send(Subscribed(some))
            await wait_all_tasks_blocked()
            assert not confirmed.is_set()
            await instance.from_relay.send(Subscribed(others))
        assert confirmed.is_set() and trio.current_time() < SUBSCRIBED_WITHIN_S


async def test_a_disconnected_relay_delays_no_handshake_for_long(autojump_clock: MockClock) -> None:
    async with running() as instance:
        client = FakeClient("u1", request_read=instance.delivery.recovery.request_read)
        instance.hub.attach(client.session)
        began = trio.current_time()
        await instance.delivery.admission.wait_subscribed(client.session)
        assert trio.current_time() - began == pytest.approx(SUBSCRIBED_WITHIN_S)
