"""Restart with back-off, or escalate; and report which parts are up."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nx_signal.errors import RelayLost, SettingsError
from nx_signal.supervise import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Backoff,
    StoppedUnexpectedly,
    remind,
    supervise,
)
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics


@pytest.fixture
def health() -> Health:
    return Health(("relay",), Metrics())


async def test_a_part_that_becomes_unavailable_is_run_again_and_health_follows(
    autojump_clock: MockClock, health: Health
) -> None:
    runs = 0

    async def part(task_status: Any) -> None:
        nonlocal runs
        runs += 1
        if runs in (1, 3):
            raise RelayLost("cannot connect")
        task_status.started()
        await trio.sleep(60)
        if runs == 2:
            raise RelayLost("connection lost")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, "relay", part, health)
        assert health.down == {"relay": "starting"}
        await trio.sleep(0.01)
        assert health.down == {"relay": "cannot connect"}
        await trio.sleep(1)
        assert health.ready
        await trio.sleep(70)
        assert health.ready and runs == 4
        nursery.cancel_scope.cancel()


async def test_pauses_grow_to_a_bound_and_start_again_after_a_steady_run(
    autojump_clock: MockClock, health: Health
) -> None:
    starts: list[float] = []

    async def part(task_status: Any) -> None:
        starts.append(trio.current_time())
        if len(starts) == 12:
            task_status.started()
            await trio.sleep(30)
        raise RelayLost("no")

    with trio.move_on_after(90):
        await supervise("relay", part, health)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert all(pause <= LONGEST_PAUSE_S for pause in pauses[:11])
    assert all(pause >= LONGEST_PAUSE_S / 2 for pause in pauses[7:11])
    assert pauses[11] <= 30 + FIRST_PAUSE_S, "a steady run resets the pause"


@pytest.mark.parametrize("error", [ValueError("a bug"), SettingsError("wrong password")])
async def test_any_other_error_ends_the_process(
    autojump_clock: MockClock, health: Health, error: Exception
) -> None:
    async def part(task_status: Any) -> None:
        task_status.started()
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        await supervise("relay", part, health)
    assert caught.value.subgroup(type(error)) is not None


async def test_a_part_that_returns_ends_the_process(autojump_clock: MockClock, health: Health) -> None:
    async def part(task_status: Any) -> None:
        task_status.started()

    with pytest.raises(ExceptionGroup) as caught:
        await supervise("relay", part, health)
    assert caught.value.subgroup(StoppedUnexpectedly) is not None


async def test_cancellation_passes_through(autojump_clock: MockClock, health: Health) -> None:
    async def part(task_status: Any) -> None:
        task_status.started()
        await trio.sleep_forever()

    with trio.move_on_after(5) as scope:
        await supervise("relay", part, health)
    assert scope.cancelled_caught


async def test_pauses_differ_between_instances(autojump_clock: MockClock) -> None:
    pauses = set()
    for _ in range(5):
        began = trio.current_time()
        await Backoff().pause()
        pauses.add(trio.current_time() - began)
    assert len(pauses) > 1 and max(pauses) <= FIRST_PAUSE_S + 1e-9


def test_a_part_that_is_down_is_logged_once(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            events.append(event)

    monkeypatch.setattr("nx_signal.telemetry.health.log", Log())
    for why in ("first", "second", "third"):
        health.fail("relay", why)
    assert health.down == {"relay": "third"} and events == ["part_down"]


async def test_a_part_that_stays_down_is_logged_with_its_reason_again_each_minute(
    autojump_clock: MockClock, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[float, object]] = []
    began = trio.current_time()

    class Log:
        def warning(self, event: str, **fields: object) -> None:
            logged.append((trio.current_time() - began, fields["why"]))

    monkeypatch.setattr("nx_signal.supervise.log", Log())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(remind, health)
        await trio.sleep(1)
        health.up("relay")
        health.fail("relay", "no route")
        await trio.sleep(70)
        health.fail("relay", "refused")
        await trio.sleep(60)
        health.up("relay")
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    assert [why for _, why in logged] == ["no route", "refused"]
    assert 60 <= logged[0][0] <= 70 and 120 <= logged[1][0] <= 131
