"""A roster as JSON or CSV (CONTRACT §6): what `nx-signal members load` and REST take, checked."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from nx_signal.errors import SettingsError
from nx_signal.model import PERMISSIONS, Grant, Member, Organizer, Roster
from nx_signal.model.json import decode_json
from nx_signal.model.timestamps import time_zone

COLUMNS = ("userId", "organizerId", "merchantId", "role", "locale", "timeZone")
REQUIRED_COLUMNS = frozenset({"userId", "organizerId"})
DEFAULT_ROLE = "staff"

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Locale = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")]


class OrganizerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    id: Id
    locale: Locale | None = None
    merchants: list[Id] = []
    time_zone: Id | None = None


class MemberEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    user_id: Id
    organizer_id: Id
    merchant_id: Id | None = None
    role: Id = DEFAULT_ROLE
    locale: Locale | None = None


class GrantEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    user_id: Id
    role: Id | None = None
    permission: Id | None = None


class RosterFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    organizers: list[OrganizerEntry] = []
    members: list[MemberEntry] = []
    grants: list[GrantEntry] = []


def read_roster(raw: bytes, name: str) -> Roster:
    """JSON, or CSV by its first character. Raises SettingsError with the row."""
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
    return roster_of(parsed, rows, name)


def _json(text: str, name: str) -> RosterFile:
    try:
        roster: RosterFile = decode_json(text, RosterFile)
        return roster
    except msgspec.ValidationError as error:
        where, what = _readable(error)
        raise SettingsError(f"{name}{where and ', '}{where}: {what}.") from None
    except msgspec.DecodeError as error:
        raise SettingsError(f"{name} is not JSON: {error}.") from None


def _csv(text: str, name: str) -> tuple[RosterFile, list[str]]:
    """The memberships, and the line of each."""
    reader = csv.reader(io.StringIO(text), strict=True)
    members: list[MemberEntry] = []
    zones: dict[str, str] = {}
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
                zone = filled.pop("timeZone", None)
                members.append(msgspec.convert(filled, MemberEntry))
            except msgspec.ValidationError as error:
                column, what = _readable(error)
                raise SettingsError(f"{name}, {where}{column and ', '}{column}: {what}.") from None
            organizer = members[-1].organizer_id
            if zone is not None and zones.setdefault(organizer, _zone(zone, name, where)) != zone:
                raise SettingsError(
                    f"{name}, {where}: organizer {organizer!r} has the time zone {zones[organizer]} already."
                )
            rows.append(where)
    except csv.Error as error:
        raise SettingsError(f"{name}, line {reader.line_num}: {error}.") from None
    organizers = [OrganizerEntry(id, time_zone=zone) for id, zone in zones.items()]
    return RosterFile(organizers=organizers, members=members), rows


def _zone(text: str, name: str, where: str) -> str:
    try:
        return time_zone(text).key
    except ValueError as error:
        raise SettingsError(f"{name}, {where}, timeZone: it takes {error}, not {text!r}.") from None


def roster_of(file: RosterFile, rows: Sequence[str], name: str) -> Roster:
    """Raises SettingsError where the file contradicts itself. A membership in a merchant that
    the file does not list states its organizer as well."""
    owner: dict[str, str] = {}

    def claim(merchant: str, organizer: str, where: str) -> None:
        if owner.setdefault(merchant, organizer) != organizer:
            raise SettingsError(
                f"{name}, {where}: merchant {merchant!r} is under organizer {owner[merchant]!r} already."
            )

    for index, organizer in enumerate(file.organizers):
        if organizer.time_zone is not None:
            _zone(organizer.time_zone, name, f"organizers[{index}]")
        for merchant in organizer.merchants:
            claim(merchant, organizer.id, f"organizers[{index}]")
    for member, where in zip(file.members, rows, strict=True):
        if member.merchant_id is not None:
            claim(member.merchant_id, member.organizer_id, where)
    for index, grant in enumerate(file.grants):
        if (grant.role is None) == (grant.permission is None):
            raise SettingsError(f"{name}, grants[{index}]: it takes either role or permission.")
        if grant.permission is not None and grant.permission not in PERMISSIONS:
            raise SettingsError(
                f"{name}, grants[{index}]: the permission {grant.permission!r} does not exist."
            )
    return Roster(
        organizers=tuple(Organizer(o.id, o.locale, tuple(o.merchants), o.time_zone) for o in file.organizers),
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
