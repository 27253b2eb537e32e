"""From Kafka to the clients: how many rows a second a real server writes and pushes, and how soon.

Starts PostgreSQL, Valkey and a broker of the Kafka protocol from wheels (or takes those that
TEST_POSTGRES_URL, TEST_REDIS_URL and TEST_KAFKA_SERVERS name), one `nx-signal serve` on them, a producer
and the recipients' clients, each a process. Every activity goes to the members of one merchant.

  steady    a fixed rate; latency is from the produce call to the decrypted frame in the client
  flat out  as fast as the producer can; rows/s until all rows exist, and until all are with the clients"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import machine

from nx_signal.identity.issuer import open_issuer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))
from services import (  # noqa: E402 - the tests' services, from the folder above
    ApacheKafka,
    Postgres,
    Redis,
    Service,
    Tansu,
    children_of,
    create_topic,
    free_port,
    fresh_database,
)

READY_S = 30.0
PHASE_S = 120.0
STOP_S = 30.0


# --- processes -------------------------------------------------------------------------------------


class Helper:
    """A process that takes orders, one JSON a line, and answers the same way."""

    def __init__(self, script: str, *arguments: str) -> None:
        self._script = script
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(self, **order: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self._script} ended; its last output is above.")
        decoded: dict[str, Any] = json.loads(line)
        return decoded

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def nx_signal(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "nx_signal", *arguments], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def serving(settings: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One `nx-signal serve`, once it is ready."""
    flags = [word for key, value in settings.items() for word in (f"--{key}", value)]
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "nx_signal", "serve", *flags], stderr=file)
    try:
        deadline = time.monotonic() + READY_S
        while not is_ready(settings["port"]):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"nx-signal serve did not get ready:\n{log.read_text()}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def is_ready(port: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def batches(port: int) -> tuple[float, float]:
    """(how many, seconds in them) so far, by the server's own metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("signal_batch_seconds_"))
    return float(values["signal_batch_seconds_count"]), float(values["signal_batch_seconds_sum"])


class Store:
    """Queries over one connection: a process per query would take its share of the CPU."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self._runner = stack.enter_context(asyncio.Runner())
        self._connection = self._runner.run(asyncpg.connect(url))
        stack.callback(lambda: self._runner.run(self._connection.close()))

    def value(self, query: str) -> int:
        return int(self._runner.run(self._connection.fetchval(query)))


# --- the run ---------------------------------------------------------------------------------------


@dataclass
class Bench:
    options: argparse.Namespace
    store: Store
    port: int
    producer: Helper
    listeners: Helper
    processes: Mapping[str, Collection[int]]
    """name → process ids, of those whose CPU is reported"""
    rows: int = 0

    def phase(self, name: str, rate: float | None, count: int) -> dict[str, Any]:
        """Produce and wait until every row is with its client."""
        expected = count * self.options.recipients
        self.listeners.order(phase=name, rows=expected)
        self.listeners.answer()
        before = {process: machine.cpu_s(pids) for process, pids in self.processes.items()}
        batches_before = batches(self.port)
        others = machine.Others([os.getpid()])
        began_s = time.perf_counter()
        self.producer.order(phase=name, rate=rate, count=count)
        self.rows += expected
        stored_s = self._until_stored(began_s) if rate is None else None
        read = self.listeners.answer()
        took_s = time.perf_counter() - began_s
        after = {process: machine.cpu_s(pids) for process, pids in self.processes.items()}
        number, seconds = (b - a for a, b in zip(batches_before, batches(self.port), strict=True))
        return {
            **read,
            "phase": name,
            "activities": count,
            "produced": self.producer.answer(),
            "stored_s": stored_s,
            "others": others.cores(),
            "signal_us": (after["signal"] - before["signal"]) / expected * 1e6,
            "cores": {process: (after[process] - before[process]) / took_s for process in after},
            "activities_per_batch": count / number,
            "batch_ms": seconds / number * 1000,
        }

    def _until_stored(self, began_s: float) -> float:
        """The heads are written with the rows, and there are few of them."""
        while time.perf_counter() - began_s < PHASE_S:
            if self.store.value("SELECT coalesce(sum(total), 0) FROM recipient_head") >= self.rows:
                return time.perf_counter() - began_s
            time.sleep(0.02)
        sys.exit(f"After {PHASE_S:g} s rows are still missing.")


def roster(merchants: int, recipients: int) -> dict[str, Any]:
    """One organizer; every other member reads English, the others what the organizer reads."""
    names = [f"m{number}" for number in range(merchants)]
    return {
        "organizers": [{"id": "o1", "locale": "vi", "merchants": names}],
        "members": [
            {
                "userId": f"{name}-u{number}",
                "organizerId": "o1",
                "merchantId": name,
                "role": "staff",
                "locale": "en" if number % 2 else None,
            }
            for name in names
            for number in range(recipients)
        ],
        "grants": [],
    }


def start(stack: ExitStack, variable: str, service: type[Service]) -> tuple[str, Collection[int]]:
    """(the address of a service that runs already, or that is started for this run; its processes)"""
    if address := os.environ.get(variable):
        return address, ()
    before = children_of(os.getpid())
    running = stack.enter_context(service())
    address = getattr(running, "servers" if variable == "TEST_KAFKA_SERVERS" else "url")
    return address, set(children_of(os.getpid())).difference(before)


def run(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        started = {
            "postgres": start(stack, "TEST_POSTGRES_URL", Postgres),
            "redis": start(stack, "TEST_REDIS_URL", Redis),
            "kafka": start(stack, "TEST_KAFKA_SERVERS", ApacheKafka if options.apache else Tansu),
        }
        database, servers = fresh_database(started["postgres"][0]), started["kafka"][0]
        topic = create_topic(servers, options.partitions)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="signal-bench-")))
        members = roster(options.merchants, options.recipients)
        (directory / "roster.json").write_text(json.dumps(members))
        nx_signal("migrate", "--database-url", database)
        nx_signal("members", "load", str(directory / "roster.json"), "--database-url", database)
        port = free_port()
        settings = {
            "port": str(port),
            "data-dir": str(directory),
            "database-url": database,
            "redis-url": started["redis"][0],
            "kafka-bootstrap-servers": servers,
            "kafka-topic": topic,
            "kafka-fallback-mode": "earliest",
            "rate-factor": "0",  # all clients come from one address
        }
        server = stack.enter_context(serving(settings, options.log or directory / "log"))
        issuer = open_issuer(directory)
        users = [member["userId"] for member in members["members"]]
        tokens = [issuer.sign(user, 3600, (), (), datetime.now(UTC)) for user in users]
        listeners = Helper("listeners.py")
        stack.callback(listeners.close)
        target = ("--servers", servers, "--topic", topic, "--merchants", str(options.merchants))
        producer = Helper("producer.py", *target)
        stack.callback(producer.close)
        listeners.order(tokens=tokens, url=f"ws://127.0.0.1:{port}/stream")
        listeners.answer()
        producer.answer()
        processes = {
            "signal": [server.pid],
            "clients": [listeners.process.pid],
            "producer": [producer.process.pid],
            **{name: pids for name, (_, pids) in started.items() if pids},
        }
        store = Store(stack, database)
        bench = Bench(options, store, port, producer, listeners, processes)
        bench.phase("warm-up", options.rate, int(options.rate))
        results = [bench.phase("steady", options.rate, int(options.rate * options.seconds))]
        if options.flood:
            results.append(bench.phase("flat out", None, options.flood))
        rows = store.value("SELECT count(*) FROM activity_notification")
        assert rows == bench.rows, f"{rows} rows instead of {bench.rows}"
        report(options, results)


def report(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    print(
        f"{options.recipients} recipients an activity, {options.merchants * options.recipients} clients, "
        f"{options.partitions} partitions, {'Apache Kafka' if options.apache else 'Tansu'}, "
        f"{machine.CORES} cores\n"
    )
    print(f"{'':34}" + "".join(f"{r['phase']:>12}" for r in results))

    def line(name: str, values: list[str]) -> None:
        print(f"{name:34}" + "".join(f"{value:>12}" for value in values))

    line("activities", [f"{r['activities']:,}" for r in results])
    line("activities/s produced", [f"{r['activities'] / r['produced']['took_s']:,.0f}" for r in results])
    line("activities/s end to end", [f"{r['activities'] / r['took_s']:,.0f}" for r in results])
    expected = [r["activities"] * options.recipients for r in results]
    stored = [n / r["stored_s"] if r["stored_s"] else None for n, r in zip(expected, results, strict=True)]
    line("rows/s until all exist", [f"{each:,.0f}" if each else "-" for each in stored])
    line(
        "rows/s until with the clients",
        [f"{n / r['took_s']:,.0f}" for n, r in zip(expected, results, strict=True)],
    )
    line("rows refetched after a reset", [f"{r['skipped']:,}" for r in results])
    for title, key in (
        ("produce to client", "all"),
        ("  produce to row", "to_row"),
        ("  row to client", "from_row"),
    ):
        for quantile in ("p50", "p99", "max"):
            line(f"{title}, {quantile}, ms", [f"{r[key][quantile]:,.1f}" for r in results])
    line("producer late, at most, ms", [f"{r['produced']['late_ms']:.1f}" for r in results])
    line("activities/batch", [f"{r['activities_per_batch']:.1f}" for r in results])
    line("a batch in the pipeline, ms", [f"{r['batch_ms']:.1f}" for r in results])
    line("signal: CPU µs/row", [f"{r['signal_us']:.0f}" for r in results])
    for process in results[0]["cores"]:
        line(f"cores: {process}", [f"{r['cores'][process]:.2f}" for r in results])
    line("cores: other programs", [f"{r['others']:.2f}" for r in results])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=500, help="activities a second in the steady phase")
    parser.add_argument("--seconds", type=float, default=10, help="of the steady phase")
    parser.add_argument("--flood", type=int, default=20_000, help="activities flat out; 0 leaves it out")
    parser.add_argument("--recipients", type=int, default=3, help="of each activity")
    parser.add_argument("--merchants", type=int, default=10)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--apache", action="store_true", help="Apache Kafka instead of Tansu")
    parser.add_argument("--log", type=Path, help="keep the server's log there")
    run(parser.parse_args())
