"""What the machine does to the process itself: its clock, its descriptors, its memory."""

from __future__ import annotations

import resource
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from abuse.alone import alone
from debian import NoDebian, debian
from faults.stage import Stage
from faults.test_floods import Received, payments_for
from nx_signal.client.stream import open_stream
from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now
from serving import PATIENCE_S, Instance

pytestmark = pytest.mark.full

HOUR = timedelta(hours=1)
DESCRIPTORS = 256
LEFT_BYTES = 4 * 1024 * 1024
"""Of address space, above what the instance has when the flood begins."""


@dataclass
class Clock:
    """The wall clock of one instance; what counts durations goes on."""

    preload: Path
    file: Path

    @property
    def before(self) -> list[str]:
        return [
            "env",
            f"LD_PRELOAD={self.preload}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]

    def step(self, by: timedelta) -> None:
        """To this distance from the machine's."""
        self.file.write_text(f"{by.total_seconds():+.0f}")


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    try:
        (preload,) = debian("faketime").root.glob("usr/lib/*/faketime/libfaketimeMT.so.1")
    except NoDebian as why:
        pytest.skip(str(why))
    clock = Clock(preload, tmp_path / "clock")
    clock.step(timedelta())
    return clock


async def test_a_wall_clock_that_is_stepped_both_ways_changes_no_order_and_ends_no_session(
    tmp_path: Path, clock: Clock
) -> None:
    data_dir = tmp_path / "data"
    with alone(data_dir, before=clock.before) as instance:
        issuer = open_issuer(data_dir)

        def token(user: str, by: timedelta, *permissions: str) -> str:
            return issuer.sign(user, 600, permissions, (), now() + by)

        async def publish(by: timedelta) -> None:
            await trio.to_thread.run_sync(post, instance, token("orders", by, "Activity.publish"), 5)

        received, count = Received(), 0
        async with (
            open_stream(instance.stream_url, token("ann", timedelta())) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(received.read, stream)
            for by in (timedelta(), HOUR, -HOUR, timedelta()):
                clock.step(by)
                await publish(by)
                count += 5
                await received.until_rev(count)
                async with open_stream(instance.stream_url, token("ann", by), resume=0) as other:
                    again = Received()
                    with trio.fail_after(PATIENCE_S):
                        await again.read(other, count + 1)  # the last is the state
                    assert again.revs == list(range(1, count + 1))
            nursery.cancel_scope.cancel()
        assert received.revs == list(range(1, count + 1)) and received.rest == []
        rows = notifications(instance, token("ann", timedelta()))
        assert [row["rev"] for row in rows] == list(range(count, 0, -1)), "the newest change comes first"
        ids = [int(row["id"]) for row in rows]
        assert ids == sorted(set(ids), reverse=True), "no id repeats or goes back"


def post(instance: Instance, token: str, count: int) -> None:
    answer = httpx.post(
        f"{instance.url}/v1/api/signal/activities",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        content=b"[" + b",".join(payments_for("ann", count)) + b"]",
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 202, answer.text


def notifications(instance: Instance, token: str) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{instance.url}/v1/api/signal/notifications?limit=100",
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
    )
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_with_256_descriptors_clients_take_none_that_the_service_needs(stage: Stage) -> None:
    environment = stage.deployment.environment | {"APP_ENV_MAX_CONNECTIONS_PER_ADDRESS": "1000"}
    limited = Instance(environment, before=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"])
    with ExitStack() as stack:
        limited.start()
        assert limited.process
        stack.callback(limited.process.wait)
        stack.callback(limited.process.kill)
        await trio.to_thread.run_sync(limited.wait_ready)
        received = Received()
        async with (
            open_stream(limited.stream_url, stage.token("few")) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(received.read, stream)
            for _ in range(DESCRIPTORS):
                tcp = stack.enter_context(socket.socket())
                tcp.connect(("127.0.0.1", limited.port))
            # All that the service itself connects to has to be connected again.
            await trio.to_thread.run_sync(stage.to_redis.cut)
            await trio.to_thread.run_sync(stage.to_postgres.cut)
            await stage.deployment.produce(payments_for("few", 20))
            await received.until_rev(20)
            nursery.cancel_scope.cancel()
        assert received.revs == list(range(1, 21)) and received.rest == []
        assert limited.signal(signal.SIGTERM) == 0


async def test_a_flood_under_a_memory_limit_loses_nothing_that_was_accepted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path) as instance:
        token = open_issuer(tmp_path).sign("orders", 600, ("Activity.publish",), (), now())
        assert instance.process
        limit_memory(instance.process.pid)
        accepted = 0

        async def flood() -> None:
            nonlocal accepted
            for _ in range(4):
                with suppress(httpx.HTTPError, AssertionError):
                    await trio.to_thread.run_sync(post, instance, token, 500)
                    accepted += 500

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(flood)
        died = instance.process.poll() is not None
        if died:
            assert "out of memory" in capfd.readouterr().err
        instance.process.kill()
        instance.process.wait()
        instance.start()
        await trio.to_thread.run_sync(instance.wait_ready)
        received = Received()
        reader = open_issuer(tmp_path).sign("ann", 600, (), (), now())
        async with open_stream(instance.stream_url, reader) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(received.read, stream)
            with trio.fail_after(PATIENCE_S):
                while total_of(instance, reader) < accepted:
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        with capfd.disabled():
            print(
                f"\n{accepted} of 8000 activities were accepted; it {'died' if died else 'stayed'}", end=" "
            )


def limit_memory(pid: int) -> None:
    pages = int(Path("/proc", str(pid), "statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LEFT_BYTES
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


def total_of(instance: Instance, token: str) -> int:
    answer = httpx.get(
        f"{instance.url}/v1/api/signal/notifications/count",
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_S,
    )
    return int(answer.json()["count"])
