"""The CPU time that the processes of a benchmark use, and that others use meanwhile (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1


def family(pids: Collection[int]) -> set[int]:
    """These processes and their descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = list(pids)
    for each in found:
        found.extend(children.get(each, ()))
    return set(found)


def cpu_s(pids: Collection[int]) -> float:
    """User and system time of these processes and their descendants, as far as they live."""
    return sum(int(fields[11]) + int(fields[12]) for pid in family(pids) if (fields := _stat(pid))) / TICKS


class Others:
    """How many cores everything but `pids` and their descendants takes, from now on."""

    def __init__(self, pids: Collection[int]) -> None:
        self._pids = pids
        self._before = self._now()

    def cores(self) -> float:
        took_s, others_s = (after - before for after, before in zip(self._now(), self._before, strict=True))
        return max(others_s / took_s, 0.0)

    def _now(self) -> tuple[float, float]:
        """(time, seconds of CPU of the others)"""
        total = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq = map(int, total[:7])
        return time.monotonic(), (user + nice + system + irq + softirq) / TICKS - cpu_s(self._pids)


def _stat(pid: int) -> list[str] | None:
    """The fields after the name: state, parent, …; 11 and 12 are user and system ticks."""
    try:
        return Path("/proc", str(pid), "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
