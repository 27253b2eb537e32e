"""What happens in one simulated run: settings and a schedule of actions, all made up front from the seed.

The schedule is a plain list, so that a failing run can be shrunk by leaving actions out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

from nx_signal.model import Member, Organizer, Roster
from nx_signal.model.timestamps import format_timestamp

EPOCH = datetime(2026, 11, 21, tzinfo=UTC)
INSTANCES = 3
PARTITIONS = 4
DEVICES = 100
USERS = tuple(f"u{n}" for n in range(40))
BUSY = USERS[::4]
"""Half of all devices are theirs: several meet on one instance."""
OTHER_TRANSPORTS = ("events", "polls")
"""One client of each, numbered after the devices, has each of some busy users."""
USERS_OF_ALL = 4
MET = frozenset(
    ["publish", "flood", "crash", "drain", "boot", "deaf", "cut", "store", "slow_store", "restore"]
)
"""What their losses are close to."""
LASTS_S = 3_600.0
"""Of simulated time; the faults end there."""
SCENES = 10
"""Short spells in which publishes, faults and devices meet; between them little happens."""
RUSHES = 8
"""Seconds in which all of it is about one user."""
LONGEST_FAULT_S = 45.0
MENDABLE = "REFUND_ISSUED"
"""The event type that has a bug in some releases."""
REFUSABLE = "refusable"
"""The subject of what the store may refuse for a while."""
EXCLUDING, UNITING = 7, 5
"""Each so many-th activity excludes its actor; unites its users with a merchant's members."""
RESTORING_FROM = 200
"""Seeds from here on: the store goes back."""
NEVER_S = 1e9
"""A sweep that never comes."""

Fault: TypeAlias = Callable[[float, float, Callable[[], float]], None]
"""Puts one into the schedule: when it starts, how long it may last, moments to meet it."""

_OF_ORGANIZER = {"o1": USERS[0:4], "o2": USERS[16:17], "o3": ()}
_OF_MERCHANT = {"m1": USERS[2:9], "m2": USERS[8:14], "m3": USERS[13:22]}
_MERCHANTS = {"o1": ("m1", "m2"), "o2": ("m3",), "o3": ()}

ROSTER = Roster(
    organizers=[Organizer(id, "vi" if id == "o1" else None, _MERCHANTS[id]) for id in _MERCHANTS],
    members=[
        *(Member(u, o, None, "owner", None) for o, users in _OF_ORGANIZER.items() for u in users),
        *(
            Member(u, o, m, "staff", "en" if u in USERS[::3] else None)
            for o, merchants in _MERCHANTS.items()
            for m in merchants
            for u in _OF_MERCHANT[m]
        ),
    ],
    grants=[],
)


def owner(device: int) -> str:
    if device >= DEVICES:
        return BUSY[(device - DEVICES) // len(OTHER_TRANSPORTS)]
    return BUSY[device // 2 % len(BUSY)] if device % 2 else USERS[device // 2 % len(USERS)]


def merchants_of(user: str) -> frozenset[str]:
    return frozenset(m for m, users in _OF_MERCHANT.items() if user in users)


def organizers_of(user: str) -> frozenset[str]:
    merchants = merchants_of(user)
    return frozenset(
        o for o, users in _OF_ORGANIZER.items() if user in users or not merchants.isdisjoint(_MERCHANTS[o])
    )


@cache
def rooms_of(user: str) -> tuple[str, ...]:
    """The members' rooms that this user may join."""
    organizers = tuple(f"signal/organizer/{o}" for o in sorted(organizers_of(user)))
    return organizers + tuple(f"signal/merchant/{m}" for m in sorted(merchants_of(user)))


def member_room(message: Mapping[str, Any]) -> str | None:
    """Where an activity that is pushed to members goes; None where its scope has none."""
    organizer, merchant = message["organizerId"], message.get("merchantId")
    if message["recipientScope"] == "org":
        return f"signal/organizer/{organizer}" if organizer != "o3" else None
    if message["recipientScope"] == "merchant" and merchant in _MERCHANTS[organizer]:
        return f"signal/merchant/{merchant}"
    return None


def inquiry(organizer: str, merchant: str | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "eventType": "INQUIRY_SUBMITTED",
        "recipientScope": "org" if merchant is None else "merchant",
        "actorId": "u39",
        "organizerId": organizer,
        "occurredAt": "2026-11-21T10:25:00Z",
        "data": {"inquiry": {"name": "Lan"}},
    }
    return message if merchant is None else message | {"merchantId": merchant}


def recipients(message: Mapping[str, Any]) -> frozenset[str]:
    """The recipients by CONTRACT §3, written independently of the server."""
    organizer, actor = message["organizerId"], message["actorId"]
    found: set[str] = set()
    entries = [(each["scope"], each.get("id"), each.get("ids", ())) for each in message.get("audience", ())]
    if not entries:
        named = message.get("recipientIds", ())
        entries = [(message["recipientScope"], message.get("merchantId"), named)]
    for scope, merchant, named in entries:
        if scope == "users":
            found |= set(named)
        elif scope == "org":
            found |= {*_OF_ORGANIZER[organizer], *(u for m in _MERCHANTS[organizer] for u in _OF_MERCHANT[m])}
        elif merchant in _MERCHANTS[organizer]:
            found |= set(_OF_MERCHANT[merchant])
    return frozenset(found - {actor} if message.get("excludeActor") else found or {actor})


@dataclass(frozen=True, slots=True)
class Action:
    at_s: float
    name: str
    """a method of the world"""
    args: Mapping[str, Any]

    def __str__(self) -> str:
        arguments = dict(self.args)
        if isinstance(message := arguments.pop("message", None), Mapping):
            to = message.get("merchantId") or ",".join(message.get("recipientIds", ()))
            arguments |= {"type": message["eventType"], "scope": message.get("recipientScope"), "to": to}
            arguments |= {"organizer": message["organizerId"], "actor": message["actorId"]}
            arguments |= {"eventId": message.get("eventId"), "key": message.get("collapseKey")}
            arguments |= {"expiresAt": message.get("expiresAt")}
        listed = " ".join(f"{k}={v}" for k, v in arguments.items() if v not in (None, ""))
        return f"{self.at_s:9.3f}  {self.name:<10} {listed}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    sweep_s: float
    resume_limit: int
    retention_days: int
    """0: nothing is removed by age"""
    actions: tuple[Action, ...]

    def only(self, indexes: Iterable[int]) -> Plan:
        return replace(self, actions=tuple(self.actions[i] for i in sorted(indexes)))

    def __str__(self) -> str:
        sweep = "never" if self.sweep_s == NEVER_S else f"{self.sweep_s:g} s"
        kept = f"retention {self.retention_days}" if self.retention_days else "no retention"
        return f"seed {self.seed}: sweep {sweep}, resume limit {self.resume_limit}, {kept}"


def plan_of(seed: int) -> Plan:
    return _Author(seed).write()


class _Author:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"{seed}/plan")
        self.seed = seed
        self.actions: list[Action] = []
        self.published = 0
        self.activities: list[dict[str, Any]] = []
        # Without a sweep everything must be found by other means, so only faults that give a sign happen.
        self.sweep_s = self.rng.choice([20.0, 60.0, NEVER_S])
        self.resume_limit = self.rng.choice([8, 30, 500])
        # Of its own, so that the rest of a seed's plan does not depend on it.
        self.more = random.Random(f"{seed}/more")
        self.marks = random.Random(f"{seed}/marks")
        self.corrections = random.Random(f"{seed}/corrections")
        self.correctable: dict[str, float] = {}
        """event → when it is published"""
        self.kept = random.Random(f"{seed}/kept")
        # A removal whose announcement is lost is found by the sweep alone.
        self.retention_days = self.more.choice([0, 1, 1, 2]) if self.sweep_s != NEVER_S else 0

    def write(self) -> Plan:
        for number in range(DEVICES):
            at_s = self.rng.uniform(0, 30) if self.rng.random() < 0.7 else self.rng.uniform(30, LASTS_S)
            self.add(at_s, "arrive", device=number, user=owner(number))
        for _ in range(SCENES):
            self.scene(self.rng.uniform(20, LASTS_S - 60))
        for _ in range(RUSHES):
            self.rush(self.rng.uniform(20, LASTS_S - 60), self.rng.choice(BUSY))
        for _ in range(10):
            self.publish(self.rng.uniform(0, LASTS_S), self.rng.sample(USERS, 3))
        if self.seed >= RESTORING_FROM and self.sweep_s != NEVER_S:
            for _ in range(self.rng.choice([1, 2, 3])):
                self.go_back(self.rng.uniform(60, LASTS_S - 900))
        self.correct()
        self.by_other_transports()
        self.actions.sort(key=lambda action: action.at_s)
        actions = tuple(self.actions)
        return Plan(self.seed, self.sweep_s, self.resume_limit, self.retention_days, actions)

    def add(self, at_s: float, name: str, **args: Any) -> None:
        self.actions.append(Action(round(at_s, 3), name, args))

    def scene(self, start_s: float) -> None:
        rng = self.rng
        hot = rng.sample(BUSY, 2) + rng.sample(USERS, rng.randint(0, 2))
        length_s = rng.choice([0.5, 3.0, 20.0])
        moments = [start_s + rng.uniform(0, length_s) for _ in range(6)]

        def moment() -> float:
            """Mostly close to another event: that is where races are."""
            return rng.choice(moments) + rng.choice([0, 0, rng.uniform(0, 0.1), rng.uniform(0, length_s)])

        for fault in rng.sample(self.faults(), rng.randint(1, 3)):
            fault(moment(), rng.uniform(0.1, rng.choice([1.0, LONGEST_FAULT_S])), moment)
        for _ in range(rng.randint(3, 7)):
            self.publish(moment(), hot)
        for _ in range(rng.randint(1, 5)):
            self.change(moment(), rng.choice(hot))
        for _ in range(rng.randint(2, 6)):
            self.device(moment(), rng.choice(hot))
        if rng.random() < 0.3:
            self.flood(moment(), rng.choice(hot))
        if rng.random() < 0.4:
            self.send(moment(), hot)
        self.beside(start_s, length_s, hot)

    def rush(self, start_s: float, user: str) -> None:
        """Publishes in quick succession while the user's devices come back and the store takes its time."""
        rng = self.rng
        length_s = rng.choice([0.1, 1.0, 5.0])
        stalls: tuple[Fault, ...] = (self.jitter, self.slow_store, self.slow_store)
        faults = [fault for fault in stalls if rng.random() < 0.5]
        faults += rng.choice([[], [self.deaf], [self.flutter], [rng.choice(self.faults())]])
        for fault in faults:
            at_s = start_s + rng.choice([-0.5, rng.uniform(0, length_s)])
            fault(at_s, rng.uniform(0, length_s + 2), lambda: start_s + rng.uniform(0, length_s))
        for _ in range(rng.randint(4, 12)):
            self.publish(start_s + rng.uniform(0, length_s), [user])
        for number in range(DEVICES):
            if owner(number) == user and rng.random() < 0.6:
                at_s = start_s + rng.uniform(-1, length_s)
                if rng.random() < 0.5:
                    self.add(at_s, "hang_up", device=number, offline_s=0)
                else:
                    self.add(at_s, "resume", device=number, back=rng.choice([0, 2, -1_000]))
        if rng.random() < 0.4:
            self.flood(start_s + rng.uniform(0, length_s), user)
        if rng.random() < 0.3:
            self.change(start_s + rng.uniform(0, length_s), user)
        self.beside(start_s, length_s, [user])

    def go_back(self, start_s: float) -> None:
        """A backup that is restored later; changes and devices between them and after."""
        rng = self.rng
        hot = rng.sample(BUSY, 2) + rng.sample(USERS, rng.randint(0, 2))
        length_s = rng.choice([1.0, 20.0, 600.0])
        back_s = start_s + length_s
        self.add(start_s, "back_up")
        self.add(back_s, "restore", newest=rng.choice([0, 0, 0, 1]))
        if rng.random() < 0.5:
            self.store_away(back_s - rng.uniform(0, 1), rng.uniform(1, 5), lambda: back_s)
        for _ in range(rng.randint(2, 6)):
            self.publish(start_s + rng.uniform(0, length_s), hot)
        for _ in range(rng.randint(0, 6)):
            self.publish(back_s + rng.choice([0, 0.5, 5, 60]) * rng.random(), hot)
        for _ in range(rng.randint(0, 3)):
            self.change(start_s + rng.uniform(0, length_s + 5), rng.choice(hot))
        for _ in range(rng.randint(2, 8)):
            self.device(start_s + rng.uniform(0, length_s + 20), rng.choice(hot))
        for number in range(DEVICES):
            if owner(number) in hot and rng.random() < 0.4:
                at_s = back_s + rng.choice([-1, 0, 1, 30]) * rng.random()
                if rng.random() < 0.5:
                    self.add(at_s, "hang_up", device=number, offline_s=rng.choice([0, 1, 60]))
                else:
                    self.add(at_s, "resume", device=number, back=rng.choice([0, 2, -1_000]))
        if rng.random() < 0.4:
            rng.choice(self.faults())(back_s - rng.random(), rng.uniform(0.1, 20), lambda: back_s)

    # --- what happens beside; its random numbers are `more` ---

    def beside(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        more = self.more
        further = [self.inquire, self.maintain, self.look, self.write_and_read, self.set_aside]
        for act in more.sample(further, 2):
            act(start_s, length_s, hot)
        if more.random() < 0.3:
            other = more.choice([self.newer, self.older])
            # The release before states no history: what it announces is pushed by its revision.
            (self.newer if self.seed >= RESTORING_FROM else other)(start_s, length_s, hot)

        self.mark(start_s, length_s, hot)
        self.keep(start_s, length_s, hot)

    def correct(self) -> None:
        """Corrections and retractions before, beside and after their activities, in whatever order."""
        rng = self.corrections
        for event in rng.sample(sorted(self.correctable), min(25, len(self.correctable))):
            for n in range(rng.choice([1, 1, 2, 3])):
                at_s = self.correctable[event] + rng.choice([-60, -1, 0, 0.05, 1, 60]) * rng.random()
                args = {"event": event, "partition": rng.randrange(PARTITIONS)}
                args["moment"] = f"2026-11-21T10:25:{rng.randrange(10, 60)}.{n}00Z"
                args["amount"] = None if rng.random() < 0.25 else rng.randrange(10**6)
                for _ in range(rng.choice([1, 1, 2])):
                    self.add(max(at_s, 0.0), "correct", **args)
                    at_s += rng.choice([0, 0.01, 60]) * rng.random()

    def by_other_transports(self) -> None:
        """Its random numbers are of its own, so that the rest of a seed's plan does not depend on them."""
        rng = random.Random(f"{self.seed}/transports")
        moments = [action.at_s for action in self.actions if action.name in MET]
        for user in rng.sample(BUSY, USERS_OF_ALL):
            for kind, by in enumerate(OTHER_TRANSPORTS):
                device = DEVICES + BUSY.index(user) * len(OTHER_TRANSPORTS) + kind
                self.add(rng.uniform(0, 60), "arrive", device=device, user=user, by=by)
                for _ in range(12):
                    at_s = max(rng.choice(moments) + rng.choice([-0.5, 0, 0.05, 1, 20]) * rng.random(), 0.0)
                    self.lose(rng, at_s, device, by)

    def lose(self, rng: random.Random, at_s: float, device: int, by: str) -> None:
        kind = rng.random()
        if kind < 0.4:
            offline_s = round(rng.choice([0, 0.1, 2, 120]) * rng.random(), 3)
            self.add(at_s, rng.choice(["hang_up", "hang_up", "vanish"]), device=device, offline_s=offline_s)
        elif kind < 0.7 or by == "polls":
            self.add(at_s, "resume", device=device, back=rng.choice([0, 0, 1, 5, 20, -1_000]))
        else:
            self.add(at_s, "slow", device=device, room=rng.choice([0, 1, 3, 8]))
            for _ in range(rng.randint(0, 4)):
                at_s += rng.choice([0.01, 0.5, 20]) * rng.random()
                name = rng.choice(["read", "read", "read", "stall"])
                frames = {"frames": rng.choice([1, 2, 5, 100])} if name == "read" else {}
                self.add(at_s, name, device=device, **frames)
            if rng.random() < 0.8:
                self.add(at_s + rng.uniform(0, 60), "quick", device=device)

    def mark(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        """What readers do beside reading; its random numbers are `marks`, so that the others stay."""
        rng = self.marks
        for _ in range(rng.randint(0, 4)):
            name = rng.choice(["mark_ids", "mark_ids", "mark_seen", "mark_portions"])
            args: dict[str, Any] = {"instance": rng.randrange(INSTANCES), "user": rng.choice(hot)}
            if name == "mark_ids":
                args |= {"newest": rng.choice([0, 0, 1, 3]), "count": rng.choice([1, 2, 5])}
                args["mark"] = rng.choice(["read", "unread", "seen", "archive", "unarchive", "delete"])
            else:
                args["below"] = rng.choice([None, 0, 2, 5])
            if name == "mark_portions":
                args["mark"] = rng.choice(["unread", "archive", "unarchive", "unarchive"])
                args["only_read"] = rng.random() < 0.5
            at_s = start_s + rng.uniform(0, length_s)
            self.add(at_s, name, **args)
            if rng.random() < 0.2:  # another device
                self.add(at_s, name, **(args | {"instance": rng.randrange(INSTANCES)}))

    def keep(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        """What producers state about how a notification is kept; its random numbers are `kept`."""
        rng = self.kept
        for n in range(rng.randint(0, 4)):
            at_s = start_s + rng.uniform(0, length_s)
            message = _SOUND | {"recipientIds": rng.choices(hot, k=2), "actorId": hot[0]}
            message |= {"organizerId": rng.choice(["o1", "o1", "o2"]), "data": {"payment": {"amount": n}}}
            message["occurredAt"] = _at(at_s + rng.choice([0, 0, rng.uniform(-2, 2), -60]))
            if rng.random() < 0.8:
                message["collapseKey"] = rng.choice("kkl")
            # A removal whose announcement is lost is found by the sweep alone.
            later_s = [0.01, 5, 60, 900] if self.sweep_s != NEVER_S else []
            if rng.random() < 0.4:
                message["expiresAt"] = _at(at_s + rng.choice([-5_000, *later_s]))
            if rng.random() < 0.3:
                message["priority"] = "high"
            event, identity = f"k{len(self.actions)}.{n}", rng.choice(["eventId", "ce_id", "position"])
            if identity == "eventId":
                message["eventId"] = event
            for _ in range(1 if identity == "position" else rng.choice([1, 1, 2, 3])):
                header = event if identity == "ce_id" else None
                partition = rng.randrange(PARTITIONS)
                self.add(at_s, "publish", partition=partition, ce_id=header, message=message)
                at_s += rng.choice([0, rng.uniform(0, 1), rng.uniform(0, 60)])
        if rng.random() < 0.3:
            at_s = start_s + rng.uniform(0, length_s + 10)
            self.add(at_s, "maintain", instance=rng.randrange(INSTANCES), what="remove_expired")

    def inquire(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        """Pushes to members' rooms, and devices that join them, allowed or not."""
        more = self.more
        organizer, merchant = more.choice(
            [("o1", None), ("o2", None), ("o1", "m1"), ("o1", "m2"), ("o2", "m3"), ("o3", None), ("o1", "m3")]
        )
        room = member_room(inquiry(organizer, merchant)) or "signal/merchant/m3"
        for device in more.sample(range(DEVICES), 6):
            if room in rooms_of(owner(device)) or more.random() < 0.2:
                self.add(start_s + more.uniform(-2, length_s), "join", device=device, room=room)
        for n in range(more.randint(1, 2)):
            message = inquiry(organizer, merchant)
            if more.random() < 0.7:
                message["eventId"] = f"i{len(self.actions)}.{n}"
            at_s = start_s + more.uniform(0, length_s)
            for _ in range(more.choice([1, 2]) if "eventId" in message else 1):
                partition = more.randrange(PARTITIONS)
                self.add(at_s, "publish", partition=partition, ce_id=None, message=message)
                at_s += more.choice([0, more.uniform(0, 1)])

    def maintain(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        more = self.more
        for _ in range(more.randint(1, 3)):
            what = more.choice(["apply_read_alls", "audit", "expire"])
            at_s = start_s + more.uniform(0, length_s)
            self.add(at_s, "maintain", instance=more.randrange(INSTANCES), what=what)

    def look(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        more = self.more
        for _ in range(more.randint(1, 3)):
            self.add(
                start_s + more.uniform(0, length_s),
                "look",
                instance=more.randrange(INSTANCES),
                user=more.choice(hot),
                limit=more.choice([1, 3, 20]),
                pages=more.choice([1, 3, 6]),
                is_read=more.choice([None, None, False, True]),
                type=more.choice([None, None, "PAYMENT_SUCCESS", "ORDER_COMPLETED"]),
                archived=self.marks.random() < 0.3,
            )

    def write_and_read(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        more = self.more
        for _ in range(more.randint(1, 3)):
            self.add(
                start_s + more.uniform(0, length_s),
                "write",
                instance=more.randrange(INSTANCES),
                reader=more.randrange(INSTANCES),
                user=more.choice(hot),
                newest=more.choice([0, 0, 1, 3]),
                what=more.choice(["mark_read", "mark_all", "mark_all", "delete"]),
                type=more.choice([None, "PAYMENT_SUCCESS", "ORDER_COMPLETED"]),
            )

    def set_aside(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        """Records that cannot be handled for a while; they are replayed before and after."""
        more = self.more
        cause = more.choice([MENDABLE, REFUSABLE])
        message = _SOUND | {"recipientIds": [*hot], "actorId": hot[0]}
        mended_s = start_s + length_s * more.random() + more.uniform(0, 10)
        if cause == MENDABLE:
            message["eventType"] = MENDABLE
            for instance in range(INSTANCES):
                self.add(start_s - 1, "fail", instance=instance, on=True)
                late_s = more.choice([0, 0, more.uniform(0, 20)])
                self.add(mended_s + late_s, "fail", instance=instance, on=False)
        else:
            message["subject"] = REFUSABLE
            self.add(start_s - 1, "refuse", on=True)
            self.add(mended_s, "refuse", on=False)
        event = f"a{len(self.actions)}"
        identity = more.choice(["eventId", "ce_id", "position"])
        if identity == "eventId":
            message["eventId"] = event
        for _ in range(more.randint(1, 3) if identity == "position" else more.choice([1, 1, 2])):
            at_s = start_s + more.uniform(0, length_s)
            header = event if identity == "ce_id" else None
            self.add(at_s, "publish", partition=more.randrange(PARTITIONS), ce_id=header, message=message)
        for _ in range(more.randint(2, 4)):
            at_s = mended_s + more.choice([-0.5, 0, more.uniform(0, 5), more.uniform(0, 40)])
            newest, known = more.choice([0, 0, 1, 3]), more.random() < 0.8
            for _ in range(more.choice([1, 2])):  # also at once
                instance = more.randrange(INSTANCES)
                self.add(at_s, "replay", instance=instance, newest=newest, known=known)
        if self.sweep_s != NEVER_S and more.random() < 0.5:
            steps, instance = more.randrange(40), more.randrange(INSTANCES)
            self.add(at_s, "crash", instance=instance, steps=steps, silent_s=0)
            self.add(at_s + more.uniform(0, 20), "boot", instance=instance)

    def newer(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        more = self.more
        for _ in range(more.randint(1, 2)):
            at_s = start_s + more.uniform(0, length_s)
            announced = self.sweep_s == NEVER_S or more.random() < 0.7
            instance, user = more.randrange(INSTANCES), more.choice(hot)
            self.add(at_s, "newer", instance=instance, user=user, announced=announced)

    def older(self, start_s: float, length_s: float, hot: Sequence[str]) -> None:
        """An instance of the previous release, for a while."""
        more = self.more
        instance = more.randrange(INSTANCES)
        self.add(start_s - 1, "release", instance=instance, older=True)
        self.add(start_s + length_s + more.uniform(0, 200), "release", instance=instance, older=False)
        device = more.choice([number for number in range(DEVICES) if owner(number) == hot[0]])
        self.add(start_s + length_s + more.uniform(0, 200), "resume", device=device, back=1_000_000)

    # --- what producers and users do ---

    def publish(self, at_s: float, hot: Sequence[str]) -> None:
        rng = self.rng
        self.published += 1
        event = f"e{self.published}"
        kind = rng.random()
        if kind < 0.06:
            self.add(at_s, "poison", partition=rng.randrange(PARTITIONS), value=rng.choice(POISON))
            return
        message: dict[str, Any] = {
            "eventType": "PAYMENT_SUCCESS",
            "recipientScope": "users",
            "actorId": rng.choice(USERS),
            "organizerId": rng.choice(["o1", "o2", "o3"]),
            "occurredAt": "2026-11-21T10:25:00Z",
            "data": {"payment": {"amount": self.published, "currency": "VND"}},
        }
        if kind < 0.10:
            message["eventType"] = "NOT_OURS"
        elif kind < 0.18:
            message |= {"recipientScope": "org"}
        elif kind < 0.35:
            organizer, merchant = rng.choice([("o1", "m1"), ("o1", "m2"), ("o2", "m3"), ("o1", "m3")])
            message |= {"recipientScope": "merchant", "organizerId": organizer, "merchantId": merchant}
        elif kind < 0.42:
            message["actorId"] = rng.choice(hot)
        else:
            message["recipientIds"] = rng.choices(hot, k=rng.randint(1, len(hot)))
        if self.published % EXCLUDING == 0:
            message["excludeActor"] = True
        if self.published % UNITING == 0 and (named := message.pop("recipientIds", None)):
            message["audience"] = [{"scope": "users", "ids": named}, {"scope": "merchant", "id": "m1"}]
            del message["recipientScope"]
        identity = rng.choice(["eventId", "eventId", "ce_id", "position"])
        if identity == "eventId":
            message["eventId"] = event
        header = event if identity == "ce_id" else None
        if identity != "position" and message["eventType"] != "NOT_OURS":
            self.correctable[event] = at_s
        times = rng.choice([1, 1, 1, 2, 3]) if identity != "position" else 1
        for again in range(times):
            late_s = 0.0 if again == 0 else rng.choice([0, rng.uniform(0, 1), rng.uniform(0, 60)])
            self.add(
                at_s + late_s,
                "publish",
                partition=rng.randrange(PARTITIONS),
                ce_id=header,
                message=message,
            )

    def flood(self, at_s: float, user: str) -> None:
        """More than a returning client is replayed, some of the time."""
        self.add(at_s, "flood", user=user, count=self.rng.choice([12, 40]), partition=self.partition())

    def change(self, at_s: float, user: str) -> None:
        rng = self.rng
        name = rng.choice(["mark_read", "mark_read", "mark_all", "delete"])
        args: dict[str, Any] = {"instance": rng.randrange(INSTANCES), "user": user}
        if name == "mark_all":
            args["below"] = rng.choice([None, 0, 2, 5])
        else:
            args["newest"] = rng.choice([0, 0, 1, 3])
        self.add(at_s, name, **args)
        if rng.random() < 0.3:  # another device, or the same one's retry
            self.add(at_s, name, **(args | {"instance": rng.randrange(INSTANCES)}))

    def device(self, at_s: float, user: str) -> None:
        rng = self.rng
        device = rng.choice([number for number in range(DEVICES) if owner(number) == user])
        kind = rng.random()
        if kind < 0.3:
            self.add(at_s, "hang_up", device=device, offline_s=self.offline())
        elif kind < 0.42:
            self.add(at_s, "vanish", device=device, offline_s=self.offline())
        elif kind < 0.62:
            back = rng.choice([0, 0, 1, 5, 20, -1_000])
            self.add(at_s, "resume", device=device, back=back)
            if rng.random() < 0.4:
                self.add(at_s + rng.uniform(0, 0.1), "resume", device=device, back=rng.choice([0, 3, -1_000]))
        elif kind < 0.67:
            self.add(at_s, "join", device=device, room=f"signal/merchant/{rng.choice(['m1', 'm2', 'm3'])}")
        else:
            self.add(at_s, "slow", device=device, room=rng.choice([0, 1, 3, 8]))
            now_s = at_s
            for _ in range(rng.randint(0, 5)):
                now_s += rng.choice([0.01, 0.5, 20]) * rng.random()
                if rng.random() < 0.1:
                    self.add(now_s, "stall", device=device)
                else:
                    self.add(now_s, "read", device=device, frames=rng.choice([1, 2, 5, 100]))
            if rng.random() < 0.8:
                self.add(now_s + rng.uniform(0, 60), "quick", device=device)

    def offline(self) -> float:
        return round(self.rng.choice([0, 0.1, 2, 120]) * self.rng.random(), 3)

    def send(self, at_s: float, hot: Sequence[str]) -> None:
        """Something that is not part of any log."""
        kind, target = self.rng.choice(
            [
                ("broadcast", None),
                ("user", hot[0]),
                ("room", "ws-default"),
                ("room", "signal/merchant/m1"),
                ("room", "signal/notification/" + hot[0]),
            ]
        )
        self.add(at_s, "send", instance=self.rng.randrange(INSTANCES), kind=kind, target=target)

    def partition(self) -> int:
        return self.rng.randrange(PARTITIONS)

    # --- what goes wrong; `lasts_s` bounds each of them ---

    def faults(self) -> list[Fault]:
        noticed: list[Fault] = [
            self.deaf,
            self.flutter,
            self.store_away,
            self.slow_store,
            self.source_away,
            self.jitter,
            self.clock,
        ]
        if self.sweep_s == NEVER_S:
            return noticed
        return [
            *noticed,
            self.crash,
            self.crash,
            self.crash,
            self.drain,
            self.cut,
            self.loss,
            self.apart,
            self.flaky_store,
            self.store_cut,
        ]

    def span(
        self, at_s: float, lasts_s: float, name: str, on: Mapping[str, Any], off: Mapping[str, Any]
    ) -> None:
        self.add(at_s, name, **on)
        self.add(at_s + lasts_s, name, **off)

    def crash(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        instance = self.rng.randrange(INSTANCES)
        for when_s in [at_s] if self.rng.random() < 0.7 else [at_s, moment()]:
            steps = self.rng.choice([0, self.rng.randrange(12), self.rng.randrange(80)])
            silent_s = self.rng.choice([0, 0, round(self.rng.uniform(0, 20), 3)])
            self.add(when_s, "crash", instance=instance, steps=steps, silent_s=silent_s)
            self.add(when_s + lasts_s, "boot", instance=instance)
            instance = self.rng.randrange(INSTANCES)

    def drain(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        instance = self.rng.randrange(INSTANCES)
        self.add(at_s, "drain", instance=instance)
        self.add(at_s + lasts_s + 20, "boot", instance=instance)

    def cut(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        args = {"instance": self.rng.randrange(INSTANCES)}
        self.span(at_s, lasts_s, "cut", args | {"on": True}, args | {"on": False})

    def deaf(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        args = {"instance": self.rng.randrange(INSTANCES)}
        self.span(at_s, lasts_s, "deaf", args | {"on": True}, args | {"on": False})

    def flutter(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        """The relay comes and goes, faster than the store answers."""
        instance = self.rng.randrange(INSTANCES)
        for _ in range(self.rng.randint(2, 4)):
            on = {"instance": instance, "on": True}
            self.span(at_s, self.rng.uniform(0.01, 0.5), "deaf", on, on | {"on": False})
            at_s += self.rng.uniform(0.5, 2)

    def loss(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        self.span(at_s, lasts_s, "loss", {"share": self.rng.choice([0.1, 0.5, 1])}, {"share": 0})

    def jitter(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        self.span(at_s, lasts_s, "jitter", {"up_to_s": self.rng.choice([0.01, 0.3])}, {"up_to_s": 0})

    def apart(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        one, other = self.rng.sample(range(INSTANCES), 2)
        args = {"sender": one, "receiver": other}
        self.span(at_s, lasts_s, "apart", args | {"on": True}, args | {"on": False})

    def store_away(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        self.span(at_s, lasts_s, "store", {"away": True}, {"away": False})

    def store_cut(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        args = {"instance": self.rng.randrange(INSTANCES)}
        self.span(at_s, lasts_s, "store_cut", args | {"on": True}, args | {"on": False})

    def slow_store(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        self.span(at_s, lasts_s, "slow_store", {"up_to_s": self.rng.choice([0.1, 2])}, {"up_to_s": 0.02})

    def flaky_store(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        fails = {"before": self.rng.choice([0, 0.3]), "after": self.rng.choice([0.2, 0.7])}
        self.span(at_s, lasts_s, "flaky", fails, {"before": 0, "after": 0})

    def source_away(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        args = {"instance": self.rng.randrange(INSTANCES)}
        self.span(at_s, lasts_s, "source", args | {"cut": True}, args | {"cut": False})

    def clock(self, at_s: float, lasts_s: float, moment: Callable[[], float]) -> None:
        self.add(at_s, "clock", step_s=self.rng.choice([-3_600, -5, -0.01, 3, 600]))


def _at(moment_s: float) -> str:
    """On a clock that is never set."""
    return format_timestamp(EPOCH + timedelta(seconds=moment_s))


_SOUND: dict[str, Any] = {
    "eventType": "PAYMENT_SUCCESS",
    "recipientScope": "users",
    "actorId": "u1",
    "organizerId": "o1",
    "recipientIds": ["u1", "u2"],
    "occurredAt": "2026-11-21T10:25:00Z",
    "data": {"payment": {"amount": 1}},
}
POISON = (
    "not JSON",
    json.dumps(_SOUND | {"data": {}}),
    json.dumps(_SOUND | {"recipientScope": "everybody"}),
    json.dumps(_SOUND | {"actorId": "x" * 300}),
    json.dumps(_SOUND | {"occurredAt": "yesterday"}),
)
"""Messages that nobody can handle."""
