"""The recipients of the pipeline benchmark: one stream each, with the project's own client.

Reads orders from stdin and answers on stdout, one JSON a line:

    {"tokens": [..], "url": u}         connect; answers when all are authenticated
    {"phase": p, "rows": n}            answers when n rows of this phase were decrypted here

Revisions must come without a gap. A client that gets a `reset` counts the rows that it was not sent as
skipped."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime

import trio

from nx_signal.client.stream import Frame, open_stream
from nx_signal.delivery.topics import STATE
from nx_signal.model.wire import CREATED


@dataclass(slots=True)
class Phase:
    produced_ns: list[int] = field(default_factory=list)
    read_ns: list[int] = field(default_factory=list)
    row_at: list[str] = field(default_factory=list)
    skipped: int = 0
    reached: trio.Event = field(default_factory=trio.Event)
    rows: int = -1

    @property
    def complete(self) -> bool:
        return self.rows == len(self.read_ns) + self.skipped


class Listeners:
    def __init__(self) -> None:
        self._phase = Phase()
        self._name = ""

    async def listen(self, url: str, token: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_stream(url, token) as stream:
            task_status.started()
            rev = 0
            while True:
                frame = await stream.receive()
                read_ns = time.time_ns()
                if frame.event == CREATED:
                    if frame.data["rev"] != rev + 1:
                        raise ValueError(f"Revision {frame.data['rev']} came after {rev}.")
                    rev += 1
                    self._take(frame, read_ns)
                elif frame.event == STATE and frame.data["reset"]:
                    self._phase.skipped += frame.data["rev"] - rev
                    rev = frame.data["rev"]
                if self._phase.complete:
                    self._phase.reached.set()

    def _take(self, frame: Frame, read_ns: int) -> None:
        bench = frame.data["data"]["bench"]
        if bench["phase"] != self._name:
            raise ValueError(f"A row of the phase {bench['phase']} came in the phase {self._name}.")
        self._phase.produced_ns.append(int(bench["producedNs"]))  # beyond 2**53 it comes as a text
        self._phase.read_ns.append(read_ns)
        self._phase.row_at.append(frame.data["createdAt"])

    async def phase(self, name: str, rows: int) -> dict[str, object]:
        """The order is answered twice: now, and when all has come."""
        self._name, self._phase = name, Phase(rows=rows)
        answer({"watching": True})
        await self._phase.reached.wait()
        phase = self._phase
        row_ns = [int(datetime.fromisoformat(at).timestamp() * 1000) * 1_000_000 for at in phase.row_at]
        return {
            "rows": len(phase.read_ns),
            "skipped": phase.skipped,
            "took_s": (max(phase.read_ns) - min(phase.produced_ns)) / 1e9,
            "all": quantiles_ms(phase.produced_ns, phase.read_ns),
            "to_row": quantiles_ms(phase.produced_ns, row_ns),
            "from_row": quantiles_ms(row_ns, phase.read_ns),
        }


def quantiles_ms(from_ns: list[int], to_ns: list[int]) -> dict[str, float]:
    spans = [(end - start) / 1e6 for start, end in zip(from_ns, to_ns, strict=True)]
    cuts = statistics.quantiles(spans, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(spans)}


def answer(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


async def serve() -> None:
    listeners = Listeners()
    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            order = json.loads(line)
            if "tokens" in order:
                for token in order["tokens"]:
                    await nursery.start(listeners.listen, order["url"], token)
                answer({"connected": len(order["tokens"])})
            else:
                answer(await listeners.phase(order["phase"], order["rows"]))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve)
