"""Kafka as a source of activities (CONTRACT §3): one member of the consumer group.

While the pipeline has no room the source just waits: aiokafka beats its heart in the background and
holds at most one fetched portion per partition, so the member stays and memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
import trio
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from nx_signal.adapters._acks import Acks, Bell
from nx_signal.adapters._aio import Border, DriverCancelled, close_within, open_border
from nx_signal.adapters.kafka_security import PLAINTEXT, KafkaSecurity, aio_refusal, refusal
from nx_signal.errors import SettingsError, SourceUnavailable
from nx_signal.model import Position, Record
from nx_signal.ports import Batch

log = structlog.get_logger()

T = TypeVar("T")

FETCH_WAIT_MS = 50
"""How long the broker holds a fetch on a quiet topic. It also delays what else goes to that broker."""
FETCH_BYTES = 16_777_216
PARTITION_FETCH_BYTES = 1_048_576
"""A larger message is still delivered, by itself."""
MAX_POLL_RECORDS = 500
POLL_WAIT_MS = 1_000
METADATA_AGE_MS = 10_000
"""New partitions are found after at most this time."""

ANSWER_S = 5.0
"""What a request may take; joining a group may take a session more."""
SETTLE_TIMEOUT_S = 15.0
REBALANCE_PAUSE_S = 0.05
COMMIT_TIMEOUT_S = 10.0
REVOKE_COMMIT_S = 2.0
LAST_COMMIT_S = 2.0
STOP_S = 2.0
ABANDON_S = 1.0
"""These three bound the way out, inside the budget of a drain."""
PROBE_EVERY_S = 5.0
PROBE_TIMEOUT_S = 10.0
"""A broker that went away is retried silently by aiokafka for ever: after this long it is reported."""

NEVER_MS = 2**31 - 1
"""max_poll_interval_ms: a source that waits for the pipeline is no reason to leave the group."""

DRIVER_ERRORS = (KafkaError, OSError, TimeoutError, DriverCancelled, KeyError)
"""KeyError: aiokafka looks up a connection again that a time-out has just removed."""


class KafkaSource:
    """A Source on one topic. `servers`: host:port pairs separated by commas; `start_at`: `latest` or
    `earliest`, where a group that never committed begins."""

    def __init__(
        self,
        servers: str,
        topic: str,
        group_id: str,
        client_id: str,
        start_at: str,
        session_timeout_ms: int,
        security: KafkaSecurity = PLAINTEXT,
    ) -> None:
        self._servers = servers
        self._security = security
        self._topic = topic
        self._group_id = group_id
        self._first_known: set[int] = set()
        """the partitions that there were when this source first joined its group"""
        self._options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in servers.split(",")],
            "client_id": client_id,
            "group_id": group_id,
            "auto_offset_reset": start_at,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "fetch_max_bytes": FETCH_BYTES,
            "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
            "max_poll_records": MAX_POLL_RECORDS,
            "metadata_max_age_ms": METADATA_AGE_MS,
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": max(1, session_timeout_ms // 3),
            "max_poll_interval_ms": NEVER_MS,
            "request_timeout_ms": session_timeout_ms + int(ANSWER_S * 1000),
        }

    @property
    def name(self) -> str:
        return "kafka"

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        """As the port says. A missing topic is created by brokers that do so by themselves; else it is
        waited for. A partition that is added later is read from its beginning."""
        options = {**self._options, **self._security.options()}
        async with open_border() as border:
            member = _Member(border, self._topic, options, self._explain, self._first_known)
            try:
                await member.call(member.aio_join)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(member.probe)
                    nursery.start_soon(member.commit)
                    await member.call(member.aio_settle)
                    task_status.started()
                    await member.poll(batches)
            finally:
                await member.leave()

    def _explain(self, error: Exception) -> Exception:
        if refused := refusal(error, self._servers):
            return refused
        kafka = f"Kafka at {self._servers}"
        match error:
            case InvalidSessionTimeoutError():
                return SettingsError(
                    f"{kafka} does not allow a session of {self._options['session_timeout_ms']} ms: "
                    "set APP_ENV_KAFKA_SESSION_TIMEOUT_MS between the broker's group.min.session.timeout.ms "
                    "and group.max.session.timeout.ms."
                )
            case GroupAuthorizationFailedError() | InvalidGroupIdError():
                return SettingsError(
                    f"{kafka} refuses the group {self._group_id}: allow it, or set APP_ENV_KAFKA_GROUP_ID."
                )
            case TopicAuthorizationFailedError() | InvalidTopicError():
                return SettingsError(
                    f"{kafka} refuses the topic {self._topic}: allow reading it, or set APP_ENV_KAFKA_TOPIC."
                )
            case UnknownTopicOrPartitionError():
                return SourceUnavailable(
                    f"{kafka} has no topic {self._topic} and does not create it by itself: create it."
                )
            case InconsistentGroupProtocolError():
                return SourceUnavailable(
                    f"{kafka}: the group {self._group_id} has members that divide partitions in another "
                    "way; stop those, or set APP_ENV_KAFKA_GROUP_ID."
                )
            case TimeoutError():
                return SourceUnavailable(f"{kafka} gave no answer in time.")
            case _:
                return SourceUnavailable(f"{kafka} cannot be reached: {error or type(error).__name__}")


class _Member(ConsumerRebalanceListener):  # type: ignore[misc]
    """One life of the consumer. What runs on asyncio's side is called aio_…; it runs in this thread too,
    so that both sides may share plain attributes."""

    def __init__(
        self,
        border: Border,
        topic: str,
        options: Mapping[str, Any],
        explain: Callable[[Exception], Exception],
        first_known: set[int],
    ) -> None:
        self._border = border
        self._topic = topic
        self._options = options
        self._explain = explain
        self._first_known = first_known
        self._consumer: Any = None
        self._acked = Bell()
        self._acks = Acks(self._acked.ring)
        self._settled = False

    async def call(self, fn: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await self._border.call(fn)
        except DRIVER_ERRORS as error:
            raise self._explain(error) from None

    async def poll(self, batches: trio.MemorySendChannel[Batch]) -> None:
        while True:
            for batch in await self.call(self.aio_poll):
                await batches.send(batch)

    async def commit(self) -> None:
        """One at a time, each with all that was acked until then."""
        while True:
            await self._acked.rung()
            await self.call(partial(self.aio_commit, COMMIT_TIMEOUT_S))

    async def probe(self) -> None:
        """aiokafka tries silently for ever to reach a broker that went away: ask, and say so."""
        while True:
            await trio.sleep(PROBE_EVERY_S)
            await self.call(self.aio_probe)

    async def leave(self) -> None:
        if self._consumer is not None:
            await close_within(LAST_COMMIT_S, self._border, partial(self.aio_commit, LAST_COMMIT_S))
            await close_within(STOP_S + ABANDON_S, self._border, self.aio_stop)

    # --- over the border ---

    async def aio_join(self) -> None:
        """Connect, find the topic, join the group; it may have no partition for us."""
        request_timeout_s = self._options["request_timeout_ms"] / 1000
        async with asyncio.timeout(2 * request_timeout_s):
            self._consumer = AIOKafkaConsumer(**self._options)
            self._consumer.subscribe([self._topic], listener=self)
            try:
                await self._consumer.start()
            except KafkaConnectionError as error:
                raise (await aio_refusal(self._options) or error) from None
        if not self._first_known:
            self._first_known |= self._consumer.partitions_for_topic(self._topic) or set()

    async def aio_settle(self) -> None:
        """Know where each partition starts, so that nothing sent from now on is missed; and commit it
        where nothing was ever committed, so that a crash before the first ack does not lose it."""
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while not self._settled:
                self._settled = True
                try:
                    await self._aio_start_positions()
                except (CommitFailedError, IllegalStateError):  # partitions moved meanwhile
                    self._settled = False
                    await asyncio.sleep(REBALANCE_PAUSE_S)

    async def _aio_start_positions(self) -> None:
        latest = self._options["auto_offset_reset"] == "latest"
        starts = {}
        for partition in self._consumer.assignment():
            fresh = latest and await self._consumer.committed(partition) is None
            if fresh and partition.partition not in self._first_known:
                # Added since, and what was sent to it before we found it is no old news. A seek to an
                # offset, as seek_to_beginning() takes the answer of a reset to latest for its own.
                beginning = await self._consumer.beginning_offsets([partition])
                self._consumer.seek(partition, beginning[partition])
            start = await self._consumer.position(partition)
            if fresh:
                starts[partition] = start
        if starts:
            await self._consumer.commit(starts)

    async def aio_poll(self) -> Sequence[Batch]:
        await self.aio_settle()
        fetched = await self._consumer.getmany(timeout_ms=POLL_WAIT_MS)
        return [
            Batch(
                tuple(_record(each) for each in messages),
                self._acks.track((partition.topic, partition.partition), messages[-1].offset + 1),
            )
            for partition, messages in fetched.items()
        ]

    async def aio_commit(self, timeout_s: float) -> None:
        acks = self._acks
        due = acks.due()
        if not due:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._consumer.commit({TopicPartition(*at): offset for at, offset in due.items()})
        except (CommitFailedError, IllegalStateError) as error:
            # Taken away meanwhile. Whoever has them now repeats what was not committed: harmless.
            log.debug("kafka_commit_too_late", error=str(error))
        else:
            acks.settle(due)

    async def aio_probe(self) -> None:
        """One small request to the group's coordinator, which is who keeps us a member."""
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await self._consumer.committed(TopicPartition(self._topic, 0))

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka while it still beats its heart for us."""
        try:
            await self.aio_commit(REVOKE_COMMIT_S)
        except DRIVER_ERRORS as error:
            log.debug("kafka_commit_too_late", error=str(error))
        self._acks.close()
        self._acks = Acks(self._acked.ring)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._settled = False
        log.info("kafka_assigned", partitions=sorted(each.partition for each in assigned))

    async def aio_stop(self) -> None:
        """Leave the group and close. With the broker gone, stop() hangs or breaks off half-way: what it
        leaves, tasks and connections, ends with the border."""
        async with asyncio.timeout(STOP_S):
            await self._consumer.stop()


def _record(message: Any) -> Record:
    headers: dict[str, bytes] = {}
    for name, value in message.headers:
        headers.setdefault(name, value or b"")
    key = None if message.key is None else message.key.decode(errors="replace")
    position = Position(message.topic, message.partition, message.offset)
    return Record(position, key, message.value or b"", headers)
