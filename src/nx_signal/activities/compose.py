"""The parts that handle activities, composed: each with what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nx_signal.activities.cloud_events import NO_TYPES
from nx_signal.activities.content import Renderer
from nx_signal.activities.corrector import Corrector
from nx_signal.activities.drafts import Announce
from nx_signal.activities.limits import NOTIFICATION_BYTES
from nx_signal.activities.preview import Preview
from nx_signal.activities.processor import ActivityProcessor, PushToMembers
from nx_signal.activities.registry import Registry
from nx_signal.activities.replay import Replay
from nx_signal.ports import Now
from nx_signal.store import Database
from nx_signal.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Activities:
    processor: ActivityProcessor
    replay: Replay
    preview: Preview


def compose_activities(
    *,
    database: Database,
    registry: Registry,
    renderer: Renderer,
    announce: Announce,
    metrics: Metrics,
    now: Now,
    push_to_members: PushToMembers | None = None,
    notification_bytes: int = NOTIFICATION_BYTES,
    types: Mapping[str, str] = NO_TYPES,
) -> Activities:
    """`push_to_members` is None where no client is connected. `types`: a CloudEvent's type → eventType."""
    corrector = Corrector(
        database.corrections, database.traces, renderer, announce, metrics, notification_bytes
    )
    processor = ActivityProcessor(
        registry=registry,
        renderer=renderer,
        directory=database.directory,
        inbox=database.inbox,
        traces=database.traces,
        corrector=corrector,
        announce=announce,
        metrics=metrics,
        now=now,
        push_to_members=push_to_members,
        notification_bytes=notification_bytes,
        types=types,
    )
    return Activities(
        processor=processor,
        replay=Replay(processor, database.dead_letters, metrics),
        preview=Preview(registry, renderer, database.directory, now, notification_bytes, types),
    )
