"""One database with its faces."""

from __future__ import annotations

from collections.abc import Sequence

from nx_signal.store import schema
from nx_signal.store.corrections import Corrections
from nx_signal.store.dead_letters import DeadLetters
from nx_signal.store.deployment import deployment_secret
from nx_signal.store.directory import Directory
from nx_signal.store.driver import Driver
from nx_signal.store.in_hand import InHandStore
from nx_signal.store.inbox import InboxStore
from nx_signal.store.maintenance import Maintenance
from nx_signal.store.members import Members
from nx_signal.store.source_positions import SourcePositions
from nx_signal.store.tickets import Tickets
from nx_signal.store.traces import Traces


class Database:
    """Over a driver, which does no I/O before the first call. Every call may raise StoreUnavailable;
    everything that awaits may be cancelled at any await, and then holds no connection, lock or
    transaction."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._looked = False
        self._may_write = driver.migrates_itself
        self.inbox = InboxStore(driver)
        self.maintenance = Maintenance(driver)
        self.directory = Directory(driver)
        self.members = Members(driver)
        self.dead_letters = DeadLetters(driver)
        self.tickets = Tickets(driver)
        self.traces = Traces(driver)
        self.corrections = Corrections(driver)
        self.source_positions = SourcePositions(driver)
        self.in_hand = InHandStore(driver)

    async def check(self) -> None:
        """Raises StoreUnavailable when it cannot be reached, SchemaOutdated when its schema is not that of
        this release, SettingsError when it refuses the credentials or the database's name. An embedded
        database migrates itself here."""
        if self.driver.migrates_itself:
            await self.migrate()
            return
        await schema.check(self.driver)
        if not self._looked:
            await schema.look(self.driver)
            self._looked = True

    async def check_serving(self) -> None:
        """As `check`; once also that the user may write what serving writes. Raises SettingsError."""
        await self.check()
        if not self._may_write:
            await schema.require_rights(self.driver)
            self._may_write = True

    async def secret(self) -> bytes:
        """Shared by the instances of this database, and unknown to others. Raises as `check` does."""
        await self.check()
        return await self.driver.read(deployment_secret)

    async def migrate(self) -> Sequence[str]:
        """Bring the schema up to this release; the names of the steps taken, none when up to date."""
        return await schema.migrate(self.driver)
