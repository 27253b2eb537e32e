"""A standby takes over under load, with clients on two instances: nothing is lost, doubled or out of order,
and no client is disconnected. Both instances name both hosts; commits are synchronous: none is to be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.load import Load, check_under_load, roster
from faults.stage import Stage, staged
from services import psql
from serving import PATIENCE_S
from standby import make_read_only, make_synchronous

PROMOTED_WITHIN_S = 40.0
"""A statement without an answer is given up after 12 s, a host after 5 s, and then there is a sweep."""

WORKERS = "SELECT count(DISTINCT objid) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1397311310"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path, with_standby=True) as stage:
        make_synchronous(stage.postgres)
        yield stage


def switched_over(stage: Stage, load: Load) -> None:
    """The old primary stays up, read-only, until the standby has all that it wrote."""
    assert stage.standby is not None
    make_read_only(stage.postgres)
    end = psql(stage.postgres.url, "SELECT pg_current_wal_lsn()")
    deadline = time.monotonic() + PATIENCE_S
    while psql(stage.standby.url, f"SELECT pg_last_wal_replay_lsn() >= '{end}'") != "t":
        assert time.monotonic() < deadline, "the standby does not follow"
    stage.standby.promote()


def killed(stage: Stage, load: Load) -> None:
    assert stage.standby is not None
    stage.postgres.kill()
    stage.standby.promote()


def frozen_and_back(stage: Stage, load: Load) -> None:
    """The old primary answers again beside the new one, and would take writes."""
    assert stage.standby is not None
    stage.postgres.pause()
    stage.standby.promote()
    time.sleep(PROMOTED_WITHIN_S / 2)  # the instances move meanwhile
    stage.postgres.resume()


@pytest.mark.full
@pytest.mark.parametrize("fault", [switched_over, killed, frozen_and_back])
async def test_a_standby_that_takes_over_under_load_costs_no_client_anything(
    stage: Stage, fault: Callable[[Stage, Load], None], capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"standby-{fault.__name__}".replace("_", "-")
    stage.deployment.run("members", "load", "-", input=roster([name]))
    line = await check_under_load(stage, name, fault, PROMOTED_WITHIN_S)
    with capsys.disabled():
        print(f"\n{line}", end=" ")
    assert stage.standby is not None
    assert psql(stage.standby.url, WORKERS) == "2", "an instance has no worker id at the new primary"
