"""The schema: is it the one of this release, and how to bring it there."""

from __future__ import annotations

from nx_signal.adapters.postgres.faults import outdated
from nx_signal.adapters.postgres.lease import NAMESPACE
from nx_signal.adapters.postgres.session import Connection, Session, transaction
from nx_signal.errors import SchemaOutdated
from nx_signal.sql import Migration, migrations, queries

MIGRATE_S = 600.0
"""For one step, or for another instance's."""

_SQL = queries("postgres")
_STEPS = migrations("postgres")


class Schema:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def check(self) -> None:
        """Raises SchemaOutdated, as well as what any call may raise."""
        version = await self._session.call(_aio_version)
        if version < len(_STEPS):
            raise outdated(self._session.place, f"version {version} instead of {len(_STEPS)}")
        self._not_newer(version)

    async def migrate(self) -> list[str]:
        """Each step in a transaction of its own; whoever comes second waits and finds it taken."""
        self._not_newer(await self._session.call(_aio_version))
        return [step.name for step in _STEPS if await self._session.call(_aio_step, step)]

    def _not_newer(self, version: int) -> None:
        if version > len(_STEPS):
            raise SchemaOutdated(
                f"The database {self._session.place} has schema version {version}, this release knows "
                f"{len(_STEPS)}: install the newer release that migrated it."
            )


async def _aio_version(connection: Connection) -> int:
    """0 for an empty database."""
    if not await connection.fetchval(_SQL["has_schema_version"]):
        return 0
    version: int = await connection.fetchval(_SQL["schema_version"])
    return version


async def _aio_step(connection: Connection, step: Migration) -> bool:
    """False when it was taken before."""
    async with transaction(connection):
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute(_SQL["lock_migrations"], NAMESPACE, timeout=MIGRATE_S)
        await connection.execute(_SQL["make_schema_version"])
        if await connection.fetchval(_SQL["schema_version"]) >= step.version:
            return False
        await connection.execute(step.sql, timeout=MIGRATE_S)
        await connection.execute(_SQL["add_schema_version"], step.version, step.name)
    return True
