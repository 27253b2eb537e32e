"""`nx-signal serve`."""

from __future__ import annotations

import trio

from nx_signal import service
from nx_signal.config import Settings
from nx_signal.telemetry.logs import configure_logs


def run(settings: Settings) -> None:
    """Serve until signalled."""
    configure_logs(settings.log_level, settings.log_format)
    trio.run(service.run, settings)
