"""A command's input, a file or standard input, whole and up to a limit."""

from __future__ import annotations

import sys
from pathlib import Path

from nx_signal.errors import SettingsError

MAX_INPUT_BYTES = 64 * 1024 * 1024


def read_input(file: str) -> bytes:
    """`-` is standard input. Raises SettingsError for a file that cannot be read or is too large."""
    if file == "-":
        raw = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                raw = opened.read(MAX_INPUT_BYTES + 1)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise SettingsError(f"{file!r} cannot be read: {why}.") from None
    if len(raw) > MAX_INPUT_BYTES:
        raise SettingsError(f"{name_of(file)} is larger than {MAX_INPUT_BYTES} bytes; split it.")
    return raw


def name_of(file: str) -> str:
    return "standard input" if file == "-" else file
