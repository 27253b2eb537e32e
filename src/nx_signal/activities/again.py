"""Renders a stored notification in another language or with other data, from what its first rendering had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import msgspec
import structlog

from nx_signal.activities.bounded import number
from nx_signal.activities.content import Rendered, Renderer
from nx_signal.activities.fields import rejected
from nx_signal.model import Activity, CorrectableRow, Json, Notification, Scope
from nx_signal.model.json import JsonDecoder
from nx_signal.model.text import encode_json

log = structlog.get_logger()

MAX_RECIPIENTS, MAX_ACTOR_BYTES = 20, 2_048
"""Kept with each row; an actor or recipients beyond that are not."""

_ELSEWHERE: dict[str, Any] = {
    "scope": "org",
    "actor_id": "?",
    "actor": {"id": "?", "name": "?", "type": "?"},
    "recipient_ids": ("?", "??", "???"),
}


class _From(msgspec.Struct, rename="camel", omit_defaults=True):
    """None: not kept."""

    occurred_at: datetime | None = None
    time_zone: str | None = None
    scope: Scope | None = None
    actor_id: str | None = None
    actor: dict[str, Json] | None = None
    recipient_ids: tuple[str, ...] | None = None


_Row: TypeAlias = Notification | CorrectableRow

_read = JsonDecoder[_From](_From, float_hook=number).decode


def rendered_from(activity: Activity, time_zone: str) -> str:
    """JSON for `Draft.rendered_from`."""
    kept = _From(activity.occurred_at, time_zone, activity.scope, activity.actor_id)
    if len(encode_json(activity.actor)) <= MAX_ACTOR_BYTES:
        kept.actor = dict(activity.actor)
    if len(activity.recipient_ids) <= MAX_RECIPIENTS:
        kept.recipient_ids = activity.recipient_ids
    return encode_json(kept).decode()


def render_again(renderer: Renderer, row: Notification, kept: str | None, locale: str) -> Notification:
    """The row in another language; as it is stored where its type or data do not allow that (any more), or
    where its text depends on what was not kept: a row of a release before has no `kept`."""
    try:
        rendered = _rendered(renderer, row, row.data, kept, locale)
    except Exception as error:  # a type may come from another package
        log.debug("not_rendered_again", type=row.type, id=row.id, error=type(error).__name__)
        return row
    if rendered is None:
        return row
    return msgspec.structs.replace(
        row, locale=rendered.locale, content=rendered.content, content_html=rendered.content_html
    )


def render_corrected(
    renderer: Renderer, row: CorrectableRow, data: Mapping[str, Json], locale: str
) -> Rendered:
    """With this data. Raises MessageRejected where the type does not take it, or the text depends on what was
    not kept; and any error of an event type of another package."""
    rendered = _rendered(renderer, row, data, row.rendered_from, locale)
    if rendered is None:
        raise rejected(
            "What the notifications were rendered from is not kept (an actor of more than "
            f"{MAX_ACTOR_BYTES} bytes, or by a release before): retract the activity, and publish another."
        )
    return rendered


def _rendered(
    renderer: Renderer, row: _Row, data: Mapping[str, Json], kept: str | None, locale: str
) -> Rendered | None:
    """None where the text depends on what was not kept."""
    known = _read(kept) if kept else _From()
    activity = _activity(row, data, known)
    rendered = renderer.render(activity, locale, known.time_zone)
    unknown = {name: _ELSEWHERE[name] for name in _ELSEWHERE if getattr(known, name) is None}
    if known.occurred_at is None:
        unknown["occurred_at"] = row.created_at - timedelta(days=400)
    if unknown:
        other = renderer.render(replace(activity, **unknown), locale, known.time_zone)
        if other.content_html != rendered.content_html:
            return None
    return rendered


def _activity(row: _Row, data: Mapping[str, Json], known: _From) -> Activity:
    return Activity(
        id=row.activity_id,
        type=row.type,
        scope=known.scope or "users",
        actor_id=known.actor_id or row.recipient_id,
        actor=known.actor or {},
        organizer_id=row.organizer_id or "",
        merchant_id=row.merchant_id,
        recipient_ids=(row.recipient_id,) if known.recipient_ids is None else known.recipient_ids,
        data=data,
        subject=row.subject,
        occurred_at=known.occurred_at or row.created_at,
        priority=row.priority,
        expires_at=row.expires_at,
        collapse_key=row.collapse_key,
    )
