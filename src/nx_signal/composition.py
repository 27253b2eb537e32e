"""Composes the parts of one instance over the adapters that it is given. Nothing starts here: service.py runs
the parts. The simulation, the benchmarks and the tests compose theirs here, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.limits import NOTIFICATION_BYTES
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.preview import Preview
from nx_signal.activities.registry import Registry
from nx_signal.activities.replay import Replay
from nx_signal.delivery.compose import Delivery, compose_delivery
from nx_signal.delivery.peers import OTHERS_SHOWN_S
from nx_signal.delivery.polling import Polling
from nx_signal.identity.tickets import Tickets
from nx_signal.inbox.maintenance import InboxMaintenance
from nx_signal.inbox.pruning import KEEP_ALL, Bounds, Pruning
from nx_signal.inbox.service import Inbox
from nx_signal.model import RelayMessage
from nx_signal.ports import Now, Relay, Verify
from nx_signal.server.limits import Limits
from nx_signal.sse.server import EventServer
from nx_signal.store import Database
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics
from nx_signal.websocket.connection import StaticKey
from nx_signal.websocket.protocol import ALL_VERSIONS
from nx_signal.websocket.server import WebSocketServer


@dataclass(frozen=True, slots=True)
class Parts:
    delivery: Delivery
    pipeline: Pipeline
    replay: Replay
    preview: Preview
    explain: Explain
    inbox: Inbox
    maintenance: InboxMaintenance
    pruning: Pruning
    tickets: Tickets
    websocket: WebSocketServer
    events: EventServer
    polling: Polling
    health: Health
    metrics: Metrics


def compose(
    *,
    server_id: str,
    database: Database,
    relay: Relay,
    to_relay: trio.MemorySendChannel[tuple[RelayMessage, ...]],
    registry: Registry,
    renderer: Renderer,
    verify: Verify,
    static_key: StaticKey,
    now: Now,
    resume_limit: int,
    sweep_s: float,
    client_buffer_bytes: int,
    rate_factor: float,
    sources: Sequence[str] = (),
    watched: Sequence[str] = (),
    room_patterns: Sequence[str] = (),
    retention_days: int = 0,
    bounds: Bounds = KEEP_ALL,
    notification_bytes: int = NOTIFICATION_BYTES,
    cloud_event_types: Mapping[str, str] = NO_TYPES,
    max_sessions_per_user: int | None = None,
    stream_versions: Collection[int] = ALL_VERSIONS,
) -> Parts:
    """`verify` gives the principal of a token, `static_key` the key that the server proves. `sources` and
    `watched` are the names of the sources that will run, and of what else /readyz shows. The others are as in
    Settings."""
    metrics = Metrics()
    health = Health(("store", "relay", *sources, *watched), metrics)
    delivery = compose_delivery(
        server_id=server_id,
        database=database,
        relay=relay,
        to_relay=to_relay,
        metrics=metrics,
        now=now,
        room_patterns=room_patterns,
        resume_limit=resume_limit,
        sweep_s=sweep_s,
        max_sessions_per_user=max_sessions_per_user,
        report=partial(health.report, "relay", for_s=OTHERS_SHOWN_S),
    )
    hub = delivery.hub
    activities = compose_activities(
        database=database,
        registry=registry,
        renderer=renderer,
        announce=hub.announce,
        push_to_members=hub.push_to_members,
        metrics=metrics,
        now=now,
        notification_bytes=notification_bytes,
        types=cloud_event_types,
    )
    tickets = Tickets(database.tickets)
    limits = Limits(rate_factor)
    websocket = WebSocketServer(
        admission=delivery.admission,
        verify=verify,
        use_ticket=partial(tickets.use, purpose="stream"),
        static_key=static_key,
        versions=stream_versions,
        limits=limits,
        metrics=metrics,
        now=now,
        max_buffer_bytes=client_buffer_bytes,
    )
    events = EventServer(
        admission=delivery.admission,
        limits=limits,
        metrics=metrics,
        now=now,
        max_buffer_bytes=client_buffer_bytes,
    )
    return Parts(
        delivery=delivery,
        pipeline=Pipeline(activities.processor, database, server_id, health, metrics),
        replay=activities.replay,
        preview=activities.preview,
        explain=Explain(
            database.inbox,
            database.traces,
            database.corrections,
            database.directory,
            delivery.operator.sessions_of,
        ),
        inbox=Inbox(database.inbox, hub.announce),
        maintenance=InboxMaintenance(
            database.maintenance, database.traces, hub.announce, metrics, now, retention_days
        ),
        pruning=Pruning(
            database.dead_letters, database.traces, database.corrections, database.tickets, now, bounds
        ),
        tickets=tickets,
        websocket=websocket,
        events=events,
        polling=Polling(database.inbox, delivery.admission, now),
        health=health,
        metrics=metrics,
    )
