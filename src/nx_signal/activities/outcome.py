"""What became of a record, as a trace and, where it failed, as a dead letter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from nx_signal.activities.cloud_events import NO_TYPES, is_event
from nx_signal.activities.message import UnknownType, best_effort_ids, decode, unknown_type
from nx_signal.errors import MessageRejected, StoreRejected
from nx_signal.model import Activity, Correction, DeadLetter, Outcome, Record, Rule, Trace
from nx_signal.model.timestamps import format_timestamp

NO_RECIPIENTS = "The actor gets nothing of it (excludeActor), and its scope has no other recipients."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProcessedRecord:
    """A record and its outcome."""

    record: Record
    trace: Trace

    @property
    def dead_letter(self) -> DeadLetter | None:
        """None where the record was processed."""
        if self.trace.outcome != "dead_letter":
            return None
        record = self.record
        return DeadLetter(
            0, record.position, record.key, record.value, record.headers, self.trace.reason or ""
        )


def opened(
    record: Record, known: frozenset[str], notification_bytes: int, types: Mapping[str, str] = NO_TYPES
) -> Activity | Correction | ProcessedRecord:
    """The activity of a record, or the correction of one, or what becomes of a record that has neither. A
    CloudEvent in binary mode may have no data, and then has no value."""
    if record.is_tombstone and not is_event(record.headers):
        position = str(record.position)
        return ProcessedRecord(record, Trace(position, position, None, None, None, 0, "tombstone"))
    try:
        found = decode(record, known, notification_bytes, types)
    except Exception as error:
        return failed(record, error, types=types)
    if isinstance(found, UnknownType):
        id, _ = best_effort_ids(record, types)
        why = unknown_type(found.type, known)
        trace = Trace(id, str(record.position), found.type, None, None, 0, "unknown_type", why)
        return ProcessedRecord(record, trace)
    return found


def failed(
    record: Record,
    error: Exception,
    activity: Activity | None = None,
    rule: Rule | None = None,
    many: int = 0,
    types: Mapping[str, str] = NO_TYPES,
) -> ProcessedRecord:
    """A dead letter, with what is known of its activity and of its recipients."""
    reason = failure_reason(error)
    if activity is not None and activity.corrected_at is not None:
        reason = f"As corrected at {activity.corrected_at}: {reason}"
    log.warning("dead_letter", position=str(record.position), why=reason)
    if activity is not None:
        return handled(record, activity, rule, many, "dead_letter", reason)
    id, type = best_effort_ids(record, types)
    return ProcessedRecord(
        record, Trace(id, str(record.position), type, None, None, 0, "dead_letter", reason)
    )


def set_aside(record: Record, reason: str) -> ProcessedRecord:
    """A dead letter of a record that is not looked at any more."""
    position = str(record.position)
    log.error("record_set_aside", position=position, why=reason)
    return ProcessedRecord(record, Trace(position, position, None, None, None, 0, "dead_letter", reason))


def without_recipients(record: Record, activity: Activity) -> ProcessedRecord:
    """Of an activity whose one recipient is left out."""
    return handled(record, activity, activity.scope, 0, "stored", NO_RECIPIENTS)


def handled(
    record: Record,
    activity: Activity,
    rule: Rule | None,
    many: int,
    outcome: Outcome,
    reason: str | None = None,
) -> ProcessedRecord:
    trace = Trace(
        activity_id=activity.id,
        position=str(record.position),
        type=activity.type,
        scope=activity.scope,
        rule=rule,
        recipients=many,
        outcome=outcome,
        reason=reason or _correction(activity.corrected_at) or repair(activity.replaced),
        digest=None if outcome == "dead_letter" else activity.digest,
        context=activity.context,
    )
    return ProcessedRecord(record, trace)


def written(
    record: Record, activity: Activity, rule: Rule | None, many: int, *, rows: bool, superseded: bool
) -> ProcessedRecord:
    """What became of a record that could be written: `rows` is whether it had any that was not there."""
    if not rows and superseded:
        reason = f"Each recipient had a newer notification with its collapseKey {activity.collapse_key}."
        return handled(record, activity, rule, many, "superseded", reason)
    return handled(record, activity, rule, many, "stored" if rows else "duplicate")


def expired(record: Record, activity: Activity) -> ProcessedRecord:
    reason = f"It was handled after its expiresAt, {format_timestamp(activity.expires_at)}."
    return handled(record, activity, None, 0, "expired", reason)


def failure_reason(error: Exception) -> str:
    """The text that a dead letter has and a preview shows."""
    if isinstance(error, MessageRejected | StoreRejected):
        return str(error)
    # A bug must not stop the partition either; the dead letter can be replayed once it is fixed.
    log.error("activity_failed", exc_info=error)
    return f"Internal error {type(error).__name__} while handling this message."


def _correction(position: str | None) -> str | None:
    return None if position is None else f"Its data is that of the correction at {position}, handled before."


def repair(replaced: int) -> str | None:
    if not replaced:
        return None
    characters = "1 character" if replaced == 1 else f"{replaced} characters"
    return (
        f"{characters} that no store holds (NUL, half of a surrogate pair, invalid UTF-8) replaced by U+FFFD."
    )
