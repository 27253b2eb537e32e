"""Three instances and a hundred clients, hours of simulated time, whatever may go wrong: what a client is
owed holds under every seed. `scripts/simulate --seed N --verbose` shows one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import simulate as cli
import structlog
from sim_plan import plan_of
from sim_world import simulate

from nx_signal.activities.pipeline import Pipeline
from nx_signal.adapters.memory.store import MemoryInbox
from nx_signal.stream.hub import Hub
from nx_signal.stream.session import Session

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
CHUNK = 50
KEPT_SEEDS = (1, 3, 7, 8, 9, 10, 12, 20, 22)
"""Each failed once: a resume that overtook the answer to an earlier question to the store."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(cli.__file__)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_client_hears_everything_once_and_in_order(first: int) -> None:
    result = run("--first", str(first), "--seeds", str(min(CHUNK, SEEDS - first)))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.timeout(600)
def test_seeds_that_once_found_a_fault_find_none() -> None:
    result = run("--these", ",".join(map(str, KEPT_SEEDS)))
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_seed_gives_the_same_history_every_time_and_another_seed_another() -> None:
    first, again, other = (run("--seed", seed).stdout for seed in ("5", "5", "6"))
    assert "history" in first
    assert first == again != other


@pytest.fixture
def silent() -> Any:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    yield
    structlog.configure(**before)


def nothing(*args: Any) -> None:
    pass


def deliver_all(self: Session, rev: int, payload: bytes) -> None:
    if self.live and not self.lagging:
        self._push_change(rev, payload)


class Forgetful(set[Any]):
    """The activities written so far: it knows of none."""

    def __contains__(self, key: object) -> bool:
        return False


def written_anew(self: MemoryInbox, database: Any, init: Any = MemoryInbox.__init__) -> None:
    init(self, database)
    self.written = Forgetful()


class Hasty:
    """A channel that acks each batch as it gives it out."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __aiter__(self) -> Hasty:
        return self

    async def __anext__(self) -> Any:
        batch = await self.batches.__anext__()
        batch.ack()
        return batch

    def receive_nowait(self) -> Any:
        batch = self.batches.receive_nowait()
        batch.ack()
        return batch


async def acked_first(self: Pipeline, batches: Any, work: Any = Pipeline._work) -> None:
    await work(self, Hasty(batches))


BROKEN: dict[str, tuple[type, str, Callable[..., Any], str]] = {
    "nobody is healed": (Hub, "heal_soon", nothing, "was never told|holds"),
    "what is not next is pushed": (Session, "offer_change", deliver_all, "revision .* came after"),
    "an activity is written again": (MemoryInbox, "__init__", written_anew, "a second row"),
    "a batch is acked before it is written": (Pipeline, "_work", acked_first, "is committed"),
    "nothing is compared with the store": (Hub, "_check_soon", nothing, "holds"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found_within_a_few_seeds(what: str, silent: None) -> None:
    owner, name, broken, found = BROKEN[what]
    with patch.object(owner, name, broken):
        violations = (simulate(plan_of(seed)).violation for seed in range(20))
        first = next(violation for violation in violations if violation)
    assert re.search(found, first)


def test_a_failing_schedule_is_shrunk_to_the_actions_that_matter(silent: None) -> None:
    plan = plan_of(2)
    with patch.object(MemoryInbox, "__init__", written_anew):
        outcome = simulate(plan)
        assert outcome.violation
        kept, shrunk = cli.shrink(plan, outcome, within_s=60)
    assert shrunk.violation and len(kept) <= 4
    assert {plan.actions[i].name for i in kept} <= {"publish", "crash", "flaky"}
    assert f"--seed {plan.seed} --only" in cli.explain(plan, kept, shrunk)
