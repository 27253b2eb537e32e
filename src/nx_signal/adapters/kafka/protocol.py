"""What aiokafka does not ask a broker: the id of a topic, which is another one when the topic is made anew
(KIP-516), and what a port speaks. Of asyncio's side."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)


class _Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


_NO_ID = bytes(16)
_TAGS = ("tags", TaggedFields)
_TEXT = CompactString()


class _TopicResponse(Response):  # type: ignore[misc]
    """https://kafka.apache.org/protocol, Metadata Response (Version: 12)"""

    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS),
        ),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("topic_authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _TopicRequestStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _TopicResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class TopicRequest(Request[_TopicRequestStruct]):  # type: ignore[misc]
    """Asks for one topic, without creating it. Sending it raises NotImplementedError where the broker has
    no ids of topics: before Kafka 3.1."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class([(_NO_ID, self._topic, {})], False, False, {})


def topic_of(response: Any) -> tuple[int, str | None]:
    """(error code, the topic's id; None where the broker has no ids)"""
    (topic,) = response.topics
    return topic[0], None if topic[2] == _NO_ID else str(UUID(bytes=topic[2]))


def _request(key: int, version: int, body: bytes = b"") -> bytes:
    head = struct.pack(">hhih", key, version, 1, -1)  # any correlation id, no client id
    return struct.pack(">i", len(head) + len(body)) + head + body


LOOKS = (_request(18, 0), _request(3, 1, struct.pack(">i", 0)))
"""ApiVersions, which a broker answers to any client, and Metadata of no topic, which it answers to those who
need no user or have given one; otherwise it closes the connection."""
MAX_LOOK_BYTES = 1_048_576
TLS_ALERT = b"\x15\x03"
"""The first bytes of what TLS answers to anything else (RFC 8446 §5.1, §6)."""
