"""Whole instances, their clients and their faults in one Trio run that a seed decides entirely.

An instance is composed as in nx_signal/service.py, with the memory adapters and without REST and sockets:
hub, pipeline, supervised relay, supervised source, and `StreamServer` for each connection. Sealing is left
out; bounds are small, so that each of them is met. Set PYTHONHASHSEED: sets of strings have an order too."""

from __future__ import annotations

import hashlib
import json
import random
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import trio
import trio._core._run as trio_run
from sim_plan import INSTANCES, LASTS_S, NEVER_S, PARTITIONS, ROSTER, USERS, Plan, merchants_of, recipients
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from nx_signal.activities import handling
from nx_signal.activities import recipients as recipients_of
from nx_signal.activities.content import Renderer
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.registry import Registry
from nx_signal.adapters.memory import relay as memory_relay
from nx_signal.adapters.memory import source as memory_source
from nx_signal.adapters.memory.relay import MemoryBroker, MemoryRelay
from nx_signal.adapters.memory.source import MemorySource, MemoryTopic
from nx_signal.adapters.memory.store import MemoryDatabase
from nx_signal.errors import RelayLost, StoreUnavailable
from nx_signal.inbox.service import Inbox
from nx_signal.model import Change, Created, Deleted, Dispatch, Head, InboxFilter, Principal, Read
from nx_signal.ports import Batch, RelayEvent
from nx_signal.stream import connection, hub, peers, protocol, session
from nx_signal.stream.connection import StreamParts, StreamServer
from nx_signal.stream.hub import Hub
from nx_signal.stream.limits import Limits
from nx_signal.stream.operator import Operator
from nx_signal.stream.rooms import RoomRules
from nx_signal.stream.session import payload_of
from nx_signal.stream.topics import DEFAULT_ROOMS, INBOX_TOPICS, STATE, inbox_room
from nx_signal.stream.wire import Kind, Push
from nx_signal.supervise import supervise
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

T = TypeVar("T")

SMALL_BOUNDS: Mapping[Any, Mapping[str, float]] = {
    hub: {"HEAL_USERS": 8, "HEAL_CHANGES": 6, "PUSHES_PER_CHECKPOINT": 8, "RECHECK_ROOMS_S": 100.0},
    session: {"MAX_AHEAD": 4},
    handling: {"MAX_DRAFTS": 12, "ANNOUNCED_AT_ONCE": 3},
    recipients_of: {"MAX_READERS": 10},
    memory_source: {"MAX_BATCH": 6},
    memory_relay: {"MAX_WAITING_EVENTS": 24},
    # The clock skips an idle hour; what ticks through it does not come for free.
    protocol: {"HEARTBEAT_TIMEOUT_S": 900.0},
    peers: {"PRESENCE_EVERY_S": 60.0, "ABSENT_AFTER_S": 210.0},
}
BATCHES_WAITING = 2
ANNOUNCEMENTS_WAITING = 8
RELAYED_WAITING = 4
HEARTBEAT_S = 600.0
STALL_S = 30.0
QUIET_S = 100.0
"""After the faults: every back-off and presence is over; two sweeps are added."""
LULL_S = 45.0
"""After the last action, and two sweeps added, nobody may lack anything."""
WATCHED_EVERY_S = 15.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 16.0
"""Of a client, between two attempts to connect."""
MAX_STEPS = 4_000_000
"""Of tasks, in one run: far above any that comes to rest."""
EPOCH = datetime(2026, 11, 21, tzinfo=UTC)
NEVER_EXPIRES_S = 1e8

registry = Registry.discover()
renderer = Renderer(registry, "UTC")
here: ContextVar[Instance | None] = ContextVar("here", default=None)
"""whose task this is: the store may be out of reach for one instance alone"""


@dataclass(frozen=True)
class Outcome:
    violation: str | None
    at_s: float
    history: list[str]
    frames: int
    steps: int

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.history).encode()).hexdigest()[:16]


class Violation(Exception):
    """An invariant does not hold."""


def simulate(plan: Plan) -> Outcome:
    """One run. The same plan gives the same history, to the last frame."""
    world = World(plan)
    with small_world(), _seeded(plan.seed):
        trio.run(world.run, clock=MockClock(autojump_threshold=0), instruments=[world.steps])
    return Outcome(world.violation, world.ended_s, world.history, world.frames, world.steps.count)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = random.getstate(), trio_run._r.getstate()
    try:
        with patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            trio_run._r.seed(f"{seed}/scheduler")
            random.seed(f"{seed}/jitter")
            yield
    finally:
        random.setstate(before[0])
        trio_run._r.setstate(before[1])


@contextmanager
def small_world() -> Iterator[None]:
    ids = iter(range(10**9))
    fakes: Mapping[Any, Mapping[str, Any]] = {
        connection: {"Wire": _wire_of, "wrap_server_stream": _upgrade},
        protocol: {
            "uuid": SimpleNamespace(uuid4=lambda: f"c{next(ids)}"),
            "KeyPair": SimpleNamespace(generate=lambda: SimpleNamespace(public_b64="")),
            "read_public_key": lambda text: None,
            "agree": lambda pair, peer, salt: b"",
            "Sealer": Unsealed,
        },
    }
    with ExitStack() as stack:
        for group in (SMALL_BOUNDS, fakes):
            for module, names in group.items():
                for name, value in names.items():
                    stack.enter_context(patch.object(module, name, value))
        yield


class Steps(trio.abc.Instrument):
    """Ends a run that does not come to rest."""

    def __init__(self) -> None:
        self.count = 0
        self.too_many: Callable[[], None] = lambda: None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.count == MAX_STEPS:
            self.too_many()


# --- between an instance and a device ---------------------------------------------------------------


class Unsealed:
    def __init__(self, key: bytes) -> None:
        pass

    def seal(self, payload: bytes) -> bytes:
        return payload

    def open(self, data: Any) -> bytes:
        return str(data["ct"]).encode()


@dataclass(frozen=True, slots=True)
class Resumed:
    """Stands between the frames where the server took a `resume`: what follows, follows this revision."""

    rev: int
    head: int
    """of the store, at that time"""


@dataclass(frozen=True, slots=True)
class Closed:
    code: int


class Link:
    """One connection: what is under way in both directions, and what the device may expect of it."""

    def __init__(self, device: Device, instance: Instance, resume: int | None) -> None:
        self.device = device
        self.instance = instance
        self.resume = resume
        self.socket = self  # of which StreamServer asks the peer's name
        self.wire = SimWire(self)
        self.to_server, self.from_device = trio.open_memory_channel[str](100)
        self.over = trio.Event()
        """the device knows that it is"""
        self.lost = False
        """nothing arrives any more, whatever the server believes"""
        self.floor = self.ceiling = 0
        """the head before the handshake and at `connected`: what a device that knows nothing starts from"""
        self.connected = False
        self.owed = False
        """a state for a resume"""
        self.too_far = False
        """the next frame of the log must be a reset"""
        self.rooms: set[str] = {*DEFAULT_ROOMS, inbox_room(device.user)}
        self.client_id = ""
        self.connected_s = 0.0
        self.ephemeral: set[int] = set()
        self.sealed = 0

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def send(self, event: str, data: Any, *, sealed: bool = False) -> None:
        text = json.dumps({"event": event, "data": data})
        if sealed:
            self.sealed += 1
            text = json.dumps({"event": "encrypted", "data": {"iv": f"iv{self.sealed}", "ct": text}})
        # Or it is on its way to a server that is gone.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.to_server.send_nowait(text)

    def hang_up(self) -> None:
        """By the device: what is under way to it is lost."""
        self.lost = True
        self.to_server.close()
        self.over.set()


async def _upgrade(nursery: trio.Nursery, wire: SimWire, max_message_size: int) -> Any:
    await trio.lowlevel.checkpoint()

    async def accept(subprotocol: str | None) -> SimWebSocket:
        await trio.lowlevel.checkpoint()
        return SimWebSocket(wire)

    return SimpleNamespace(proposed_subprotocols=[], headers=[], accept=accept)


class SimWebSocket:
    def __init__(self, wire: SimWire) -> None:
        self.wire = wire
        self._wsproto = SimpleNamespace(handshake=None)  # which the server lets go of

    async def get_message(self) -> str:
        link = self.wire.link
        try:
            message = await link.from_device.receive()
        except trio.EndOfChannel:
            raise ConnectionClosed(None) from None
        link.device.taken(link, message)
        return message

    async def aclose(self, code: int, reason: str) -> None:
        self.wire.close_frame(code)
        await trio.lowlevel.checkpoint()


def _ignore() -> None:
    pass


def _wire_of(link: Link, read_ahead: bytes, nursery: trio.Nursery, *, max_buffer_bytes: int) -> SimWire:
    return link.wire


class SimWire:
    """Stands in for stream.wire.Wire: `room` frames wait for a device that does not read at once."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.frames: deque[bytes | Resumed | Closed] = deque()
        self.closed = False
        self.refused = False
        self.on_drained: Callable[[], None] = _ignore
        self.on_stalled: Callable[[], None] = _ignore
        self.on_dropped: Callable[[], None] = _ignore

    @property
    def open(self) -> bool:
        return not self.closed

    @property
    def queued_bytes(self) -> int:
        return sum(len(frame) for frame in self.frames if isinstance(frame, bytes))

    def push(self, frame: bytes, kind: Kind) -> Push:
        if self.closed:
            return Push.CLOSED
        room = self.link.device.room
        if room is not None and len(self.frames) >= max(room, 1):
            if kind is not Kind.EPHEMERAL:
                self.refused = True
            return Push.REFUSED
        if b'"event":"connected"' in frame[:32]:
            self.link.ceiling = self.link.device.world.head(self.link.device.user).rev
        self.put(frame)
        return Push.TAKEN

    def put(self, item: bytes | Resumed | Closed) -> None:
        self.frames.append(item)
        if self.link.device.room is None:
            self.link.device.read(self.link)

    def give_up(self, code: int, reason: str) -> None:
        self.frames.clear()
        self.close_frame(code)

    def close_frame(self, code: int) -> None:
        if not self.closed:
            self.closed = True
            self.put(Closed(code))

    def drained(self) -> None:
        if self.refused and not self.frames and not self.closed:
            self.refused = False
            self.on_drained()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True


# --- the other parts of the world --------------------------------------------------------------------


class SimTopic(MemoryTopic):
    """Lets nothing be committed that is not dealt with."""

    def __init__(self, world: World) -> None:
        super().__init__(PARTITIONS, "topic")
        self.world = world

    def end(self, partition: int) -> int:
        return len(self._logs[partition])

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        before = list(self._committed)
        super().commit(offsets)
        for partition, offset in enumerate(self._committed):
            for position in range(before[partition], offset):
                self.world.committed(partition, position)


class SimRelay(MemoryRelay):
    def __init__(self, world: World, instance: Instance, server_id: str) -> None:
        super().__init__(world.broker, server_id)
        self.world = world
        self.instance = instance

    async def run(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[Dispatch, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        if self.instance.deaf:
            raise RelayLost("The broker does not answer.")
        await super().run(outbound, inbound, task_status)

    def hand(self, dispatch: Dispatch) -> None:
        world = self.world
        sender = int((dispatch.server_id or "i0").partition(".")[0][1:])
        if (sender, self.instance.number) in world.apart_now or world.rng.random() < world.loss_share:
            return
        if world.jitter_s:
            world.nursery.start_soon(self._late, dispatch, world.rng.uniform(0, world.jitter_s))
        else:
            super().hand(dispatch)

    async def _late(self, dispatch: Dispatch, delay_s: float) -> None:
        await trio.sleep(delay_s)
        super().hand(dispatch)


class Instance:
    """One process, that may die at any await and be started again with nothing but its number."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.up = False
        self.running = False
        self.boots = 0
        self.deaf = self.source_cut = self.relay_cut = self.store_cut = False
        self.links: dict[Link, None] = {}
        self.life = trio.CancelScope()

    async def live(self) -> None:
        """From its start to its death: nx_signal.service.run, in memory."""
        world = self.world
        here.set(self)
        self.boots += 1
        self.running = True
        world.note(f"i{self.number} boots")
        server_id = f"i{self.number}.{self.boots}"
        self.life = trio.CancelScope()
        announcements = ANNOUNCEMENTS_WAITING if world.plan.sweep_s != NEVER_S else 10**6
        to_pipeline, batches = trio.open_memory_channel[Batch](BATCHES_WAITING)
        to_relay, outbound = trio.open_memory_channel[tuple[Dispatch, ...]](announcements)
        from_relay, inbound = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)
        metrics = Metrics()
        self.relay = SimRelay(world, self, server_id)
        self.source = MemorySource("source", world.topic)
        health = Health(("store", "relay", self.source.name), metrics)
        rules = RoomRules(world.database.directory, ())
        self.hub = Hub(
            server_id=server_id,
            store=world.database.inbox,
            rules=rules,
            relay=self.relay,
            outbound=to_relay,
            metrics=metrics,
            now=world.now,
            resume_limit=world.plan.resume_limit,
            sweep_s=world.plan.sweep_s,
        )
        self.pipeline = Pipeline(
            registry=registry,
            renderer=renderer,
            database=world.database,
            announce=self.hub.announce,
            health=health,
            metrics=metrics,
        )
        self.inbox = Inbox(world.database.inbox, self.hub.announce)
        self.operator = Operator(self.hub)
        self.parts = StreamParts(
            hub=self.hub,
            verify=world.verify,
            rules=rules,
            metrics=metrics,
            now=world.now,
            max_buffer_bytes=1,
            limits=Limits(1.0),
        )
        if self.relay_cut:
            world.broker.cut(server_id)
        if self.source_cut:
            self.source.cut()
        try:
            with self.life:
                async with trio.open_nursery() as self.nursery:
                    await self.nursery.start(self.hub.run, inbound)
                    await self.nursery.start(self.pipeline.run, batches)
                    part_up = partial(supervise, health=health)
                    self.nursery.start_soon(part_up, "relay", partial(self.relay.run, outbound, from_relay))
                    self.nursery.start_soon(part_up, self.source.name, partial(self.source.run, to_pipeline))
                    self.up = True
                    await trio.sleep_forever()
        except Exception as error:
            world.violate(f"instance {self.number} died: {_shown(error)}")
        finally:
            self.up = self.running = False

    def die(self, silent_s: float = 0.0) -> None:
        """Kill it. Its devices learn it at once, or when `silent_s` have passed."""
        self.world.note(f"i{self.number} dies")
        self.up = False
        for link in self.links:
            link.wire.closed = link.lost = True
            self.world.nursery.start_soon(_end_later, link, silent_s)
        self.life.cancel()

    async def drain(self) -> None:
        self.up = False
        with trio.move_on_after(15):
            await self.hub.drain(7.5)
            await self.pipeline.finish()
        self.die()

    async def serve(self, link: Link) -> None:
        here.set(self)
        self.links[link] = None
        try:
            await StreamServer(self.parts).serve(link, b"")  # type: ignore[arg-type]
        except Exception as error:
            self.world.violate(f"a connection of {link.device} failed: {_shown(error)}")
        finally:
            del self.links[link]
            if not link.lost:
                link.device.ended(link)

    async def perform(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """A request to it; None when it dies meanwhile or cannot reach the store."""
        answer: list[T] = []
        done = trio.Event()

        async def answered() -> None:
            here.set(self)
            try:
                answer.append(await ask())
            except StoreUnavailable:
                pass
            finally:
                done.set()

        self.nursery.start_soon(answered)
        await done.wait()
        return answer[0] if answer else None


async def _end_later(link: Link, after_s: float) -> None:
    await trio.sleep(after_s)
    link.over.set()


class _Data(msgspec.Struct):
    rev: int | None = None
    reset: bool = False
    unread: int | None = None
    total: int | None = None
    id: str | None = None
    userId: str | None = None
    n: int | None = None
    kind: str | None = None
    target: str | None = None


class _Frame(msgspec.Struct):
    event: str
    data: _Data | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class Device:
    """A client. It checks each frame against what it holds and what the store has."""

    def __init__(self, world: World, number: int, user: str) -> None:
        self.world = world
        self.number = number
        self.user = user
        self.rng = random.Random(f"{world.plan.seed}/device/{number}")
        self.rev: int | None = None
        self.room: int | None = None
        """None: it reads at once"""
        self.link: Link | None = None
        self.served = False
        self.offline_s = 0.0

    def __str__(self) -> str:
        return f"d{self.number} of {self.user}"

    async def live(self) -> None:
        world, rng = self.world, self.rng
        asks_first = rng.random() < 0.5
        pause_s = FIRST_PAUSE_S
        while True:
            up = [instance for instance in world.instances if instance.up]
            if up:
                instance = rng.choice(up)
                if self.rev is None and asks_first:
                    page = await instance.perform(
                        lambda inbox=instance.inbox: inbox.page(self.user, InboxFilter(), 1)
                    )
                    self.rev = page.head.rev if page else None
                if instance.up and not (self.rev is None and asks_first):
                    await self.converse(instance)
            with trio.move_on_after(self.offline_s):
                await world.calm.wait()
            self.offline_s = 0.0
            pause_s = FIRST_PAUSE_S if self.served else min(pause_s * 2, LONGEST_PAUSE_S)
            self.served = False
            await trio.sleep(rng.uniform(0.05, pause_s))

    async def converse(self, instance: Instance) -> None:
        link = Link(self, instance, self.rev)
        self.link = link
        instance.nursery.start_soon(instance.serve, link)
        data: dict[str, Any] = {"type": "Bearer", "token": self.user, "publicKey": "key"}
        if self.rev is not None:
            data["resume"] = {"rev": self.rev}
        link.send("authenticate", data)
        while not link.over.is_set():
            with trio.move_on_after(HEARTBEAT_S):
                await link.over.wait()
            link.send("heartbeat", None)
        self.link = None

    # --- called by the wire ---

    def taken(self, link: Link, message: str) -> None:
        """The server has the message now, and answers before anything else is pushed."""
        if link.lost:
            return
        frame = json.loads(message)
        if frame["event"] == "authenticate":
            link.floor = self.world.head(self.user).rev
        elif frame["event"] == "encrypted":
            opened = json.loads(frame["data"]["ct"])
            if opened["event"] == "resume":
                link.wire.put(Resumed(opened["data"]["rev"], self.world.head(self.user).rev))

    def read(self, link: Link, frames: int = 10**9) -> None:
        wire = link.wire
        while wire.frames and frames > 0 and not link.lost:
            frames -= 1
            item = wire.frames.popleft()
            if isinstance(item, bytes):
                self.receive(link, item)
            elif isinstance(item, Resumed):
                self.resumed(link, item.rev, item.head)
            else:
                self.world.note(f"{self} closed {item.code}")
        wire.drained()

    def ended(self, link: Link) -> None:
        """The server closed. What it had sent by then may have arrived, or not."""
        if self.rng.random() < 0.7:
            self.read(link)
        link.lost = True
        link.over.set()

    # --- what holds for each frame ---

    def receive(self, link: Link, raw: bytes) -> None:
        payload = raw[{126: 4, 127: 10}.get(raw[1], 2) :]
        frame = _decode(payload)
        data = frame.data or _Data()
        self.world.frames += 1
        self.world.note(f"{self} reads {frame.event.rpartition('/')[2]} {data.rev} {data.n}")
        if frame.event == "connected":
            self._check(not link.connected and data.userId == self.user, "a second `connected`")
            link.connected = self.served = True
            link.connected_s = trio.current_time()
            link.client_id = data.id or ""
            if link.resume is not None:
                self.resumed(link, link.resume, link.ceiling)
            return
        if frame.event == "error":
            return
        self._check(link.connected, f"{frame.event} before `connected`")
        if frame.event in INBOX_TOPICS:
            assert data.rev is not None
            self._next(link, data.rev)
            self._check(
                payload == self.world.payload(self.user, data.rev), f"revision {data.rev} is not the store's"
            )
        elif frame.event == STATE:
            self._state(link, data)
        elif frame.event == "sim":
            self._check(data.n not in link.ephemeral, f"send {data.n} came twice")
            link.ephemeral.add(data.n or 0)
            self._check(self._addressed(link, data), f"send {data.n} was for {data.kind} {data.target}")
        elif frame.event == "expiring":
            if self.rng.random() < 0.5:
                link.send("refresh", {"token": self.user}, sealed=True)
        else:
            self._check(frame.event == "goaway", f"what is {frame.event}?")

    def resumed(self, link: Link, rev: int, head: int) -> None:
        self.rev = rev
        link.owed = True
        link.too_far = not rev <= head <= rev + self.world.plan.resume_limit

    def _next(self, link: Link, rev: int) -> None:
        self._check(not link.too_far, f"revision {rev} came where a reset was due")
        if self.rev is None:
            self._check(link.floor < rev <= link.ceiling + 1, f"revision {rev} is first after {link.floor}")
        else:
            self._check(rev == self.rev + 1, f"revision {rev} came after {self.rev}")
        self.rev = rev

    def _state(self, link: Link, data: _Data) -> None:
        rev, limit = data.rev, self.world.plan.resume_limit
        assert rev is not None
        log = self.world.log(self.user)
        self._check(rev <= len(log), f"the state's revision {rev} is not the store's")
        counts = (log[rev - 1].unread, log[rev - 1].total) if rev else (0, 0)
        self._check(counts == (data.unread, data.total), f"the state's counts at {rev} are not the store's")
        if data.reset:
            known = link.floor if self.rev is None else self.rev
            self._check(
                rev > known + limit or known > len(log),
                f"reset from {known} to {rev}, the limit being {limit}",
            )
            self.rev = rev
        else:
            self._check(not link.too_far, f"a state of {rev} at {self.rev} came where a reset was due")
            self._check(link.owed, "a state that nobody asked for")
            self._check(rev == self.rev, f"a state of {rev} at {self.rev}")
        link.owed = link.too_far = False

    def _addressed(self, link: Link, data: _Data) -> bool:
        if data.kind == "user":
            return data.target == self.user
        return data.kind == "broadcast" or data.target in link.rooms

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.world.violate(f"{self}: {otherwise}")


class World:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(f"{plan.seed}/world")
        self.history: list[str] = []
        self.violation: str | None = None
        self.frames = 0
        self.steps = Steps()
        self.ended_s = 0.0
        self.last_action_s = 0.0
        self.clock_off_s = 0.0
        self.fails_before = self.fails_after = self.loss_share = self.jitter_s = 0.0
        self.store_up_to_s = 0.02
        self.apart_now: set[tuple[int, int]] = set()
        self.database = MemoryDatabase(self.now)
        self.broker = MemoryBroker()
        self.topic: SimTopic
        self.instances: list[Instance] = []
        self.devices: dict[int, Device] = {}
        self.calm: trio.Event
        self.nursery: trio.Nursery
        self.scope: trio.CancelScope
        self.expected: dict[str, frozenset[str]] = {}
        """activity → recipients"""
        self.published: dict[tuple[int, int], str | None] = {}
        """(partition, offset) → activity; None where there is nothing to store"""
        self.poisoned: set[tuple[int, int]] = set()
        self.stored: set[tuple[str, str]] = set()
        self.seen: dict[str, int] = dict.fromkeys(USERS, 0)
        self.payloads: dict[tuple[str, int], bytes] = {}
        self.sends = 0

    # --- what happened, and what must not ---

    def note(self, what: str) -> None:
        self.history.append(f"{trio.current_time():9.3f}  {what}")

    def violate(self, what: str) -> None:
        """The first one counts; the run ends at the next await."""
        if self.violation is None:
            self.violation = what
            self.ended_s = trio.current_time()
            self.note(f"VIOLATION: {what}")
            self.scope.cancel()

    def log(self, user: str) -> list[Change]:
        box = self.database.inbox.boxes.get(user)
        return box.log if box else []

    def head(self, user: str) -> Head:
        return self.database.inbox._box(user).head

    def payload(self, user: str, rev: int) -> bytes:
        if (user, rev) not in self.payloads:
            log = self.log(user)
            self.payloads[user, rev] = payload_of(log[rev - 1]) if 0 < rev <= len(log) else b""
        return self.payloads[user, rev]

    def note_rows(self) -> None:
        """Take in the rows written since the last time: none twice, none that nobody asked for."""
        for user in USERS:
            log = self.log(user)
            for change in log[self.seen[user] :]:
                if isinstance(change, Created):
                    activity = change.notification.activity_id
                    if (activity, user) in self.stored:
                        self.violate(f"a second row of {activity} for {user}")
                    if user not in self.expected.get(activity, ()):
                        self.violate(f"a row of {activity} for {user}, who is no recipient")
                    self.stored.add((activity, user))
            self.seen[user] = len(log)

    def committed(self, partition: int, offset: int) -> None:
        self.note(f"commit {partition}/{offset}")
        self.note_rows()
        activity = self.published[partition, offset]
        missing = [] if activity is None else self._missing(activity)
        if missing:
            self.violate(f"{partition}/{offset} is committed, {activity} for {missing} is not stored")
        if (partition, offset) in self.poisoned and (partition, offset) not in self._letters():
            self.violate(f"{partition}/{offset} is committed and in no dead letter")

    def _missing(self, activity: str) -> list[str]:
        return sorted(user for user in self.expected[activity] if (activity, user) not in self.stored)

    def _letters(self) -> set[tuple[int, int]]:
        return {(p.partition, p.offset) for p in self.database.dead_letters._ids}

    # --- what the instances are given ---

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=trio.current_time() + self.clock_off_s)

    async def verify(self, token: str) -> Principal:
        await trio.lowlevel.checkpoint()
        holds_s = self.rng.choice([300.0, 3_000.0, NEVER_EXPIRES_S])
        if trio.current_time() + holds_s >= LASTS_S:
            holds_s = NEVER_EXPIRES_S
        return Principal(token, None, self.now() + timedelta(seconds=holds_s))

    async def before_store(self) -> None:
        await self._store_takes()
        instance = here.get()
        if (instance and instance.store_cut) or self.rng.random() < self.fails_before:
            raise StoreUnavailable("The store does not answer.")

    async def after_store(self) -> None:
        await self._store_takes()
        if self.rng.random() < self.fails_after:
            raise StoreUnavailable("The answer was lost.")

    async def _store_takes(self) -> None:
        if self.rng.random() < 0.5:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self.rng.uniform(0, self.store_up_to_s))

    # --- the run ---

    async def run(self) -> None:
        self.calm = trio.Event()
        self.topic = SimTopic(self)
        await self.database.directory.load(ROSTER)
        self.database.delay = self.before_store
        self.database.delay_after = self.after_store
        self.steps.too_many = lambda: self.violate("the run does not come to rest")
        try:
            async with trio.open_nursery() as self.nursery:
                self.scope = self.nursery.cancel_scope
                self.instances = [Instance(self, number) for number in range(INSTANCES)]
                for instance in self.instances:
                    self.boot(instance.number)
                self.nursery.start_soon(self.watch)
                for action in self.plan.actions:
                    await trio.sleep_until(action.at_s)
                    self.last_action_s = trio.current_time()
                    self.note(str(action)[11:])
                    getattr(self, action.name)(**action.args)
                await trio.sleep_until(max(LASTS_S, trio.current_time()))
                await self.rest()
                await self.check_all()
                self.ended_s = trio.current_time()
                self.nursery.cancel_scope.cancel()
        except Exception as error:
            self.violation = self.violation or f"the simulation failed: {_shown(error)}"

    @property
    def two_sweeps_s(self) -> float:
        return 0 if self.plan.sweep_s == NEVER_S else 2 * self.plan.sweep_s

    async def watch(self) -> None:
        """In each lull, whoever is connected and reads must be level with the store."""
        while True:
            await trio.sleep(WATCHED_EVERY_S)
            if self.troubled or trio.current_time() < self.last_action_s + LULL_S + self.two_sweeps_s:
                continue
            for device in self.devices.values():
                link = device.link
                if link is None or not link.connected or link.lost or device.room is not None:
                    continue
                if trio.current_time() > link.connected_s + LULL_S:
                    self.check_level(device, link)

    @property
    def troubled(self) -> bool:
        """Is anything still wrong that an action made so?"""
        rates = self.fails_before + self.fails_after + self.loss_share + self.jitter_s
        return bool(
            self.database.unavailable
            or rates
            or self.apart_now
            or self.store_up_to_s > 1
            or any(i.deaf or i.relay_cut or i.source_cut or i.store_cut or not i.up for i in self.instances)
        )

    def check_level(self, device: Device, link: Link) -> None:
        head = self.head(device.user)
        if link.owed:
            self.violate(f"{device} was never told the state after its resume")
        elif head.rev != (min(link.ceiling, head.rev) if device.rev is None else device.rev):
            self.violate(f"{device} holds {device.rev}, the head is {head.rev}")

    async def rest(self) -> None:
        """All faults end; everything has time to find its place."""
        self.note("calm")
        self.store(away=False)
        self.flaky(before=0, after=0)
        self.slow_store(up_to_s=0.02)
        self.loss(share=0)
        self.jitter(up_to_s=0)
        self.apart_now.clear()
        for instance in self.instances:
            self.cut(instance.number, on=False)
            self.deaf_(instance, on=False)
            self.source(instance.number, cut=False)
            instance.store_cut = False
        self.calm.set()
        await trio.sleep(20)  # a drain may still be under way
        for instance in self.instances:
            self.boot(instance.number)
        for number in self.devices:
            self.quick(number)
        await trio.sleep(QUIET_S + self.two_sweeps_s)

    async def check_all(self) -> None:
        self.database.delay = self.database.delay_after = None
        self.note_rows()
        for activity in self.expected:
            if missing := self._missing(activity):
                self.violate(f"{activity} for {missing} is not stored")
        for partition in range(PARTITIONS):
            if self.topic.committed(partition) != self.topic.end(partition):
                self.violate(f"partition {partition} is not committed to its end")
        if self._letters() != self.poisoned:
            self.violate(f"dead letters {self._letters() ^ self.poisoned} are not the poison")
        for user in USERS:
            await self._check_inbox(user)
        for device in self.devices.values():
            link = device.link
            if link is None or not link.connected:
                self.violate(f"{device} is not connected")
            else:
                self.check_level(device, link)
        for instance in self.instances:
            if len(instance.hub.sessions) != len(instance.links):
                self.violate(f"instance {instance.number} keeps sessions of connections that are gone")
        page = await self.instances[0].operator.clients(None, None, 100, None)
        online = sorted(device.link.client_id for device in self.devices.values() if device.link)
        seen = {client["id"] for client in page.clients}
        if page.unanswered or (page.total <= len(seen) and not {*online} <= seen):
            self.violate(f"the operator sees {page.total} clients, {len(online)} are online")

    async def _check_inbox(self, user: str) -> None:
        unread: dict[int, bool] = {}
        rows: dict[int, Any] = {}
        for number, change in enumerate(self.log(user), 1):
            if isinstance(change, Created):
                rows[change.notification.id] = change.notification
                unread[change.notification.id] = True
            elif isinstance(change, Deleted):
                for id in change.ids:
                    del unread[id]
            elif isinstance(change, Read):
                for id in change.ids or [id for id in unread if rows[id].rev <= (change.up_to_rev or 0)]:
                    unread[id] = False
            counts = (number, sum(unread.values()), len(unread))
            if counts != (change.rev, change.unread, change.total):
                self.violate(f"revision {change.rev} of {user} counts wrong")
        inbox, head = self.database.inbox, self.head(user)
        total, _ = await inbox.count(user, InboxFilter())
        still, _ = await inbox.count(user, InboxFilter(is_read=False))
        if (total, still) != (head.total, head.unread) or (total, still) != (
            len(unread),
            sum(unread.values()),
        ):
            self.violate(f"the head of {user} counts wrong")

    # --- the actions; their names are the schedule's ---

    def arrive(self, device: int, user: str) -> None:
        self.devices[device] = Device(self, device, user)
        self.nursery.start_soon(self.devices[device].live)

    def boot(self, instance: int) -> None:
        one = self.instances[instance]
        if not one.running:
            one.running = True
            self.nursery.start_soon(one.live)

    def crash(self, instance: int, steps: int, silent_s: float) -> None:
        self.nursery.start_soon(self._crash, self.instances[instance], steps, silent_s)

    async def _crash(self, instance: Instance, steps: int, silent_s: float) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        if instance.up:
            instance.die(silent_s)

    def drain(self, instance: int) -> None:
        if self.instances[instance].up:
            self.nursery.start_soon(self.instances[instance].drain)

    def publish(self, partition: int, ce_id: str | None, message: Mapping[str, Any]) -> None:
        activity = None
        offset = self.topic.end(partition)
        if message["eventType"] != "NOT_OURS":
            activity = message.get("eventId") or ce_id or f"topic/{partition}/{offset}"
            self.expected[activity] = recipients(
                message["recipientScope"],
                message["organizerId"],
                message.get("merchantId"),
                message.get("recipientIds", ()),
                message["actorId"],
            )
        self.published[partition, offset] = activity
        headers = {"ce_id": ce_id.encode()} if ce_id else {}
        self.topic.publish([(None, json.dumps(message).encode())], partition=partition, headers=headers)

    def poison(self, partition: int, value: str) -> None:
        offset = self.topic.end(partition)
        self.published[partition, offset] = None
        self.poisoned.add((partition, offset))
        self.topic.publish([(None, value.encode())], partition=partition)

    def flood(self, user: str, count: int, partition: int) -> None:
        for n in range(count):
            message = {
                "eventType": "ORDER_COMPLETED",
                "recipientScope": "users",
                "actorId": "u0",
                "organizerId": "o1",
                "recipientIds": [user],
                "occurredAt": "2026-11-21T10:25:00Z",
                "data": {"order": {"number": n}},
            }
            self.publish(partition, None, message)

    def mark_read(self, instance: int, user: str, newest: int) -> None:
        id = self._row(user, newest)
        self._ask(instance, lambda inbox: inbox.mark_read(user, id, "sim"))

    def delete(self, instance: int, user: str, newest: int) -> None:
        id = self._row(user, newest)
        self._ask(instance, lambda inbox: inbox.delete(user, id))

    def mark_all(self, instance: int, user: str, below: int | None) -> None:
        up_to = None if below is None else max(self.head(user).rev - below, 0)
        self._ask(instance, lambda inbox: inbox.mark_all_read(user, up_to, origin="sim"))

    def _row(self, user: str, newest: int) -> int:
        ids = list(self.database.inbox._box(user).rows)
        return ids[max(len(ids) - 1 - newest, 0)] if ids else 0

    def _ask(self, instance: int, ask: Callable[[Inbox], Awaitable[Any]]) -> None:
        one = self.instances[instance]
        if one.up:
            one.nursery.start_soon(one.perform, lambda: ask(one.inbox))

    def hang_up(self, device: int, offline_s: float) -> None:
        if link := self._link(device):
            self.devices[device].offline_s = offline_s
            link.hang_up()

    def vanish(self, device: int, offline_s: float) -> None:
        """Without a word: the server finds out when its buffers stay full, or no heartbeat comes."""
        if link := self._link(device):
            self.devices[device].offline_s = offline_s
            link.lost = True
            link.over.set()
            link.instance.nursery.start_soon(self._stall_later, link)

    async def _stall_later(self, link: Link) -> None:
        await trio.sleep(STALL_S)
        if not link.wire.closed and link.wire.frames:
            link.wire.on_stalled()

    def slow(self, device: int, room: int) -> None:
        if device in self.devices:
            self.devices[device].room = room

    def quick(self, device: int) -> None:
        if device in self.devices:
            self.devices[device].room = None
            if link := self._link(device, any_phase=True):
                self.devices[device].read(link)

    def read(self, device: int, frames: int) -> None:
        if link := self._link(device, any_phase=True):
            self.devices[device].read(link, frames)

    def stall(self, device: int) -> None:
        if (link := self._link(device, any_phase=True)) and link.wire.frames and not link.wire.closed:
            link.wire.on_stalled()

    def resume(self, device: int, back: int) -> None:
        """Ask again, from `back` revisions earlier; a negative `back` is ahead of the store."""
        link = self._link(device)
        rev = self.devices[device].rev if device in self.devices else None
        if link and rev is not None:
            link.send("resume", {"rev": max(rev - back, 0)}, sealed=True)

    def join(self, device: int, room: str) -> None:
        if link := self._link(device):
            if room.rpartition("/")[2] in merchants_of(self.devices[device].user):
                link.rooms.add(room)
            link.send("join", {"rooms": [room]})

    def send(self, instance: int, kind: Any, target: str | None) -> None:
        one = self.instances[instance]
        if one.up:
            self.sends += 1
            data = json.dumps({"n": self.sends, "kind": kind, "target": target}).encode()
            one.nursery.start_soon(one.hub.send, Dispatch(kind, target, "sim", data))

    def _link(self, device: int, *, any_phase: bool = False) -> Link | None:
        link = self.devices[device].link if device in self.devices else None
        if link is None or link.lost:
            return None
        return link if link.connected or any_phase else None

    def cut(self, instance: int, on: bool) -> None:
        one = self.instances[instance]
        one.relay_cut = on
        if one.boots:
            (self.broker.cut if on else self.broker.restore)(one.relay.server_id)

    def deaf(self, instance: int, on: bool) -> None:
        self.deaf_(self.instances[instance], on)

    def deaf_(self, instance: Instance, on: bool) -> None:
        """It loses the relay, which keeps what it has not yet published."""
        instance.deaf = on
        if on and instance.boots:
            instance.relay.lose()

    def loss(self, share: float) -> None:
        self.loss_share = share

    def jitter(self, up_to_s: float) -> None:
        self.jitter_s = up_to_s

    def apart(self, sender: int, receiver: int, on: bool) -> None:
        (self.apart_now.add if on else self.apart_now.discard)((sender, receiver))

    def store(self, away: bool) -> None:
        self.database.unavailable = away

    def store_cut(self, instance: int, on: bool) -> None:
        self.instances[instance].store_cut = on

    def slow_store(self, up_to_s: float) -> None:
        self.store_up_to_s = up_to_s

    def flaky(self, before: float, after: float) -> None:
        self.fails_before, self.fails_after = before, after

    def source(self, instance: int, cut: bool) -> None:
        one = self.instances[instance]
        one.source_cut = cut
        if one.boots:
            (one.source.cut if cut else one.source.restore)()

    def clock(self, step_s: float) -> None:
        self.clock_off_s += step_s


def _shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
