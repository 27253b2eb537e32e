"""Whole instances, their clients and their faults in one Trio run that a seed decides entirely.

An instance is composed by nx_signal.composition over the memory adapters, and runs without REST and sockets:
delivery, pipeline, supervised relay, supervised source, `WebSocketServer`, `EventServer` and `Polling`.
Sealing is left out; bounds are small, so that each of them is met. Set PYTHONHASHSEED: sets of strings have
an order too."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

import msgspec
import trio
import trio._core._run as trio_run
from sim_devices import Device
from sim_inbox import InboxAt, head_at
from sim_instance import Instance, SimTopic, traced
from sim_operations import (
    FAKES,
    Operations,
    here,
)
from sim_operations import (
    SMALL_BOUNDS as SMALL_PORTIONS,
)
from sim_plan import (
    EPOCH,
    INSTANCES,
    LASTS_S,
    MENDABLE,
    NEVER_S,
    PARTITIONS,
    REFUSABLE,
    ROSTER,
    USERS,
    Plan,
    inquiry,
    member_room,
    recipients,
    rooms_of,
)
from sim_transports import CLIENTS, PollLink
from sim_wire import Link, Resumed, fakes
from trio.testing import MockClock

import memory_relay
import memory_source
from memory_relay import MemoryBroker
from nx_signal.activities import drafts, processor
from nx_signal.activities import recipients as recipients_of
from nx_signal.activities.in_hand import CRASHES, SET_ASIDE
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.delivery import backlog, cursor, hub, membership, peers, recovery
from nx_signal.delivery.session import payload_of
from nx_signal.errors import StoreUnavailable
from nx_signal.inbox.service import Inbox
from nx_signal.model import (
    Change,
    ChangesSince,
    Created,
    InboxFilter,
    InboxSummary,
    Principal,
    RelayMessage,
    Unknown,
)
from nx_signal.model.wire import CREATED
from nx_signal.store.driver import Tx
from nx_signal.store.inbox import changes_since
from nx_signal.websocket import protocol

SMALL_BOUNDS: Mapping[Any, Mapping[str, float]] = {
    hub: {"PUSHES_PER_CHECKPOINT": 8},
    recovery: {"READ_USERS": 8, "READ_CHANGES": 6, "READ_ROWS": 24},
    membership: {"RECHECK_ROOMS_S": 100.0},
    cursor: {"MAX_REORDERED": 4},
    backlog: {"MAX_BYTES": 4_000},
    processor: {"MAX_DRAFTS": 12, "ALONE_ROWS": 5, "AUDIENCE_PORTION": 7},
    drafts: {"ANNOUNCED_AT_ONCE": 3},
    recipients_of: {"MAX_READERS": 10},
    memory_source: {"MAX_BATCH": 6},
    memory_relay: {"MAX_QUEUED_EVENTS": 24},
    # The clock skips an idle hour; what ticks through it does not come for free.
    protocol: {"HEARTBEAT_TIMEOUT_S": 900.0},
    peers: {"PRESENCE_EVERY_S": 60.0, "ABSENT_AFTER_S": 210.0, "FORGOTTEN_AFTER_S": 210.0},
}
STALL_S = 30.0
QUIET_S = 100.0
"""After the faults: every back-off and presence is over; two sweeps are added."""
LULL_S = 45.0
"""After the last action, and two sweeps added, nobody may lack anything."""
WATCHED_EVERY_S = 15.0
MAX_STEPS = 4_000_000
"""Of tasks, in one run: far above any that comes to rest."""
NEVER_EXPIRES_S = 1e8
_NEVER = "9999-01-01T00:00:00Z"
HEADS = "SELECT recipient_id, rev FROM recipient_head"
HEAD = f"{HEADS} WHERE recipient_id = ?"
CORRECTABLE = """
SELECT recipient_id, json_extract(data, '$.payment.amount') FROM activity_notification
WHERE activity_id = ? AND (deleted_at IS NULL OR archived_at IS NOT NULL)
"""
LIVE_ROWS = "SELECT id FROM activity_notification WHERE recipient_id = ? AND deleted_at IS NULL ORDER BY rev"


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
    with ExitStack() as stack:
        groups: tuple[Mapping[Any, Mapping[str, Any]], ...] = (SMALL_BOUNDS, SMALL_PORTIONS, fakes(), FAKES)
        for group in groups:
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
        self.operations = Operations(self)
        self.database: MemoryDatabase
        self.broker = MemoryBroker()
        self.topic: SimTopic
        self.instances: list[Instance] = []
        self.devices: dict[int, Device] = {}
        self.calm: trio.Event
        self.nursery: trio.Nursery
        self.scope: trio.CancelScope
        self.expected: dict[str, frozenset[str]] = {}
        """activity → recipients"""
        self.amounts: dict[str, set[int]] = {}
        """activity → what it, or a correction of it, may show"""
        self.corrected: dict[str, dict[str, int]] = {}
        """activity → moment of a correction → its amount"""
        self.retracted: set[str] = set()
        self.messages: dict[str, Mapping[str, Any]] = {}
        """activity → its message"""
        self.of_key: dict[tuple[str, str], list[str]] = {}
        """(organizer, collapse key) → activities"""
        self.latest = EPOCH
        """that any clock showed"""
        self.published: dict[tuple[int, int], str | None] = {}
        """(partition, offset) → activity; None where there is nothing to store"""
        self.losses = 0
        """Of what was in hand: instances that ended, and times that the store went back."""
        self.losses_before: dict[tuple[int, int], int] = {}
        """(partition, offset) → of them before it was published"""
        self.poisoned: set[tuple[int, int]] = set()
        self.pushed_to: dict[str, str] = {}
        """activity → the members' room"""
        self.stored: set[tuple[str, str]] = set()
        """(activity, recipient) of all rows that ever were"""
        self.held: set[tuple[str, str]] = set()
        """of those that are not removed by age"""
        self.activities_stored: set[str] = set()
        self.truncated: dict[str, int] = dict.fromkeys(USERS, 0)
        self.seen: dict[str, int] = dict.fromkeys(USERS, 0)
        self.logs: dict[str, list[Change]] = {user: [] for user in USERS}
        self.read_at: dict[str, int] = {}
        self.changes: dict[tuple[str, str | None], Change] = {}
        """(user, history) → every change that ever was, with the one before it"""
        self.payloads: dict[tuple[str, str | None], bytes] = {}
        self.images: list[Image] = []
        self.restores = 0
        self.lost: set[tuple[str, str | None]] = set()
        """(user, history) that the store did not have after it went back"""
        self.lost_letters: set[tuple[int, int]] = set()
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
        """As the store has it now; what was read before is not read again."""
        log, written = self.logs[user], self.database.driver.connection.total_changes
        if self.read_at.get(user) != written:
            self.read_at[user] = written
            self._read(self._stale(HEAD, user))
        return log

    def _stale(self, query: str, *of: str) -> dict[str, int]:
        """Whose log goes on in the store, after which revision."""
        heads = self.database.driver.connection.execute(query, of)
        return {user: len(self.logs[user]) for user, rev in heads if rev > len(self.logs[user])}

    def _read(self, stale: Mapping[str, int]) -> None:
        if stale:
            self._extend(self.database.driver.play(changes_since, stale, 10**6))

    def _extend(self, missed: Mapping[str, ChangesSince]) -> None:
        for user, since in missed.items():
            log = self.logs[user]
            for change in since.changes:
                if change.rev != len(log) + 1:
                    self.violate(f"the log of {user} goes from {len(log)} to {change.rev}")
                before = log[-1].history if log else ""
                if change.after not in (None, before):
                    self.violate(f"revision {change.rev} of {user} follows {change.after}, not {before}")
                known = msgspec.structs.replace(change, after=before)
                if (user, change.history) in self.changes:
                    self.violate(f"the history {change.history} of {user} was given twice")
                self.changes[user, change.history] = known
                log.append(known)

    async def mirror(self, tx: Tx) -> None:
        """Read all that the logs have, in a transaction that has written nothing yet."""
        if stale := self._stale(HEADS):
            self._extend(await changes_since(tx, stale, 10**6))
        self._note_rows()

    def expired(self, user: str, up_to_rev: int, truncated_through: int) -> None:
        """The rows up to this revision were removed, which is a change like an action's."""
        self.last_action_s = trio.current_time()
        self.note(f"{user} expires up to {up_to_rev}, the log through {truncated_through}")
        self.truncated[user] = max(self.truncated[user], truncated_through)
        for change in self.logs[user][:up_to_rev]:
            if isinstance(change, Created):
                self.held.discard((change.notification.activity_id, user))

    def head(self, user: str) -> InboxSummary:
        log = self.log(user)
        return head_at(user, log, len(log))

    def change(self, user: str, history: str | None) -> Change | None:
        """One that the store has or ever had."""
        if (user, history) not in self.changes:
            self.log(user)
        return self.changes.get((user, history))

    def payload(self, user: str, history: str | None) -> bytes:
        of = (user, history)
        if of not in self.payloads:
            change = self.change(*of)
            self.payloads[of] = b"" if isinstance(change, Unknown | None) else payload_of(change)
        return self.payloads[of]

    def corrected_since(self, payload: bytes, expected: bytes) -> bool:
        """A creation is sent as its row is by then: with the content of any correction of its activity."""
        one, other = json.loads(payload), json.loads(expected or b"{}")
        activity, amount = (one.get("data") or {}).get("activityId"), None
        if one.get("event") != CREATED or activity not in self.corrected or not other:
            return False
        for frame in (one, other):
            amount = frame["data"].pop("data")["payment"]["amount"]
            for name in ("content", "contentHtml", "actionUrl"):
                del frame["data"][name]
            if amount not in self.amounts[activity]:
                return False
        return bool(one == other)

    def resumed(self, user: str, rev: int, history: str | None) -> Resumed:
        log = self.log(user)
        agrees = history is None or not 0 < rev <= len(log) or log[rev - 1].history == history
        return Resumed(rev, history, len(log), self.truncated[user], agrees, self.restores)

    def note_rows(self) -> None:
        """Take in the rows written since the last time: none twice, none that is not expected."""
        self._read(self._stale(HEADS))
        self._note_rows()

    def _note_rows(self) -> None:
        for user, log in self.logs.items():
            for change in log[self.seen[user] :]:
                if isinstance(change, Created):
                    activity = change.notification.activity_id
                    if (activity, user) in self.held:
                        self.violate(f"a second row of {activity} for {user}")
                    if user not in self.expected.get(activity, ()):
                        self.violate(f"a row of {activity} for {user}, who is no recipient")
                    if newer := self._newer(activity, user, self.held):
                        self.violate(f"a row of {activity} for {user}, who has the newer {newer}")
                    self.stored.add((activity, user))
                    self.held.add((activity, user))
                    self.activities_stored.add(activity)
            self.seen[user] = len(log)

    def committed(self, partition: int, offset: int) -> None:
        self.note(f"commit {partition}/{offset}")
        self.note_rows()
        activity = self.published[partition, offset]
        missing = [] if activity is None else self._missing(activity)
        letters = self._letters() | self.lost_letters
        mendable = (partition, offset) in self.operations.mendable & letters
        if missing and not (mendable or self._deadly(partition, offset)):
            self.violate(f"{partition}/{offset} is committed, {activity} for {missing} is not stored")
        if (partition, offset) in self.poisoned and (partition, offset) not in letters:
            self.violate(f"{partition}/{offset} is committed and in no dead letter")

    def _deadly(self, partition: int, offset: int) -> bool:
        """Whether it was set aside because instances ended with it in hand; it is replayed at the end."""
        if self.losses - self.losses_before[partition, offset] < CRASHES:
            return False
        if (partition, offset) in self.lost_letters:
            return True
        query = 'SELECT 1 FROM dead_letter WHERE partition = ? AND "offset" = ? AND error = ?'
        connection = self.database.driver.connection
        return connection.execute(query, (partition, offset, SET_ASIDE)).fetchone() is not None

    def has_row(self, activity: str) -> bool:
        if activity not in self.activities_stored:
            self.note_rows()
        return activity in self.activities_stored

    def _missing(self, activity: str) -> list[str]:
        if self.latest >= datetime.fromisoformat(self.messages[activity].get("expiresAt", _NEVER)):
            return []
        if activity in self.retracted:
            return []
        missing = [user for user in self.expected[activity] if (activity, user) not in self.stored]
        return sorted(user for user in missing if not self._newer(activity, user, self.stored))

    def _newer(self, activity: str, user: str, among: Collection[tuple[str, str]]) -> list[str]:
        """Those of these rows that are of its collapse key and happened later."""
        message = self.messages[activity]
        others = self.of_key.get((message["organizerId"], message.get("collapseKey", "")), ())
        return [
            other
            for other in others
            if self.messages[other]["occurredAt"] > message["occurredAt"] and (other, user) in among
        ]

    def _letters(self) -> set[tuple[int, int]]:
        return set(self.database.driver.connection.execute('SELECT partition, "offset" FROM dead_letter'))

    # --- what the instances are given ---

    def now(self) -> datetime:
        now = EPOCH + timedelta(seconds=trio.current_time() + self.clock_off_s)
        self.latest = max(self.latest, now)
        return now

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
        self.database = MemoryDatabase(self.now)
        await self.database.directory.load(ROSTER)
        self.database.driver.delay = self.before_store
        self.database.driver.delay_after = self.after_store
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
                    owner = self if hasattr(self, action.name) else self.operations
                    getattr(owner, action.name)(**action.args)
                await trio.sleep_until(max(LASTS_S, trio.current_time()))
                await self.rest()
                await self.check_all()
                self.ended_s = trio.current_time()
                self.nursery.cancel_scope.cancel()
        except Exception as error:
            self.violation = self.violation or f"the simulation failed: {traced(error)}"
        finally:
            for image in self.images:
                image.database.close()

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
            self.database.driver.unavailable
            or rates
            or self.apart_now
            or self.store_up_to_s > 1
            or any(i.deaf or i.relay_cut or i.source_cut or i.store_cut or not i.up for i in self.instances)
        )

    def check_level(self, device: Device, link: Link) -> None:
        head = self.head(device.user)
        if link.owed:
            self.violate(f"{device} never received the state after its resume")
        elif head.rev != (min(link.ceiling, head.rev) if device.rev is None else device.rev):
            self.violate(f"{device} holds {device.rev}, the head is {head.rev}")
        elif device.history not in (None, head.history):
            self.violate(f"{device} holds {device.rev} of another history than the store's")

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
        await self.operations.rest()
        await self.inquire()

    async def inquire(self) -> None:
        """Once all is calm, each member that is in a room gets what is pushed to it."""
        connected = [d.link for d in self.devices.values() if d.link and d.link.connected]
        joining = [link for link in connected if type(link) is Link and link.device.number % 3 == 0]
        links = [link for link in joining if rooms_of(link.device.user)]
        for link in links:
            self.enter(link, rooms_of(link.device.user))
        await trio.sleep(5)
        for n, (organizer, merchant) in enumerate((("o1", None), ("o2", None), ("o1", "m2"), ("o2", "m3"))):
            message = inquiry(organizer, merchant) | {"eventId": f"last{n}"}
            self.publish(n, None, message)
        await trio.sleep(10)
        for link in links:
            for n in range(4):
                room = self.pushed_to[f"last{n}"]
                if not link.lost and room in link.rooms and f"last{n}" not in link.activities:
                    self.violate(f"{link.device} is in {room} and was not pushed last{n}")

    async def check_all(self) -> None:
        self.database.driver.delay = self.database.driver.delay_after = None
        self.note_rows()
        unreplayed = {self.published[position] for position in self.lost_letters}
        for activity in self.expected:
            if activity not in unreplayed and (missing := self._missing(activity)):
                self.violate(f"{activity} for {missing} is not stored")
        for partition in range(PARTITIONS):
            if self.topic.committed(partition) != self.topic.end(partition):
                self.violate(f"partition {partition} is not committed to its end")
        if wrong := (self._letters() ^ self.poisoned) - self.lost_letters:
            self.violate(f"dead letters {wrong} are not the poison")
        for user in USERS:
            await self._check_inbox(user)
            self._check_sequences(user)
        if not self.restores:
            self._check_corrections()
        await self.operations.check()
        for device in self.devices.values():
            link = device.link
            if link is None or not link.connected:
                self.violate(f"{device} is not connected")
            else:
                self.check_level(device, link)
        for instance in self.instances:
            waiting = len(instance.parts.polling._waiting)
            connections = sum(not isinstance(link, PollLink) for link in instance.links)
            if len(instance.hub.sessions) != connections + waiting:
                self.violate(f"instance {instance.number} keeps sessions of connections that are gone")
        page = await self.instances[0].operator.clients(None, None, 100, None)
        links = [device.link for device in self.devices.values() if device.link]
        online = sorted(link.client_id for link in links if not isinstance(link, PollLink))
        seen = {client["id"] for client in page.clients}
        if page.unanswered or (page.total <= len(seen) and not {*online} <= seen):
            self.violate(f"the operator sees {page.total} clients, {len(online)} are online")

    def _check_corrections(self) -> None:
        """Each row is that of the newest correction; none is left of what was retracted."""
        for activity, amounts in self.corrected.items():
            rows = self.database.driver.connection.execute(CORRECTABLE, (activity,)).fetchall()
            if activity in self.retracted and rows:
                self.violate(f"{len(rows)} rows are left of {activity}, which was retracted")
            newest = amounts[max(amounts)]
            for user, shown in rows:
                if shown != newest:
                    self.violate(f"{activity} shows {shown} to {user}, and not {newest}")

    def _check_sequences(self, user: str) -> None:
        """The clients of a user, by whichever transport, got the same changes since all had a place."""
        devices = [device for device in self.devices.values() if device.user == user]
        # One that states no history cannot notice that the store went back.
        placed = [d for d in devices if d.rev is not None and (d.keeps_history or not self.restores)]
        common = max((device.since for device in placed), default=0)
        log = [(change.rev, change.history) for change in self.log(user)[common:]]
        for device in placed:
            got = {(rev, history) for rev, history in device.got.items() if common < rev <= (device.rev or 0)}
            if wrong := got.symmetric_difference(log):
                self.violate(f"{device} and the log differ since {common} in {sorted(wrong)}")

    async def _check_inbox(self, user: str) -> None:
        at = InboxAt()
        for number, change in enumerate(self.log(user), 1):
            if isinstance(change, Created) and change.replaces != at.replaced_by(change.notification):
                self.violate(f"revision {change.rev} of {user} replaces {change.replaces}")
            at.apply(change)
            counts = (number, at.unread, at.unseen, at.total)
            if counts != (change.rev, change.unread, change.unseen, change.total):
                self.violate(f"revision {change.rev} of {user} counts wrong")
        inbox, head = self.database.inbox, self.head(user)
        total, _ = await inbox.count(user, InboxFilter())
        still, _ = await inbox.count(user, InboxFilter.of(is_read=False))
        _, kept = self.database.driver.connection.execute(HEAD, (user,)).fetchone() or ("", 0)
        if kept != head.rev or not (total, still) == (head.total, head.unread) == (at.total, at.unread):
            self.violate(f"the head of {user} counts wrong")

    # --- the actions; their names are the schedule's ---

    def arrive(self, device: int, user: str, by: str = "websocket") -> None:
        self.devices[device] = CLIENTS[by](self, device, user)
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
            self.expected[activity] = recipients(message)
            self.messages[activity] = message
            if key := message.get("collapseKey"):
                of_key = self.of_key.setdefault((message["organizerId"], key), [])
                if activity not in of_key:
                    of_key.append(activity)
            if message["eventType"] == "INQUIRY_SUBMITTED" and (room := member_room(message)):
                self.pushed_to[activity] = room
            if message["eventType"] == MENDABLE or message.get("subject") == REFUSABLE:
                self.operations.mendable.add((partition, offset))
            if "payment" in message["data"]:
                self.amounts.setdefault(activity, set()).add(message["data"]["payment"]["amount"])
        self.published[partition, offset] = activity
        self.losses_before[partition, offset] = self.losses
        headers = {"ce_id": ce_id.encode()} if ce_id else {}
        self.topic.publish([(None, json.dumps(message).encode())], partition=partition, headers=headers)

    def correct(self, partition: int, event: str, moment: str, amount: int | None) -> None:
        """Without an amount a retraction."""
        message: dict[str, Any] = {"action": "retract", "eventId": event, "occurredAt": moment}
        if amount is None:
            self.retracted.add(event)
        else:
            message |= {"action": "update", "data": {"payment": {"amount": amount, "currency": "VND"}}}
            self.amounts.setdefault(event, set()).add(amount)
        self.corrected.setdefault(event, {})[moment] = amount or 0
        offset = self.topic.end(partition)
        self.published[partition, offset] = None
        self.losses_before[partition, offset] = self.losses
        self.topic.publish([(None, json.dumps(message).encode())], partition=partition)

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
        self._ask(instance, lambda inbox: inbox.mark(user, id, "read", "sim"))

    def delete(self, instance: int, user: str, newest: int) -> None:
        id = self._row(user, newest)
        self._ask(instance, lambda inbox: inbox.delete(user, id))

    def mark_all(self, instance: int, user: str, below: int | None) -> None:
        up_to = None if below is None else max(self.head(user).rev - below, 0)
        self._ask(instance, lambda inbox: inbox.mark_all_read(user, up_to, origin="sim"))

    def _row(self, user: str, newest: int) -> int:
        found = self.database.driver.connection.execute(LIVE_ROWS, (user,))
        ids = [id for (id,) in found]
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
            link.wire.observer.stalled()

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
            link.wire.observer.stalled()

    def resume(self, device: int, back: int) -> None:
        if link := self._link(device):
            self.devices[device].resume(link, back)

    def join(self, device: int, room: str) -> None:
        if link := self._link(device):
            self.devices[device].members_rooms[room] = None
            self.enter(link, [room])

    def enter(self, link: Link, rooms: Iterable[str]) -> None:
        link.rooms.update(room for room in rooms if room in rooms_of(link.device.user))
        link.send("join", {"rooms": list(rooms)})

    def send(self, instance: int, kind: Any, target: str | None) -> None:
        one = self.instances[instance]
        if one.up:
            self.sends += 1
            data = json.dumps({"n": self.sends, "kind": kind, "target": target}).encode()
            one.nursery.start_soon(one.hub.send, RelayMessage(kind, target, "sim", data))

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
        self.database.driver.unavailable = away

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

    def back_up(self) -> None:
        self.note_rows()
        logs = {user: list(log) for user, log in self.logs.items()}
        image = sqlite3.connect(":memory:")
        self.database.driver.connection.backup(image)
        self.images.append(Image(image, logs, set(self.held), dict(self.truncated)))

    def restore(self, newest: int) -> None:
        """The store goes back to one of its backups, the latest or an earlier one."""
        if not self.images:
            return
        self.note_rows()
        letters, image = self._letters(), self.images[max(len(self.images) - 1 - newest, 0)]
        image.database.backup(self.database.driver.connection)
        self.restores += 1
        self.losses += 1
        self.read_at.clear()
        kept = {(user, change.history) for user, log in image.logs.items() for change in log}
        for user, log in self.logs.items():
            self.lost |= {(user, change.history) for change in log} - kept
        self.logs = {user: list(log) for user, log in image.logs.items()}
        self.seen = {user: len(log) for user, log in self.logs.items()}
        self.held, self.truncated = set(image.held), dict(image.truncated)
        self.lost_letters |= letters - self._letters()


@dataclass(frozen=True, slots=True)
class Image:
    """A backup of the store, with what the world knew of it."""

    database: sqlite3.Connection
    logs: Mapping[str, list[Change]]
    held: set[tuple[str, str]]
    truncated: Mapping[str, int]
