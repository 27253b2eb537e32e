"""Clients of the WebSocket, which check each frame against what they hold and what the store has."""

from __future__ import annotations

import json
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from sim_operations import PINNED
from sim_wire import Link, Resumed

from nx_signal.delivery.topics import ACTIVITY, CLOSED, GOAWAY, LOST, STATE
from nx_signal.model import InboxFilter, Unknown
from nx_signal.model.wire import CREATED, DELETED, READ, UPDATED

if TYPE_CHECKING:
    from sim_instance import Instance
    from sim_world import World

HEARTBEAT_S = 600.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 16.0
"""Of a client, between two attempts to connect."""
CAUGHT_UP = 100
"""Changes that an inbox may get between a resume and its read."""


class _Data(msgspec.Struct):
    rev: int | None = None
    history: str | None = None
    reset: bool = False
    unread: int | None = None
    unseen: int | None = None
    total: int | None = None
    id: str | None = None
    eventId: str | None = None
    userId: str | None = None
    n: int | None = None
    count: int | None = None
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
        self.history: str | None = None
        """of `rev`; None where it is not known"""
        self.held: dict[int, str] = {}
        """the revisions up to `rev` whose history it knows"""
        self.since = 0
        self.got: dict[int, str | None] = {}
        """rev → history of each change after `since`, as it got it the last time"""
        self.room: int | None = None
        """None: it reads at once"""
        self.members_rooms: dict[str, None] = {}
        """that it asks for on each connection"""
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
                    page = await instance.perform(partial(instance.inbox.page, self.user, InboxFilter(), 1))
                    if page:
                        self.starts_from(page.head.rev, page.head.history)
                if instance.up and not (self.rev is None and asks_first):
                    await self.converse(instance)
            with trio.move_on_after(self.offline_s):
                await world.calm.wait()
            self.offline_s = 0.0
            pause_s = FIRST_PAUSE_S if self.served else min(pause_s * 2, LONGEST_PAUSE_S)
            self.served = False
            await trio.sleep(rng.uniform(0.05, pause_s))

    async def converse(self, instance: Instance) -> None:
        self.link = link = self.link_to(instance)
        instance.nursery.start_soon(instance.serve, link)
        link.open()
        while not link.over.is_set():
            with trio.move_on_after(HEARTBEAT_S):
                await link.over.wait()
            link.send("heartbeat", None)
        self.link = None

    def link_to(self, instance: Instance) -> Link:
        return Link(self, instance)

    def resume(self, link: Link, back: int) -> None:
        """Ask again, from `back` revisions earlier; a negative `back` is ahead of the store."""
        if self.rev is not None:
            link.send("resume", self.place(max(self.rev - back, 0)), sealed=True)

    def starts_from(self, rev: int, history: str | None) -> None:
        """It has the inbox as of this revision."""
        self.holds(rev, history)
        self.since, self.got = rev, {}

    def holds(self, rev: int, history: str | None) -> None:
        self.rev, self.history = rev, history if self.keeps_history else None
        self.held = {r: h for r, h in self.held.items() if r < rev}
        if self.history is not None:
            self.held[rev] = self.history

    @property
    def keeps_history(self) -> bool:
        """An older client resumes with a revision alone."""
        return self.number % 4 != 3

    def place(self, rev: int) -> dict[str, Any]:
        """To resume from."""
        return {"rev": rev, "history": self.held[rev]} if rev in self.held else {"rev": rev}

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
                place = opened["data"]
                link.wire.put(self.world.resumed(self.user, place["rev"], place.get("history")))

    def read(self, link: Link, frames: int = 10**9) -> None:
        wire = link.wire
        while wire.frames and frames > 0 and not link.lost:
            frames -= 1
            item = wire.frames.popleft()
            if isinstance(item, bytes):
                self.receive(link, item)
            elif isinstance(item, Resumed):
                self.resumed(link, item)
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
        """A frame of RFC 6455."""
        self.take(link, raw[{126: 4, 127: 10}.get(raw[1], 2) :])

    def take(self, link: Link, payload: bytes) -> None:
        """`{"event","data"}`"""
        frame = _decode(payload)
        data = frame.data or _Data()
        self.world.frames += 1
        self.world.note(f"{self} reads {frame.event.rpartition('/')[2]} {data.rev} {data.n}")
        if frame.event == "connected":
            self._check(not link.connected and data.userId == self.user, "a second `connected`")
            link.connected = self.served = True
            link.connected_s = trio.current_time()
            link.client_id = data.id or ""
            if link.resumed is not None:
                self.resumed(link, link.resumed)
            if self.members_rooms:
                self.world.enter(link, self.members_rooms)
            return
        if frame.event == "error":
            return
        self._check(link.connected, f"{frame.event} before `connected`")
        if frame.event in (CREATED, READ, DELETED, UPDATED):
            self._next(link, data)
            expected = self.world.payload(self.user, data.history)
            same = payload == expected or self.world.corrected_since(payload, expected)
            self._check(same, f"revision {data.rev} is not the store's")
        elif frame.event == STATE:
            self._state(link, data)
        elif frame.event == PINNED:
            self._next(link, data)
            known = self.world.change(self.user, data.history)
            self._check(isinstance(known, Unknown), f"revision {data.rev} is not the newer release's")
        elif frame.event == ACTIVITY:
            self._activity(link, data.eventId or "")
        elif frame.event == "sim":
            self._check(data.n not in link.ephemeral, f"send {data.n} came twice")
            link.ephemeral.add(data.n or 0)
            self._check(self._addressed(link, data), f"send {data.n} was for {data.kind} {data.target}")
        elif frame.event == LOST:
            self._check((data.count or 0) > 0, "none was lost")
        elif frame.event == "expiring":
            if self.rng.random() < 0.5:
                link.send("refresh", {"token": self.user}, sealed=True)
        else:
            self._check(frame.event in (GOAWAY, CLOSED), f"what is {frame.event}?")

    def resumed(self, link: Link, at: Resumed) -> None:
        self.holds(at.rev, at.history)
        if at.rev < self.since or any(rev not in self.got for rev in range(self.since + 1, at.rev + 1)):
            self.since = at.rev
        link.owed = link.returning = True
        # Without a history, a store that went back may reach the device's revision before it is read.
        ahead = at.rev > at.head + (CAUGHT_UP if at.history is None else 0)
        link.too_far = ahead or at.rev < at.truncated or at.head > at.rev + link.resume_limit or not at.agrees
        link.restores = at.restores

    def _next(self, link: Link, data: _Data) -> None:
        rev, world = data.rev, self.world
        assert rev is not None
        if link.restores == world.restores:
            self._check(not link.too_far, f"revision {rev} came where a reset was due")
        change = world.change(self.user, data.history)
        if change is None or change.rev != rev:
            world.violate(f"{self}: revision {rev} of {data.history} was never the store's")
            return
        if self.rev is None:
            first = link.floor < rev <= link.ceiling + 1
            self._check(first or world.restores > 0, f"revision {rev} is first after {link.floor}")
            self.since = rev - 1
        else:
            self._check(rev == self.rev + 1, f"revision {rev} came after {self.rev}")
        if self.history is not None:
            self._check(change.after == self.history, f"revision {rev} came after another history")
        self.holds(rev, data.history)
        self.got[rev] = data.history
        link.returning = False

    def _state(self, link: Link, data: _Data) -> None:
        rev, limit, world = data.rev, link.resume_limit, self.world
        assert rev is not None
        log = world.log(self.user)
        at = world.change(self.user, data.history)
        counts = (0, 0, 0, 0) if at is None else (at.rev, at.unread, at.unseen, at.total)
        self._check(
            counts == (rev, data.unread, data.unseen, data.total), f"the state at {rev} was never the store's"
        )
        if data.reset:
            known = link.floor if self.rev is None else self.rev
            lost = (self.user, self.history) in world.lost if self.history else world.restores > 0
            self._check(
                (link.returning and rev > known + limit)
                or known > len(log)
                or known < world.truncated[self.user]
                or lost
                or any(isinstance(change, Unknown) for change in log[known:rev]),
                f"reset from {known} to {rev}, the limit being {limit}",
            )
        else:
            due = link.too_far and link.restores == world.restores
            self._check(not due, f"a state of {rev} at {self.rev} came where a reset was due")
            self._check(link.owed, "a state that was not requested")
            if self.rev is None:
                self._check(
                    link.floor <= rev <= link.ceiling or world.restores > 0,
                    f"{rev} is first, between {link.floor} and {link.ceiling}",
                )
            else:
                same = rev == self.rev and self.history in (None, data.history)
                self._check(same, f"a state of {rev} at {self.rev}")
        if data.reset or self.rev is None:
            self.starts_from(rev, data.history)
        else:
            self.holds(rev, data.history)
        link.owed = link.too_far = link.returning = False

    def _activity(self, link: Link, activity: str) -> None:
        """It was pushed to a members' room."""
        room = self.world.pushed_to.get(activity)
        self._check(room in link.rooms, f"{activity} was pushed, which was for {room}")
        self._check(activity not in link.activities, f"{activity} was pushed twice")
        link.activities.add(activity)
        if not self.world.has_row(activity):
            self.world.violate(f"{activity} was pushed before it was stored")

    def _addressed(self, link: Link, data: _Data) -> bool:
        if data.kind == "user":
            return data.target == self.user
        return data.kind == "broadcast" or data.target in link.rooms

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.world.violate(f"{self}: {otherwise}")
