"""Finds the event types of installed packages: entry points of the group `nx_signal.event_types`, each naming
one class (docs/plugins.md)."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nx_signal.activities.checks import check
from nx_signal.activities.event_type import EventType, one_line
from nx_signal.activities.registry import Registry
from nx_signal.activities.types import SHIPPED
from nx_signal.errors import SettingsError

ENTRY_POINTS = "nx_signal.event_types"


def discover() -> Registry:
    """The shipped types and those of installed packages. Raises SettingsError, naming the package, for one
    that cannot be used."""
    types: list[EventType[Any]] = [*SHIPPED]
    owners = {event_type.name: "nx-signal itself" for event_type in types}
    for entry_point in sorted(entry_points(group=ENTRY_POINTS), key=lambda each: each.value):
        package = _package(entry_point)
        try:
            found = _load(entry_point)
            if found.name in owners:
                raise SettingsError(f"the name {found.name} belongs to {owners[found.name]}; choose another.")
        except SettingsError as error:
            raise SettingsError(
                f"The event type {entry_point.value} of {package} cannot be used: {error} Until that is "
                "corrected, uninstall the package."
            ) from error
        owners[found.name] = f"{entry_point.value} of {package}"
        types.append(found)
    return Registry(types)


def _package(entry_point: EntryPoint) -> str:
    dist = entry_point.dist
    return "an unknown package" if dist is None else f"the package {dist.name} {dist.version}"


def _load(entry_point: EntryPoint) -> EventType[Any]:
    module, _, attribute = entry_point.value.partition(":")
    try:
        importlib.import_module(module.strip())
    except (Exception, SystemExit) as error:  # whatever the module does, a call of sys.exit too
        reason = one_line(f"{type(error).__name__}: {error}")
        raise SettingsError(f"its module {module} cannot be imported ({reason}).") from error
    try:
        found = entry_point.load()
    except AttributeError:
        raise SettingsError(f"the module {module} has no {attribute}; correct the entry point.") from None
    check(found)
    event_type: EventType[Any] = found()
    return event_type
