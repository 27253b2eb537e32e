"""The other instances of this deployment: which ones are up, and queries to all of them.

They use channels of the relay that no client's messages use, `instances` for all and `instance` for one.
Presence is a hint like everything on the relay. What it cannot show is not guessed: an instance from which
nothing comes any more, and all of them while the relay is away, are named as not asked."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from nx_signal.model import Json, RelayMessage
from nx_signal.model.channels import channel
from nx_signal.model.json import decode_json
from nx_signal.model.wire import encode_json

log = structlog.get_logger()

PRESENCE_EVERY_S = 2.0
ABSENT_AFTER_S = 7.0
"""Then an instance is not asked any more."""
FORGOTTEN_AFTER_S = 300.0
"""An instance that is absent without a goodbye may well have clients: so long it is named as not asked."""
OTHERS_SHOWN_S = 60.0
"""Since the last message of another deployment."""
ANSWER_WITHIN_S = 1.0
MAX_PEERS = 1_000
"""Of each kind: instances of this deployment and of the release before, other deployments."""

ANY = "*"
"""In place of a serverId: instances that are not known, as the relay is away."""

HELLO, BYE, ASK, ANSWER = "hello", "bye", "ask", "answer"


@dataclass(frozen=True, slots=True)
class Answers:
    """`by_server`: serverId → its answer. `missing`: instances that did not answer in time or could not be
    asked; ANY among them where there may be more."""

    by_server: Mapping[str, Json]
    missing: tuple[str, ...]


class _Ask(msgspec.Struct):
    id: str
    question: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    id: str
    data: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(slots=True)
class _Query:
    awaited: set[str]
    done: trio.Event = field(default_factory=trio.Event)
    answers: dict[str, Json] = field(default_factory=dict)


class LastSeen:
    """When something last came from each sender, for FORGOTTEN_AFTER_S; at most MAX_PEERS of them."""

    def __init__(self) -> None:
        self._at_s: dict[str, float] = {}

    def since(self, sender: str) -> float:
        """Seconds; infinite for one that is not known."""
        return trio.current_time() - self._at_s.get(sender, -math.inf)

    def add(self, sender: str) -> bool:
        """Whether there was room for it."""
        if sender not in self._at_s and len(self._at_s) >= MAX_PEERS:
            self._forget()
            if len(self._at_s) >= MAX_PEERS:
                return False
        self._at_s[sender] = trio.current_time()
        return True

    def remove(self, sender: str) -> None:
        self._at_s.pop(sender, None)

    def within(self, seconds: float) -> frozenset[str]:
        """Those with a message that recent."""
        self._forget()
        return frozenset(sender for sender in self._at_s if self.since(sender) <= seconds)

    def _forget(self) -> None:
        for sender in [sender for sender in self._at_s if self.since(sender) > FORGOTTEN_AFTER_S]:
            del self._at_s[sender]


class Peers:
    """`publish` passes messages to the relay. `reply(question, data)` answers another instance from this
    instance's own state. `report(fact)` shows a fact about the relay for OTHERS_SHOWN_S. All are synchronous
    and never raise. `alone`: there can be no other instance."""

    def __init__(
        self,
        server_id: str,
        publish: Callable[[tuple[RelayMessage, ...]], object],
        reply: Callable[[str, Json], Json],
        *,
        alone: bool = False,
        report: Callable[[str], None] = lambda fact: None,
    ) -> None:
        self.channels = (channel("instances"), channel("instance", server_id), channel("neighbours"))
        self._server_id = server_id
        self._publish = publish
        self._reply = reply
        self._alone = alone
        self._report = report
        self._peers, self._earlier, self._others = LastSeen(), LastSeen(), LastSeen()
        """of this deployment; of the release before, which do not state theirs; deployments of others"""
        self._queries: dict[str, _Query] = {}
        self._settled_s: float | None = None
        """when every instance will have answered the first `hello`; None while the relay is away"""

    @property
    def known(self) -> tuple[str, ...]:
        """The serverIds of the other instances that are up, as seen here."""
        return tuple(sorted(self._peers.within(ABSENT_AFTER_S)))

    @property
    def reachable(self) -> bool:
        """Whether other instances can be asked at all."""
        return self._alone or self._settled_s is not None

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Instances that may be up and that a query does not reach; ANY for those that are not known."""
        return tuple(sorted(self._not_asked()))

    def _not_asked(self) -> Iterator[str]:
        yield from self._earlier.within(FORGOTTEN_AFTER_S)
        asked = self._peers.within(ABSENT_AFTER_S) if self.reachable else frozenset()
        yield from self._peers.within(FORGOTTEN_AFTER_S) - asked
        if not self.reachable:
            yield ANY

    def relay_up(self) -> None:
        """Messages arrive from now on."""
        self._settled_s = trio.current_time() + ANSWER_WITHIN_S
        self._greet()

    def relay_down(self) -> None:
        self._settled_s = None

    async def run(self) -> None:
        """Send this instance's presence, until cancelled."""
        while True:
            if self.reachable:  # else it would wait in the relay's queue
                self._greet()
            await trio.sleep(PRESENCE_EVERY_S)

    def leave(self) -> None:
        """This instance stops."""
        self._send(None, BYE, b"null")
        self._publish((RelayMessage("neighbours", None, BYE, b"null"),))

    async def query(self, question: str, data: Json, within_s: float = ANSWER_WITHIN_S) -> Answers:
        """Send a question to every known instance; returns once all have answered or the time is over."""
        if self._settled_s is not None and not self._alone:
            await trio.sleep_until(self._settled_s)
        query = _Query(set(self.known) if self.reachable else set())
        if not query.awaited:
            await trio.lowlevel.checkpoint()
            return Answers({}, self.not_asked)
        id = uuid.uuid4().hex
        self._queries[id] = query
        try:
            self._send(None, ASK, encode_json({"id": id, "question": question, "data": data}))
            with trio.move_on_after(within_s):
                await query.done.wait()
        finally:
            del self._queries[id]
        return Answers(query.answers, tuple(sorted({*query.awaited, *self._not_asked()})))

    def receive(self, message: RelayMessage) -> None:
        """A message of another instance of this deployment. Malformed ones are dropped."""
        sender = message.server_id
        if sender is None or sender == self._server_id:
            return
        if message.event == BYE:
            self._peers.remove(sender)
            return
        is_new = self._peers.since(sender) > ABSENT_AFTER_S
        if not self._peers.add(sender):
            return
        if is_new:
            self._send(sender, HELLO, b"null")  # it may not have seen this instance yet
        try:
            if message.event == ASK:
                ask = decode_json(message.data, _Ask)
                answer = self._reply(ask.question, decode_json(ask.data))
                self._send(sender, ANSWER, encode_json({"id": ask.id, "data": answer}))
            elif message.event == ANSWER:
                self._answered(sender, decode_json(message.data, _Answer))
        except msgspec.DecodeError as error:
            log.warning("peer_malformed", event_name=message.event, why=str(error)[:200])

    def notice(self, message: RelayMessage) -> None:
        """An instance of the release before, or of another deployment on the same server, is there. `data` is
        the id of the deployment, null for the former: whose it is cannot be known, so it is not asked."""
        deployment = decode_json(message.data, str | None)
        sender = message.server_id or ""
        if deployment is not None:
            self._others.add(deployment)
            self._report(_shared_with(sorted(self._others.within(OTHERS_SHOWN_S))))
        elif message.event == BYE:
            self._earlier.remove(sender)
        else:
            is_new = self._earlier.since(sender) > FORGOTTEN_AFTER_S
            if self._earlier.add(sender) and is_new:
                log.info("instance_of_earlier_release", server_id=sender, advice=NOT_ASKED)

    def _answered(self, sender: str, answer: _Answer) -> None:
        query = self._queries.get(answer.id)
        if query is None or sender not in query.awaited:
            return
        query.awaited.remove(sender)
        query.answers[sender] = decode_json(answer.data)
        if not query.awaited:
            query.done.set()

    def _greet(self) -> None:
        self._send(None, HELLO, b"null")
        self._publish((RelayMessage("neighbours", None, HELLO, b"null"),))

    def _send(self, server_id: str | None, event: str, data: bytes) -> None:
        """To one instance, or to all of them."""
        if server_id is None:
            self._publish((RelayMessage("instances", None, event, data),))
        else:
            self._publish((RelayMessage("instance", server_id, event, data),))


NOT_ASKED = (
    "Whose it is cannot be known: it is named as not asked in answers to operators until it has stopped."
)


def _shared_with(deployments: Sequence[str]) -> str:
    names = ", ".join(deployments[:3]) + (f" and {len(deployments) - 3} more" if len(deployments) > 3 else "")
    return (
        f"Another deployment ({names}) uses the same channels of this Redis: what sister services and "
        "operators send to either reaches the clients of both. Set APP_ENV_REDIS_PREFIX for one of them, or "
        "use another Redis."
    )
