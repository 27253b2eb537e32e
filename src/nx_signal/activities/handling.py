"""What becomes of records: decoded, resolved, rendered, persisted, announced. The pipeline does this with
what the sources bring, a replay with what was set aside; a preview takes the same steps up to the drafts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import structlog
import trio

from nx_signal.activities.content import Rendered, Renderer, negotiate
from nx_signal.activities.message import UnknownType, decode, glimpse
from nx_signal.activities.recipients import Addressed, address
from nx_signal.activities.registry import Registry
from nx_signal.errors import MessageRejected, StoreRejected
from nx_signal.model import (
    Activity,
    Change,
    Created,
    DeadLetter,
    Draft,
    Outcome,
    Position,
    Record,
    Rule,
    Trace,
)
from nx_signal.ports import Database
from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

MAX_DRAFTS = 1_000
"""Rows in one statement: the limit of InboxStore.insert."""

Announce: TypeAlias = Callable[[Sequence[Change]], None]
"""Tells the sessions of changes that are committed."""

Show: TypeAlias = Callable[[Activity, Rule], Awaitable[None]]
"""Pushes an activity to the members' room of its scope."""

ANNOUNCED_AT_ONCE = 64
"""At 15 µs a push this holds the event loop for about a millisecond."""


@dataclass(frozen=True, slots=True)
class Handled:
    """A record and what became of it."""

    record: Record
    trace: Trace

    @property
    def letter(self) -> DeadLetter | None:
        """To be kept where the record could not be handled."""
        if self.trace.outcome != "dead_letter":
            return None
        record = self.record
        return DeadLetter(
            0, record.position, record.key, record.value, record.headers, self.trace.reason or ""
        )


class Handling:
    """Stateless: any number of batches may be handled at once."""

    def __init__(
        self,
        *,
        registry: Registry,
        renderer: Renderer,
        database: Database,
        announce: Announce,
        metrics: Metrics,
        show: Show | None = None,
    ) -> None:
        self._registry = registry
        self._renderer = renderer
        self._database = database
        self._announce = announce
        self._show = show
        self._metrics = metrics

    async def handle(self, records: Sequence[Record], stored: set[Position]) -> Sequence[Handled]:
        """Write and announce what the records say: one look-up of recipients, one of languages and one
        write for every MAX_DRAFTS rows. What became of each, in their order; a record that cannot be
        handled takes no other with it.

        May be repeated: rows that exist already are left as they are. `stored` remembers over the
        repetitions whose rows were written. Raises StoreUnavailable."""
        failed: dict[Position, Exception] = {}
        unknown: dict[Position, UnknownType] = {}
        decoded: list[tuple[Record, Activity]] = []
        stored_before = frozenset(stored)
        for record in records:
            try:
                activity = decode(record, self._registry.names)
            except Exception as error:
                failed[record.position] = error
                continue
            if isinstance(activity, UnknownType):
                unknown[record.position] = activity
            else:
                decoded.append((record, activity))

        found = await address(self._database.directory, [activity for _, activity in decoded])
        addressed = {record.position: each for (record, _), each in zip(decoded, found, strict=True)}
        chunk: list[tuple[Record, Draft]] = []
        for record, _ in decoded:
            each = addressed[record.position]
            try:
                rendered = render(self._renderer, each)
            except Exception as error:
                failed[record.position] = error
                continue
            self._count_untranslated(each.activity, rendered)
            for draft in drafts_of(each, rendered):
                chunk.append((record, draft))
                if len(chunk) == MAX_DRAFTS:
                    await self._persist(chunk, stored, failed)
                    chunk = []
        await self._persist(chunk, stored, failed)
        for record, _ in decoded:
            if record.position in stored and record.position not in stored_before:
                await self._show_members(addressed[record.position])

        handled = []
        for record in records:
            position = record.position
            if position in failed:
                trace = _set_aside(record, why(failed[position]), addressed.get(position))
                log.warning("dead_letter", position=str(position), why=trace.reason)
            elif position in unknown:
                trace = Trace(
                    glimpse(record)[0], str(position), unknown[position].type, None, None, 0, "unknown_type"
                )
                log.debug("unknown_event_type", type=trace.type, position=trace.position)
            else:
                trace = _traced(
                    addressed[position], position, "stored" if position in stored else "duplicate"
                )
            handled.append(Handled(record, trace))
        return handled

    async def _persist(
        self,
        chunk: Sequence[tuple[Record, Draft]],
        stored: set[Position],
        failed: dict[Position, Exception],
    ) -> None:
        """Write and announce; a draft that the store refuses takes only its own activity with it."""
        if not chunk:
            return
        try:
            changes = await self._database.inbox.insert([draft for _, draft in chunk])
        except StoreRejected as error:
            by_record: dict[Position, list[tuple[Record, Draft]]] = {}
            for record, draft in chunk:
                by_record.setdefault(record.position, []).append((record, draft))
            if len(by_record) == 1:
                failed[chunk[0][0].position] = error
                return
            for part in by_record.values():
                await self._persist(part, stored, failed)
            return
        stored.update(_positions(chunk, changes))
        self._metrics.rows.inc(len(changes))
        # A hint: whoever is cancelled between two of these leaves the rest to the sweep.
        for start in range(0, len(changes), ANNOUNCED_AT_ONCE):
            self._announce(changes[start : start + ANNOUNCED_AT_ONCE])
            await trio.lowlevel.checkpoint()

    async def _show_members(self, addressed: Addressed) -> None:
        """Only where the members are whom the activity is for, and of the room that its scope names: a
        merchant that is not under the organizer has given nobody."""
        event_type = self._registry.get(addressed.activity.type)
        if not (self._show and event_type and event_type.shown_to_members):
            return
        if addressed.rule in ("org", "merchant"):
            await self._show(addressed.activity, addressed.rule)

    def _count_untranslated(self, activity: Activity, rendered: Mapping[str, Rendered]) -> None:
        for locale, text in rendered.items():
            if text.locale != negotiate(locale):
                self._metrics.untranslated.labels(activity.type, negotiate(locale)).inc()


def render(renderer: Renderer, addressed: Addressed) -> Mapping[str, Rendered]:
    """The content for each of the recipients' locales. Raises MessageRejected, and whatever an event type
    of another package raises."""
    return {locale: renderer.render(addressed.activity, locale) for locale in set(addressed.locales)}


def drafts_of(addressed: Addressed, rendered: Mapping[str, Rendered]) -> Iterator[Draft]:
    activity = addressed.activity
    for recipient_id, locale in zip(addressed.recipients, addressed.locales, strict=True):
        text = rendered[locale]
        yield Draft(
            recipient_id=recipient_id,
            activity_id=activity.id,
            type=activity.type,
            organizer_id=activity.organizer_id,
            merchant_id=activity.merchant_id,
            subject=activity.subject,
            locale=text.locale,
            content=text.content,
            content_html=text.content_html,
            action_url=text.action_url,
            data=activity.data,
        )


def why(error: Exception) -> str:
    """The sentence that a dead letter has, and a preview shows."""
    if isinstance(error, MessageRejected | StoreRejected):
        return str(error)
    # A fault of ours must not stop the partition either; the letter can be replayed once mended.
    log.error("activity_failed", exc_info=error)
    return f"Internal error {type(error).__name__} while handling this message."


def _positions(chunk: Sequence[tuple[Record, Draft]], changes: Sequence[Created]) -> Iterator[Position]:
    """Whose rows were written: the changes stand in the order of the drafts, some left out."""
    left = iter(chunk)
    for change in changes:
        written = (change.notification.activity_id, change.recipient_id)
        yield next(r.position for r, draft in left if (draft.activity_id, draft.recipient_id) == written)


def _traced(addressed: Addressed, position: Position, outcome: Outcome, reason: str | None = None) -> Trace:
    activity = addressed.activity
    return Trace(
        activity_id=activity.id,
        position=str(position),
        type=activity.type,
        scope=activity.scope,
        rule=addressed.rule,
        recipients=len(addressed.recipients),
        outcome=outcome,
        reason=reason,
    )


def _set_aside(record: Record, reason: str, addressed: Addressed | None) -> Trace:
    if addressed is not None:
        return _traced(addressed, record.position, "dead_letter", reason)
    activity_id, type = glimpse(record)
    return Trace(activity_id, str(record.position), type, None, None, 0, "dead_letter", reason)
