"""Three instances and a hundred clients of every transport, hours of simulated time, whatever may go wrong:
what a client is owed holds under every seed. `scripts/simulate --seed N --verbose` shows one run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import simulate as cli
import structlog
from sim_plan import RESTORING_FROM, plan_of
from sim_world import simulate

from nx_signal.activities import replay
from nx_signal.activities.pipeline import Pipeline
from nx_signal.adapters.sqlite import memory
from nx_signal.adapters.sqlite.driver import SqliteTx
from nx_signal.delivery.cursor import Cursor, Decision, Step
from nx_signal.delivery.hub import Hub
from nx_signal.delivery.polling import Polled, Polling, _Waiting
from nx_signal.delivery.recovery import Recovery
from nx_signal.delivery.session import Session
from nx_signal.delivery.topics import ACTIVITY, activity_data
from nx_signal.delivery.transport import FrameKind, PushResult
from nx_signal.model import (
    Activity,
    ChangesSince,
    InboxPage,
    InboxSummary,
    Position,
    Principal,
    Record,
    RelayMessage,
    Rule,
    Unknown,
)
from nx_signal.sse.connection import EventConnection
from nx_signal.sse.encoding import Place
from nx_signal.sse.server import EventServer
from nx_signal.store.dead_letters import DeadLetters
from nx_signal.store.inbox import InboxStore
from nx_signal.store.sql import DialectName, steps
from nx_signal.store.sql import Step as SchemaStep

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
QUICK_SEEDS = 20
CHUNK = 60
KEPT_SEEDS = (1, 3, 7, 8, 9, 10, 12, 20, 22)
"""Each failed once: a resume that overtook the answer to an earlier question to the store."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(cli.__file__)), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("first", "count"),
    [
        (0, QUICK_SEEDS),
        (RESTORING_FROM, QUICK_SEEDS),
        *(
            pytest.param(first, min(CHUNK, SEEDS - first), marks=pytest.mark.full)
            for first in range(QUICK_SEEDS, SEEDS, CHUNK)
        ),
        pytest.param(RESTORING_FROM + QUICK_SEEDS, QUICK_SEEDS, marks=pytest.mark.full),
    ],
)
def test_every_client_hears_everything_once_and_in_order(first: int, count: int) -> None:
    result = run("--first", str(first), "--seeds", str(count))
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


def deliver_all(self: Session, step: Step) -> None:
    if self.live and not self.cursor.backpressured:
        if self.transport.push(step.payload, FrameKind.LOG) is PushResult.TAKEN:
            self.cursor.pushed(step)
        else:
            self.cursor.push_refused()


async def written_anew(self: SqliteTx, query: str, all_: Any = SqliteTx.all, **arguments: Any) -> Any:
    if query != "existing_activities":
        return await all_(self, query, **arguments)
    self._connection.execute("DROP INDEX IF EXISTS activity_notification_activity")
    return ()


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


async def acked_first(self: Pipeline, batches: Any, work: Any = Pipeline._process_batches) -> None:
    await work(self, Hasty(batches))


async def pushed_to_m1(self: Hub, activity: Activity, rule: Rule) -> None:
    await self.send(RelayMessage("members", "signal/merchant/m1", ACTIVITY, activity_data(activity)))


async def pushed_twice(self: Hub, activity: Activity, rule: Rule, push: Any = Hub.push_to_members) -> None:
    await push(self, activity, rule)
    await push(self, activity, rule)


def without(skipped: str, run: Any = SqliteTx.run) -> Callable[..., Any]:
    async def run_others(self: SqliteTx, query: str, **arguments: Any) -> Any:
        return 0 if query == skipped else await run(self, query, **arguments)

    return run_others


async def page_then_head(self: InboxStore, user: str, *asked: Any, page: Any = InboxStore.page) -> InboxPage:
    found: InboxPage = await page(self, user, *asked)
    return replace(found, head=(await self.summaries([user]))[user])


def misplaced(position: Position, key: str | None, value: bytes, headers: Any) -> Record:
    return Record(replace(position, topic="letters"), key, value)


async def not_removed(self: DeadLetters, id: int) -> bool:
    return True


def replays_unknown(self: Cursor, since: ChangesSince, is_incomplete: Any = Cursor._is_incomplete) -> bool:
    known = tuple(change for change in since.changes if not isinstance(change, Unknown))
    return bool(is_incomplete(self, ChangesSince(since.head, known)))


def limited_always(
    self: Cursor, since: ChangesSince, limit: int, *asked: Any, read: Any = Cursor.changes_read
) -> Any:
    self._returning = True
    return read(self, since, limit, *asked)


def without_counts_before(dialect: DialectName) -> list[SchemaStep]:
    return [
        replace(step, sql=step.sql.replace("n.unread_after,", "n.unread_after, 0,"))
        for step in steps(dialect)
    ]


def by_revision_alone(self: Cursor, backlog: ChangesSince) -> bool:
    return self._read_from is not None and backlog.head.rev < self._read_from


def ahead_alone(
    self: Cursor, head: InboxSummary, asked_at: int, observe: Any = Cursor.observe_head
) -> Iterator[Decision]:
    if head.rev > self.rev:
        yield from observe(self, head, asked_at)


async def opened_anew(
    self: EventServer,
    principal: Principal,
    address: str,
    place: Place | None,
    rooms: Sequence[str],
    work: Any = EventServer.open,
) -> EventConnection:
    connection: EventConnection = await work(self, principal, address, None, rooms)
    return connection


async def one_skipped(self: Polling, *asked: Any, read: Any = Polling._read) -> Polled:
    polled: Polled = await read(self, *asked)
    return polled._replace(changes=polled.changes[:-2] + polled.changes[-1:])


async def placed_at_the_head(self: Polling, *asked: Any, read: Any = Polling._read) -> Polled:
    polled: Polled = await read(self, *asked)
    return polled._replace(rev=polled.head.rev, history=polled.head.history)


def taken(*pushed: Any) -> PushResult:
    return PushResult.TAKEN


BROKEN_WHERE_IT_GOES_BACK: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "a history is not compared": (Cursor, "lost", by_revision_alone, "another history|reset was due"),
    "a lower head is ignored": (Cursor, "observe_head", ahead_alone, "holds"),
}
BROKEN: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "no gap is read": (Recovery, "request_read", nothing, "never received|holds"),
    "what is not next is pushed": (Session, "offer_change", deliver_all, "revision .* came after"),
    "an activity is written again": (SqliteTx, "all", written_anew, "a second row"),
    "a batch is acked before it is written": (Pipeline, "_process_batches", acked_first, "is committed"),
    "nothing is compared with the store": (Recovery, "compare_soon", nothing, "holds"),
    "an activity is pushed to another room": (
        Hub,
        "push_to_members",
        pushed_to_m1,
        "was pushed, which was for",
    ),
    "an activity is pushed twice": (Hub, "push_to_members", pushed_twice, "was pushed twice"),
    "a removal by age forgets the log": (SqliteTx, "run", without("truncate_log"), "audit|reset"),
    "a read-all forgets all but a portion": (SqliteTx, "run", without("add_unapplied"), "page of|unread"),
    "a page is of two snapshots": (InboxStore, "page", page_then_head, "a page of"),
    "a replayed record gets another identity": (replay, "Record", misplaced, "no recipient|is not stored"),
    "a replayed letter stays": (DeadLetters, "remove", not_removed, "dead letters"),
    "a change that is not known is replayed": (Cursor, "_is_incomplete", replays_unknown, "has no frame"),
    "a client that stays and is far behind is reset": (Cursor, "changes_read", limited_always, "reset from"),
    "Last-Event-ID is ignored": (EventServer, "open", opened_anew, "a state of"),
    "a poll skips a change": (Polling, "_read", one_skipped, "came after"),
    "the head is the place of each answer": (Polling, "_read", placed_at_the_head, "a state of|changes came"),
    "a poll that waits is not woken": (_Waiting, "push", taken, "holds"),
    "a row of the previous release has no counts": (
        memory,
        "steps",
        without_counts_before,
        "counts|not the store's",
    ),
}


@pytest.mark.parametrize(
    ("what", "first"),
    [*((what, 0) for what in BROKEN), *((what, RESTORING_FROM) for what in BROKEN_WHERE_IT_GOES_BACK)],
)
def test_what_is_broken_is_found_within_a_few_seeds(what: str, first: int, silent: None) -> None:
    owner, name, broken, found = (BROKEN | BROKEN_WHERE_IT_GOES_BACK)[what]
    memory.migrated.cache_clear()
    with patch.object(owner, name, broken):
        violations = (simulate(plan_of(seed)).violation for seed in range(first, first + 20))
        violation = next((violation for violation in violations if violation), "none")
    memory.migrated.cache_clear()
    assert re.search(found, violation)


def test_a_failing_schedule_is_shrunk_to_the_actions_that_matter(silent: None) -> None:
    plan = plan_of(2)
    with patch.object(SqliteTx, "all", written_anew):
        outcome = simulate(plan)
        assert outcome.violation
        kept, shrunk = cli.shrink(plan, outcome, within_s=60)
    assert shrunk.violation and len(kept) <= 4
    assert {plan.actions[i].name for i in kept} <= {"publish", "crash", "flaky"}
    assert f"--seed {plan.seed} --only" in cli.explain(plan, kept, shrunk)
