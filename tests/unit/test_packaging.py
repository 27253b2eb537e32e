"""The files that install and start the service agree with it."""

from __future__ import annotations

import dataclasses
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

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
    assert f"image: apache/kafka:{KAFKA_VERSION}@" in (ROOT / "compose.yaml").read_text()


def test_every_image_is_pinned_by_its_digest() -> None:
    images = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    images += re.findall(r"image: (\S+)", (ROOT / "compose.yaml").read_text())
    pinned = [image for image in images if re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image)]
    assert len(pinned) == 6
    assert set(images) - set(pinned) == {"nx-signal"}  # which compose builds


@pytest.mark.parametrize(
    ("packages", "status", "text"),
    [
        ([], 0, "Skipped"),
        ([{"name": "a", "version": "1", "skip_reason": "not found"}], 0, "Skipped"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 packages audited, 0 vulnerabilities."),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: CVE-1, fixed in ['2']",
        ),
    ],
)
def test_an_audit_fails_where_a_pinned_version_is_vulnerable_and_states_when_nothing_was_audited(
    packages: list[dict[str, Any]], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = runpy.run_path(str(ROOT / "scripts" / "audit"))["main"]
    audit.__globals__["audited"] = lambda: packages
    assert audit() == status
    assert text in capsys.readouterr().out


def test_every_constraint_is_an_exact_pin_and_names_no_index() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins
    shape = re.compile(
        r'[a-z0-9.-]+==[0-9a-z.]+( ; python_version == "3\.1\d"( or python_version == "3\.1\d")*)?'
    )
    assert [pin for pin in pins if not shape.fullmatch(pin)] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {
        re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0].lower().replace("_", "-") for each in requirements
    }
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set(), "run scripts/pin"
