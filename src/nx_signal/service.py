"""The composition root: which adapters, every channel between the parts, and THE nursery.

store ─ outermost: it outlives all its callers
└ nursery
  1 hub         any error ends the process
  2 pipeline    one child per source; waits in place for a store that is away
  3 relay       supervised: run again after RelayLost, then sessions check their revision
  4 sources     supervised: the journal, and Kafka where it is configured
  5 listener    one port for REST and the stream; a connection's errors end there
  6 watchers    of the store and of the signals to stop; the inboxes' upkeep
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
import trio

from nx_signal.activities.content import Renderer
from nx_signal.activities.explain import Explain
from nx_signal.activities.message import split
from nx_signal.activities.pipeline import Pipeline
from nx_signal.activities.preview import Preview
from nx_signal.activities.registry import Registry
from nx_signal.activities.replay import Replay
from nx_signal.adapters.jwks import JwksUrl
from nx_signal.adapters.kafka import KafkaSource
from nx_signal.adapters.kafka_security import KafkaSecurity
from nx_signal.adapters.memory.relay import LocalRelay
from nx_signal.adapters.postgres.store import open_postgres
from nx_signal.adapters.redis import RedisRelay
from nx_signal.adapters.sqlite.journal import SqliteJournal
from nx_signal.adapters.sqlite.store import open_sqlite
from nx_signal.config import Settings
from nx_signal.errors import StoreUnavailable
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.identity.permissions import Access
from nx_signal.identity.tokens import TokenVerifier
from nx_signal.inbox.service import Inbox
from nx_signal.inbox.upkeep import InboxUpkeep
from nx_signal.model import Dispatch
from nx_signal.ports import Batch, Database, Relay, RelayEvent, Source
from nx_signal.rest.access import Api, RequestLimits
from nx_signal.rest.app import create_app
from nx_signal.rest.http import Http
from nx_signal.stream.connection import StreamParts, StreamServer
from nx_signal.stream.hub import Hub
from nx_signal.stream.limits import Limits
from nx_signal.stream.listener import Listener, open_listeners
from nx_signal.stream.operator import Operator
from nx_signal.stream.rooms import RoomRules
from nx_signal.supervise import Backoff, supervise
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

BATCHES_WAITING = 2
"""Between the sources and the pipeline; when they wait, the sources do."""
ANNOUNCEMENTS_WAITING = 1_024
"""Batches towards the relay; beyond that they are dropped, and the other instances' sweep finds them."""
RELAYED_WAITING = 64
"""Batches from the relay."""
STORE_CHECK_S = 5.0
OTHER_FILES = 256
"""Open files beside the clients' sockets: databases, brokers, logs."""
CLOSING_SHARE = 0.25
"""Of the drain budget, kept for commits and pools after the clients have left."""


def now() -> datetime:
    """The wall clock in UTC, to the millisecond: what every stamp has."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


async def run(
    settings: Settings,
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`, SIGTERM or SIGINT, then drain within `settings.drain_s`.

    `started(port)` once the port is open; `/readyz` tells when everything serves. Raises Fatal (inside a
    group) for what waiting cannot mend."""
    stop = trio.Event() if stop is None else stop
    issuer = None if settings.jwks_url else await trio.to_thread.run_sync(open_issuer, settings.data_dir)
    with stop_in_time() as hurry:
        async with open_database(settings) as database, trio.open_nursery() as nursery:
            to_pipeline, batches = trio.open_memory_channel[Batch](BATCHES_WAITING)
            to_relay, outbound = trio.open_memory_channel[tuple[Dispatch, ...]](ANNOUNCEMENTS_WAITING)
            from_relay, inbound = trio.open_memory_channel[RelayEvent](RELAYED_WAITING)

            parts = compose(settings, database, issuer, to_relay)
            part_up = partial(supervise, health=parts.health)
            listeners = await open_listeners(settings.host, settings.port)

            await nursery.start(parts.hub.run, inbound)
            await nursery.start(parts.pipeline.run, batches)
            nursery.start_soon(part_up, "relay", partial(parts.relay.run, outbound, from_relay))
            for source in parts.sources:
                nursery.start_soon(part_up, source.name, partial(source.run, to_pipeline))
            await nursery.start(parts.listener.run, listeners)
            nursery.start_soon(watch_store, database, parts.health)
            nursery.start_soon(parts.upkeep.run)
            nursery.start_soon(stop_on_signal, stop)
            task_status.started(listeners[0].socket.getsockname()[1])

            allow_connections(settings.max_connections)
            settle_memory()
            await stop.wait()
            hurry(settings.drain_s)
            await drain(parts, settings.drain_s * (1 - CLOSING_SHARE))
            nursery.cancel_scope.cancel()
    log.info("stopped")


async def drain(parts: Parts, budget_s: float) -> None:
    """Not ready, nothing new, clients elsewhere, everything in hand finished; cut off at `budget_s`."""
    parts.health.fail("service", "draining")
    with trio.move_on_after(budget_s) as budget:
        parts.listener.stop_accepting()
        parts.stream.turn_away()
        await parts.hub.drain(budget_s / 2)
        await parts.pipeline.finish()
        await parts.http.drain()
        await parts.listener.wait_empty()
    log.info("drained", cut_off=budget.cancelled_caught)


@dataclass(frozen=True)
class Parts:
    hub: Hub
    pipeline: Pipeline
    relay: Relay
    sources: tuple[Source, ...]
    stream: StreamServer
    http: Http
    listener: Listener
    upkeep: InboxUpkeep
    health: Health


def open_database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """The store that the settings name; no I/O before its first use."""
    if settings.database_url:
        return open_postgres(settings.database_url, now, settings.database_pool_size)
    return open_sqlite(settings.data_dir / "signal.db", now)


def kafka_security(settings: Settings) -> KafkaSecurity:
    """Raises SettingsError for settings that do not belong together."""
    return KafkaSecurity(
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_sasl_username,
        settings.kafka_sasl_password,
        settings.kafka_ssl_cafile,
    )


def compose(
    settings: Settings,
    database: Database,
    issuer: Issuer | None,
    to_relay: trio.MemorySendChannel[tuple[Dispatch, ...]],
) -> Parts:
    """Every part with what it needs. Nothing starts here."""
    server_id = str(uuid.uuid4())
    metrics = Metrics()
    journal = SqliteJournal(settings.data_dir / "journal.db", now)
    sources: tuple[Source, ...] = (journal,)
    if settings.kafka_bootstrap_servers:
        sources += (
            KafkaSource(
                settings.kafka_bootstrap_servers,
                settings.kafka_topic,
                settings.kafka_group_id,
                settings.kafka_client_id,
                settings.kafka_fallback_mode,
                settings.kafka_session_timeout_ms,
                kafka_security(settings),
            ),
        )
    relay: Relay = RedisRelay(settings.redis_url, server_id) if settings.redis_url else LocalRelay()
    health = Health(("store", "relay", *(source.name for source in sources)), metrics)
    tokens = TokenVerifier(
        issuer or JwksUrl(settings.jwks_url or ""),
        now=now,
        issuer=None if issuer else settings.jwt_issuer,  # the embedded issuer's key is its name
        audience=None if issuer else settings.jwt_audience,
        user_claim=settings.jwt_user_claim,
        trusted_grants=issuer is not None,
    )
    rules = RoomRules(database.directory, settings.room_patterns)
    hub = Hub(
        server_id=server_id,
        store=database.inbox,
        rules=rules,
        relay=relay,
        outbound=to_relay,
        metrics=metrics,
        now=now,
        resume_limit=settings.resume_limit,
        sweep_s=settings.sweep_s,
    )
    registry = Registry.discover()
    renderer = Renderer(registry, settings.time_zone)
    pipeline = Pipeline(
        registry=registry,
        renderer=renderer,
        database=database,
        announce=hub.announce,
        health=health,
        metrics=metrics,
        show=hub.show,
    )
    operator = Operator(hub)
    api = Api(
        settings=settings,
        inbox=Inbox(database.inbox, hub.announce),
        journal=journal,
        split_activities=partial(split, known=registry.names),
        preview=Preview(registry, renderer, database.directory),
        explain=Explain(database, operator.sessions_of),
        dead_letters=database.dead_letters,
        replay=Replay(pipeline.handling, database, metrics),
        renderer=renderer,
        tokens=tokens,
        access=Access(database.directory),
        limits=RequestLimits(settings.rate_factor),
        operator=operator,
        health=health,
        metrics=metrics,
        jwks=issuer.public_jwks if issuer else None,
    )
    stream_parts = StreamParts(
        hub=hub,
        verify=tokens.verify,
        rules=rules,
        metrics=metrics,
        now=now,
        max_buffer_bytes=settings.client_buffer_bytes,
        limits=Limits(settings.rate_factor),
        trusted_proxies=settings.trusted_proxies,
    )
    stream = StreamServer(stream_parts)
    http = Http(create_app(api), stream.serve)
    listener = Listener(stream.serve, http.serve, metrics, settings.max_connections)
    upkeep = InboxUpkeep(database, hub.announce, metrics, now, settings.retention_days)
    return Parts(hub, pipeline, relay, sources, stream, http, listener, upkeep, health)


async def watch_store(database: Database, health: Health) -> None:
    """Say when the store is there, and when it is not; what needs it finds out and waits by itself."""
    backoff = Backoff()
    while True:
        try:
            await database.check()
        except StoreUnavailable as error:
            health.fail("store", str(error))
            await backoff.pause()
        else:
            health.up("store")
            backoff.reset()
            await trio.sleep(STORE_CHECK_S)


async def stop_on_signal(stop: trio.Event) -> None:
    """The first signal asks for a drain; during it, a second one ends the process at once."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for signum in signals:
            log.info("stopping", signal=signal.Signals(signum).name)
            stop.set()
            break


@contextmanager
def stop_in_time() -> Iterator[Callable[[float], None]]:
    """Gives `hurry(budget_s)`: from that call on the process ends by itself after the budget, even when
    something in it blocks that no cancellation reaches. Leaving the block in time calls it off."""
    timers: list[threading.Timer] = []

    def hurry(budget_s: float) -> None:
        timer = threading.Timer(budget_s, _overrun, [budget_s])
        timer.daemon = True
        timer.start()
        timers.append(timer)

    try:
        yield hurry
    finally:
        for timer in timers:
            timer.cancel()


def _overrun(budget_s: float) -> None:
    log.error("drain_overran", budget_s=budget_s)
    os._exit(1)


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as it may; most systems start it at 1,024."""
    wanted = count + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("few_open_files", allowed=most, wanted=wanted, mend="raise the hard limit of open files")


def settle_memory() -> None:
    """What start-up made stays: keep the collector from walking it for every burst of connections. The
    youngest generation is small enough to be walked within some milliseconds, for which everybody waits."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)
