"""What the instances of one store have in common, and no others."""

from __future__ import annotations

from nx_signal.errors import SchemaOutdated
from nx_signal.store.driver import Tx


async def deployment_secret(tx: Tx) -> bytes:
    """The secret of this database; a copy of it that is known to be one has another. Raises
    SchemaOutdated."""
    row = await tx.one("deployment")
    if row is None:
        raise SchemaOutdated(
            "The table signal_deployment has lost its row: restore it from a backup, or insert one with id 1 "
            "and a new random secret."
        )
    known = await tx.one("copy_is_known")
    copy = await tx.one("copy") if known and known["known"] else None
    return f"{row['secret']}{copy['place'] if copy else ''}".encode()
