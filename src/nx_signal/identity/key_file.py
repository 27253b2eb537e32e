"""Private keys in files that no other user may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nx_signal.errors import SettingsError

MAX_KEY_BYTES = 16_384


def read_key_file(path: Path) -> bytes:
    """Its PEM text. Blocking, milliseconds. Raises OSError, and SettingsError where others can read it."""
    with path.open("rb") as file:
        if others_have(os.fstat(file.fileno()), os.geteuid()):
            raise SettingsError(f"Other users can read or change {path}; run: chmod 600 {path}")
        return file.read(MAX_KEY_BYTES)


def others_have(found: os.stat_result, user: int) -> bool:
    """Whether other users can read or change the file. Root may share one for reading with a group, which is
    then this service's: so are the secrets of Kubernetes mounted (PostgreSQL has the same rule)."""
    shared = stat.S_IRGRP if found.st_uid == 0 != user else 0
    return bool(stat.S_IMODE(found.st_mode) & 0o077 & ~shared)
