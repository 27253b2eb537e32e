"""Kafka as a source of activities (CONTRACT §3): one member of the consumer group.

While the pipeline's channel is full the source waits: aiokafka sends heartbeats in the background and holds
at most one fetched portion per partition, so the member stays and memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import structlog
import trio

from nx_signal.adapters.asyncio_bridge import (
    AsyncioBridge,
    DriverCancelled,
    close_within,
    open_asyncio_bridge,
)
from nx_signal.adapters.kafka.driver import STOP_TIMEOUT_S, KafkaConsumer
from nx_signal.adapters.kafka.security import PLAINTEXT, KafkaSecurity
from nx_signal.adapters.offsets import AutoResetEvent, BytesInHand
from nx_signal.errors import SourceUnavailable, StoreUnavailable
from nx_signal.ports import Batch, Gap, ReportGap, SourcePosition, SourcePositions

log = structlog.get_logger()

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FETCH_WAIT_MS = 50
"""How long the broker holds a fetch on a quiet topic. It also delays other requests to that broker."""
FETCH_BYTES = 16_777_216
PARTITION_FETCH_BYTES = 1_048_576
"""A larger message is still delivered, alone in its fetch."""
MAX_POLL_RECORDS = 500
METADATA_AGE_MS = 10_000
"""New partitions are found after at most this time."""

REQUEST_TIMEOUT_S = 5.0
"""Beside the session's timeout, which joining a group may take."""
COMMIT_TIMEOUT_S = 10.0
FINAL_COMMIT_TIMEOUT_S = 2.0
STOP_GRACE_S = 1.0
"""With FINAL_COMMIT_TIMEOUT_S, LAST_KEEP_TIMEOUT_S and STOP_TIMEOUT_S this bounds a stop, inside the budget
of a drain."""
PROBE_INTERVAL_S = 5.0
KEEP_INTERVAL_S = 10.0
"""How often the store's own memory of the positions follows the commits."""
LAST_KEEP_TIMEOUT_S = 0.5
"""Of that memory at a stop: a hint is not worth the budget of a drain."""
MAX_BYTES_IN_HAND = 33_554_432
"""Of records that are not acked yet; beyond that the source waits. One poll may exceed it."""

UNLIMITED_MS = 2**31 - 1
"""max_poll_interval_ms: a source that waits for the pipeline stays in the group."""


class KafkaSource:
    """A Source on one topic. `servers`: host:port pairs separated by commas; `start_at`: `latest` or
    `earliest`, where a group that never read begins; `positions` is the durable memory of what it read.
    `on_gap`, which may be set before `run`, is called when reading does not go on where it stopped."""

    def __init__(
        self,
        servers: str,
        topic: str,
        group_id: str,
        client_id: str,
        start_at: str,
        session_timeout_ms: int,
        positions: SourcePositions,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._servers = servers
        self._security = security
        self._topic = topic
        self.group_id = group_id
        self._start_at = start_at
        self._positions = positions
        self._topic_was_missing = False
        self.on_gap: ReportGap = _ignore
        self._options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in servers.split(",")],
            "client_id": client_id,
            "group_id": group_id,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "fetch_max_bytes": FETCH_BYTES,
            "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
            "max_poll_records": MAX_POLL_RECORDS,
            "metadata_max_age_ms": METADATA_AGE_MS,
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": max(1, session_timeout_ms // 3),
            "max_poll_interval_ms": UNLIMITED_MS,
            "request_timeout_ms": session_timeout_ms + int(REQUEST_TIMEOUT_S * 1000),
        }

    @property
    def name(self) -> str:
        return "kafka"

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        """See ports.Source. A missing topic is created by brokers that do so automatically; otherwise it is
        waited for, and then read from its beginning. So is a partition that is added later."""
        options = {**self._options, **self._security.options()}
        acked = AutoResetEvent()
        consumer = KafkaConsumer(self._servers, self._topic, self._start_at, options, acked.set)
        async with open_asyncio_bridge() as bridge:
            member = _Member(bridge, consumer, self._servers, acked, self._memory(), self.on_gap)
            try:
                partitions = await member.call(consumer.aio_join)
                if self._topic_was_missing:
                    partitions = frozenset()  # all were added since
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(member.probe)
                    nursery.start_soon(member.commit)
                    await member.find_starts(partitions)
                    task_status.started()
                    await member.poll(batches)
            finally:
                self._topic_was_missing |= consumer.topic_missing
                await member.leave()

    def _memory(self) -> _Memory:
        return _Memory(self._positions, self.group_id, self._topic)


def _ignore(gap: Gap) -> None:
    pass


class _Memory:
    """The positions of one group and topic, as the store has them."""

    def __init__(self, positions: SourcePositions, group_id: str, topic: str) -> None:
        self._positions = positions
        self._group_id = group_id
        self._topic = topic
        self._partitions: frozenset[int] = frozenset()
        self._mine: dict[int, SourcePosition] = {}
        self._kept_at = -KEEP_INTERVAL_S
        self._available = True

    async def load(self, partitions: frozenset[int] | None) -> Mapping[int, SourcePosition]:
        """`partitions`: those that there are, at the first call."""
        self._partitions = partitions or self._partitions
        return await self._positions.load(self._group_id, self._topic, self._partitions)

    async def keep(self, positions: Mapping[int, SourcePosition]) -> None:
        self._mine.update(positions)
        await self._positions.save(self._group_id, self._topic, positions)

    async def follow(self, committed: Mapping[int, int]) -> None:
        """A hint: it may fail, and is behind by KEEP_INTERVAL_S. `committed` are partitions of this member:
        the positions of others are theirs to keep."""
        if trio.current_time() - self._kept_at >= KEEP_INTERVAL_S:
            self._kept_at = trio.current_time()
            await self._save(committed)

    async def follow_to_the_end(self, committed: Mapping[int, int]) -> None:
        """At a stop, for at most LAST_KEEP_TIMEOUT_S; not at all where the store did not take the last."""
        if self._available:
            with trio.move_on_after(LAST_KEEP_TIMEOUT_S, shield=True):
                await self._save(committed)

    async def _save(self, committed: Mapping[int, int]) -> None:
        positions = {
            partition: replace(self._mine[partition], next_offset=offset)
            for partition, offset in committed.items()
            if partition in self._mine
        }
        if positions:
            self._available = False
            try:
                await self._positions.save(self._group_id, self._topic, positions)
                self._available = True
            except StoreUnavailable as error:
                log.debug("kafka_positions_not_kept", error=str(error))


class _Member:
    """The tasks of one membership in the group, on Trio's side."""

    def __init__(
        self,
        bridge: AsyncioBridge,
        consumer: KafkaConsumer,
        servers: str,
        acked: AutoResetEvent,
        memory: _Memory,
        on_gap: ReportGap,
    ) -> None:
        self._bridge = bridge
        self._consumer = consumer
        self._servers = servers
        self._acked = acked
        self._memory = memory
        self._on_gap = on_gap
        self._in_hand = BytesInHand(MAX_BYTES_IN_HAND)

    async def call(self, fn: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        try:
            return await self._bridge.call(fn, *args)
        except DriverCancelled as error:
            raise SourceUnavailable(f"Kafka at {self._servers} cannot be reached: {error}") from None

    async def find_starts(self, partitions: frozenset[int] | None = None) -> None:
        kept = await self._memory.load(partitions)
        try:
            found = await self.call(self._consumer.aio_find_starts, kept)
        finally:
            self._report_gaps()
        await self._memory.keep(found)

    async def poll(self, batches: trio.MemorySendChannel[Batch]) -> None:
        while True:
            try:
                polled = await self.call(self._consumer.aio_poll)
            finally:
                self._report_gaps()
            if polled is None:
                await self.find_starts()
                continue
            for batch in polled:
                await batches.send(self._in_hand.add(batch))
            del polled
            await self._in_hand.wait_for_room()

    def _report_gaps(self) -> None:
        while self._consumer.gaps:
            self._on_gap(self._consumer.gaps.pop(0))

    async def commit(self) -> None:
        """One at a time, each with all that is acked by then."""
        while True:
            await self._acked.wait()
            await self.call(self._consumer.aio_commit, COMMIT_TIMEOUT_S)
            await self._memory.follow(self._consumer.committed)

    async def probe(self) -> None:
        """aiokafka retries silently for ever when a broker is down: only a request of our own shows it."""
        while True:
            await trio.sleep(PROBE_INTERVAL_S)
            await self.call(self._consumer.aio_probe)
            self._report_gaps()

    async def leave(self) -> None:
        final_commit = partial(self._consumer.aio_commit, FINAL_COMMIT_TIMEOUT_S)
        await close_within(FINAL_COMMIT_TIMEOUT_S, self._bridge, final_commit)
        await self._memory.follow_to_the_end(self._consumer.committed)
        await close_within(STOP_TIMEOUT_S + STOP_GRACE_S, self._bridge, self._consumer.aio_stop)
