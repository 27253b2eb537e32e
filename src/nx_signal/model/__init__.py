"""The ground floor: frozen data that all parts share. No I/O, no behaviour beyond small derivations.

Other packages import names from here; each file holds one subject."""

from nx_signal.model.access import (
    OPERATOR_ROLE as OPERATOR_ROLE,
)
from nx_signal.model.access import (
    PERMISSIONS as PERMISSIONS,
)
from nx_signal.model.access import (
    Grant as Grant,
)
from nx_signal.model.access import (
    Holding as Holding,
)
from nx_signal.model.access import (
    Member as Member,
)
from nx_signal.model.access import (
    Membership as Membership,
)
from nx_signal.model.access import (
    Memberships as Memberships,
)
from nx_signal.model.access import (
    Organizer as Organizer,
)
from nx_signal.model.access import (
    Principal as Principal,
)
from nx_signal.model.access import (
    ReaderSettings as ReaderSettings,
)
from nx_signal.model.access import (
    Removed as Removed,
)
from nx_signal.model.access import (
    Roster as Roster,
)
from nx_signal.model.activities import (
    LOCALES as LOCALES,
)
from nx_signal.model.activities import (
    RETRYABLE_OUTCOMES as RETRYABLE_OUTCOMES,
)
from nx_signal.model.activities import (
    Action as Action,
)
from nx_signal.model.activities import (
    Activity as Activity,
)
from nx_signal.model.activities import (
    ActivityContext as ActivityContext,
)
from nx_signal.model.activities import (
    ActivityRow as ActivityRow,
)
from nx_signal.model.activities import (
    Audience as Audience,
)
from nx_signal.model.activities import (
    CorrectableRow as CorrectableRow,
)
from nx_signal.model.activities import (
    Correction as Correction,
)
from nx_signal.model.activities import (
    DeadLetter as DeadLetter,
)
from nx_signal.model.activities import (
    Handled as Handled,
)
from nx_signal.model.activities import (
    Json as Json,
)
from nx_signal.model.activities import (
    KeptCorrection as KeptCorrection,
)
from nx_signal.model.activities import (
    OneScope as OneScope,
)
from nx_signal.model.activities import (
    Outcome as Outcome,
)
from nx_signal.model.activities import (
    Position as Position,
)
from nx_signal.model.activities import (
    Priority as Priority,
)
from nx_signal.model.activities import (
    Reach as Reach,
)
from nx_signal.model.activities import (
    Record as Record,
)
from nx_signal.model.activities import (
    Rule as Rule,
)
from nx_signal.model.activities import (
    Scope as Scope,
)
from nx_signal.model.activities import (
    Trace as Trace,
)
from nx_signal.model.changes import (
    Change as Change,
)
from nx_signal.model.changes import (
    ChangesSince as ChangesSince,
)
from nx_signal.model.changes import (
    Created as Created,
)
from nx_signal.model.changes import (
    Deleted as Deleted,
)
from nx_signal.model.changes import (
    Mark as Mark,
)
from nx_signal.model.changes import (
    Read as Read,
)
from nx_signal.model.changes import (
    Unknown as Unknown,
)
from nx_signal.model.changes import (
    Updated as Updated,
)
from nx_signal.model.filters import (
    Condition as Condition,
)
from nx_signal.model.filters import (
    ConditionOperator as ConditionOperator,
)
from nx_signal.model.filters import (
    InboxFilter as InboxFilter,
)
from nx_signal.model.live import RelayMessage as RelayMessage
from nx_signal.model.live import TargetKind as TargetKind
from nx_signal.model.notifications import (
    Audit as Audit,
)
from nx_signal.model.notifications import (
    Draft as Draft,
)
from nx_signal.model.notifications import (
    Drift as Drift,
)
from nx_signal.model.notifications import (
    InboxPage as InboxPage,
)
from nx_signal.model.notifications import (
    InboxSummary as InboxSummary,
)
from nx_signal.model.notifications import (
    Notification as Notification,
)
from nx_signal.model.notifications import (
    NotificationContent as NotificationContent,
)
