"""Run simulations, one per seed; shrink and print what fails. See scripts/simulate."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import structlog
from sim_plan import Action, Plan, owner, plan_of
from sim_world import Outcome, simulate

SHRINK_S = 90.0
"""Of real time, for making a failing schedule shorter."""


@dataclass(frozen=True)
class Report:
    seed: int
    violation: str | None
    frames: int
    steps: int
    digest: str
    took_s: float


def run_seed(seed: int) -> Report:
    began = time.perf_counter()
    outcome = simulate(plan_of(seed))
    return Report(
        seed, outcome.violation, outcome.frames, outcome.steps, outcome.digest, time.perf_counter() - began
    )


def shrink(plan: Plan, outcome: Outcome, within_s: float) -> tuple[list[int], Outcome]:
    """Fewer actions that still violate something (Zeller's ddmin): their indexes in `plan`, and the run."""
    until = time.monotonic() + within_s
    kept = [i for i, action in enumerate(plan.actions) if action.at_s <= outcome.at_s]
    for needless in _guesses(plan, outcome):
        fewer = [i for i in kept if not needless(plan.actions[i])]
        if (
            len(fewer) < len(kept)
            and time.monotonic() < until
            and (tried := simulate(plan.only(fewer))).violation
        ):
            kept, outcome = fewer, tried
    parts = 2
    while len(kept) > 1 and time.monotonic() < until:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            tried = simulate(plan.only(fewer))
            if tried.violation:
                kept, outcome = fewer, tried
                parts = max(parts - 1, 2)
                break
            if time.monotonic() > until:
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(kept))
    return kept, simulate(plan.only(kept))


def _guesses(plan: Plan, outcome: Outcome) -> Iterator[Callable[[Action], bool]]:
    """What is often beside the point, in large pieces: the other users' devices, one kind of action."""
    if named := re.search(r" of (u\d+)", outcome.violation or ""):
        yield lambda action: "device" in action.args and owner(action.args["device"]) != named[1]
    for name in sorted({action.name for action in plan.actions}):
        yield partial(_is_called, name)


def _is_called(name: str, action: Action) -> bool:
    return action.name == name


def explain(plan: Plan, kept: Sequence[int], outcome: Outcome) -> str:
    lines = [str(plan), f"at {outcome.at_s:.3f} s: {outcome.violation}", "", "The schedule, reduced:"]
    lines += [f"  [{i}] {plan.actions[i]}" for i in kept]
    lines += ["", f"scripts/simulate --seed {plan.seed} --only {spelled(kept)} --verbose"]
    return "\n".join(lines)


def spelled(indexes: Sequence[int]) -> str:
    """1,2,3,7 → 1-3,7"""
    spans: list[list[int]] = []
    for i in indexes:
        if spans and spans[-1][1] == i - 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def indexes(text: str) -> Iterator[int]:
    for span in text.split(","):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


def one(arguments: argparse.Namespace) -> bool:
    plan = plan_of(arguments.seed)
    if arguments.only:
        plan = plan.only(indexes(arguments.only))
    outcome = simulate(plan)
    if arguments.verbose:
        print(*outcome.history, sep="\n")
    print(plan)
    if outcome.violation:
        print(f"at {outcome.at_s:.3f} s: {outcome.violation}")
    print(f"{len(plan.actions)} actions, {outcome.frames} frames, history {outcome.digest}")
    return outcome.violation is None


def many(arguments: argparse.Namespace) -> bool:
    began = time.monotonic()
    seeds = arguments.these or range(arguments.first, arguments.first + arguments.seeds)
    jobs = min(arguments.jobs, len(seeds))
    with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as pool:
        reports = list(pool.map(run_seed, seeds) if pool else map(run_seed, seeds))
    failed = [report for report in reports if report.violation]
    for report in failed:
        print(f"seed {report.seed}: {report.violation}")
    slowest = max(reports, key=lambda report: report.took_s)
    print(
        f"{len(reports)} seeds in {time.monotonic() - began:.0f} s, {len(failed)} failed; "
        f"{sum(r.frames for r in reports)} frames, {sum(r.steps for r in reports)} steps; "
        f"slowest: seed {slowest.seed}, {slowest.took_s:.1f} s"
    )
    if failed and arguments.shrink_s > 0:
        plan = plan_of(failed[0].seed)
        print(explain(plan, *shrink(plan, simulate(plan), arguments.shrink_s)))
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--these", type=lambda text: list(indexes(text)), help="seeds such as 3,17,40-44")
    parser.add_argument("--seed", type=int, help="this one alone, not shrunk")
    parser.add_argument("--only", help="with --seed: these actions of its schedule, such as 3,17,40-44")
    parser.add_argument("--verbose", action="store_true", help="with --seed: the whole history and all logs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--shrink-s", type=float, default=SHRINK_S, help="0: failures are not shrunk")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings have an order too, and it must be the same next time.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606 - this very program
    if not arguments.verbose:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    sys.exit(not (one(arguments) if arguments.seed is not None else many(arguments)))


if __name__ == "__main__":
    main()
