"""`nx-signal audit`: compare the counts and revisions of all inboxes with their rows and logs."""

from __future__ import annotations

import trio

from nx_signal.backends import open_database
from nx_signal.config import Settings
from nx_signal.errors import SignalError

PORTION_INBOXES = 500
PORTION_ROWS = 20_000
"""Each portion is one snapshot of a fraction of a second; a running service goes on beside it."""
SHOWN = 20


class DriftFound(SignalError):
    """Some inboxes do not agree with their rows."""


def run(settings: Settings) -> None:
    """Print the first differences and a summary. Raises DriftFound where there are any."""
    trio.run(_audit, settings)


async def _audit(settings: Settings) -> None:
    inboxes = rows = differences = 0
    differing: set[str] = set()
    async with open_database(settings) as database:
        await database.check()
        after: str | None = ""
        while after is not None:
            audit = await database.maintenance.audit(after, PORTION_INBOXES, PORTION_ROWS)
            inboxes, rows, after = inboxes + audit.inboxes, rows + audit.rows, audit.next_after
            for drift in audit.drifts:
                differences += 1
                differing.add(drift.recipient_id)
                if differences <= SHOWN:
                    print(
                        f"{drift.recipient_id!r}: {drift.what} is {drift.held}, "
                        f"the rows and the log give {drift.counted}"
                    )
    if differences > SHOWN:
        print(f"… and {differences - SHOWN:,} more")
    print(f"Audited {inboxes:,} inboxes with {rows:,} notifications.")
    if differing:
        raise DriftFound(
            f"{len(differing):,} of {inboxes:,} inboxes do not agree with their rows and logs: "
            "something wrote to the tables beside this service, or the database lost a part of them."
        )
