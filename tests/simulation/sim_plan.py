"""What happens in one simulated run: settings and a schedule of actions, all made up front from the seed.

The schedule is a plain list, so that a failing run can be shrunk by leaving actions out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nx_signal.model import Member, Organizer, Roster

INSTANCES = 3
PARTITIONS = 4
DEVICES = 100
USERS = tuple(f"u{n}" for n in range(40))
BUSY = USERS[::4]
"""Half of all devices are theirs: several meet on one instance."""
LASTS_S = 3_600.0
"""Of simulated time; the faults end there."""
SCENES = 10
"""Short spells in which publishes, faults and devices meet; between them little happens."""
RUSHES = 8
"""Seconds in which all of it is about one user."""
LONGEST_FAULT_S = 45.0
NEVER_S = 1e9
"""A sweep that never comes."""

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
    return BUSY[device // 2 % len(BUSY)] if device % 2 else USERS[device // 2 % len(USERS)]


def merchants_of(user: str) -> frozenset[str]:
    return frozenset(m for m, users in _OF_MERCHANT.items() if user in users)


def recipients(
    scope: str, organizer: str, merchant: str | None, named: Sequence[str], actor: str
) -> frozenset[str]:
    """Who must hear of it: CONTRACT §3, said a second time and without looking at the first."""
    if scope == "users":
        found = set(named)
    elif scope == "org":
        found = {*_OF_ORGANIZER[organizer], *(u for m in _MERCHANTS[organizer] for u in _OF_MERCHANT[m])}
    else:
        found = set(_OF_MERCHANT[merchant]) if merchant in _MERCHANTS[organizer] else set()
    return frozenset(found or {actor})


@dataclass(frozen=True, slots=True)
class Action:
    at_s: float
    name: str
    """a method of the world"""
    args: Mapping[str, Any]

    def __str__(self) -> str:
        said = dict(self.args)
        if isinstance(message := said.pop("message", None), Mapping):
            to = message.get("merchantId") or ",".join(message.get("recipientIds", ()))
            said |= {"type": message["eventType"], "scope": message["recipientScope"], "to": to}
            said |= {"organizer": message["organizerId"], "actor": message["actorId"]}
            said |= {"eventId": message.get("eventId")}
        shown = " ".join(f"{k}={v}" for k, v in said.items() if v not in (None, ""))
        return f"{self.at_s:9.3f}  {self.name:<10} {shown}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    sweep_s: float
    resume_limit: int
    actions: tuple[Action, ...]

    def only(self, indexes: Iterable[int]) -> Plan:
        return replace(self, actions=tuple(self.actions[i] for i in sorted(indexes)))

    def __str__(self) -> str:
        sweep = "never" if self.sweep_s == NEVER_S else f"{self.sweep_s:g} s"
        return f"seed {self.seed}: sweep {sweep}, resume limit {self.resume_limit}"


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
        self.actions.sort(key=lambda action: action.at_s)
        return Plan(self.seed, self.sweep_s, self.resume_limit, tuple(self.actions))

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

    def rush(self, start_s: float, user: str) -> None:
        """Publishes in quick succession while the user's devices come back and the store takes its time."""
        rng = self.rng
        length_s = rng.choice([0.1, 1.0, 5.0])
        faults = [f for f in (self.jitter, self.slow_store, self.slow_store) if rng.random() < 0.5]
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
        identity = rng.choice(["eventId", "eventId", "ce_id", "position"])
        if identity == "eventId":
            message["eventId"] = event
        header = event if identity == "ce_id" else None
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

    def faults(self) -> list[Callable[[float, float, Callable[[], float]], None]]:
        noticed = [
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
    json.dumps(_SOUND | {"actorId": "nu\0l"}),
    json.dumps(_SOUND | {"occurredAt": "yesterday"}),
)
"""Messages that nobody can handle."""
