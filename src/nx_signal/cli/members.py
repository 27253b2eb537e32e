"""`nx-signal members`: load a roster, list, take away. Works on the store directly, with or without a running
server; connected clients leave the rooms of a membership that is gone within a minute."""

from __future__ import annotations

import csv
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from nx_signal.backends import open_database
from nx_signal.cli.files import name_of, read_input
from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.identity.roster import read_roster
from nx_signal.model import Holding, Removed, Roster
from nx_signal.model.terminal import visible
from nx_signal.store import Database

PORTION = 1_000
SHOWN = 20
"""Of what is removed, by name; all of it is counted."""

COLUMNS = ("userId", "organizerId", "merchantId", "role", "locale")
GRANT_COLUMNS = ("userId", "role", "permission")


def load(settings: Settings, file: str, *, replace: bool, dry_run: bool) -> None:
    """Load the file and print the counts. Nothing is written unless the whole file is valid."""
    if dry_run and not replace:
        raise SettingsError("--dry-run is for --replace: without it nothing is removed.")
    roster = read_roster(read_input(file), name_of(file))
    _on_store(settings, partial(_load, roster, replace, dry_run))


def list_(settings: Settings, where: Holding, *, grants: bool) -> None:
    """Print CSV: memberships in the form that `load` takes, or grants."""
    _on_store(settings, partial(_list_grants if grants else _list, where))


def remove(settings: Settings, where: Holding, *, dry_run: bool) -> None:
    """Take away all that `where` covers, and print it."""
    if where.user_id is None and where.organizer_id is None and where.merchant_id is None:
        raise SettingsError("Name whose memberships: --user, --organizer or --merchant.")
    _on_store(settings, partial(_remove, where, dry_run))


def _on_store(settings: Settings, work: Callable[[Database], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_database(settings) as database:
            await database.check()
            await work(database)

    trio.run(main)


async def _load(roster: Roster, replace: bool, dry_run: bool, database: Database) -> None:
    if replace:
        _print_removed(await database.members.replace(roster, dry_run=dry_run), dry_run)
    else:
        await database.directory.load(roster)
    merchants = sum(len(organizer.merchants) for organizer in roster.organizers)
    print(
        f"{'Would load' if dry_run else 'Loaded'} {_many(len(roster.organizers), 'organizer')}, "
        f"{_many(merchants, 'merchant')}, {_many(len(roster.members), 'membership')}, "
        f"{_many(len(roster.grants), 'grant')} into {database.driver.place}."
    )


async def _list(where: Holding, database: Database) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    after, more = None, True
    while more:
        page, after = await database.members.memberships(where, PORTION, after)
        out.writerows(_row(m.user_id, m.organizer_id, m.merchant_id, m.role, m.locale) for m in page)
        more = after is not None


async def _list_grants(where: Holding, database: Database) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(GRANT_COLUMNS)
    after, more = None, True
    while more:
        page, after = await database.members.grants(where, PORTION, after)
        out.writerows(_row(grant.user_id, grant.role, grant.permission) for grant in page)
        more = after is not None


def _row(*cells: str | None) -> list[str | None]:
    """Exact for another program, safe for a terminal."""
    return [visible(cell) if cell and sys.stdout.isatty() else cell for cell in cells]


async def _remove(where: Holding, dry_run: bool, database: Database) -> None:
    _print_removed(await database.members.remove(where, dry_run=dry_run), dry_run)


def _print_removed(removed: Removed, dry_run: bool) -> None:
    lines = [
        f"{m.user_id!r}: {m.role!r} in "
        + (f"merchant {m.merchant_id!r}" if m.merchant_id else f"organizer {m.organizer_id!r}")
        for m in removed.memberships
    ]
    lines += [
        f"{grant.user_id!r}: the {'role' if grant.role else 'permission'} {grant.role or grant.permission!r}"
        for grant in removed.grants
    ]
    for line in lines[:SHOWN]:
        print(line)
    if len(lines) > SHOWN:
        print(f"… and {len(lines) - SHOWN:,} more")
    print(
        f"{'Would remove' if dry_run else 'Removed'} {_many(len(removed.memberships), 'membership')}, "
        f"{_many(len(removed.grants), 'grant')}."
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
