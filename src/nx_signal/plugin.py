"""What a package that adds event types imports (docs/plugins.md). Everything here is stable within a major
version; nothing else of nx_signal is meant for other packages, `nx_signal.testing` excepted."""

from nx_signal.activities.event_type import (
    COUNT,
    Amount,
    EventType,
    Message,
    MessageArguments,
    Money,
    Value,
    money,
    one_line,
    safe_url,
)
from nx_signal.activities.fields import moment, rejected
from nx_signal.errors import MessageRejected
from nx_signal.model import LOCALES, Activity, Json

__all__ = [
    "COUNT",
    "LOCALES",
    "Activity",
    "Amount",
    "EventType",
    "Json",
    "Message",
    "MessageArguments",
    "MessageRejected",
    "Money",
    "Value",
    "moment",
    "money",
    "one_line",
    "rejected",
    "safe_url",
]
