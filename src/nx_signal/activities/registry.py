"""The event types that are registered in this process, each with its catalogs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nx_signal.activities.catalogs import Catalog, read_catalogs, require_texts
from nx_signal.activities.event_type import EventType
from nx_signal.activities.types import SHIPPED


class Registry:
    """Read once, never changed."""

    def __init__(self, types: Iterable[EventType[Any]]) -> None:
        """`types` have different names. Raises SettingsError for texts that are missing or unusable."""
        self._types: dict[str, EventType[Any]] = {}
        self._catalogs: dict[str, Mapping[str, Catalog]] = {}
        of_folder: dict[str, Mapping[str, Catalog]] = {}
        for event_type in types:
            folder = event_type.locales()
            catalogs = of_folder.get(str(folder)) or read_catalogs(folder)
            require_texts(event_type, catalogs)
            of_folder[str(folder)] = catalogs
            self._types[event_type.name] = event_type
            self._catalogs[event_type.name] = catalogs

    @classmethod
    def shipped(cls) -> Registry:
        return cls(SHIPPED)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._types)

    def __iter__(self) -> Iterator[EventType[Any]]:
        return iter(self._types.values())

    def get(self, name: str) -> EventType[Any] | None:
        return self._types.get(name)

    def catalogs(self, name: str) -> Mapping[str, Catalog]:
        """locale → the catalog of a type that is here; English is always among them."""
        return self._catalogs[name]
