"""The kinds of arguments that the commands take, and how a wrong one is reported."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, NoReturn

from nx_signal.config import Settings
from nx_signal.model.terminal import visible
from nx_signal.setting_fields import flag_of
from nx_signal.telemetry.redaction import redacted

MISUSED = 2
"""The exit status of bad usage or settings."""

MAX_ID_CHARS = 256

COMPLETE_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files"}
"""`shtab.FILE`, without the import: shtab is loaded only to print a script."""


class Parser(argparse.ArgumentParser):
    """Errors are one sentence and status 2."""

    def error(self, message: str) -> NoReturn:
        shown = visible(redacted(_without_values(message))).rstrip(".")
        self.exit(MISUSED, f"{self.prog}: {shown}; see {self.prog} --help.\n")


def _without_values(message: str) -> str:
    """A flag that does not exist may have been meant as one of a password: its value is not shown."""
    mark, unknown, words = message.partition("unrecognized arguments: ")
    flags = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
    return f"{mark}{unknown}{' '.join(flags)}" if flags else message


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, flag: str | None = None) -> None:
        import shtab

        print(shtab.complete(parser, shell))
        parser.exit()


def file_argument(parser: argparse.ArgumentParser, help: str) -> None:
    argument = parser.add_argument("file", metavar="FILE", help=help)
    argument.complete = COMPLETE_FILES  # type: ignore[attr-defined]  # read by shtab


def settings_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """A flag for each of these fields of Settings, with its help and variable. Text only: Settings parses."""
    group = parser.add_argument_group("settings", "each is also the variable named beside it; the flag wins")
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    for name in names:
        field = fields[name]
        if field.default_factory is not dataclasses.MISSING:
            default = "~/.local/share/nx-signal"
        elif isinstance(field.default, tuple):
            default = ",".join(field.default)
        else:
            default = "" if field.default is None else str(field.default)
        default = f"; default: {default}" if default else ""
        text = f"{field.metadata['help']} [{field.metadata['env']}{default}]"
        group.add_argument(flag_of(name), dest=name, metavar=_metavar(name), help=text.replace("%", "%%"))


def _metavar(field_name: str) -> str:
    last = field_name.rpartition("_")[2]
    return {"s": "SECONDS", "ms": "MILLISECONDS"}.get(last, last.upper())


def identifier(text: str) -> str:
    if not 0 < len(text) <= MAX_ID_CHARS or not text.isprintable():
        raise argparse.ArgumentTypeError(f"it takes 1 to {MAX_ID_CHARS} printable characters")
    return text


def server_key(text: str) -> bytes:
    from nx_signal.client.server_keys import read_server_key

    try:
        return read_server_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}") from None


class WholeNumber:
    """A whole number within bounds, as an option's type."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and self._low <= int(text) <= self._high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {self._low} to {self._high}")
