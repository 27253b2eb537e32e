"""What libraries read of the environment by themselves, and this program does not want: docs/deploying.md."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

IGNORED = (
    "PROMETHEUS_MULTIPROC_DIR",  # prometheus_client would keep its values in files there
    "prometheus_multiproc_dir",
    "QUART_DEBUG",  # Quart would show more of an error than its sentence
    "FLASK_DEBUG",
    "SSLKEYLOGFILE",  # ssl would write the secrets of each TLS connection there
)
TZIF = b"TZif"
"""The first bytes of a file of a time zone (RFC 9636 §3.1)."""


def settle_environment(environ: MutableMapping[str, str]) -> None:
    """To be called before the libraries are imported."""
    for name in IGNORED:
        environ.pop(name, None)
    if not _is_usable_zone(environ.get("TZ", "")):
        environ["TZ"] = "UTC"  # as the C library understands it; Babel's import would fail


def _is_usable_zone(zone: str) -> bool:
    path = zone.removeprefix(":")
    if not path or not os.path.exists(path):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(len(TZIF)) == TZIF
    except OSError:
        return False


def settle_output() -> None:
    """Show what the terminal's encoding lacks as an escape, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
