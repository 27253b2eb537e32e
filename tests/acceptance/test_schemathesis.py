"""Requests of schemathesis to every documented route, valid and invalid by its schema: no failure of the
server, and no answer that the document does not name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import Instance, command

CONFIG = Path(__file__).with_name("schemathesis.toml")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
PATIENCE_S = 100


@dataclass(frozen=True)
class Served:
    instance: Instance

    def run(self, *arguments: str) -> str:
        return command(self.instance.environment, *arguments)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = ENVIRONMENT | {
        "APP_ENV_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "APP_ENV_LOG_LEVEL": "error",
        "APP_ENV_RATE_FACTOR": "0",  # else most answers would be 429
    }
    if request.param == "postgres":
        environment["APP_ENV_DATABASE_URL"] = request.getfixturevalue("postgres_url")
    served = Served(Instance(environment))
    if request.param == "postgres":
        served.run("migrate")
    served.instance.start()
    try:
        served.instance.wait_ready()
        yield served
    finally:
        assert served.instance.process
        served.instance.process.kill()
        served.instance.process.wait()


LISTS = ("/v1/api/signal/notifications", "/v1/api/signal/notifications/count")
"""Their filter alone gives a thousand boundary values each; both take the same, so one run covers it."""


BUT_LISTS = [f"--exclude-path={path}" for path in LISTS]

OPERATOR = ["--role", "signal-operator"]
"""In the token: a grant of the database is removed by one of the requests."""


@pytest.mark.parametrize(
    "served", ["sqlite", pytest.param("postgres", marks=pytest.mark.full)], indirect=True
)
@pytest.mark.parametrize(
    ("rights", "phases", "chosen"),
    [
        (OPERATOR, "examples,fuzzing,stateful", []),
        ([], "examples,fuzzing,stateful", []),
        pytest.param(OPERATOR, "coverage", BUT_LISTS, marks=pytest.mark.full),
        pytest.param([], "coverage", BUT_LISTS, marks=pytest.mark.full),
        pytest.param([], "coverage", [f"--include-path={LISTS[0]}"], marks=pytest.mark.full),
    ],
    ids=["operator", "user", "operator-values", "user-values", "filter-values"],
)
def test_whatever_is_sent_is_answered_as_documented(
    served: Served, rights: list[str], phases: str, chosen: list[str]
) -> None:
    token = served.run("token", "--user", "ann", *rights)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", f"{served.instance.url}/doc/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--phases", phases, "--max-examples", "5", *chosen),
            *("--generation-deterministic", "--no-color"),
            # Two of its threads that parse at once break each other in Python 3.11.
            *("--workers", "1"),
        ],
        check=False,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=served.instance.environment["APP_ENV_DATA_DIR"],  # it writes files into its working directory
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert "Selected: " in done.stdout
