"""Runs one instance: every channel between the parts, and the nursery.

store ─ outermost: it outlives all its callers
└ nursery
  1 delivery    any error ends the process
  2 pipeline    one child per source; waits in place while the store is unavailable
  3 relay       supervised: run again after RelayLost, then sessions check their revision
  4 sources     supervised: the journal, and Kafka where it is configured
  5 listener    one port for REST and the stream; a connection's errors end there. One of operations
  6 watchers    of the store, the issuer's keys, what is down, the signals to stop; the inboxes' maintenance
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
import trio

from nx_signal import __version__
from nx_signal.activities.content import Renderer
from nx_signal.activities.loader import discover
from nx_signal.activities.message import unknown_type
from nx_signal.activities.pipeline import Pipeline
from nx_signal.backends import Backends, open_backends
from nx_signal.composition import Parts, compose
from nx_signal.config import Settings
from nx_signal.errors import Fatal, SettingsError, SignalError
from nx_signal.identity.permissions import Access
from nx_signal.inbox.pruning import Bounds
from nx_signal.model import RelayMessage
from nx_signal.model.timestamps import now
from nx_signal.ports import Batch, RelayEvent
from nx_signal.process import Watchdog, allow_connections, stop_on_signal, tune_gc
from nx_signal.rest.access import Authorizer
from nx_signal.rest.app import create_app
from nx_signal.server.gate import Caps, Gate
from nx_signal.server.http import Http
from nx_signal.server.limits import RequestLimits
from nx_signal.server.listener import Listener, open_listeners
from nx_signal.server.operations import OperationsListener
from nx_signal.server.reserve import RESERVED_CONNECTIONS, Reserve
from nx_signal.supervise import remind, supervise, watch
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

BATCHES_WAITING = 2
"""Between a source and the pipeline; when the channel is full, the source waits."""
ANNOUNCEMENTS_WAITING = 1_024
"""Batches towards the relay; beyond that they are dropped, and the other instances' sweep finds them."""
RELAYED_WAITING = 0
"""Batches from the relay: what waits is in its own queue, which is bounded in bytes."""
RELEASE_S = 0.5
"""For the note that what is in hand did not end this process."""
CLOSING_SHARE = 0.25
"""Of the drain budget, kept for commits and pools after the clients have left."""


async def run(
    settings: Settings,
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`, SIGTERM or SIGINT, then drain within `settings.drain_s`. After SIGTERM the first
    `settings.lame_duck_s` of that are not ready, but serving.

    `started(port)` once the port is open; `/readyz` reports when every part is up. Raises Fatal, inside a
    group, for what does not pass by waiting."""
    stop = trio.Event() if stop is None else stop
    server_id = str(uuid.uuid4())
    with Watchdog(settings.drain_s) as watchdog:
        async with open_backends(settings, server_id) as backends:
            to_relay, outbound = trio.open_memory_channel[tuple[RelayMessage, ...]](ANNOUNCEMENTS_WAITING)
            from_relay, inbound = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)
            parts, http = compose_instance(settings, server_id, backends, to_relay)
            async with letting_go(parts.pipeline), trio.open_nursery() as nursery:
                gate = open_gate(settings, parts.metrics)
                reserve = Reserve(http, gate)
                listener = Listener(parts.websocket.serve, http.serve, gate, reserve, settings.path_prefix)
                listeners = await open_listeners(settings.host, settings.port)
                operations = OperationsListener(http, gate)
                operations_listeners = await open_operations(settings)
                part_up = partial(supervise, health=parts.health)

                def leave() -> None:
                    parts.health.fail("service", "draining")
                    watchdog.start()

                await nursery.start(parts.delivery.run, inbound)
                nursery.start_soon(part_up, "relay", partial(parts.delivery.run_relay, outbound, from_relay))
                if backends.kafka is not None:
                    backends.kafka.on_gap = parts.pipeline.report_gap
                for source in backends.sources:
                    to_pipeline, batches = trio.open_memory_channel[Batch](BATCHES_WAITING)
                    await nursery.start(parts.pipeline.run, batches)
                    nursery.start_soon(part_up, source.name, partial(source.run, to_pipeline))
                await nursery.start(listener.run, listeners)
                await nursery.start(operations.run, operations_listeners)
                nursery.start_soon(watch, "store", backends.database.check_serving, parts.health)
                if backends.jwks is None:
                    nursery.start_soon(watch, "issuer", backends.tokens.check, parts.health)
                nursery.start_soon(remind, parts.health)
                nursery.start_soon(parts.health.end_start)
                nursery.start_soon(parts.maintenance.run)
                nursery.start_soon(parts.pruning.run)
                lame_duck_s = min(settings.lame_duck_s, settings.drain_s / 2)
                nursery.start_soon(stop_on_signal, leave, stop, lame_duck_s)
                port = listeners[0].socket.getsockname()[1]
                url = f"http://{settings.reachable_host}:{port}"
                log.info("serving", version=__version__, url=url, doc=f"{url}/doc")
                task_status.started(port)

                tune_gc()
                await stop.wait()
                leave()
                await drain(parts, http, listener, watchdog.left_s * (1 - CLOSING_SHARE))
                nursery.cancel_scope.cancel()
    log.info("stopped")


async def drain(parts: Parts, http: Http, listener: Listener, budget_s: float) -> None:
    """Accept nothing new, close the clients, finish what is in hand; at most `budget_s`."""
    with trio.move_on_after(budget_s) as budget:
        listener.stop_accepting()
        parts.websocket.close_unauthenticated()
        parts.events.stop()
        parts.polling.stop()
        await parts.delivery.drain(budget_s / 2)
        await parts.pipeline.finish()
        await http.drain()
        await listener.wait_empty()
    await let_go(parts.pipeline)
    log.info("drained", cut_off=budget.cancelled_caught)


async def let_go(pipeline: Pipeline) -> None:
    with suppress(SignalError), trio.move_on_after(RELEASE_S):
        await pipeline.let_go()


@asynccontextmanager
async def letting_go(pipeline: Pipeline) -> AsyncIterator[None]:
    """Where the process ends with a sentence, what was in hand did not end it."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.split(Fatal)[1] is None:
            await let_go(pipeline)
        raise


async def open_operations(settings: Settings) -> list[trio.SocketListener]:
    """None without a port of their own. Raises SettingsError."""
    if settings.operations_port is None:
        return []
    host, flags = settings.operations_host or settings.host, "--operations-host or --operations-port"
    listeners = await open_listeners(host, settings.operations_port, flags)
    log.info("operations", port=listeners[0].socket.getsockname()[1])
    return listeners


def open_gate(settings: Settings, metrics: Metrics) -> Gate:
    """With the connections that the limit of open files allows. Raises SettingsError."""
    connections = allow_connections(settings.max_connections, 2 * RESERVED_CONNECTIONS)
    caps = Caps.of(connections, settings.max_connections_per_address, settings.max_unauthenticated)
    return Gate(caps, metrics, rate_factor=settings.rate_factor, trusted=settings.trusted_proxies)


def require_known_types(mapped: Mapping[str, str], known: frozenset[str]) -> None:
    """Raises SettingsError for an event type that APP_ENV_CLOUDEVENT_TYPES names and no package has."""
    for event_type in mapped.values():
        if event_type not in known:
            raise SettingsError(
                f"APP_ENV_CLOUDEVENT_TYPES: {unknown_type(event_type, known)} Correct it, or install its "
                "package."
            )


def compose_instance(
    settings: Settings,
    server_id: str,
    backends: Backends,
    to_relay: trio.MemorySendChannel[tuple[RelayMessage, ...]],
) -> tuple[Parts, Http]:
    """The parts over the backends, and REST over the parts. Nothing starts here."""
    database, tokens = backends.database, backends.tokens
    versions = frozenset(map(int, settings.stream_versions.split(",")))
    registry = discover()
    cloud_event_types = dict(settings.cloudevent_types)
    require_known_types(cloud_event_types, registry.names)
    renderer = Renderer(registry, settings.time_zone)
    parts = compose(
        server_id=server_id,
        database=database,
        relay=backends.relay,
        to_relay=to_relay,
        registry=registry,
        renderer=renderer,
        verify=tokens.verify,
        static_key=backends.stream_keys.current,
        now=now,
        resume_limit=settings.resume_limit,
        sweep_s=settings.sweep_s,
        client_buffer_bytes=settings.client_buffer_bytes,
        rate_factor=settings.rate_factor,
        sources=[source.name for source in backends.sources],
        watched=[] if backends.jwks else ["issuer"],
        room_patterns=settings.room_patterns,
        retention_days=settings.retention_days,
        bounds=Bounds(settings.dead_letter_days, settings.dead_letters, settings.trace_days, settings.traces),
        notification_bytes=settings.notification_bytes,
        cloud_event_types=cloud_event_types,
        max_sessions_per_user=settings.max_sessions_per_user,
        stream_versions=versions,
    )
    app = create_app(
        authorizer=Authorizer(
            tokens.verify, parts.tickets, Access(database.directory), RequestLimits(settings.rate_factor)
        ),
        inbox=parts.inbox,
        renderer=renderer,
        event_types=registry.names,
        journal=backends.journal,
        preview=parts.preview,
        notification_bytes=settings.notification_bytes,
        cloud_event_types=cloud_event_types,
        explain=parts.explain,
        dead_letters=database.dead_letters,
        replay=parts.replay,
        directory=database.directory,
        members=database.members,
        tickets=parts.tickets,
        operator=parts.delivery.operator,
        polling=parts.polling,
        events=parts.events,
        health=parts.health,
        metrics=parts.metrics,
        jwks=backends.jwks,
        stream_jwks=backends.stream_keys.jwks if 2 in versions else None,
        cors_origins=settings.cors_origins,
        path_prefix=settings.path_prefix,
        operations_apart=settings.operations_port is not None,
        events_plaintext=settings.events_plaintext,
    )
    return parts, Http(app, parts.websocket.serve, prefix=settings.path_prefix)
