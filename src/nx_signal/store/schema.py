"""The schema: whether it is the one of this release, and how to bring it there.

Steps that older releases can work with are additive: instances of two releases can run beside each other. In
PostgreSQL the schema may be another program's too: nothing of that is touched, its tables of memberships are
used where they are, and what else is in the way is named."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from nx_signal.errors import SchemaOutdated, SettingsError, StoreReadOnly, StoreRejected
from nx_signal.model import OPERATOR_ROLE, PERMISSIONS
from nx_signal.store.driver import Driver, Row, Tx
from nx_signal.store.sql import Step, queries, query, steps

ADOPTABLE: Mapping[str, tuple[str, ...]] = {
    "merchant": (),
    "role": ("identifier",),
    "permission": ("code",),
    "policy_definition": (
        *("variant", "subject_type", "subject_id", "target_type", "target_id", "effect", "domain"),
    ),
}
"""The platform's tables (CONTRACT §5), and their columns that have to be texts."""
COLUMNS = {**ADOPTABLE, "merchant": ("id", "organizer_id")}

OF_ROSTERS = frozenset({*ADOPTABLE, "organizer", "recipient_locale"})
"""Written by commands and calls for memberships and grants, which the platform may keep to itself."""
INSERTED = {("activity_notification", "INSERT"), ("recipient_type", "INSERT")}
"""By the drivers' own statement for new rows."""
OF_RETENTION = ("activity_notification", "DELETE")
"""Not needed where notifications are kept."""

_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE)(?: INTO| FROM)? (\w+)")
_CREATED = re.compile(r"^CREATE (?:UNIQUE )?(?:TABLE|VIEW|INDEX) (\w+)", re.MULTILINE)
_STATEMENT = re.compile(r".*?;[ \t]*(?:\n|$)", re.DOTALL)


async def check(driver: Driver) -> None:
    """Raises SchemaOutdated for a database that lacks a step, or has one that is not known here."""
    applied, known = await driver.read(_writable), steps(driver.dialect.name)
    _require_known(driver, applied, known)
    missing = [step for step in known if step.version not in applied]
    if missing:
        raise SchemaOutdated(
            f"The database {driver.place} does not have the schema of this release "
            f"(it lacks the step {missing[0].version}, {missing[0].name}): "
            "run `nx-signal migrate --database-url …` first."
        )


async def look(driver: Driver) -> None:
    """Raises SchemaOutdated where a query of this release does not fit the tables that are there."""
    await driver.read(_look)


async def require_rights(driver: Driver) -> None:
    """Raises SettingsError where this user may not write what serving writes: reading alone works as well."""
    missing = await driver.read(_missing_rights)
    if missing:
        raise SettingsError(
            f"The user of the database {driver.place} lacks rights: {', '.join(missing)}. GRANT them, best "
            "SELECT, INSERT, UPDATE and DELETE on all tables of this service."
        )


async def _missing_rights(tx: Tx) -> Sequence[str]:
    dialect = tx.dialect.name
    tables = _created(steps(dialect)) - OF_ROSTERS
    written = {(table, right) for sql in queries(dialect).values() for right, table in _WRITES.findall(sql)}
    needed = sorted(each for each in (written | INSERTED) - {OF_RETENTION} if each[0] in tables)
    rows = await tx.all(
        "missing_rights", tables=[table for table, _ in needed], rights=[right for _, right in needed]
    )
    return [row["missing"] for row in rows]


async def migrate(driver: Driver) -> Sequence[str]:
    """Each step in a transaction of its own; the second of two instances waits and finds it taken. The names
    of the steps taken. Raises SettingsError where something of another program is in the way."""
    applied, known = await driver.write(applied_steps), steps(driver.dialect.name)
    _require_known(driver, applied, known)
    pending = [step for step in known if step.version not in applied]
    taken: list[str] = []
    if pending:
        adopted = await driver.write(_begin, pending)
        taken += [step.name for step in pending if await driver.write(take, step)]
        if adopted:
            taken += await _seeded(driver, adopted)
    if not driver.migrates_itself:
        await look(driver)
    return taken


async def _seeded(driver: Driver, adopted: frozenset[str]) -> Sequence[str]:
    """The lines of output about the adopted tables."""
    lines = [f"adopted {', '.join(sorted(adopted))}, which were there"]
    try:
        await driver.write(_seed)
    except (StoreRejected, SettingsError) as error:
        lines.append(f"permissions not added to them ({error})")
    return lines


def _require_known(driver: Driver, applied: Mapping[int, bool], known: Sequence[Step]) -> None:
    newer = [version for version, additive in applied.items() if version > len(known) and not additive]
    if newer:
        raise SchemaOutdated(
            f"The database {driver.place} has schema version {max(newer)}, this release knows {len(known)}: "
            "install the newer release that migrated it."
        )


async def _writable(tx: Tx) -> Mapping[int, bool]:
    """`applied_steps` of a database that accepts writes. Raises StoreReadOnly: reading alone also works on a
    server that is no longer the one to write to."""
    row = await tx.one("read_only")
    if row is not None and row["reason"]:
        raise StoreReadOnly(f"The database accepts no writes now ({row['reason']}).")
    return await applied_steps(tx)


async def _look(tx: Tx) -> None:
    await tx.look()


async def applied_steps(tx: Tx) -> dict[int, bool]:
    """version → whether it was additive; nothing for an empty database."""
    return {row["version"]: bool(row["additive"]) for row in await _applied_rows(tx)}


async def _applied_rows(tx: Tx) -> Sequence[Row]:
    tables = await tx.one("schema_tables")
    if tables is None or tables["own"]:
        return await tx.all("schema_steps")
    versions = await tx.all("schema_version") if tables["versions"] else []
    first = steps(tx.dialect.name)[0]
    if (first.version, first.name) not in [(row["version"], row["name"]) for row in versions]:
        return []  # none yet, or another program's table
    additions = await tx.all("schema_addition") if tables["additions"] else []
    return [
        {"version": row["version"], "name": row["name"], "additive": additive}
        for rows, additive in ((versions, False), (additions, True))
        for row in rows
    ]


async def _releases_of_before(tx: Tx) -> bool:
    """Whether they look at a table of their own here, and so have to find in it what ends them."""
    tables = await tx.one("schema_tables")
    if tables is None or not tables["own"] or not tables["versions"]:
        return False
    first = steps(tx.dialect.name)[0]
    return any(row["name"] == first.name for row in await tx.all("schema_version"))


async def _begin(tx: Tx, pending: Sequence[Step]) -> frozenset[str]:
    """Make room for the steps, once nothing is in their way; the tables that are adopted."""
    for name in ("begin_step", "prepare_schema"):
        await tx.script(query(tx.dialect.name, name))
    had_own, before = await _has_own(tx), await _applied_rows(tx)
    adopted = await _adopted(tx) if had_own else frozenset()
    applied = {row["version"] for row in before}
    own = _created(step for step in steps(tx.dialect.name) if step.version in applied)
    names = _created(step for step in pending if step.version not in applied) - own
    adopted |= await _adoptable(tx, names, is_new=not applied)
    await tx.script(query(tx.dialect.name, "create_schema_steps"))
    if not had_own and await _has_own(tx):
        for row in before:
            await tx.run("add_schema_step", **_step_values(tx, row["version"], row["name"], row["additive"]))
        for name in sorted(adopted):
            await tx.run("add_adopted", name=name)
    return adopted


async def _has_own(tx: Tx) -> bool:
    tables = await tx.one("schema_tables")
    return tables is not None and bool(tables["own"])


async def _adopted(tx: Tx) -> frozenset[str]:
    return frozenset(row["name"] for row in await tx.all("adopted"))


def _created(of: Iterable[Step]) -> set[str]:
    """A view may be made anew by a later step."""
    return {name for step in of for name in _CREATED.findall(step.sql)}


async def _adoptable(tx: Tx, names: Collection[str], *, is_new: bool) -> frozenset[str]:
    """Those that are tables of the platform. Raises SettingsError for anything else that has such a name."""
    found: dict[str, dict[str | None, Row]] = {}
    for row in await tx.all("relations", names=sorted(names)):
        found.setdefault(row["name"], {})[row["column"]] = row
    adopted, wrong = set(), []
    for name, columns in sorted(found.items()):
        kinds = {row["kind"] for row in columns.values()}
        if name not in ADOPTABLE or not is_new or not kinds <= {"r", "p", "v", "m", "f"}:
            wrong.append("the type " + name if kinds == {"type"} else name)
        elif missing := [column for column in COLUMNS[name] if column not in columns]:
            wrong.append(f"{name}, which lacks {', '.join(missing)}")
        elif other := [column for column in ADOPTABLE[name] if columns[column]["category"] != "S"]:
            wrong.append(f"{name}, whose {', '.join(other)} is no text")
        else:
            adopted.add(name)
    if wrong:
        raise SettingsError(
            f"The schema holds, of another program: {'; '.join(wrong)}. Nothing was changed. Choose a schema "
            "of this service's own with APP_ENV_DATABASE_SCHEMA; it is made if missing."
        )
    return frozenset(adopted)


async def take(tx: Tx, step: Step) -> bool:
    """Take one step. False when another process took it meanwhile."""
    for name in ("begin_step", "create_schema_steps"):
        await tx.script(query(tx.dialect.name, name))
    if step.version in await applied_steps(tx):
        return False
    adopted = await _adopted(tx) if await _has_own(tx) else frozenset()
    for statement in _without(step.sql, adopted):
        await tx.script(statement)
    values = _step_values(tx, step.version, step.name, step.additive)
    await tx.run("add_schema_step", **values)
    if not step.additive and await _releases_of_before(tx):
        await tx.run("add_schema_version", version=step.version, name=step.name, applied_at=tx.now())
    return True


def _step_values(tx: Tx, version: int, name: str, additive: bool) -> dict[str, object]:
    return {"version": version, "name": name, "additive": additive, "applied_at": tx.now()}


def _without(sql: str, adopted: frozenset[str]) -> Iterator[str]:
    """The step; of one beside adopted tables the statements that do not name any."""
    if not adopted:
        yield sql
        return
    names = re.compile(rf"\b({'|'.join(sorted(adopted))})\b")
    for statement in _STATEMENT.findall(re.sub(r"(?m)--.*$", "", sql)):
        if not names.search(statement):
            yield statement


async def _seed(tx: Tx) -> None:
    """What the steps would have written into the tables that were adopted."""
    await tx.run("seed_permission", codes=list(PERMISSIONS))
    await tx.run("seed_role", role=OPERATOR_ROLE)
    await tx.run("seed_grants", role=OPERATOR_ROLE, codes=list(PERMISSIONS))
