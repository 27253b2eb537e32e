from __future__ import annotations

import pytest

from nx_signal import sql
from nx_signal.model import OPERATOR_ROLE, PERMISSIONS
from nx_signal.sql import Dialect

BOTH: tuple[Dialect, ...] = ("sqlite", "postgres")


@pytest.mark.parametrize("dialect", BOTH)
def test_every_query_is_one_statement_without_its_semicolon(dialect: Dialect):
    assert sql.queries(dialect)
    for name, text in sql.queries(dialect).items():
        code = "\n".join(line.partition("--")[0] for line in text.splitlines())
        assert code.strip(), name
        assert ";" not in code, name


@pytest.mark.parametrize("dialect", BOTH)
def test_migrations_are_numbered_without_a_gap(dialect: Dialect):
    steps = sql.migrations(dialect)
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert len({step.name for step in steps}) == len(steps) > 0


@pytest.mark.parametrize("dialect", BOTH)
def test_the_migrations_seed_every_permission_and_the_operator_role(dialect: Dialect):
    text = "".join(step.sql for step in sql.migrations(dialect))
    assert [code for code in (*PERMISSIONS, OPERATOR_ROLE) if f"'{code}'" not in text] == []
