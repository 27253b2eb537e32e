"""The warning of the commands that send a token to a server without TLS."""

from __future__ import annotations

import sys

from nx_signal.client.http import is_exposed

EXPOSED = (
    "without TLS a machine between here and the server can read the token, and read and change what is sent: "
    "use https://."
)


def warn_if_exposed(command: str, url: str) -> None:
    """On stderr, before anything is sent."""
    if is_exposed(url):
        print(f"nx-signal {command}: {EXPOSED}", file=sys.stderr)
