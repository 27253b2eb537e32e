"""The other instances: who they are, and asking all of them one question at once.

They speak over the relay on two channels that no client's messages use: `signal:instances` for all, and
`signal:instance:{serverId}` for one. Presence is a hint like everything on the relay: an instance that
has not been heard of for ABSENT_AFTER_S counts as gone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from nx_signal.model import Dispatch, Json
from nx_signal.stream.topics import encode_json

log = structlog.get_logger()

PRESENCE_EVERY_S = 2.0
ABSENT_AFTER_S = 7.0
ANSWER_WITHIN_S = 1.0
MAX_PEERS = 1_000

ALL_CHANNEL = "signal:instances"

HELLO, BYE, ASK, ANSWER = "hello", "bye", "ask", "answer"


@dataclass(frozen=True, slots=True)
class Answers:
    """`of`: serverId → its answer. `silent`: those known that did not answer in time."""

    of: Mapping[str, Json]
    silent: tuple[str, ...]


class _Ask(msgspec.Struct):
    id: str
    question: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    id: str
    data: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(slots=True)
class _Poll:
    awaited: set[str]
    done: trio.Event = field(default_factory=trio.Event)
    answers: dict[str, Json] = field(default_factory=dict)


class Peers:
    """`publish` hands dispatches to the relay. `reply(question, data)` answers others' questions at
    once, from what this instance knows; both are synchronous and never raise."""

    def __init__(
        self,
        server_id: str,
        publish: Callable[[tuple[Dispatch, ...]], None],
        reply: Callable[[str, Json], Json],
    ) -> None:
        self.channels = (ALL_CHANNEL, f"signal:instance:{server_id}")
        self._server_id = server_id
        self._publish = publish
        self._reply = reply
        self._heard_s: dict[str, float] = {}
        self._polls: dict[str, _Poll] = {}

    @property
    def known(self) -> tuple[str, ...]:
        """The serverIds of the other instances that are alive, as far as is known."""
        oldest = trio.current_time() - ABSENT_AFTER_S
        for gone in [peer for peer, heard_s in self._heard_s.items() if heard_s < oldest]:
            del self._heard_s[gone]
        return tuple(sorted(self._heard_s))

    async def run(self) -> None:
        """Say that we are here, until cancelled."""
        while True:
            self._tell(None, HELLO, b"null")
            await trio.sleep(PRESENCE_EVERY_S)

    def leave(self) -> None:
        self._tell(None, BYE, b"null")

    async def ask(self, question: str, data: Json, within_s: float = ANSWER_WITHIN_S) -> Answers:
        """Ask every known instance; returns when all have answered or the time is over."""
        poll = _Poll(set(self.known))
        if not poll.awaited:
            await trio.lowlevel.checkpoint()
            return Answers({}, ())
        id = uuid.uuid4().hex
        self._polls[id] = poll
        try:
            self._tell(None, ASK, encode_json({"id": id, "question": question, "data": data}))
            with trio.move_on_after(within_s):
                await poll.done.wait()
        finally:
            del self._polls[id]
        return Answers(poll.answers, tuple(sorted(poll.awaited)))

    def receive(self, message: Dispatch) -> None:
        """A message of another instance. Malformed ones are dropped."""
        sender = message.server_id
        if sender is None or sender == self._server_id:
            return
        if message.event == BYE:
            self._heard_s.pop(sender, None)
            return
        if sender not in self._heard_s:
            if len(self._heard_s) >= MAX_PEERS:
                return
            self._tell(sender, HELLO, b"null")  # it may not have heard of us yet
        self._heard_s[sender] = trio.current_time()
        try:
            if message.event == ASK:
                ask = msgspec.json.decode(message.data, type=_Ask)
                answer = self._reply(ask.question, msgspec.json.decode(ask.data))
                self._tell(sender, ANSWER, encode_json({"id": ask.id, "data": answer}))
            elif message.event == ANSWER:
                self._take(sender, msgspec.json.decode(message.data, type=_Answer))
        except msgspec.DecodeError as error:
            log.warning("peer_malformed", event_name=message.event, why=str(error)[:200])

    def _take(self, sender: str, answer: _Answer) -> None:
        poll = self._polls.get(answer.id)
        if poll is None or sender not in poll.awaited:
            return
        poll.awaited.remove(sender)
        poll.answers[sender] = msgspec.json.decode(answer.data)
        if not poll.awaited:
            poll.done.set()

    def _tell(self, server_id: str | None, event: str, data: bytes) -> None:
        kind = "instances" if server_id is None else "instance"
        self._publish((Dispatch(kind, server_id, event, data),))  # type: ignore[arg-type]
