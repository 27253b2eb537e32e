"""`nx-signal members load`: a roster as JSON or CSV (CONTRACT §6) into the directory."""

from __future__ import annotations

import csv
import io
import re
from typing import Annotated

import msgspec
import trio

from nx_signal.cli.database import open_database
from nx_signal.cli.files import name_of, read_input
from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.model import PERMISSIONS, Grant, Member, Organizer, Roster

COLUMNS = ("userId", "organizerId", "merchantId", "role", "locale")
REQUIRED_COLUMNS = frozenset({"userId", "organizerId"})
DEFAULT_ROLE = "staff"

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Locale = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")]


class _Organizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Id
    locale: Locale | None = None
    merchants: list[Id] = []


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    user_id: Id
    organizer_id: Id
    merchant_id: Id | None = None
    role: Id = DEFAULT_ROLE
    locale: Locale | None = None


class _Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    user_id: Id
    role: Id | None = None
    permission: Id | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    organizers: list[_Organizer] = []
    members: list[_Member] = []
    grants: list[_Grant] = []


def run(settings: Settings, file: str) -> None:
    """Load and say how much. Nothing is written unless the whole file is good."""
    roster = read_roster(read_input(file), name_of(file))
    trio.run(_load, settings, roster)
    merchants = sum(len(organizer.merchants) for organizer in roster.organizers)
    print(
        f"Loaded {_many(len(roster.organizers), 'organizer')}, {_many(merchants, 'merchant')}, "
        f"{_many(len(roster.members), 'membership')}, {_many(len(roster.grants), 'grant')}."
    )


async def _load(settings: Settings, roster: Roster) -> None:
    async with open_database(settings) as database:
        await database.check()
        await database.directory.load(roster)


def read_roster(raw: bytes, name: str) -> Roster:
    """JSON, or CSV by its first character. Raises SettingsError that names the row."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is not UTF-8 (byte {error.start}).") from None
    if "\0" in text or "\\u0000" in text:
        raise SettingsError(f"{name} holds a NUL character, which no id or locale may.")
    if text.lstrip().startswith(("{", "[")):
        parsed = _json(text, name)
        rows = [f"members[{index}]" for index in range(len(parsed.members))]
    else:
        parsed, rows = _csv(text, name)
    return _roster(parsed, rows, name)


def _json(text: str, name: str) -> _File:
    try:
        return msgspec.json.decode(text, type=_File)
    except msgspec.ValidationError as error:
        where, what = _readable(error)
        raise SettingsError(f"{name}{where and ', '}{where}: {what}.") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SettingsError(f"{name} is no JSON: {error}.") from None


def _csv(text: str, name: str) -> tuple[_File, list[str]]:
    """The memberships, and where each stands."""
    reader = csv.reader(io.StringIO(text), strict=True)
    members: list[_Member] = []
    rows: list[str] = []
    try:
        header = [column.strip() for column in next(reader, [])]
        if not set(header) >= REQUIRED_COLUMNS or not set(header) <= set(COLUMNS):
            raise SettingsError(
                f"{name}, line 1: it takes a JSON object, or CSV with the header {','.join(COLUMNS)}."
            )
        for cells in reader:
            if not any(cells):
                continue
            where = f"line {reader.line_num}"
            if len(cells) != len(header):
                raise SettingsError(f"{name}, {where}: {len(cells)} cells instead of {len(header)}.")
            row = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
            try:
                filled = {column: cell for column, cell in row.items() if cell}
                members.append(msgspec.convert(filled, _Member))
            except msgspec.ValidationError as error:
                column, what = _readable(error)
                raise SettingsError(f"{name}, {where}{column and ', '}{column}: {what}.") from None
            rows.append(where)
    except csv.Error as error:
        raise SettingsError(f"{name}, line {reader.line_num}: {error}.") from None
    return _File(members=members), rows


def _roster(file: _File, rows: list[str], name: str) -> Roster:
    """Raises SettingsError where the file contradicts itself. (A membership in a merchant that no
    organizer of the file lists says as well whose it is: the directory sees to that.)"""
    owner: dict[str, str] = {}

    def claim(merchant: str, organizer: str, where: str) -> None:
        if owner.setdefault(merchant, organizer) != organizer:
            raise SettingsError(
                f"{name}, {where}: merchant {merchant!r} is under organizer {owner[merchant]!r} already."
            )

    for index, organizer in enumerate(file.organizers):
        for merchant in organizer.merchants:
            claim(merchant, organizer.id, f"organizers[{index}]")
    for member, where in zip(file.members, rows, strict=True):
        if member.merchant_id is not None:
            claim(member.merchant_id, member.organizer_id, where)
    for index, grant in enumerate(file.grants):
        if (grant.role is None) == (grant.permission is None):
            raise SettingsError(f"{name}, grants[{index}]: it takes either role or permission.")
        if grant.permission is not None and grant.permission not in PERMISSIONS:
            raise SettingsError(f"{name}, grants[{index}]: there is no permission {grant.permission!r}.")
    return Roster(
        organizers=tuple(Organizer(o.id, o.locale, tuple(o.merchants)) for o in file.organizers),
        members=tuple(
            Member(m.user_id, m.organizer_id, m.merchant_id, m.role, m.locale) for m in file.members
        ),
        grants=tuple(Grant(g.user_id, g.role, g.permission) for g in file.grants),
    )


def _readable(error: msgspec.ValidationError) -> tuple[str, str]:
    """(where, what)"""
    what, _, path = str(error).partition(" - at `$")
    if "matching regex" in what:
        what = "expected a language such as en or vi-VN"
    if missing := re.fullmatch(r"Object missing required field `(.+)`", what):
        what = f"{missing[1]} is missing"
    return path.rstrip("`").lstrip("."), what[:1].lower() + what[1:]


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
