"""The addresses that providers, poolers and other drivers give: each is understood, or one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nx_signal.adapters.postgres.address import PostgresAddress, parse_address
from nx_signal.adapters.postgres.parameters import IGNORED, REFUSED, TAKEN, UNPREPARED
from nx_signal.errors import SettingsError

SERVICES = {"prod": {"host": "h", "port": "7", "user": "u", "password": "from the file"}}


def read_service(name: str, file: str | None) -> Mapping[str, str]:
    return SERVICES[name]


def parsed(url: str) -> PostgresAddress:
    return parse_address(url, read_service)


UNDERSTOOD: list[tuple[str, dict[str, Any]]] = [
    (
        "postgresql://u:p@h1:5433,h2:5434/db",
        {"hosts": (("h1", 5433), ("h2", 5434)), "place": "h1:5433,h2:5434/db"},
    ),
    ("postgresql://u:p@h1,h2/db?target_session_attrs=read-write", {"hosts": (("h1", 5432), ("h2", 5432))}),
    ("postgresql://u@/db?host=h1,h2&port=1,2", {"hosts": (("h1", 1), ("h2", 2))}),
    (
        "postgres://u:p@[2001:db8::1]:5433/db",
        {"hosts": (("2001:db8::1", 5433),), "place": "[2001:db8::1]:5433/db"},
    ),
    ("postgresql:///db?host=/var/run/postgresql", {"hosts": (("/var/run/postgresql", 5432),), "user": None}),
    ("postgresql://u@%2Fvar%2Frun%2Fpostgresql:5433/db", {"hosts": (("/var/run/postgresql", 5433),)}),
    ("postgresql+asyncpg://u:p@h/db", {"hosts": (("h", 5432),), "database": "db"}),
    ("host=h port=5433 dbname=db user=u password='p w\\''", {"password": "p w'", "hosts": (("h", 5433),)}),
    ("postgresql://u:p@h/db?connect_timeout=3", {"connect_s": 3.0}),
    ("postgresql://u:p@h/db?connect_timeout=0", {"connect_s": 5.0}),
    ("postgresql://u:p@h/d%C3%AD?application_name=shop", {"database": "dí", "application_name": "shop"}),
    (
        "postgresql://u:p@h/db?options=-c%20work_mem%3D8MB%20--lock-timeout=1s",
        {"settings": {"work_mem": "8MB", "lock_timeout": "1s"}},
    ),
    (
        "postgresql://u:p@h/db?options=-c%20jit%3Don%20-cstatement_timeout%3D1h&keepalives=1",
        {"settings": {}, "ignored": ("jit", "keepalives", "statement_timeout")},
    ),
    ("postgresql://u:p@h/db?options=-csearch_path%3Dapp,public", {"schema": "app", "startup_options": None}),
    ("postgresql://u:p@h/db?options=endpoint%3Dep-1", {"startup_options": "endpoint=ep-1"}),
    ("postgresql://u:p@h/db?schema=app", {"schema": "app"}),
    ("postgresql://u:p@h/db?currentSchema=app&ApplicationName=x", {"schema": "app", "application_name": "x"}),
    (
        "postgresql://u:p@h:6543/db?pgbouncer=true&connection_limit=1",
        {"pooled": True, "ignored": ("connection_limit",)},
    ),
    ("postgresql://u:p@h/db?statement_cache_size=0", {"pooled": True}),
    ("postgresql://u:p@h/db?prepareThreshold=5&pool_mode=session", {"pooled": False}),
    ("postgresql://u:p@h/db?serverVersion=16&charset=utf8", {"ignored": ("charset", "serverVersion")}),
    ("postgresql://u:p@h/db?supa=base-pooler.x", {"ignored": ("supa",), "pooled": None}),
    (
        "postgresql://u:p@h/db?keepalives=1&keepalives_idle=30&gssencmode=disable",
        {"ignored": ("gssencmode", "keepalives", "keepalives_idle")},
    ),
    ("service=prod dbname=db", {"password": "from the file", "hosts": (("h", 7),), "database": "db"}),
    ("postgresql://other/db?service=prod", {"user": "u", "hosts": (("other", 7),)}),
    (" postgresql://u:p@h/db\n", {"database": "db"}),
]


@pytest.mark.parametrize(("url", "expected"), UNDERSTOOD, ids=[url for url, _ in UNDERSTOOD])
def test_the_address_of_a_provider_is_understood(url: str, expected: dict[str, Any]) -> None:
    address = parsed(url)
    assert {name: getattr(address, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("query", "mode", "verifies", "verifies_host"),
    [
        ("", "prefer", False, False),
        ("sslmode=require", "require", False, False),
        ("sslmode=require&sslrootcert=/ca.pem", "require", True, False),
        ("sslmode=verify-ca&sslrootcert=/ca.pem", "verify-ca", True, False),
        ("sslmode=verify-ca", "verify-ca", True, True),
        ("sslmode=verify-full&sslrootcert=/ca.pem", "verify-full", True, True),
        ("sslrootcert=system", "verify-full", True, True),
        ("sslmode=require&channel_binding=require", "verify-full", True, True),
        ("sslmode=no-verify", "require", False, False),
        ("ssl=true", "require", False, False),
        ("ssl=0", "disable", False, False),
        ("requiressl=1", "require", False, False),
        ("sslmode=require&sslaccept=strict", "verify-full", True, True),
    ],
)
def test_tls_is_never_weaker_than_was_asked_for(
    query: str, mode: str, verifies: bool, verifies_host: bool
) -> None:
    tls = parsed(f"postgresql://u:p@h/db?{query}").tls
    assert (tls.mode, tls.verifies, tls.verifies_host) == (mode, verifies, verifies_host)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://u:s3cret@h/db?sslmod=require", "'sslmod' is not known; perhaps sslmode"),
        ("postgresql://u:s3cret@h/db?sslmode=perhaps", "sslmode is one of disable"),
        ("postgresql://u:s3cret@h/db?gssencmode=require", "GSSAPI"),
        ("postgresql://u:s3cret@h/db?channel_binding=require&sslcrldir=/x", "sslcrl"),
        ("postgresql://u:s3cret@h/db?target_session_attrs=standby", "this service writes"),
        ("postgresql://u:s3cret@h/db?client_encoding=latin1", "UTF8"),
        ("postgresql://u:s3cret@h:99999/db", "a port is a number"),
        ("postgresql://u:s3cret@h1,h2,h3/db?port=1,2", "port"),
        ("postgresql://u:s3cret@h/db?connect_timeout=soon", "number of seconds"),
        ("postgresql://u:s3cret@h/db?sslnegotiation=direct", "sslmode=require"),
        ("postgresql://u:s3%00cret@h/db", "NUL"),
        ("jdbc:postgresql://h/db?user=u&password=s3cret", "starts with postgresql://"),
        ("Server=h;Database=db;User Id=u;Password=s3cret", "'Server' is not known"),
        ("Host=h;Database=db;Password=s3cret", "a host"),
        ("postgresql://u:s3cret@h:port/db", "@ / ? # %"),
        ("postgresql://u:s3cret@h/db?replication=database", "replication"),
    ],
)
def test_what_is_not_understood_is_one_sentence_without_a_secret(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match="APP_ENV_DATABASE_URL") as caught:
        parsed(url)
    assert words in str(caught.value) and "s3" not in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
@example("@/#%:?&= +")
@example("%40")
def test_any_password_works_when_it_is_escaped(password: str) -> None:
    address = parsed(f"postgresql://u:{quote(password, safe='')}@h:5433/db?sslmode=require")
    assert (address.user, address.password, address.place) == ("u", password, "h:5433/db")
    assert password not in repr(address) or password in repr(
        parsed("postgresql://u:-@h:5433/db?sslmode=require")
    )


@given(st.text("ghijXYZ@/#%:?!$", min_size=1))  # no hexadecimal digit: %AA is an escape
@example("p@ss/w#rd%?")
def test_a_password_that_was_not_escaped_works_where_it_is_plain_where_it_ends(password: str) -> None:
    address = parsed(f"postgresql://u:p{password}@db.example/signal")
    assert (address.password, address.place) == (f"p{password}", "db.example/signal")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:s3c@ret@[::1]:5432/signal", "[::1]:5432/signal"),
        ("postgresql://db.example/signal?user=u&password=s3cret", "db.example/signal"),
        ("postgresql://db.example/signal?password=s3c@ret", "db.example/signal"),
        ("postgresql://u:s3c/ret@db.example/signal", "db.example/signal"),
        ("postgresql://u:s3c?ret@db.example/signal", "db.example/signal"),
        ("postgresql://u:37?s3=cret@db.example/signal", "db.example/signal"),
        ("postgresql://u:37?s3=cret&more@db.example/signal?sslmode=require", "db.example/signal"),
    ],
)
def test_a_place_is_hosts_and_database(url: str, place: str) -> None:
    assert parsed(url).place == place


def test_a_parameter_is_in_one_part_of_the_table() -> None:
    parts = [*TAKEN, *IGNORED, *REFUSED, *UNPREPARED]
    assert len(parts) == len(set(parts))
