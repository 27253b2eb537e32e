"""How many rows of each type an inbox has: kept beside its head in `recipient_type`, changed with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from nx_signal.adapters._values import storable
from nx_signal.model import InboxFilter

Loss: TypeAlias = Mapping[str, tuple[int, int]]
"""type → (rows, unread rows) that an inbox has no more"""

Which: TypeAlias = Literal["total", "unread", "read"]


def kept_count(where: InboxFilter) -> tuple[str | None, Which] | None:
    """(the type, or None for all; which of its rows) where a kept count tells how many rows match."""
    conditions = where.all()
    if any(condition.operator != "eq" or condition.value is None for condition in conditions):
        return None
    values = {condition.field: condition.value for condition in conditions}
    repeated = len(values) < len(conditions)
    type, is_read = values.pop("type", None), values.pop("is_read", None)
    if values or repeated or not storable(type or ""):
        return None
    return type, "total" if is_read is None else "read" if is_read else "unread"


def loss_of(rows: Iterable[tuple[str, bool]]) -> Loss:
    """Of the removal of rows, each with its type and whether it was read."""
    loss: dict[str, tuple[int, int]] = {}
    for type, is_read in rows:
        total, unread = loss.get(type, (0, 0))
        loss[type] = total + 1, unread + (not is_read)
    return loss
