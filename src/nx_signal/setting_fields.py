"""One setting: its variable, its flag, its parser. No I/O."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from nx_signal.errors import SettingsError

PREFIX = "APP_ENV_"


def setting(
    env: str,
    default: Any,
    parse: Callable[[str], Any],
    help: str,
    *,
    secret: Callable[[str], str] | None = None,
) -> Any:
    """A field of `config.Settings`. `secret`: what may be shown of the value."""
    metadata = {"env": PREFIX + env, "parse": parse, "help": help, "secret": secret}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def require_known(known: Sequence[str], names: Iterable[str], foreign: Sequence[str]) -> None:
    """Raises SettingsError for a name with PREFIX that is neither known nor, by a pattern, foreign."""
    for name in sorted(names):
        if not name.upper().startswith(PREFIX) or name in known:
            continue
        if not any(fnmatchcase(name, pattern) for pattern in foreign):
            (nearest,) = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
            raise SettingsError(
                f"{name} is not a setting; the nearest is {nearest}. Correct its name or unset it; one of "
                "another program may be named in APP_ENV_FOREIGN_VARIABLES."
            )
