"""A client that reads gets all of a burst, in order, on every instance and with a small receive buffer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import pytest
import trio
from aiokafka import AIOKafkaProducer

from faults.stage import Stage
from faults.test_floods import Received, payments_for, reduce_receive_buffer
from nx_signal.client.stream import Stream, open_stream

ARRIVES_WITHIN_S = 120.0
"""Also on a machine that is busy."""


async def produce_at_once(stage: Stage, messages: Sequence[bytes]) -> None:
    """To all partitions, so that both instances write to one inbox; without waiting for each."""

    async def produce() -> None:
        deployment = stage.deployment
        async with AIOKafkaProducer(
            bootstrap_servers=deployment.servers, enable_idempotence=False
        ) as producer:
            sent = [
                await producer.send(deployment.topic, message, key=b"k%d" % n)
                for n, message in enumerate(messages)
            ]
            await asyncio.gather(*sent)

    await trio.to_thread.run_sync(partial(asyncio.run, produce()))


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.full)])
@pytest.mark.timeout(300)
async def test_a_burst_of_notifications_reaches_clients_that_read_whole_and_in_order(
    stage: Stage, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    user = f"burst-{count}"
    clients = [Received() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for n, client in enumerate(clients):
            url = stage.instances[n % 2].stream_url
            stream = await nursery.start(connected, url, stage.token(user), n >= 2)
            nursery.start_soon(client.read, stream)
        began = time.monotonic()
        await produce_at_once(stage, payments_for(user, count))
        with trio.move_on_after(ARRIVES_WITHIN_S):
            for client in clients:
                while len(client.revs) < count and not client.rest:
                    await trio.sleep(0.05)
        took_s = time.monotonic() - began
        nursery.cancel_scope.cancel()
    with capsys.disabled():
        print(f"\n{count} notifications at once: {count / took_s:,.0f}/s to each of 4 clients", end=" ")
    for client in clients:
        assert client.rest == [], "a frame that is not of the log: a reset"
        assert client.revs == list(range(1, count + 1))


async def connected(url: str, token: str, small_buffer: bool, task_status: trio.TaskStatus[Stream]) -> None:
    async with open_stream(url, token) as stream:
        if small_buffer:
            reduce_receive_buffer(stream)
        task_status.started(stream)
        await trio.sleep_forever()
