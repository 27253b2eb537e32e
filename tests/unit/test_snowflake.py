from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nx_signal.store.snowflake import EPOCH, WORKERS, Snowflakes, timestamp_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_an_id_is_milliseconds_worker_and_sequence() -> None:
    made = Snowflakes(9, lambda: EPOCH + timedelta(milliseconds=5))
    assert [made.next() for _ in range(3)] == [(5 << 22) | (9 << 12) | n for n in range(3)]


def test_timestamp_of_gives_the_millisecond_of_its_making() -> None:
    assert timestamp_of(Snowflakes(9, lambda: NOON).next()) == NOON


def test_ids_fit_63_bits_until_2094() -> None:
    assert Snowflakes(1023, lambda: datetime(2094, 1, 1, tzinfo=UTC)).next() < 2**63


def test_a_clock_before_the_epoch_still_gives_ids_above_zero() -> None:
    made = Snowflakes(0, lambda: datetime(1970, 1, 1, tzinfo=UTC))
    assert 0 < made.next() < made.next()


def test_more_than_4096_in_a_millisecond_borrow_the_next_one() -> None:
    made = Snowflakes(9, lambda: NOON)
    ids = [made.next() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert ids == sorted(ids)
    assert timestamp_of(ids[-1]) == NOON + timedelta(milliseconds=2)


@given(st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=300))
def test_ids_ascend_however_the_clock_steps(steps: list[int]) -> None:
    clock = iter(steps)
    made = Snowflakes(9, lambda: NOON + timedelta(milliseconds=next(clock)))
    ids = [made.next() for _ in steps]
    assert all(a < b for a, b in itertools.pairwise(ids))


@pytest.mark.parametrize("worker_of_floor", [0, 9, 1023])
def test_a_restart_with_a_clock_set_back_starts_above_the_floor(worker_of_floor: int) -> None:
    floor = Snowflakes(worker_of_floor, lambda: NOON).next()
    assert Snowflakes(9, lambda: NOON - timedelta(hours=1), floor).next() > floor
    assert Snowflakes(9, lambda: NOON, floor).next() > floor


@pytest.mark.parametrize("worker", [-1, 1024])
def test_a_worker_id_of_more_than_ten_bits_is_refused(worker: int) -> None:
    with pytest.raises(ValueError, match="0 to 1023"):
        Snowflakes(worker, lambda: NOON)


def test_worker_9_is_tried_first_and_every_worker_once() -> None:
    assert WORKERS[:2] == (9, 10)
    assert sorted(WORKERS) == list(range(1024))
