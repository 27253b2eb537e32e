"""Which notifications a list or a count covers: one table of fields, for REST and for every database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

FieldKind: TypeAlias = Literal[
    "id", "revision", "text", "optional_text", "subject", "flag", "priority", "time"
]
ConditionOperator: TypeAlias = Literal["eq", "neq", "gt", "gte", "lt", "lte", "in", "not_in", "like"]

FIELDS: Mapping[str, FieldKind] = {
    "id": "id",
    "rev": "revision",
    "type": "text",
    "subject": "subject",
    "organizer_id": "optional_text",
    "merchant_id": "optional_text",
    "is_read": "flag",
    "archived": "flag",
    "priority": "priority",
    "created_at": "time",
}
"""Attribute of a Notification → what may be compared with it."""

PARAMETERS: Mapping[str, tuple[str, ConditionOperator]] = {
    "is_read": ("is_read", "eq"),
    "archived": ("archived", "eq"),
    "type": ("type", "eq"),
    "organizer_id": ("organizer_id", "eq"),
    "merchant_id": ("merchant_id", "eq"),
    "subject": ("subject", "eq"),
    "priority": ("priority", "eq"),
    "created_from": ("created_at", "gte"),
    "created_to": ("created_at", "lt"),
}
"""The plain parameters of a list: name → the comparison that it stands for."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a row's field with a value.

    `value` is of the field's type; of `eq` and `neq` it may be None (the field is absent, or is there),
    of `in` and `not_in` it is a tuple. A row without the field is unequal to every value: `neq` and
    `not_in` hold for it, nothing else does. `like` is for texts: `%` stands for any run of characters,
    `_` for any one, case counts, and nothing escapes. Times are compared in milliseconds."""

    field: str
    operator: ConditionOperator
    value: Any

    def __post_init__(self) -> None:
        if self.field not in FIELDS:  # so that no text of a caller can become SQL
            raise ValueError(f"Notifications cannot be filtered by {self.field}.")


@dataclass(frozen=True, slots=True)
class InboxFilter:
    """Rows for which all conditions hold: archived ones where a condition asks for them, else those of the
    inbox."""

    conditions: tuple[Condition, ...] = ()

    @property
    def archived(self) -> bool:
        return any(
            condition.field == "archived"
            and (condition.operator, condition.value) in (("eq", True), ("neq", False))
            for condition in self.conditions
        )

    @classmethod
    def of(cls, *conditions: Condition, **parameters: Any) -> InboxFilter:
        """The conditions, and PARAMETERS by name; a parameter of None is left out."""
        named = (
            Condition(*PARAMETERS[name], value) for name, value in parameters.items() if value is not None
        )
        return cls((*named, *conditions))
