"""`nx-signal migrate`."""

from __future__ import annotations

import trio

from nx_signal.backends import open_database
from nx_signal.config import Settings


def run(settings: Settings) -> None:
    """Print each step taken."""
    trio.run(_migrate, settings)


async def _migrate(settings: Settings) -> None:
    async with open_database(settings) as database:
        steps = await database.migrate()
    for step in steps:
        print(step)
    print("The schema is up to date." if not steps else f"Done: {len(steps)} steps.")
