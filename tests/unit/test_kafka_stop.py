"""What a member keeps of its positions in the store, and how long a stop takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio

from nx_signal.adapters.kafka import source
from nx_signal.adapters.offsets import AutoResetEvent, BytesInHand
from nx_signal.errors import StoreUnavailable
from nx_signal.model import Position, Record
from nx_signal.ports import Batch, SourcePosition

READ = SourcePosition("id", 0, 5)


class Positions:
    """ports.SourcePositions; `state` is what the store does with a position."""

    def __init__(self) -> None:
        self.state = "available"
        self.saved: list[Mapping[int, SourcePosition]] = []

    async def load(self, *_: Any) -> Mapping[int, SourcePosition]:
        return {}

    async def save(self, group: str, topic: str, positions: Mapping[int, SourcePosition]) -> None:
        self.saved.append(positions)
        if self.state == "unavailable":
            raise StoreUnavailable("away")
        if self.state == "frozen":
            await trio.sleep_forever()


class Consumer:
    committed: Mapping[int, int] = {0: 9}

    async def aio_commit(self, timeout_s: float) -> None:
        pass

    async def aio_stop(self) -> None:
        pass


class Bridge:
    async def call(self, fn: Any, *args: Any) -> Any:
        return await fn(*args)


@pytest.fixture
def positions() -> Positions:
    return Positions()


@pytest.fixture
def memory(positions: Positions) -> source._Memory:
    return source._Memory(positions, "g", "t")


@pytest.fixture
def member(memory: source._Memory) -> source._Member:
    bridge: Any = Bridge()
    consumer: Any = Consumer()
    return source._Member(bridge, consumer, "k:1", AutoResetEvent(), memory, lambda gap: None)


async def test_the_positions_of_partitions_that_others_have_by_now_are_theirs_to_keep(
    memory: source._Memory, positions: Positions
) -> None:
    await memory.keep({0: READ, 1: READ})
    await memory.follow({0: 9, 7: 9})
    assert positions.saved[-1] == {0: SourcePosition("id", 0, 9)}


async def test_a_stop_keeps_what_was_committed_last(
    memory: source._Memory, member: source._Member, positions: Positions
) -> None:
    await memory.keep({0: READ})
    await member.leave()
    assert positions.saved[-1] == {0: SourcePosition("id", 0, 9)}


async def test_a_stop_takes_half_a_second_of_a_frozen_store_at_most(
    memory: source._Memory, member: source._Member, positions: Positions, autojump_clock: trio.abc.Clock
) -> None:
    await memory.keep({0: READ})
    positions.state = "frozen"
    began = trio.current_time()
    await member.leave()
    assert trio.current_time() - began <= 0.5


@pytest.mark.parametrize("state", ["frozen", "unavailable"])
async def test_a_stop_does_not_try_a_store_that_did_not_take_the_last_positions(
    memory: source._Memory,
    member: source._Member,
    positions: Positions,
    state: str,
    autojump_clock: trio.abc.Clock,
) -> None:
    await memory.keep({0: READ})
    positions.state = state
    with trio.move_on_after(1):
        await memory.follow({0: 8})
    tries, began = len(positions.saved), trio.current_time()
    await member.leave()
    assert (len(positions.saved), trio.current_time()) == (tries, began)


async def test_a_source_waits_while_more_bytes_are_in_hand_than_it_may_have(
    autojump_clock: trio.abc.Clock,
) -> None:
    in_hand = BytesInHand(100)
    acks: list[int] = []
    batches = [
        in_hand.add(
            Batch((Record(Position("t", 0, n), "key", bytes(90), {"name": b"v"}),), lambda: acks.append(1))
        )
        for n in range(2)
    ]
    with trio.move_on_after(1) as waited:
        await in_hand.wait_for_room()
    assert waited.cancelled_caught
    batches[1].ack()
    batches[1].ack()
    with trio.fail_after(1):
        await in_hand.wait_for_room()
    assert len(acks) == 2
