"""The inbox over REST, with a million rows and with ten thousand, on PostgreSQL and on SQLite.

For each it fills an empty store (inbox_rows.py: a thousand users, one with a tenth of all rows), starts one
`nx-signal serve` on it, and sends requests at a fixed rate, whether answers have come or not: latency is from
the moment a request was due to its whole answer. PostgreSQL comes from a wheel, or from TEST_POSTGRES_URL. At
the end `nx-signal audit` must find no difference."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import inbox_rows
import machine
from inbox_rows import BIG, TYPES, USERS
from pipeline_bench import nx_signal, serving, start

from nx_signal.identity.issuer import open_issuer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from services import Postgres, free_port, fresh_database  # noqa: E402 - the tests' services, from above

BIG_SHARE = 0.1
"""Of the requests: as of the rows."""
PAGE = 20
DEEP_PAGE = 500
WARM_UP_S = 2.0
REQUEST_S = 30.0
READ_BYTES = 1_048_576

Request: TypeAlias = tuple[str, str, str]
"""(method, user, path below the API's base)"""


class Client:
    """Keep-alive connections of one process to one server, as many as are needed at once."""

    def __init__(self, port: int, tokens: dict[str, str]) -> None:
        self._port = port
        self._tokens = tokens
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, request: Request, body: str = "") -> Any:
        """The decoded answer; anything but a 200 is an error."""
        method, user, path = request
        async with asyncio.timeout(REQUEST_S), self._connection() as (reader, writer):
            writer.write(
                f"{method} /v1/api/signal{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {self._tokens[user]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if line)
            answer = await reader.readexactly(int(fields["content-length"]))
            if " 200 " not in lines[0] + " ":
                raise RuntimeError(f"{method} {path}: {lines[0]} {answer[:300]!r}")
            return json.loads(answer)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        while self._idle and self._idle[-1][0].at_eof():  # the server keeps them only for a while
            self._idle.pop()[1].close()
        connection = (
            self._idle.pop()
            if self._idle
            else await asyncio.open_connection("127.0.0.1", self._port, limit=READ_BYTES)
        )
        try:
            yield connection
        except BaseException:
            connection[1].close()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


@dataclass(frozen=True)
class Latency:
    p50_ms: float
    p99_ms: float
    per_s: float

    @classmethod
    def of(cls, took_s: list[float], elapsed_s: float) -> Latency:
        ordered = sorted(took_s)
        return cls(
            ordered[len(ordered) // 2] * 1000,
            ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000,
            len(ordered) / elapsed_s,
        )


async def at_rate(
    call: Callable[[Request], Any], next_request: Callable[[], Request], rate: float, seconds: float
) -> Latency:
    took_s: list[float] = []

    async def one(due: float, request: Request) -> None:
        await call(request)
        took_s.append(time.perf_counter() - due)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for n in range(int(rate * seconds)):
            due = began + n / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.create_task(one(due, next_request()))
    return Latency.of(took_s, time.perf_counter() - began)


class Load:
    """The requests to a server whose store has this many rows."""

    def __init__(self, rows: int, seed: int = 7) -> None:
        self.rows = rows
        self._random = random.Random(seed)
        self.users = inbox_rows.users()
        self._totals = dict.fromkeys(self.users, 0)
        self._unread: list[tuple[str, str]] = []
        owned = [(n, *inbox_rows.owner(n)) for n in range(rows)]
        for _, who, rev in owned:
            self._totals[who] = rev
        for n, who, rev in owned:
            # not the big user's: those are read all at once, later
            if who != BIG and rev > self._totals[who] // 2:
                self._unread.append((who, inbox_rows.id_of(n)))
        self._random.shuffle(self._unread)

    @property
    def unread_of_big(self) -> int:
        return self._totals[BIG] - self._totals[BIG] // 2

    def _anyone(self) -> str:
        return BIG if self._random.random() < BIG_SHARE else self._random.choice(self.users[1:])

    def first_page(self) -> Request:
        return "GET", self._anyone(), f"/notifications?limit={PAGE}"

    def deep_page(self) -> Request:
        """The big user's, by the cursor that the page before it would have given."""
        before = max(self._totals[BIG] - (DEEP_PAGE - 1) * PAGE, PAGE + 1)
        cursor = base64.urlsafe_b64encode(b"1.%d" % before).rstrip(b"=").decode()
        return "GET", BIG, f"/notifications?limit={PAGE}&cursor={cursor}"

    def count(self) -> Request:
        return "GET", self._anyone(), "/notifications/count?isRead=false"

    def by_subject(self) -> Request:
        who = self._anyone()
        return (
            "GET",
            who,
            f"/notifications?subject=order/{self._random.randrange(self._totals[who] // 4 + 1)}",
        )

    def by_type(self) -> Request:
        return "GET", self._anyone(), f"/notifications?isRead=false&type={self._random.choice(TYPES)}"

    def mark_read(self) -> Request:
        who, id = self._unread.pop()
        return "PATCH", who, f"/notifications/{id}/mark-read"


async def measure(
    port: int, tokens: dict[str, str], load: Load, rate: float, seconds: float
) -> dict[str, Any]:
    client = Client(port, tokens)
    results: dict[str, Any] = {}
    kinds = {
        "list, first page": load.first_page,
        f"list, page {DEEP_PAGE} by cursor": load.deep_page,
        "count unread": load.count,
        "list by subject": load.by_subject,
        "list unread of a type": load.by_type,
        "mark read": load.mark_read,
    }
    try:
        await at_rate(client.call, load.first_page, rate, WARM_UP_S)
        for name, make in kinds.items():
            results[name] = await at_rate(client.call, make, rate, seconds)
        # One read-all, while others go on.
        async with asyncio.TaskGroup() as tasks:
            others = tasks.create_task(at_rate(client.call, load.mark_read, rate, seconds))
            await asyncio.sleep(seconds / 4)
            began = time.perf_counter()
            answer = await client.call(("PATCH", BIG, "/notifications/mark-all-read"), "{}")
            results["read all, ms"] = (time.perf_counter() - began) * 1000
            assert (answer["updated"], answer["unread"]) == (load.unread_of_big, 0), answer
        results["mark read beside it"] = others.result()
    finally:
        client.close()
        await asyncio.sleep(0.1)
    return results


def bench(store: str, rows: int, rate: float, seconds: float) -> dict[str, Any]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signal-bench-")))
        settings = {"data-dir": str(directory)}
        pids, of_postgres = [os.getpid()], list[int]()
        if store == "PostgreSQL":
            server_url, started = start(stack, "TEST_POSTGRES_URL", Postgres)
            of_postgres = sorted(started)
            pids += of_postgres
            settings["database-url"] = fresh_database(server_url)
        where = [word for key, value in settings.items() for word in (f"--{key}", value)]
        nx_signal("migrate", *where)
        began = time.perf_counter()
        if "database-url" in settings:
            inbox_rows.fill_postgres(settings["database-url"], rows)
        else:
            inbox_rows.fill_sqlite(directory / "signal.db", rows)
        filled_s = time.perf_counter() - began
        load = Load(rows)
        gc.collect()
        gc.freeze()  # else our own collector walks the load in the middle of a measurement
        issuer = open_issuer(directory)
        tokens = {user: issuer.sign(user, 3600, (), (), datetime.now(UTC)) for user in load.users}
        port = free_port()
        flags = settings | {"port": str(port), "rate-factor": "0"}
        with serving(flags, directory / "log") as server:
            pids.append(server.pid)
            others, began = machine.Others(pids), time.perf_counter()
            before = [machine.cpu_s(of) for of in ([server.pid], of_postgres)]
            results = asyncio.run(measure(port, tokens, load, rate, seconds))
            took_s = time.perf_counter() - began
            after = [machine.cpu_s(of) for of in ([server.pid], of_postgres)]
            results["cores: server"], results["cores: PostgreSQL"] = (
                (later - earlier) / took_s for earlier, later in zip(before, after, strict=True)
            )
            results["cores: other programs"] = others.cores()
        results["filled in, s"] = filled_s
        nx_signal("audit", *where)
    return results


def report(all_results: dict[tuple[str, int], dict[str, Any]], rate: float) -> None:
    first = next(iter(all_results.values()))
    print(f"{USERS:,} users, {rate:g} requests/s, {machine.CORES} cores; p50 / p99 in ms\n")
    width = 17
    print(f"{'':28}" + "".join(f"{store:>{width}}" for store, _ in all_results))
    print(f"{'rows':28}" + "".join(f"{rows:>{width},}" for _, rows in all_results))
    for name, value in first.items():
        if isinstance(value, Latency):
            cells = [f"{r[name].p50_ms:.1f} / {r[name].p99_ms:.1f}" for r in all_results.values()]
        else:
            digits = 2 if name.startswith("cores") else 0
            cells = [f"{r[name]:,.{digits}f}" for r in all_results.values()]
        print(f"{name:28}" + "".join(f"{cell:>{width}}" for cell in cells))
    slowest = min(v.per_s for r in all_results.values() for v in r.values() if isinstance(v, Latency))
    print(f"{'requests/s, at least':28}{slowest:>{width}.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="inbox", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument(
        "--stores", nargs="+", choices=["PostgreSQL", "SQLite"], default=["PostgreSQL", "SQLite"]
    )
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10, help="of each kind of request")
    options = parser.parse_args()
    if min(options.rows) < 5 * USERS:
        parser.error(f"at least {5 * USERS:,} rows")
    results = {}
    for store in options.stores:
        for rows in options.rows:
            with contextlib.redirect_stdout(sys.stderr):
                results[store, rows] = bench(store, rows, options.rate, options.seconds)
    report(results, options.rate)
