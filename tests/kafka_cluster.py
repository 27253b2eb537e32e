"""Three nodes of Apache Kafka, each a broker and a controller: what it stores survives the loss of one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from services import METADATA, ApacheKafka, kafka_request, kafka_string

NODES = 3
QUICK = """\
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1500
min.insync.replicas=2
"""
"""A lost broker is noticed within two seconds."""


class KafkaNode(ApacheKafka):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.voters = ""

    def properties(self) -> str:
        text = super().properties()
        for before, after in (
            ("node.id=1\n", f"node.id={self.number}\n"),
            (f"voters=1@{self.controller}\n", f"voters={self.voters}\n"),
            ("replication.factor=1\n", f"replication.factor={NODES}\n"),
            ("min.isr=1\n", "min.isr=2\n"),
        ):
            assert before in text
            text = text.replace(before, after)
        return text + QUICK


class KafkaCluster:
    """Raises ServiceMissing as ApacheKafka does. `nodes[n]` has the id n + 1."""

    def __init__(self) -> None:
        self.nodes = [KafkaNode(number) for number in range(1, NODES + 1)]
        for node in self.nodes:
            node.voters = ",".join(f"{each.number}@{each.controller}" for each in self.nodes)

    @property
    def servers(self) -> str:
        return ",".join(node.address for node in self.nodes)

    def each(self, action: Callable[[KafkaNode], None], nodes: Sequence[KafkaNode] | None = None) -> None:
        """At once: a node answers only with a quorum."""
        with ThreadPoolExecutor(NODES) as pool:
            list(pool.map(action, self.nodes if nodes is None else nodes))

    def leader(self, topic: str) -> KafkaNode:
        """Of the first partition, as a running node states it."""
        node = next(node for node in self.nodes if node.running)
        answer = kafka_request(node.address, METADATA, struct.pack(">i", 1) + kafka_string(topic) + b"\0")
        answer.take("i")  # throttle time
        answer.array(lambda: (answer.take("i"), answer.string(), answer.take("i"), answer.string()))
        answer.string(), answer.take("i"), answer.take("i")  # the cluster, the controller, one topic
        answer.take("h"), answer.string(), answer.take("b")  # error, name, internal
        answer.take("i"), answer.take("h"), answer.take("i")  # the partitions; error and index of the first
        return self.nodes[answer.take("i") - 1]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.close)
            self.each(KafkaNode.start)
            stack.pop_all()
        return self

    def close(self) -> None:
        self.each(KafkaNode.kill)
        for node in self.nodes:
            node.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
