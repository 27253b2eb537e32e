"""compose.yaml: its settings against real services, and the commands of the README against that. It needs no
Docker: what that would start from images runs from wheels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]  # comes with schemathesis

from nx_signal.adapters.postgres.address import parse_address
from services import create_topic, free_port
from serving import PATIENCE_S, Instance

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
PASSWORD = "p@ss/w#r%d'$&+ \""


def environment(service: str) -> dict[str, str]:
    """As compose interpolates it, after the file is parsed."""
    given: dict[str, str] = SERVICES[service]["environment"]
    return {name: value.replace("${POSTGRES_PASSWORD:-signal}", PASSWORD) for name, value in given.items()}


@pytest.mark.parametrize("service", ["postgres", "redis", "kafka", "signal", "proxy"])
def test_what_runs_comes_back_with_the_host(service: str) -> None:
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", ["signal", "migrate"])
def test_the_service_can_write_to_its_volume_alone_and_has_no_capability(service: str) -> None:
    runs = SERVICES[service]
    assert runs["read_only"] and runs["cap_drop"] == ["ALL"] and runs["tmpfs"] == ["/tmp"]
    assert runs["security_opt"] == ["no-new-privileges:true"]
    assert runs.get("volumes", []) in ([], ["signal:/var/lib/signal"])


def test_a_password_of_any_characters_is_that_of_the_database() -> None:
    for service in ("signal", "migrate"):
        settings = environment(service)
        assert settings["PGPASSWORD"] == environment("postgres")["POSTGRES_PASSWORD"] == PASSWORD
        address = parse_address(settings["APP_ENV_DATABASE_URL"], lambda name, file: {})
        assert (address.user, address.password, address.hosts) == ("signal", None, (("postgres", 5432),))
    assert PASSWORD not in str(SERVICES["migrate"]["command"])


def test_all_instances_are_at_the_one_address_of_the_readme() -> None:
    """Of a range, Docker gives an instance another port at each start."""
    assert "ports" not in SERVICES["signal"] and "container_name" not in SERVICES["signal"]
    assert SERVICES["proxy"]["ports"] == ["127.0.0.1:31090:80"]
    (mounted,) = SERVICES["proxy"]["volumes"]
    file, target, _ = mounted.split(":")
    assert target == "/etc/caddy/Caddyfile"
    port = dict(re.findall(r"(APP_ENV_PORT)=(\S+)", (ROOT / "Dockerfile").read_text("utf-8")))["APP_ENV_PORT"]
    assert f"reverse_proxy signal:{port} {{" in (ROOT / file).read_text("utf-8")


README = (ROOT / "README.md").read_text("utf-8").partition("Then, from another terminal:")[2]
BLOCKS = re.findall(r"^```\w+\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
"""the four commands, members.json, activity.json, and more"""


def test_the_commands_of_the_readme_work_against_it(
    tmp_path: Path, postgres_url: str, redis_url: str, kafka_servers: str
) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    settings |= environment("signal")
    image = dict(re.findall(r"(APP_ENV_\w+)=(\S+)", (ROOT / "Dockerfile").read_text("utf-8")))
    settings |= image | {
        "APP_ENV_DATA_DIR": str(tmp_path / "volume"),
        "APP_ENV_DATABASE_URL": postgres_url,
        "APP_ENV_REDIS_URL": redis_url,
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": kafka_servers,
        "APP_ENV_KAFKA_TOPIC": create_topic(kafka_servers, 1),
        "APP_ENV_KAFKA_GROUP_ID": f"compose-{free_port()}",
    }
    first, second = Instance(settings), Instance(settings)  # two containers on one volume
    settings["APP_ENV_PORT"] = str(first.port)
    commands, members, activity, *_ = BLOCKS
    (tmp_path / "members.json").write_text(members)
    (tmp_path / "activity.json").write_text(activity)
    load, listen, publish, curl = re.findall(r"^\$ (?!\. )(.+)$", commands, re.MULTILINE)
    shell = f'nx-signal() {{ {sys.executable} -m nx_signal "$@"; }}\n'

    def sh(line: str) -> subprocess.Popen[str]:
        line = line.replace("127.0.0.1:31090", f"127.0.0.1:{first.port}")
        return subprocess.Popen(
            ["bash", "-c", shell + line], cwd=tmp_path, env=settings, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    migrated = sh("nx-signal migrate").communicate(timeout=PATIENCE_S)
    assert "Done: " in migrated[0], migrated
    try:
        for instance in (first, second):
            instance.start()
        for instance in (first, second):
            instance.wait_ready()
        out, err = sh(load).communicate(timeout=PATIENCE_S)
        assert " into " in out and "signal.db" not in out, err
        listening = sh(listen.removesuffix("&") + " --resume 0 --count 2")
        out, err = sh(publish).communicate(timeout=PATIENCE_S)
        assert out.startswith("accepted 1"), err
        out, err = listening.communicate(timeout=PATIENCE_S)
        assert "Order 42" in out, err
        out, err = sh(curl).communicate(timeout=PATIENCE_S)
        (row,) = json.loads(out)["data"]
        token = sh("nx-signal token --user ann").communicate(timeout=PATIENCE_S)[0].strip()
        other = httpx.get(
            f"{second.url}/v1/api/signal/notifications/{row['id']}",
            headers={"Authorization": f"Bearer {token}"}, trust_env=False,
        )  # fmt: skip
        assert other.json()["activityId"] == row["activityId"], "both instances trust one key"
    finally:
        for instance in (first, second):
            if instance.process is not None:
                instance.process.kill()
                instance.process.wait()
