"""The parts of delivery, composed: each with what it needs, and the tasks of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from nx_signal.delivery.admission import Admission
from nx_signal.delivery.backlog import Pool
from nx_signal.delivery.hub import Hub
from nx_signal.delivery.membership import MembershipRecheck
from nx_signal.delivery.operator import LocalClients, Operator
from nx_signal.delivery.outbox import Outbox
from nx_signal.delivery.peers import Peers
from nx_signal.delivery.recovery import Recovery
from nx_signal.delivery.rooms import RoomRules
from nx_signal.delivery.subscriptions import Subscriptions
from nx_signal.delivery.topics import OWN_TOPICS
from nx_signal.model import RelayMessage
from nx_signal.model.channels import INBOX_ROOM_PREFIX, channel
from nx_signal.ports import Now, Received, Relay, RelayEvent, Subscribed
from nx_signal.store import Database
from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.tally import Tally

MAX_TEXT_LOGGED = 100


@dataclass(frozen=True, slots=True)
class Delivery:
    hub: Hub
    admission: Admission
    recovery: Recovery
    membership_recheck: MembershipRecheck
    peers: Peers
    operator: Operator
    subscriptions: Subscriptions
    relay: Relay
    metrics: Metrics
    refused: Tally

    async def run(
        self,
        inbound: trio.MemoryReceiveChannel[RelayEvent],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; any error is a bug and ends the process."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, inbound)
            nursery.start_soon(self.admission.run_baseline_reads)
            nursery.start_soon(self.recovery.run_comparer)
            nursery.start_soon(self.recovery.run_reader)
            nursery.start_soon(self.recovery.run_sweep)
            nursery.start_soon(self.recovery.run_hints)
            nursery.start_soon(self.membership_recheck.run)
            nursery.start_soon(self.peers.run)
            task_status.started()

    async def run_relay(
        self,
        outbound: trio.MemoryReceiveChannel[tuple[RelayMessage, ...]],
        inbound: trio.MemorySendChannel[RelayEvent],
        task_status: trio.TaskStatus[None],
    ) -> None:
        """The relay, as ports.Relay.run; meanwhile the other instances can be asked."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.relay.run, outbound, inbound)
                self.peers.relay_up()
                task_status.started()
        finally:
            self.peers.relay_down()

    async def drain(self, window_s: float) -> None:
        """Send every client elsewhere, at most `window_s` long."""
        self.peers.leave()
        await self.hub.drain(window_s)

    async def _receive(self, inbound: trio.MemoryReceiveChannel[RelayEvent]) -> None:
        async for event in inbound:
            match event:
                case Received(messages):
                    self.metrics.relay_received.inc(len(messages))
                    for message in messages:
                        await self._dispatch(message)
                        await trio.lowlevel.checkpoint()
                case Subscribed(channels):
                    self.subscriptions.confirm(channels)
                    inbox = channel("inbox", "")
                    self.recovery.compare_soon(c.removeprefix(inbox) for c in channels if c.startswith(inbox))
        await trio.sleep_forever()  # the channel is closed by the drain; the sessions outlive the relay

    async def _dispatch(self, message: RelayMessage) -> None:
        match message.kind:
            case "instance" | "instances":
                self.peers.receive(message)
            case "neighbours":
                self.peers.notice(message)
            case "inbox" | "members":
                await self.hub.deliver(message)
            case _ if message.event.startswith(OWN_TOPICS):
                self._refuse(message)
            case _:
                await self.hub.deliver(message)

    def _refuse(self, message: RelayMessage) -> None:
        """One of Signal's own topics on a channel of CONTRACT §2, to which others publish: no frame is made
        of it. In an inbox's room it may be a step that an instance of the release before announces."""
        target = message.target or ""
        if message.kind == "room" and target.startswith(INBOX_ROOM_PREFIX):
            self.recovery.hint(target.removeprefix(INBOX_ROOM_PREFIX))
        sender = (message.server_id or "")[:MAX_TEXT_LOGGED]
        self.refused.count(topic=message.event[:MAX_TEXT_LOGGED], kind=message.kind, sender=sender)


def compose_delivery(
    *,
    server_id: str,
    database: Database,
    relay: Relay,
    to_relay: trio.MemorySendChannel[tuple[RelayMessage, ...]],
    metrics: Metrics,
    now: Now,
    room_patterns: Sequence[str],
    resume_limit: int,
    sweep_s: float,
    max_sessions_per_user: int | None = None,
    report: Callable[[str], None] = lambda fact: None,
) -> Delivery:
    """Nothing starts here. `report` as in Peers."""
    subscriptions = Subscriptions(relay)
    outbox = Outbox(to_relay, metrics)
    hub = Hub(subscriptions, outbox, metrics)
    rules = RoomRules(database.directory, room_patterns)
    recovery = Recovery(hub, database.inbox, metrics, resume_limit=resume_limit, sweep_s=sweep_s)
    pool = Pool(metrics.frames_dropped.inc)
    admission = Admission(
        hub, subscriptions, recovery, database.inbox, rules, now, pool, max_sessions_per_user
    )
    local = LocalClients(server_id, hub)
    peers = Peers(server_id, outbox.publish, local.reply, alone=relay.alone, report=report)
    subscriptions.add([channel("broadcast"), *peers.channels])
    operator = Operator(server_id, now(), hub, local, peers)
    return Delivery(
        hub,
        admission,
        recovery,
        MembershipRecheck(hub, rules),
        peers,
        operator,
        subscriptions,
        relay,
        metrics,
        Tally("relay_own_topic_refused"),
    )
