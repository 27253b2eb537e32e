from __future__ import annotations

import re
from pathlib import Path

import pytest

import nx_signal
from nx_signal.adapters.postgres.connect import OLDEST
from nx_signal.model import OPERATOR_ROLE, PERMISSIONS
from nx_signal.store import sql
from nx_signal.store.sql import DialectName

SOURCE = Path(nx_signal.__file__).parent
BOTH: tuple[DialectName, ...] = ("sqlite", "postgres")


@pytest.mark.parametrize("dialect", BOTH)
def test_every_query_ends_with_its_semicolon_and_holds_no_comment(dialect: DialectName) -> None:
    assert sql.queries(dialect)
    for name, text in sql.queries(dialect).items():
        assert text.endswith(";"), name
        assert "--" not in text, name


def test_both_dialects_have_the_queries_that_the_scripts_name() -> None:
    used: set[str] = set()
    for path in (SOURCE / "store").glob("*.py"):
        used.update(re.findall(r"tx\.(?:run|one|all|many)\(\s*\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert used
    for dialect in BOTH:
        assert used - set(sql.queries(dialect)) == set()


@pytest.mark.parametrize("dialect", BOTH)
def test_migrations_are_numbered_without_a_gap(dialect: DialectName) -> None:
    steps = sql.steps(dialect)
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert len({step.name for step in steps}) == len(steps) > 0


@pytest.mark.parametrize("dialect", BOTH)
def test_the_steps_since_the_previous_release_are_additive(dialect: DialectName) -> None:
    """So that instances of both can run beside each other during a deployment."""
    last_of_before = {"sqlite": 6, "postgres": 4}[dialect]
    assert all(step.additive for step in sql.steps(dialect)[last_of_before:])


@pytest.mark.parametrize("dialect", BOTH)
def test_the_migrations_seed_every_permission_and_the_operator_role(dialect: DialectName) -> None:
    text = "".join(step.sql for step in sql.steps(dialect))
    assert [code for code in (*PERMISSIONS, OPERATOR_ROLE) if f"'{code}'" not in text] == []


NEEDS_13 = "gen_random_uuid"
"""Built in from PostgreSQL 13 on; before, it is in an extension that would have to be installed."""


def test_the_oldest_postgresql_has_what_the_migrations_use_and_is_the_documented_one() -> None:
    text = "".join(step.sql for step in sql.steps("postgres"))
    assert (13 if NEEDS_13 in text else 0) <= OLDEST
    first = sql.steps("postgres")[0].sql.partition("\n")[0]
    assert f"PostgreSQL {OLDEST} or later" in first
    deploying = (SOURCE.parents[1] / "docs" / "deploying.md").read_text(encoding="utf-8")
    assert f"({OLDEST} is the oldest that is accepted)" in deploying
