"""`nx-signal demo`: a server with a small shop and five connected users, in one terminal."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from nx_signal import service
from nx_signal.backends import open_database
from nx_signal.cli.token import mint
from nx_signal.client.rest import BASE, Rest, RestUnavailable, open_rest
from nx_signal.client.stream import Stream, StreamClosed, open_stream
from nx_signal.config import Settings
from nx_signal.model import Json, Member, Organizer, Roster
from nx_signal.model.wire import CREATED

PAUSE_S = 2.5
"""Between two activities: time to read one."""
TOKEN_TTL_S = 24 * 3600

ORGANIZER = "lotus"
HANOI, SAIGON = "lotus-hanoi", "lotus-saigon"
SHOPS = {HANOI: "the Hanoi shop", SAIGON: "the Saigon shop"}


@dataclass(frozen=True, slots=True)
class Person:
    user: str
    name: str
    job: str
    merchant: str | None
    role: str
    locale: str | None
    """None: the organizer's"""
    colour: int
    """ANSI"""


PEOPLE = (
    Person("mai", "Mai", "owns Lotus Tea", None, "owner", "vi", 35),
    Person("david", "David", "manages the Hanoi shop", HANOI, "manager", "en", 36),
    Person("linh", "Linh", "works in the Hanoi shop", HANOI, "staff", "vi", 32),
    Person("tom", "Tom", "works in the Saigon shop", SAIGON, "staff", "en", 33),
    Person("hoa", "Hoa", "works in the Saigon shop", SAIGON, "staff", None, 34),
)
ORGANIZER_LOCALE = "vi"
LANGUAGES = {"en": "English", "vi": "Vietnamese"}


@dataclass(frozen=True, slots=True)
class Happening:
    """An event in the shop: the line that is printed, and the fields of its message (CONTRACT §3)."""

    text: str
    type: str
    scope: str
    actor: str
    data: Json
    merchant: str | None = None
    recipients: tuple[str, ...] = ()


def happenings() -> Iterator[Happening]:
    """A payment in each shop, an order, an inquiry to all members, a refund to one; repeated."""
    for number in itertools.count(1):
        yield Happening(
            "An pays 45,000 VND for jasmine tea in the Hanoi shop",
            "PAYMENT_SUCCESS",
            "merchant",
            "An",
            {"payment": {"subject": "Jasmine tea", "amount": 45_000, "currency": "VND"}},
            HANOI,
        )
        yield Happening(
            f"Bình's order A-{1000 + number} is complete in the Saigon shop",
            "ORDER_COMPLETED",
            "merchant",
            "Bình",
            {"order": {"number": f"A-{1000 + number}", "total": 320_000, "currency": "VND"}},
            SAIGON,
        )
        yield Happening(
            "Chi sends all of Lotus Tea an inquiry about a wedding for 80 guests",
            "INQUIRY_SUBMITTED",
            "org",
            "Chi",
            {"inquiry": {"name": "Chi", "subject": "Wedding for 80 guests"}},
        )
        yield Happening(
            "Dora pays 19.50 USD for lotus tea in the Saigon shop",
            "PAYMENT_SUCCESS",
            "merchant",
            "Dora",
            {"payment": {"subject": "Lotus tea", "amount": 19.5, "currency": "USD"}},
            SAIGON,
        )
        yield Happening(
            "A supplier's refund of 1,250,000 VND goes to Mai alone",
            "PAYMENT_SUCCESS",
            "users",
            "Green Hills Tea",
            {"payment": {"subject": "Refund", "amount": 1_250_000, "currency": "VND"}},
            recipients=("mai",),
        )


def roster() -> Roster:
    return Roster(
        organizers=(Organizer(ORGANIZER, ORGANIZER_LOCALE, tuple(SHOPS)),),
        members=tuple(Member(p.user, ORGANIZER, p.merchant, p.role, p.locale) for p in PEOPLE),
        grants=(),
    )


def message(happening: Happening) -> dict[str, Json]:
    actor_id = happening.actor.lower().replace(" ", "-")
    fields: dict[str, Json] = {
        "eventId": str(uuid.uuid4()),
        "eventType": happening.type,
        "recipientScope": happening.scope,
        "actorId": actor_id,
        "actor": {"id": actor_id, "name": happening.actor, "type": "customer"},
        "organizerId": ORGANIZER,
        "data": happening.data,
        "occurredAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if happening.merchant is not None:
        fields["merchantId"] = happening.merchant
    if happening.recipients:
        fields["recipientIds"] = list(happening.recipients)
    return fields


class Screen:
    """Prints lines without buffering, in colour on a terminal (https://no-color.org)."""

    def __init__(self) -> None:
        self._coloured = (
            sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text

    def bold(self, text: str) -> str:
        return self.paint(text, 1)

    def dim(self, text: str) -> str:
        return self.paint(text, 2)


def run(settings: Settings, *, keeps_data: bool, seconds: int | None) -> None:
    """Run until signalled, or for `seconds`."""
    with ExitStack() as stack:
        data_dir = settings.data_dir
        if not keeps_data:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nx-signal-demo-")))
        trio.run(_run, dataclasses.replace(settings, data_dir=data_dir), seconds)


async def _run(settings: Settings, seconds: int | None) -> None:
    screen = Screen()
    screen.line(screen.bold("Signal") + ": events in a shop, and the notifications that its users receive.\n")
    async with open_database(settings) as database:
        await database.check()
        await database.directory.load(roster())
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        # The server drains on a signal or on `stop`; then the other tasks are cancelled.
        port: int = await nursery.start(partial(_serve, settings, stop, nursery.cancel_scope))
        if seconds is not None:
            nursery.start_soon(_stop_after, seconds, stop)
        for person in PEOPLE:
            await nursery.start(_connect, screen, settings, port, person)
        _introduce(screen, settings, port)
        nursery.start_soon(_publish, screen, settings, port)


async def _serve(
    settings: Settings,
    stop: trio.Event,
    demo: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[int],
) -> None:
    await service.run(settings, stop=stop, task_status=task_status)
    demo.cancel()


async def _stop_after(seconds: int, stop: trio.Event) -> None:
    await trio.sleep(seconds)
    stop.set()


async def _connect(
    screen: Screen, settings: Settings, port: int, person: Person, *, task_status: trio.TaskStatus[None]
) -> None:
    """Connect one user, as any client does, and print the notifications."""
    token = mint(settings, person.user, ttl_s=TOKEN_TTL_S)
    async with open_stream(f"ws://{settings.reachable_host}:{port}/stream", token) as stream:
        task_status.started()
        with suppress(StreamClosed):  # the server drains
            await _read(screen, stream, person)


async def _read(screen: Screen, stream: Stream, person: Person) -> None:
    while True:
        frame = await stream.receive()
        if frame.event != CREATED:
            continue
        who = screen.paint(f"{person.name:<5}", person.colour)
        unread = screen.dim(f"({frame.data['unread']} unread)")
        screen.line(f"    -> {who}  {frame.data['content']}  {unread}")


async def _publish(screen: Screen, settings: Settings, port: int) -> None:
    token = mint(settings, "shop", ttl_s=TOKEN_TTL_S, permissions=["Activity.publish"])
    # Unavailable is a server of this process only while it drains.
    with suppress(RestUnavailable):
        async with open_rest(f"http://{settings.reachable_host}:{port}", token) as rest:
            await _publish_all(screen, rest)


async def _publish_all(screen: Screen, rest: Rest) -> None:
    for happening in happenings():
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        screen.line(f"{screen.dim(clock)}  {screen.bold(happening.text)}")
        await rest.publish([message(happening)])
        await trio.sleep(PAUSE_S)


def command_line() -> str:
    """This program as another terminal can call it, whatever that one has on its PATH."""
    program = Path(sys.argv[0]).absolute()
    if program.suffix == ".py" or not os.access(program, os.X_OK):
        return f"{shlex.quote(sys.executable)} -m nx_signal"
    return shlex.quote(str(program))


def _introduce(screen: Screen, settings: Settings, port: int) -> None:
    for person in PEOPLE:
        reads = LANGUAGES[person.locale or ORGANIZER_LOCALE] + ("" if person.locale else ", like the company")
        screen.line(f"  {screen.paint(f'{person.name:<5}', person.colour)}  {person.job}, reads {reads}")
    web = f"http://{settings.reachable_host}:{port}"
    stream = shlex.quote(f"ws://{settings.reachable_host}:{port}/stream")
    command = command_line()
    data = f"--data-dir {shlex.quote(str(settings.data_dir.absolute()))}"
    payment = (
        '{"eventType":"PAYMENT_SUCCESS","recipientScope":"users","recipientIds":["tom"],"actorId":"you",'
        f'"organizerId":"{ORGANIZER}","data":{{"payment":{{"subject":"Tea","amount":5,"currency":"USD"}}}},'
        f'"occurredAt":"{datetime.now(UTC).isoformat(timespec="seconds")}"}}'
    )
    screen.line(f"\nServing on {screen.bold(web)} (its API: {web}/doc). Try it from another terminal:\n")
    for line in (
        f"{command} listen --user mai --url {stream} {data}",
        f"echo {shlex.quote(payment)} | {command} publish - --url {shlex.quote(web)} {data}",
        f'curl -H "Authorization: Bearer $({command} token --user mai {data})" '
        + shlex.quote(f"{web}{BASE}/notifications"),
    ):
        screen.line(f"  {screen.dim(line)}")
    screen.line("\nCtrl-C stops it.\n")
