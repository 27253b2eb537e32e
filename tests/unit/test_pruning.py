"""Removal of dead letters and traces over a store in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import structlog
import trio
from trio.testing import MockClock

from contract.store_suite import a_letter
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.inbox import pruning
from nx_signal.inbox.pruning import KEEP_ALL, Bounds, Pruning
from nx_signal.model import Correction, Trace


class World:
    def __init__(self, bounds: Bounds) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.database = MemoryDatabase(lambda: self.time)
        self.pruning = Pruning(
            self.database.dead_letters,
            self.database.traces,
            self.database.corrections,
            self.database.tickets,
            lambda: self.time,
            bounds,
        )

    async def fill(self, count: int, value: bytes = b"x") -> None:
        for n in range(count):
            await self.database.dead_letters.add([a_letter(n, "t", value=value)])
            await self.database.traces.add([Trace(f"e{n}", f"t/0/{n}", "T", None, None, 0, "stored")])
            self.time += timedelta(days=1)

    async def corrected(self, count: int) -> None:
        for n in range(count):
            correction = Correction(f"e{n}", "retract", {}, None, f"t/0/{n}", "d")
            await self.database.corrections.add(correction)
            self.time += timedelta(days=1)

    async def kept(self) -> tuple[list[int], list[str]]:
        letters = await self.database.dead_letters.page(1_000, None)
        traces = [f"e{n}" for n in range(1_000) if await self.database.traces.get(f"e{n}")]
        return [letter.position.offset for letter in reversed(letters)], traces

    async def run(self) -> list[str]:
        with structlog.testing.capture_logs() as logs, trio.move_on_after(pruning.TRACES_EVERY_S + 60):
            await self.pruning.run()
        return [f"{line['event']} {line['removed']}: {line['why']}" for line in logs]


@pytest.mark.parametrize(
    ("bounds", "letters", "traces"),
    [
        (KEEP_ALL, 120, 120),
        (Bounds(30, 1_000, 40, 1_000), 30, 40),
        (Bounds(0, 7, 0, 9), 7, 9),
        (Bounds(30, 50, 30, 20), 30, 20),
    ],
)
async def test_the_oldest_beyond_an_age_and_a_number_go_and_the_log_states_it_once(
    bounds: Bounds, letters: int, traces: int, autojump_clock: MockClock
) -> None:
    world = World(bounds)
    await world.fill(120)
    logs = await world.run()
    assert await world.kept() == (
        list(range(120 - letters, 120)),
        [f"e{n}" for n in range(120 - traces, 120)],
    )
    if bounds is KEEP_ALL:
        assert logs == []
    else:
        assert [line.partition(":")[0] for line in logs] == [
            f"dead_letters_removed {120 - letters}",
            f"traces_removed {120 - traces}",
        ]
        assert "APP_ENV_DEAD_LETTERS" in logs[0] and "APP_ENV_TRACES" in logs[1]


@pytest.mark.parametrize(
    ("bounds", "kept"), [(KEEP_ALL, 60), (Bounds(0, 1_000, 40, 1_000), 40), (Bounds(0, 1_000, 0, 9), 9)]
)
async def test_corrections_are_kept_as_long_and_in_such_number_as_traces(
    bounds: Bounds, kept: int, autojump_clock: MockClock
) -> None:
    world = World(bounds)
    await world.corrected(60)
    logs = await world.run()
    standing = await world.database.corrections.standing([f"e{n}" for n in range(60)])
    assert sorted(standing, key=lambda id: int(id[1:])) == [f"e{n}" for n in range(60 - kept, 60)]
    assert [line.partition(":")[0] for line in logs] == (
        [f"corrections_removed {60 - kept}"] if kept < 60 else []
    )


async def test_letters_of_a_megabyte_each_are_bounded_in_total(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "MAX_LETTER_BYTES", 10_500)
    world = World(KEEP_ALL)
    await world.fill(30, b"x" * 1_000)
    await world.run()
    assert (await world.kept())[0] == list(range(20, 30))
