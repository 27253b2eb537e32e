"""The data directory and the files in it are for the service's own user alone: whatever the umask is, and
also where they were there before with other rights."""

from __future__ import annotations

import os
import re
import stat
import threading
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

OTHERS = 0o077
"""The rights of the group and of all."""

_FILES = re.compile(r"(signal|journal)\.(db|lock)(-wal|-shm|-journal)?|worker-\d+\.lock")
_KEY = re.compile(r"\.?issuer-key\.pem(\.\w+)?")
"""Not restricted: one that others could read is refused (identity/issuer.py)."""
_BESIDE = frozenset({"lost+found"})
"""What a file system puts into its root."""
_reported: set[Path] = set()


def make_private(directory: Path) -> None:
    """Make the directory with mode 0700, or restrict it and the files of this service in it; where that is
    not possible a warning states why, once. Blocking; raises OSError where it cannot be made."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)
        directory.chmod(0o700)  # the umask may have taken rights away
        return
    except FileExistsError:
        if not directory.is_dir():
            raise
    why = _restrict(directory)
    if why is not None and directory not in _reported:
        _reported.add(directory)
        log.warning("data_directory_open", path=str(directory), why=why)


def open_private(path: Path) -> int:
    """A descriptor of the file, made where it is missing, with mode 0600. Not for a SQLite database: see
    `make_private_file`. Blocking; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o600:
        os.fchmod(descriptor, 0o600)
    return descriptor


def make_private_file(path: Path) -> None:
    """Make the file, empty and with mode 0600, where it is missing; `make_private` restricts one that exists.

    One that exists is not opened: to close a descriptor of a database releases the locks of this process on
    it, and another process would then write over what its connections still read
    (https://www.sqlite.org/howtocorrupt.html, section 2.2). Blocking; raises OSError."""
    with _making, suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)  # the umask may have taken rights away
        os.close(descriptor)


_making = threading.Lock()
"""A file that is found is opened only once it was closed here."""


def _restrict(directory: Path) -> str | None:
    """Why others keep rights, as a sentence."""
    try:
        open_files = [each for each in directory.iterdir() if _FILES.fullmatch(each.name) and _is_open(each)]
        for path in open_files:
            path.chmod(0o600)
        if not _is_open(directory):
            return None
        names = {each.name for each in directory.iterdir()} - _BESIDE
        foreign = sorted(name for name in names if not _FILES.fullmatch(name) and not _KEY.fullmatch(name))
        if foreign:  # such as a home directory, or /tmp
            return (
                f"Other users can enter {directory}, which also holds {foreign[0]!r}: set APP_ENV_DATA_DIR "
                f"to a directory of its own, or run chmod 700 {directory}."
            )
        directory.chmod(stat.S_IMODE(directory.stat().st_mode) & ~OTHERS)
    except OSError as error:
        return (
            f"Other users can enter {directory} or read files in it, and its rights cannot be changed "
            f"({error.strerror}): give it to the user of this service, with mode 700."
        )
    return None


def _is_open(path: Path) -> bool:
    return bool(path.lstat().st_mode & OTHERS) and not path.is_symlink()
