"""When an instance is ready: while it can serve, and no longer once it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nx_signal.client.rest import open_rest
from nx_signal.client.stream import open_stream
from nx_signal.model.wire import CREATED
from serving import COMMAND, PATIENCE_S, Instance, activity

Serve = Callable[..., Instance]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Instance] = []

    def start(**settings: str) -> Instance:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
        instance = Instance(environment | {"APP_ENV_DATA_DIR": str(tmp_path)} | settings)
        started.append(instance)
        instance.start()
        instance.wait_ready()
        return instance

    yield start
    for instance in started:
        if instance.process and instance.process.poll() is None:
            instance.process.kill()
            instance.process.wait()


async def test_with_redis_away_an_instance_is_ready_and_serves(serve: Serve, own_redis: Any) -> None:
    instance = serve(APP_ENV_REDIS_URL=own_redis.url)
    options = ["--data-dir", instance.environment["APP_ENV_DATA_DIR"]]
    reader, writer = (
        subprocess.check_output([*COMMAND, "token", *options, *more], text=True).strip()
        for more in (["--user", "ann"], ["--user", "w", "--permission", "Activity.publish"])
    )
    own_redis.stop()
    try:
        with trio.fail_after(PATIENCE_S):
            while not (answer := await get(f"{instance.url}/readyz")).json()["degraded"]:
                await trio.sleep(0.05)
        assert answer.status_code == 200 and list(answer.json()["degraded"]) == ["relay"]
        assert 'signal_degraded{part="relay"} 1.0' in (await get(f"{instance.url}/metrics")).text
        async with (
            open_stream(instance.stream_url, reader) as stream,
            open_rest(instance.url, writer) as rest,
        ):
            message, _ = activity(4)
            await rest.publish([message])
            with trio.fail_after(PATIENCE_S):
                while (await stream.receive()).event != CREATED:
                    pass
        assert (await get(f"{instance.url}/readyz")).status_code == 200
    finally:
        own_redis.start()
    with trio.fail_after(PATIENCE_S):
        while (await get(f"{instance.url}/readyz")).json()["degraded"]:
            await trio.sleep(0.05)


async def get(url: str) -> httpx.Response:
    return await trio.to_thread.run_sync(httpx.get, url)


def test_after_sigterm_an_instance_is_unready_at_once_and_serves_until_balancers_noticed(
    serve: Serve,
) -> None:
    instance = serve(APP_ENV_LAME_DUCK_S="2")
    process = instance.process
    assert process is not None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    while (answer := httpx.get(f"{instance.url}/readyz")).status_code == 200:
        assert time.monotonic() < began + 1
    assert (answer.status_code, answer.json()["down"]) == (503, {"service": "draining"})
    served = 0
    try:
        while time.monotonic() < began + 30:  # each request is a new connection
            assert httpx.get(f"{instance.url}/healthz").status_code == 200
            served += 1
            time.sleep(0.01)
    except httpx.TransportError:
        closed_after_s = time.monotonic() - began
    assert 1.9 <= closed_after_s < 10 and served > 10
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)]
)
def test_a_second_signal_ends_the_delay(serve: Serve, first: signal.Signals, second: signal.Signals) -> None:
    instance = serve(APP_ENV_LAME_DUCK_S="100", APP_ENV_DRAIN_S="200")
    assert instance.process is not None
    instance.process.send_signal(first)
    while httpx.get(f"{instance.url}/readyz").status_code == 200:
        time.sleep(0.01)
    assert instance.signal(second) == 0


def test_ctrl_c_does_not_wait(serve: Serve) -> None:
    instance = serve(APP_ENV_LAME_DUCK_S="100", APP_ENV_DRAIN_S="200")
    assert instance.signal(signal.SIGINT) == 0


def test_the_delay_is_a_part_of_the_whole_stop(serve: Serve) -> None:
    instance = serve(APP_ENV_LAME_DUCK_S="100", APP_ENV_DRAIN_S="2")
    began = time.monotonic()
    assert instance.signal(signal.SIGTERM) == 0
    assert time.monotonic() - began < 2.5
