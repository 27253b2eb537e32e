"""A package with an event type that kills the process which renders it, for whole-system tests."""

from __future__ import annotations

from pathlib import Path

DEADLY = """
import os, signal
from nx_signal.activities.registry import Registry
from nx_signal.activities.types import OrderCompleted

class Deadly(OrderCompleted):
    name = "DEADLY"

    def locales(self):
        return OrderCompleted().locales()

    def message_arguments(self, data, activity):
        if activity.id != "example":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().message_arguments(data, activity)
"""


def install_deadly(site: Path) -> str:
    """Into this folder, which is to be on PYTHONPATH; its name."""
    for name, files in {
        "deadly": {"__init__.py": DEADLY},
        "deadly-1.dist-info": {
            "METADATA": "Metadata-Version: 2.1\nName: deadly\nVersion: 1\n",
            "entry_points.txt": "[nx_signal.event_types]\ndeadly = deadly:Deadly\n",
        },
    }.items():
        folder = site / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    return str(site)
