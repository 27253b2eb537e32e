"""A Kafka source in this process, on a broker of the tests."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from memory_source import MemoryPositions
from nx_signal.adapters.kafka.source import KafkaSource
from services import ApacheKafka, Tansu

SESSION_MS = 1_000


def source_of(broker: Tansu | ApacheKafka, topic: str, **changes: Any) -> KafkaSource:
    options: dict[str, Any] = {
        "servers": broker.servers,
        "topic": topic,
        "group_id": f"group-{uuid.uuid4().hex[:12]}",
        "client_id": "tests",
        "start_at": "latest",
        "session_timeout_ms": SESSION_MS,
        "positions": MemoryPositions(),
    }
    return KafkaSource(**(options | changes))


def raises_within(error: type[Exception], match: str) -> pytest.RaisesGroup[Exception]:
    """In a group: nurseries raise groups."""
    return pytest.RaisesGroup(pytest.RaisesExc(error, match=match), flatten_subgroups=True)
