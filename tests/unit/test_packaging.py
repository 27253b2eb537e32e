"""The files that install and start the service agree with it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from nx_signal.config import Settings
from services import KAFKA_VERSION

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("file", ["compose.yaml", "Dockerfile"])
def test_a_container_is_given_only_settings_that_exist(file: str) -> None:
    named = set(re.findall(r"APP_ENV_\w+", (ROOT / file).read_text()))
    assert named
    assert named <= {field.metadata["env"] for field in dataclasses.fields(Settings)}


def test_the_tests_and_the_composition_run_the_same_kafka() -> None:
    assert f"image: apache/kafka:{KAFKA_VERSION}\n" in (ROOT / "compose.yaml").read_text()


def test_every_constraint_is_an_exact_pin_and_names_no_index() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins
    shape = re.compile(
        r'[a-z0-9.-]+==[0-9a-z.]+( ; python_version == "3\.1\d"( or python_version == "3\.1\d")*)?'
    )
    assert [pin for pin in pins if not shape.fullmatch(pin)] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0].lower().replace("_", "-") for each in wanted}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set(), "run scripts/pin"
