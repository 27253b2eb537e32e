"""The contracts between the parts, over the model alone. The comment on a port is the contract; one
suite in tests/contract runs against every adapter of a port.

Common to all: every method may raise the `Unavailable` of its kind; everything that awaits may be
cancelled at any await, and then holds no connection, lock or transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

import trio

from nx_signal.model import Principal, Record, RelayMessage

Now: TypeAlias = Callable[[], datetime]
"""The wall clock, for timestamps only: aware UTC, milliseconds. Durations use trio.current_time()."""


# --- where activities come from ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, offsets ascending. `ack()` once all of them are dealt with durably:
    synchronous, never raises, harmless after the partition was revoked. `origin` distinguishes sources whose
    partitions have the same names: each journal has its own."""

    records: tuple[Record, ...]
    ack: Callable[[], None]
    origin: str = ""

    @property
    def partition(self) -> tuple[str, int]:
        position = self.records[0].position
        return (position.topic, position.partition)


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """What is kept of a partition of a source, beside what its broker keeps: `topic_id` is the broker's id of
    the topic, None where it has none; `first_offset` is where the group began, `next_offset` what it reads
    next, both None before that."""

    topic_id: str | None = None
    first_offset: int | None = None
    next_offset: int | None = None


class SourcePositions(Protocol):
    """The durable memory of the sources: a broker forgets a group's offsets, and whether it ever read."""

    async def load(self, group: str, topic: str, partitions: Iterable[int]) -> Mapping[int, SourcePosition]:
        """By partition. At the first call for this group and topic `partitions` are recorded, as those that
        there are when the group begins; one that is missing later was added since."""

    async def save(self, group: str, topic: str, positions: Mapping[int, SourcePosition]) -> None: ...


@dataclass(frozen=True, slots=True)
class Gap:
    """A source does not go on where it stopped. `lost`: records that cannot be read any more, as far as their
    number is known; `why` is a sentence."""

    source: str
    reason: str
    lost: int
    why: str


ReportGap: TypeAlias = Callable[[Gap], None]


class Source(Protocol):
    """Where activities come from, at least once, in order within a partition."""

    @property
    def name(self) -> str:
        """in /readyz and the logs"""

    async def run(self, batches: trio.MemorySendChannel[Batch], task_status: trio.TaskStatus[None]) -> None:
        """Send batches until cancelled; `started()` once it is connected and reading.

        Waits while the channel is full (and stays a member of its group meanwhile). Commits what was
        acked, also on the way out, within a deadline. Raises SourceUnavailable to be run again;
        SettingsError when waiting cannot help. Closes neither the channel nor anything it was given."""


class Journal(Source, Protocol):
    """The embedded source: a durable log on this machine, appended to by POST /activities."""

    async def append(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """(event id, message) each; on return they survive a crash of process and machine."""


# --- between the instances -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """Messages of other servers, in the order they came; own ones are left out already."""

    messages: tuple[RelayMessage, ...]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """From now on messages on these channels arrive. Messages sent on them before may be lost: sessions
    that depend on them compare their rev with the store."""

    channels: frozenset[str]


RelayEvent: TypeAlias = Received | Subscribed


class Relay(Protocol):
    """One instance's connection to the pub/sub of CONTRACT §2. Delivery is at most once: what is lost is
    read from the store. On a deployment's own channels (model.channels.OWN) come only messages of its
    instances."""

    alone: bool
    """whether there can be no other instance"""

    def subscribe(self, channels: Iterable[str]) -> None:
        """Subscribe to these exact channels (`ws:user:u1`, …); returns at once, also while disconnected:
        then they are subscribed on the next connection. Each call is confirmed by `Subscribed`."""

    def unsubscribe(self, channels: Iterable[str]) -> None: ...

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Publish what comes on `outbound`, one pipeline a batch, and send events to `inbound`, until
        cancelled; `started()` once connected and every channel is subscribed. Raises RelayLost to be run
        again (then `Subscribed` is sent again for every channel)."""


# --- identity ------------------------------------------------------------------------------------


class KeySource(Protocol):
    """Where token-verifying keys come from: a JWKS URL, or the embedded issuer."""

    async def jwks(self) -> Mapping[str, object]:
        """The JWK Set (RFC 7517 §5) as decoded JSON. Raises IssuerUnavailable."""


Verify: TypeAlias = Callable[[str], Awaitable[Principal]]
"""The principal of a token. Raises TokenRejected; IssuerUnavailable while no keys are known."""
