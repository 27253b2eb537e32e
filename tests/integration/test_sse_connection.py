"""A client of Server-Sent Events over a real socket: what it receives, and how it ends. The clock is set."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from event_kit import HEAD, EventInstance, first_state, principal
from nx_signal.delivery import writer
from nx_signal.delivery.topics import CLOSED, CONNECTED, ERROR, EXPIRING, GOAWAY, STATE
from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.errors import RateExceeded, SessionsFull, Stopping, StoreUnavailable
from nx_signal.model import Member, Organizer, RelayMessage, Roster
from nx_signal.model.wire import CREATED, READ
from nx_signal.sse.connection import HEARTBEAT_S, MAX_RECEIVED_BYTES, RETRY_MS
from nx_signal.sse.encoding import Place, read_place


async def test_it_begins_with_retry_connected_and_a_state(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a")
        async with instance.connect("u1") as reader:
            connected, state = await reader.receive(), await reader.receive()
        assert reader.head + b"\r\n\r\n" == HEAD
        assert reader.parser.retry_ms is not None and RETRY_MS[0] <= reader.parser.retry_ms < RETRY_MS[1]
        assert (connected.event, connected.data["userId"], connected.id) == (CONNECTED, "u1", None)
        assert state.event == STATE
        assert (state.data["rev"], state.data["unread"], state.data["reset"]) == (1, 1, False)
        assert state.id == f"1.{state.data['history']}"


async def test_each_change_arrives_once_and_in_order_with_its_place(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await first_state(reader)
        await instance.notify("u1", *map(str, range(20)))
        events = await reader.log(20)
        assert [event.data["rev"] for event in events] == list(range(1, 21))
        assert [event.id for event in events] == [f"{e.data['rev']}.{e.data['history']}" for e in events]


async def test_a_client_resumes_exactly_after_the_last_event_that_it_has(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        async with instance.connect("u1") as reader:
            await first_state(reader)
            await instance.notify("u1", "a", "b")
            await reader.log(2)
        assert reader.last_event_id is not None
        await instance.notify("u1", "c", "d")
        async with instance.connect("u1", read_place(reader.last_event_id)) as again:
            await again.until(CONNECTED)
            replayed = [await again.receive() for _ in range(3)]
            await instance.notify("u1", "e")
            replayed += await again.log(1)
        assert [(event.event, event.data["rev"]) for event in replayed] == [
            (CREATED, 3), (CREATED, 4), (STATE, 4), (CREATED, 5),
        ]  # fmt: skip


async def test_a_place_of_another_history_is_a_reset(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a", "b")
        async with instance.connect("u1", Place(2, "another")) as reader:
            state = await reader.until(STATE, CREATED)
            assert (state.event, state.data["reset"], state.data["rev"]) == (STATE, True, 2)


async def test_what_is_not_of_the_log_leaves_the_place_as_it_was(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        state = await first_state(reader)
        await instance.hub.send(RelayMessage("broadcast", None, "shop/notice", b'{"text": "a\\nb"}'))
        notice = await reader.receive()
        assert (notice.event, notice.data, notice.id) == ("shop/notice", {"text": "a\nb"}, state.id)


async def test_no_other_user_gets_a_users_changes(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u2") as other:
        await first_state(other)
        await instance.notify("u1", "a")
        await instance.notify("u2", "b")
        assert (await other.receive()).data["activityId"] == "b"


async def test_rooms_are_joined_by_membership_and_the_refused_are_named(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.database.directory.load(
            Roster([Organizer("o1", None, ("m1",))], [Member("u1", "o1", "m1", "staff", None)], [])
        )
        wanted = ("signal/merchant/m1", "signal/merchant/x", "public/a", "ws:x", "signal/notification/u2")
        async with instance.connect("u1", rooms=wanted) as reader:
            error = await reader.until(ERROR)
            assert set(error.data["rooms"]) == {"signal/merchant/x", "ws:x", "signal/notification/u2"}
            for room in ("signal/merchant/x", "signal/notification/u2", "public/a"):
                await instance.hub.send(RelayMessage("room", room, "shop/notice", b"1"))
            assert (await reader.receive()).event == "shop/notice"
            assert reader.connection._session.rooms >= {"public/a", "signal/merchant/m1", "ws-notification"}


# --- quiet, and the end ---


async def test_a_quiet_stream_has_a_comment_every_15_to_25_s(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await first_state(reader)
        began = trio.current_time()
        with trio.move_on_after(1_000):
            await reader.receive()
        passed = trio.current_time() - began
        assert passed / HEARTBEAT_S[1] - 1 <= reader.parser.comments <= passed / HEARTBEAT_S[0]


async def test_the_end_of_the_token_is_announced_and_then_ends_the_stream(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1", expires_in_s=300) as reader:
        await first_state(reader)
        began = trio.current_time()
        events = await reader.rest()
        assert [event.event for event in events] == [EXPIRING, CLOSED]
        assert events[0].data == {"expiresInMs": 60_000}
        assert events[1].data == {"code": 4005, "reason": "Token expired"}
        assert trio.current_time() - began == pytest.approx(300, abs=1)
        assert not instance.hub.sessions


async def test_an_operator_ends_it(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        connected = await reader.until(CONNECTED)
        await instance.parts.delivery.operator.disconnect(connected.data["id"])
        events = await reader.rest()
        assert (events[-1].event, events[-1].data["code"]) == (CLOSED, 4006)
        assert instance.parts.metrics.closes.labels("4006")._value.get() == 1


async def test_a_drain_sends_goaway_and_ends_it_and_none_is_opened_any_more(
    autojump_clock: MockClock,
) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await first_state(reader)
        instance.events.stop()
        await instance.hub.drain(5)
        assert [event.event for event in await reader.rest()] == [GOAWAY, CLOSED]
        with pytest.raises(Stopping):
            await instance.connect_and_leave()


async def test_a_client_that_leaves_is_forgotten_at_once(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        async with instance.connect("u1") as reader:
            await first_state(reader)
            assert len(instance.hub.sessions) == 1
        assert not instance.hub.sessions


async def test_an_operator_sees_it_as_a_client_that_is_not_encrypted(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        connected = await reader.until(CONNECTED)
        page = await instance.parts.delivery.operator.clients("u1", None, 10, None)
        (client,) = page.clients
        assert (client["id"], client["encrypted"]) == (connected.data["id"], False)


# --- refused before it begins ---


def handshakes(instance: EventInstance, outcome: str) -> float:
    return float(instance.parts.metrics.handshakes.labels(outcome)._value.get())


async def test_a_session_too_many_of_a_user_is_refused_and_the_others_stay(autojump_clock: MockClock) -> None:
    instance = EventInstance(max_sessions_per_user=1)
    async with instance.running(), instance.connect("u1") as first:
        with pytest.raises(SessionsFull):
            await instance.connect_and_leave()
        assert handshakes(instance, "sessions") == 1
        await first_state(first)
        async with instance.connect("u2") as other:
            await first_state(other)


async def test_without_the_store_it_is_refused_and_leaves_no_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EventInstance().running() as instance:

        async def away(ids: object) -> None:
            raise StoreUnavailable("away")

        monkeypatch.setattr(instance.database.inbox, "summaries", away)
        with pytest.raises(StoreUnavailable):
            await instance.connect_and_leave()
        assert not instance.hub.sessions
        assert handshakes(instance, "unavailable") == 1


async def test_a_flood_of_connections_of_one_user_is_refused(autojump_clock: MockClock) -> None:
    async with EventInstance(rate_factor=0.001).running() as instance:
        await instance.connect_and_leave()
        await instance.connect_and_leave()
        with pytest.raises(RateExceeded):
            await instance.connect_and_leave()


async def test_one_that_is_abandoned_leaves_no_session(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        connection = await instance.events.open(principal("u1"), "192.0.2.1", None, ())
        assert instance.hub.sessions
        connection.abandon()
        assert not instance.hub.sessions


# --- clients that do not read, or send ---


async def test_a_slow_client_gets_every_change_once_it_reads(autojump_clock: MockClock) -> None:
    instance = EventInstance(client_buffer_bytes=16_384)
    async with instance.running(), instance.connect("u1", receive_buffer_bytes=4_096) as reader:
        await first_state(reader)
        for n in range(300):
            await instance.notify("u1", str(n), bytes_each=2_000)
        assert reader.connection.queued_bytes <= 16_384 + 4_096
        assert reader.connection._session.cursor.backpressured
        events = await reader.log(300)
        assert [event.data["rev"] for event in events] == list(range(1, 301))


async def test_a_client_that_takes_nothing_for_30_s_is_closed_as_a_slow_consumer(
    autojump_clock: MockClock,
) -> None:
    instance = EventInstance()
    async with instance.running(), instance.connect("u1", receive_buffer_bytes=4_096) as reader:
        await first_state(reader)
        for n in range(300):
            await instance.notify("u1", str(n), bytes_each=2_000)
        await trio.sleep(writer.STALL_S - 1)
        assert instance.hub.sessions
        await trio.sleep(2)
        assert not instance.hub.sessions
        assert instance.parts.metrics.closes.labels("4008")._value.get() == 1


async def test_a_flood_of_sends_leaves_room_for_the_log(autojump_clock: MockClock) -> None:
    instance, sent = EventInstance(client_buffer_bytes=16_384), b'{"event":"shop","data":1}'
    async with instance.running(), instance.connect("u1", receive_buffer_bytes=4_096) as reader:
        await first_state(reader)
        while reader.connection.push(sent, FrameKind.EPHEMERAL) is PushResult.TAKEN:
            pass
        await instance.notify("u1", "a")
        assert (await reader.log(1))[0].data["rev"] == 1


async def test_a_client_that_sends_on_is_disconnected(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await first_state(reader)
        await reader.stream.send_all(b"x" * (MAX_RECEIVED_BYTES + 1))
        assert (await reader.rest())[-1].data["code"] == 1008
        assert not instance.hub.sessions


async def test_a_client_that_sends_single_bytes_is_disconnected(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await first_state(reader)
        for _ in range(MAX_RECEIVED_BYTES // writer.LINGER_READ_BYTES + 1):
            await reader.stream.send_all(b"x")
            await wait_all_tasks_blocked()
        assert (await reader.rest())[-1].data["code"] == 1008


async def test_a_change_during_the_admission_is_neither_lost_nor_doubled(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EventInstance().running() as instance:
        summaries = instance.database.inbox.summaries

        async def late(ids: list[str]) -> object:
            heads = await summaries(ids)
            monkeypatch.undo()
            await instance.notify("u1", "meanwhile")
            return heads

        monkeypatch.setattr(instance.database.inbox, "summaries", late)
        async with instance.connect("u1") as reader:
            state = await first_state(reader)
            await instance.notify("u1", "after")
            events = await reader.log(2)
            assert state.data["rev"] == 0
            assert [event.data["activityId"] for event in events] == ["meanwhile", "after"]


async def test_marks_as_read_come_too(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, instance.connect("u1") as reader:
        await instance.notify("u1", "a")
        (created,) = await reader.log(1)
        await instance.parts.inbox.mark("u1", int(created.data["id"]), "read", "me")
        read = await reader.until(READ)
        assert (read.data["rev"], read.data["origin"], read.data["ids"]) == (2, "me", [created.data["id"]])
