"""All checks as parts, two at a time: lint, types, and each folder of tests in a pytest of its own, which
starts its own services. scripts/test calls this with the Python of .venv.

    checks.py                    without the tests marked `full`
    checks.py --full [PYTHON…]   with them, the audit of the dependencies, and the unit tests on each of these
                                 Pythons as well

Each part's output is printed whole when it ends, that of failed ones last. Exit status 1 when one failed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
UNIT_BUDGET_S = 60
"""The unit tests are run often: a longer run counts as a failure."""
LONGEST_FIRST = ("unit", "acceptance", "contract", "integration", "simulation", "faults")
"""Folders of tests; the others follow in the order of their names."""


@dataclass(frozen=True)
class Part:
    name: str
    commands: Sequence[Sequence[str]]
    budget_s: float | None = None


@dataclass(frozen=True)
class Result:
    part: Part
    status: int
    output: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.status != 0 or self.late

    @property
    def late(self) -> bool:
        return self.part.budget_s is not None and self.seconds >= self.part.budget_s

    def __str__(self) -> str:
        """`unit: exit 0 in 31 s, 1261 passed in 29.80s`"""
        last = (self.output.strip().splitlines() or [""])[-1].strip("= ")
        late = f", more than the {self.part.budget_s:g} s allowed" if self.late else ""
        return f"{self.part.name}: exit {self.status} in {self.seconds:.0f} s{late}, {last}"


def parts(full: bool, pythons: Sequence[str]) -> Iterator[Part]:
    run = [sys.executable, "-m"]
    yield Part("lint", [[*run, "ruff", "check", "."], [*run, "ruff", "format", "--check", "."]])
    chosen = [] if full else ["-m", "not full"]
    folders = {test.parent.name for test in ROOT.glob("tests/*/test_*.py")}
    rest = sorted(folders.difference(LONGEST_FIRST))
    for folder in (*LONGEST_FIRST, *rest):
        budget_s = UNIT_BUDGET_S if folder == "unit" else None
        yield Part(folder, [[*run, "pytest", f"tests/{folder}", *chosen]], budget_s)
        if folder == "acceptance":  # not beside the unit tests, whose budget is theirs alone
            yield Part("types", [[*run, "mypy"]])
    if full:
        yield Part("audit", [[sys.executable, "scripts/audit"]])
    for python in pythons:
        yield Part(f"unit with {python}", [[python, "-m", "pytest", "tests/unit"]])


def perform(part: Part) -> Result:
    """Its commands up to the first that fails."""
    started_s, output, status = time.monotonic(), "", 0
    for command in part.commands:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        output += done.stdout.decode(errors="replace")
        if status := done.returncode:
            break
    return Result(part, status, output, time.monotonic() - started_s)


def show(result: Result) -> None:
    print(f"--- {result.part.name}\n{result.output.rstrip()}\n", flush=True)


def main() -> int:
    full = sys.argv[1:2] == ["--full"]
    results = []
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for done in as_completed([pool.submit(perform, part) for part in parts(full, sys.argv[2:])]):
            results.append(done.result())
            if not results[-1].failed:
                show(results[-1])
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, which ends the running parts, too
    results.sort(key=lambda result: result.failed)
    for result in results:
        if result.failed:
            show(result)
    for result in results:
        print(result)
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    sys.exit(main())
