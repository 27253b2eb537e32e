"""delivery/polling.py: the changes after a revision, at once or as soon as there are any."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from event_kit import EventInstance, a_draft, principal
from memory_relay import MemoryBroker
from nx_signal.delivery.polling import Polled
from nx_signal.errors import SessionsFull, StoreUnavailable
from nx_signal.model import RelayMessage

PAST = "past"


async def poll(
    instance: EventInstance,
    rev: int = 0,
    history: str | None = None,
    *,
    wait_s: float = 25,
    limit: int = 100,
    gone: trio.Event | None = None,
    expires_in_s: float = 86_400,
) -> Polled:
    caller = principal("u1", expires_in_s)
    return await instance.polling.changes(caller, rev, history, wait_s=wait_s, limit=limit, gone=gone)


def revs(polled: Polled) -> list[int]:
    return [json.loads(change)["data"]["rev"] for change in polled.changes]


class Waiter:
    """A poll under way."""

    def __init__(self, nursery: trio.Nursery, instance: EventInstance, **options: Any) -> None:
        self.polled: Polled | None = None
        self.at_s = 0.0
        self.over = trio.Event()
        nursery.start_soon(self._run, instance, options)

    async def _run(self, instance: EventInstance, options: dict[str, Any]) -> None:
        self.polled = await poll(instance, **options)
        self.at_s = trio.current_time()
        self.over.set()

    async def answer(self) -> Polled:
        await self.over.wait()
        assert self.polled is not None
        return self.polled


async def test_what_changed_after_a_revision_is_answered_at_once(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a", "b", "c")
        began = trio.current_time()
        polled = await poll(instance, 1)
        assert trio.current_time() == began
        assert revs(polled) == [2, 3]
        assert (polled.rev, polled.head.rev, polled.head.unread, polled.reset) == (3, 3, 3, False)
        assert polled.history == polled.head.history
        assert not instance.hub.sessions


async def test_more_than_the_limit_goes_on_with_the_next_request(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", *map(str, range(7)))
        seen, rev, history = [], 0, None
        for _ in range(3):
            polled = await poll(instance, rev, history, limit=3)
            seen += revs(polled)
            rev, history = polled.rev, polled.history
            assert polled.head.total == 7
        assert seen == [1, 2, 3, 4, 5, 6, 7]


async def test_without_a_change_it_waits_for_the_next_one(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        waiter = Waiter(nursery, instance)
        await trio.sleep(10)
        began = trio.current_time()
        await instance.notify("u1", "a")
        assert revs(await waiter.answer()) == [1]
        assert waiter.at_s - began < 1
        assert not instance.hub.sessions


async def test_without_any_change_it_answers_none_after_the_wait(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a")
        began = trio.current_time()
        polled = await poll(instance, 1, wait_s=25)
        assert trio.current_time() - began == pytest.approx(25, abs=0.1)
        assert (polled.changes, polled.rev, polled.head.unread, polled.reset) == ((), 1, 1, False)


async def test_a_wait_of_nothing_asks_the_store_alone(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        began = trio.current_time()
        assert (await poll(instance, 0, wait_s=0)).changes == ()
        assert trio.current_time() == began


async def test_the_head_is_answered_where_a_client_holds_nothing(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a", "b")
        polled = await instance.polling.head("u1")
        assert (polled.changes, polled.rev, polled.head.total, polled.reset) == ((), 2, 2, False)


@pytest.mark.parametrize(("rev", "history"), [(1, "another"), (9, None), (9, PAST)])
async def test_what_the_store_does_not_have_is_a_reset(
    autojump_clock: MockClock, rev: int, history: str | None
) -> None:
    async with EventInstance().running() as instance:
        await instance.notify("u1", "a", "b")
        polled = await poll(instance, rev, history)
        assert (polled.changes, polled.rev, polled.history, polled.reset) == (
            (), 2, polled.head.history, True,
        )  # fmt: skip


async def test_another_users_changes_end_no_wait(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        waiter = Waiter(nursery, instance, wait_s=25)
        await trio.sleep(1)
        await instance.notify("u2", "a")
        await instance.hub.send(RelayMessage("broadcast", None, "shop/notice", b"1"))
        assert (await waiter.answer()).changes == ()
        assert waiter.at_s >= 25


async def test_a_change_on_another_instance_ends_the_wait(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    here = EventInstance(server_id="here", broker=broker)
    there = EventInstance(server_id="there", broker=broker, database=here.database)
    async with here.running(), there.running(), trio.open_nursery() as nursery:
        waiter = Waiter(nursery, here)
        await trio.sleep(5)
        await there.notify("u1", "a")
        assert revs(await waiter.answer()) == [1]
        assert waiter.at_s < 6


async def test_a_change_whose_announcement_is_lost_is_found_by_the_sweep(autojump_clock: MockClock) -> None:
    broker = MemoryBroker()
    here = EventInstance(server_id="here", broker=broker, sweep_s=10)
    there = EventInstance(server_id="there", broker=broker, database=here.database)
    async with here.running(), there.running(), trio.open_nursery() as nursery:
        waiter = Waiter(nursery, here)
        await trio.sleep(1)
        broker.drop = lambda message: message.kind == "inbox"
        await there.notify("u1", "a")
        assert revs(await waiter.answer()) == [1]


async def test_a_change_between_the_read_and_the_wait_is_answered_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EventInstance().running() as instance:
        store = instance.database.inbox
        read = store.changes_since

        async def late(*query: Any) -> Any:
            answer = await read(*query)
            monkeypatch.undo()
            await instance.notify("u1", "meanwhile")
            return answer

        monkeypatch.setattr(store, "changes_since", late)
        began = trio.current_time()
        assert revs(await poll(instance)) == [1]
        assert trio.current_time() - began < 1


async def test_a_change_that_ends_the_wait_is_answered_without_another_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        await instance.notify("u1", "a")
        waiter, store = Waiter(nursery, instance, rev=1), instance.database.inbox
        await trio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(store, "changes_since", None)
            await instance.notify("u1", "b", "c")
            pushed = await waiter.answer()
        assert pushed == await poll(instance, 1, limit=len(pushed.changes))
        assert revs(pushed)[0] == 2


async def test_more_than_the_limit_at_once_is_cut_and_the_counts_are_those_of_now(
    autojump_clock: MockClock,
) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        waiter, store = Waiter(nursery, instance, limit=1), instance.database.inbox
        await trio.sleep(1)
        changes = [change for id in "abc" for change in await store.insert([a_draft("u1", id)])]
        instance.hub.announce(changes)
        polled = await waiter.answer()
        assert (revs(polled), polled.rev, polled.head.unread) == ([1], 1, 3)


async def test_a_client_that_goes_away_ends_the_wait(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        gone = trio.Event()
        waiter = Waiter(nursery, instance, gone=gone)
        await trio.sleep(3)
        gone.set()
        await waiter.answer()
        assert waiter.at_s < 4
        assert not instance.hub.sessions


async def test_a_wait_that_is_cancelled_leaves_no_session(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        with trio.move_on_after(3):
            await poll(instance)
        assert not instance.hub.sessions
        assert not instance.polling._waiting


async def test_a_stop_answers_those_that_wait_and_lets_no_others_wait(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        waiters = [Waiter(nursery, instance) for _ in range(3)]
        await trio.sleep(1)
        instance.polling.stop()
        for waiter in waiters:
            assert (await waiter.answer()).changes == ()
            assert waiter.at_s < 2
        began = trio.current_time()
        await poll(instance)
        assert trio.current_time() == began


async def test_an_operator_ends_a_wait(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance, trio.open_nursery() as nursery:
        waiter = Waiter(nursery, instance)
        await wait_all_tasks_blocked()
        await trio.sleep(1)
        (session,) = instance.hub.sessions
        await instance.parts.delivery.operator.disconnect(session.client_id)
        await waiter.answer()
        assert waiter.at_s < 2


async def test_those_that_wait_count_as_sessions_of_their_user(autojump_clock: MockClock) -> None:
    instance = EventInstance(max_sessions_per_user=2)
    async with instance.running(), trio.open_nursery() as nursery:
        for _ in range(2):
            Waiter(nursery, instance, wait_s=5)
        await trio.sleep(1)
        with pytest.raises(SessionsFull):
            await poll(instance)
        await instance.notify("u2", "a")
        assert (await instance.polling.changes(principal("u2"), 0, None, wait_s=5, limit=1)).changes


async def test_what_is_there_already_is_answered_whatever_waits(autojump_clock: MockClock) -> None:
    instance = EventInstance(max_sessions_per_user=1)
    async with instance.running(), trio.open_nursery() as nursery:
        await instance.notify("u1", "a")
        Waiter(nursery, instance, rev=1, wait_s=5)
        await trio.sleep(1)
        assert revs(await poll(instance, 0)) == [1]


async def test_no_wait_is_longer_than_its_token(autojump_clock: MockClock) -> None:
    async with EventInstance().running() as instance:
        began = trio.current_time()
        await poll(instance, expires_in_s=7)
        assert trio.current_time() - began == pytest.approx(7, abs=0.1)


async def test_without_the_store_it_is_unavailable_and_leaves_no_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EventInstance().running() as instance:

        async def away(*query: object) -> None:
            raise StoreUnavailable("away")

        monkeypatch.setattr(instance.database.inbox, "summaries", away)
        with pytest.raises(StoreUnavailable):
            await poll(instance)
        assert not instance.hub.sessions
