"""The inbox log and its rules, once for every database.

A transaction is an `async def` script over `driver.Tx`: it runs named queries and decides; a driver in
`adapters` plays it, with one crossing to where the database is."""

from nx_signal.store.corrections import Content, Corrections
from nx_signal.store.database import Database
from nx_signal.store.dead_letters import DeadLetters
from nx_signal.store.directory import Directory
from nx_signal.store.in_hand import InHandStore, Mark
from nx_signal.store.inbox import InboxStore
from nx_signal.store.maintenance import Maintenance
from nx_signal.store.members import Members
from nx_signal.store.tickets import Tickets
from nx_signal.store.traces import Traces

__all__ = [
    "Content",
    "Corrections",
    "Database",
    "DeadLetters",
    "Directory",
    "InHandStore",
    "InboxStore",
    "Maintenance",
    "Mark",
    "Members",
    "Tickets",
    "Traces",
]
