"""aiokafka's consumer, on asyncio's side of the bridge.

Each `aio_…` method is one unit of work with a deadline. It raises Fatal where waiting cannot help, and
SourceUnavailable otherwise."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from nx_signal.adapters.kafka.codecs import AllowanceSpent, BatchTooLarge, begin_poll, bound_decompression
from nx_signal.adapters.kafka.diagnosis import aio_diagnosis
from nx_signal.adapters.kafka.errors import DRIVER_ERRORS, UNREADABLE, consumer_error
from nx_signal.adapters.kafka.positions import standing, start_of, unreadable
from nx_signal.adapters.kafka.protocol import TopicRequest, topic_of
from nx_signal.adapters.kafka.records import record_of
from nx_signal.adapters.kafka.unreadable import first_unreadable
from nx_signal.adapters.offsets import OffsetTracker
from nx_signal.errors import SourceUnavailable
from nx_signal.ports import Batch, Gap, SourcePosition

log = structlog.get_logger()

POLL_WAIT_MS = 1_000
START_POSITIONS_TIMEOUT_S = 15.0
REBALANCE_PAUSE_S = 0.05
REVOKE_COMMIT_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 10.0

UNREADABLE_TRIES = 3
UNREADABLE_PAUSE_S = 0.5
SINGLE_WAIT_MS = 200
READ_SINGLY: tuple[type[Exception], ...] = (*UNREADABLE, AllowanceSpent)
"""What a poll of all partitions raises where only one by one they can be read."""
MAX_SINGLE_RECORDS = 500
"""Of a partition, read one by one in one poll."""
LARGEST_BATCH = 16_777_216

STANDING_S = 5.0
"""Without an answer to a fetch; the broker holds one for 50 ms."""
MENDED_BY_DRIVER = (1, 3, 6, 29)
"""Error codes of a fetch after which aiokafka looks up the leader or raises; any other it only logs."""

LATEST = -1
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
"""Of Kafka's protocol."""


class KafkaConsumer(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of a consumer group. `options` are aiokafka's, without `auto_offset_reset`: `fallback` is
    `latest` or `earliest`, where a new group starts. `on_ack` is called when there is more to commit."""

    def __init__(
        self, servers: str, topic: str, fallback: str, options: Mapping[str, Any], on_ack: Callable[[], None]
    ) -> None:
        self._servers = servers
        self._topic = topic
        self._fallback = fallback
        self._options = options
        self._on_ack = on_ack
        self._offsets = OffsetTracker(on_ack)
        self._singly = False
        """whether the next poll reads record by record"""
        self.gaps: list[Gap] = []
        """to be reported"""
        self.committed: dict[int, int] = {}
        """by partition of this assignment, the offset that was committed last"""
        self._consumer: Any = None
        self._topic_id: str | None = None
        self.topic_missing = False
        """whether the topic was not there"""
        self._assigned = 0
        """how often partitions were assigned"""
        self._placed: dict[TopicPartition, int] = {}
        """of the partitions of this assignment whose start is known, the offset before which all records were
        handed over; those that waited longest first"""
        self._refused: dict[TopicPartition, int] = {}
        """offsets that the broker does not have"""

    async def aio_join(self) -> frozenset[int]:
        """Connect, find the topic, join the group; possibly without any partition assigned. The partitions
        of the topic."""
        request_timeout_s = self._options["request_timeout_ms"] / 1000
        bound_decompression()
        with self._translated():
            async with asyncio.timeout(2 * request_timeout_s):
                self._consumer = AIOKafkaConsumer(**self._options, auto_offset_reset="none")
                self._consumer.subscribe([self._topic], listener=self)
                try:
                    await self._consumer.start()
                except KafkaConnectionError as error:
                    raise (await aio_diagnosis(self._options) or error) from None
                except UnknownTopicOrPartitionError:  # or not known to this client within its time
                    await self._aio_topic_id()
                    raise
        return frozenset(self._consumer.partitions_for_topic(self._topic) or ())

    async def aio_find_starts(self, kept: Mapping[int, SourcePosition]) -> Mapping[int, SourcePosition]:
        """Determine where each partition starts, so that nothing sent from now on is missed; commit what
        was not committed, so that a crash before the first ack does not lose it. `kept`, and what is found:
        by partition, of those that were not read yet."""
        with self._translated():
            async with asyncio.timeout(START_POSITIONS_TIMEOUT_S):
                while True:
                    assigned = self._assigned
                    try:
                        found = await self._aio_find_starts(kept)
                        if assigned == self._assigned:
                            return found
                    except (CommitFailedError, IllegalStateError):
                        pass
                    # A rebalance meanwhile.
                    self._placed.clear()
                    await asyncio.sleep(REBALANCE_PAUSE_S)

    async def _aio_find_starts(self, kept: Mapping[int, SourcePosition]) -> Mapping[int, SourcePosition]:
        fresh = self._consumer.assignment() - self._placed.keys()
        topic_id = await self._aio_topic_id()
        beginning = await self._consumer.beginning_offsets(fresh)
        end = await self._consumer.end_offsets(fresh)
        placed, found, moved, gaps = {}, {}, {}, []
        for partition in fresh:
            committed = await self._consumer.committed(partition)
            refused = self._refused.get(partition)
            known = committed if refused is None else refused
            before = kept.get(partition.partition)
            if max(known or 0, (before and before.next_offset) or 0) > end[partition]:
                end[partition] = await self._aio_log_end(partition)
            start, gap = start_of(
                partition,
                committed=known,
                kept=before,
                topic_id=topic_id,
                beginning=beginning[partition],
                end=end[partition],
                fallback=self._fallback,
            )
            placed[partition] = start
            if refused is not None and gap is None:
                continue  # the broker has it by now: what is in work goes on
            same_topic = gap is None or gap.reason == "retention"
            first = before.first_offset if before is not None and same_topic else None
            found[partition.partition] = SourcePosition(topic_id, start if first is None else first, start)
            if start != committed:
                moved[partition] = start
            if gap is not None:
                gaps.append(gap)
        if moved:
            await self._consumer.commit(moved)
        # No await from here on. What was committed shows no gap again, so it counts whatever comes next.
        self.gaps += [gap for gap in gaps if gap not in self.gaps]
        for partition, start in placed.items():
            if partition.partition in found:
                self._offsets.forget((partition.topic, partition.partition))
                self.committed.pop(partition.partition, None)
            self._consumer.seek(partition, start)
            self._refused.pop(partition, None)
        self._placed |= placed
        self._topic_id = topic_id
        return found

    async def _aio_log_end(self, partition: TopicPartition) -> int:
        """Behind transactions that are open, too: aiokafka's `end_offsets` is before them."""
        wanted = [(partition.topic, [(partition.partition, LATEST)])]
        answer = await self._aio_ask_leader(partition, OffsetRequest(-1, READ_UNCOMMITTED, wanted))
        _, code, _, offset, *_ = answer
        if code:
            raise for_code(code)(partition)
        return int(offset)

    async def _aio_ask_leader(self, partition: TopicPartition, request: Any) -> Any:
        """What it answers about the partition: its number, an error code, …"""
        client = self._consumer._client
        response = await client.send(client.cluster.leader_for_partition(partition), request)
        for _, answers in response.topics:
            for answer in answers:
                return answer
        raise KafkaError(f"the answer about {partition} is empty")

    async def aio_poll(self) -> Sequence[Batch] | None:
        """None while the start of a partition is not known: `aio_find_starts` is next."""
        with self._translated():
            if self._consumer.assignment() - self._placed.keys():
                return None
            offsets = self._offsets
            begin_poll()
            try:
                if self._singly:
                    fetched = await self._aio_read_singly(offsets)
                else:
                    fetched = await self._consumer.getmany(timeout_ms=POLL_WAIT_MS)
                positions = {each: await self._consumer.position(each) for each in self._placed}
            except READ_SINGLY as error:
                log.debug("kafka_batch_unreadable", error=str(error))
                self._singly = True
                self._read_again()
                return []
            except OffsetOutOfRangeError as error:
                self._read_again()
                for partition, offset in error.args[0].items():
                    self._refused[partition] = offset
                    self._placed.pop(partition, None)
                return None
            except NoOffsetForPartitionError:  # just assigned
                self._read_again()
                return None
            if offsets is not self._offsets:  # a rebalance: all of it is read again
                return None
            handed = [
                self._hand_over(partition, behind, fetched.get(partition, ()))
                for partition, behind in positions.items()
                if behind != self._placed[partition]
            ]
        return [batch for batch in handed if batch is not None]

    def _hand_over(self, partition: TopicPartition, behind: int, messages: Sequence[Any]) -> Batch | None:
        """All before `behind`; None where that is no record: the marks and the aborted records of
        transactions, what compaction removed, a batch that is passed over."""
        del self._placed[partition]
        self._placed[partition] = behind
        ack = self._offsets.track((partition.topic, partition.partition), behind)
        if messages:
            return Batch(tuple(map(record_of, messages)), ack)
        ack()
        return None

    def _read_again(self) -> None:
        """After an error of one partition: aiokafka has moved behind what it read of others, and dropped
        it."""
        for partition, offset in self._placed.items():
            self._consumer.seek(partition, offset)

    async def _aio_read_singly(self, offsets: OffsetTracker) -> Mapping[TopicPartition, Sequence[Any]]:
        """A batch cannot be read, and aiokafka does not name it: read each partition record by record, which
        gives what stands before it. Where the next batch cannot be read at each of some tries, as another
        replica may have it whole, pass it over. Stops at a rebalance, which replaces `offsets`."""
        self._singly = False
        fetched: dict[TopicPartition, list[Any]] = {}
        for partition in [*self._placed]:
            messages = fetched[partition] = []
            tries = 0
            while offsets is self._offsets and len(messages) < MAX_SINGLE_RECORDS:
                wait_ms = 0 if messages else SINGLE_WAIT_MS
                try:
                    more = await self._consumer.getmany(partition, timeout_ms=wait_ms, max_records=1)
                except AllowanceSpent:
                    self._singly = True
                    return fetched
                except UNREADABLE as error:
                    self._singly = True
                    tries += 1
                    if messages:
                        break
                    if tries == UNREADABLE_TRIES or isinstance(error, BatchTooLarge):
                        await self._aio_pass_over(offsets, partition, error)
                        break
                    await asyncio.sleep(UNREADABLE_PAUSE_S)
                else:
                    if not more:
                        break
                    messages += more[partition]
        return fetched

    async def _aio_pass_over(
        self, offsets: OffsetTracker, partition: TopicPartition, error: Exception
    ) -> None:
        """Seek behind the first batch that cannot be read, if the broker still gives it so."""
        position = await self._consumer.position(partition)
        wanted = [(partition.topic, [(partition.partition, position, LARGEST_BATCH)])]
        request = FetchRequest(POLL_WAIT_MS, 1, LARGEST_BATCH, READ_COMMITTED, wanted)
        _, code, high_watermark, *_, raw = await self._aio_ask_leader(partition, request)
        found = None if code else first_unreadable(raw or b"", position)
        if found is None:
            await asyncio.sleep(UNREADABLE_PAUSE_S)
        elif offsets is self._offsets:
            first, behind = found[0], min(found[1], high_watermark)
            self._consumer.seek(partition, behind)
            self._hand_over(partition, behind, ())
            too_large = isinstance(error, BatchTooLarge)
            self.gaps.append(unreadable(partition, first, behind, error, too_large=too_large))

    async def aio_commit(self, timeout_s: float) -> None:
        with self._translated():
            await self._aio_commit(timeout_s)

    async def _aio_commit(self, timeout_s: float) -> None:
        offsets = self._offsets
        acked = offsets.committable()
        if not acked:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._consumer.commit({TopicPartition(*at): offset for at, offset in acked.items()})
        except (CommitFailedError, IllegalStateError) as error:
            # Revoked meanwhile. The member that has them now repeats what was not committed: harmless.
            log.debug("kafka_commit_too_late", error=str(error))
        else:
            offsets.committed(acked)
            if offsets is self._offsets:
                self.committed.update({partition: offset for (_, partition), offset in acked.items()})

    async def aio_probe(self) -> None:
        """One small request to the group's coordinator, which keeps this member in the group, and one for
        the topic: aiokafka reads on at the same offsets when it is deleted and made anew, and stands still
        where its task of reading has failed."""
        with self._translated():
            reading = self._consumer._fetcher.error_future
            if reading.done():
                reading.result()
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._consumer.committed(TopicPartition(self._topic, 0))
                topic_id = await self._aio_topic_id()
                await self._aio_report_standing()
        if self._topic_id is not None and topic_id is not None and topic_id != self._topic_id:
            raise SourceUnavailable(f"The topic {self._topic} was deleted and made anew.")

    async def _aio_report_standing(self) -> None:
        """aiokafka asks for ever for what a broker refuses, such as a segment that is damaged on its disk."""
        consumer, refused = self._consumer, {}
        for partition, offset in [*self._placed.items()]:
            if partition not in self._placed or partition in consumer._fetcher._records:
                continue
            if (consumer.last_poll_timestamp(partition) or 0) > (time.time() - STANDING_S) * 1000:
                continue
            wanted = [(partition.topic, [(partition.partition, offset, 1)])]
            try:
                answer = await self._aio_ask_leader(partition, FetchRequest(0, 0, 1, READ_COMMITTED, wanted))
            except (KafkaError, OSError):  # no leader now, or nothing to give
                continue
            if answer[1] and answer[1] not in MENDED_BY_DRIVER:
                refused[partition.partition] = for_code(answer[1]).__name__
        if refused:
            self.gaps.append(standing(self._topic, refused))

    async def _aio_topic_id(self) -> str | None:
        """None where the broker has none."""
        client = self._consumer._client
        try:
            code, topic_id = topic_of(await client.send(client.get_random_node(), TopicRequest(self._topic)))
        except NotImplementedError:  # before Kafka 3.1 a topic has no id to compare
            return None
        if code:
            error = for_code(code)
            self.topic_missing = error is UnknownTopicOrPartitionError
            raise error(self._topic)
        return topic_id

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by aiokafka, which goes on sending heartbeats meanwhile."""
        try:
            await self._aio_commit(REVOKE_COMMIT_TIMEOUT_S)
        except DRIVER_ERRORS as error:
            log.debug("kafka_commit_too_late", error=str(error))
        self._offsets.close()
        self._offsets = OffsetTracker(self._on_ack)
        self._placed.clear()
        self.committed.clear()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._assigned += 1
        self._placed.clear()
        self._refused.clear()
        log.info("kafka_assigned", partitions=sorted(each.partition for each in assigned))

    async def aio_stop(self) -> None:
        """Leave the group and close. With the broker down, stop() hangs or ends half-way: the tasks and
        connections that it leaves end with the bridge."""
        if self._consumer is not None:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._consumer.stop()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            raise consumer_error(error, self._servers, self._topic, self._options) from None
