"""What a bystander notices of connections that never authenticate and flood `/stream`: the time that its
pings on the stream take, quiet and from the moment when all are connected, in alternating rounds within one
run. `nothing` is the same connections without a flood."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import machine
from clients_bench import Server

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))
from abuse.bystander import Bystander  # noqa: E402 - the tests' own, from above

FLOODER = TESTS / "abuse" / "flooder.py"
KINDS = ("nothing", "pings", "pongs", "fragments", "texts", "large", "single bytes", "pings after a close")
ROUNDS, ROUND_S = 2, 10.0


@contextmanager
def flooded(port: int, connections: int, kind: str, again: bool) -> Iterator[None]:
    command = [sys.executable, str(FLOODER), str(port), str(connections), kind, str(ROUND_S)]
    with subprocess.Popen([*command, *["--again"] * again], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"flooding\n"
        yield
        out, _ = process.communicate()
    print("    ", json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--again", action="store_true", help="connect again when closed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), rate_factor="1")
        server.start()
        try:
            bystander = Bystander(server.port, server.token("bystander"))
            others = machine.Others([server.process.pid])
            for kind in options.kinds:
                for count in options.connections:
                    quiet: list[float] = []
                    during: list[float] = []
                    for _ in range(ROUNDS):
                        quiet += bystander.measure(ROUND_S - 1)
                        with flooded(server.port, count, kind, options.again):
                            during += bystander.measure(ROUND_S - 1)
                    print(f"{count:3} {kind}: {shown(quiet)} quiet, {shown(during)} meanwhile")
            print(f"others took {others.cores():.1f} cores")
        finally:
            server.kill()


def shown(times_s: list[float]) -> str:
    return f"p50 {statistics.median(times_s) * 1000:.1f} ms, p99 {p99(times_s) * 1000:.1f} ms"


def p99(times_s: list[float]) -> float:
    return sorted(times_s)[int(len(times_s) * 0.99)]


if __name__ == "__main__":
    main()
