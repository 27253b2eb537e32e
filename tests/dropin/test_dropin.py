"""The published client library of the original against running servers: nothing in it needs a change.

Its ECDH opens what the server seals, its WebSocketEmitter reaches clients through Redis. client.mjs holds
the cases. Needs Node 20 and npm, which brings the packages of package.json once, into .cache/dropin."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serving import ROSTER, Instance, command

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "dropin"
INSTALL_S = 80.0  # with the servers' start below pytest's timeout for a test, which includes its fixtures
RUN_S = 90.0
USERS = ("ann", "binh", "chi")

CASES = (
    "the_handshake_gives_what_the_library_derives_its_key_from",
    "the_first_offered_subprotocol_is_echoed_and_no_compression_is_negotiated",
    "to_a_client_reaches_that_client_alone",
    "to_a_user_reaches_each_of_its_clients_and_nobody_else",
    "to_a_room_reaches_its_members_except_the_excluded",
    "the_default_rooms_and_the_own_room_need_no_join",
    "a_broadcast_reaches_everybody_who_is_authenticated",
    "a_thousand_sends_arrive_in_order",
    "plain_heartbeats_are_taken_and_not_answered",
    "plain_join_and_leave_are_taken",
    "rooms_of_others_stay_closed_and_the_allowed_ones_are_joined",
    "a_notification_arrives_as_the_old_clients_know_it",
    "frames_sealed_by_the_library_are_opened",
    "binary_frames_with_the_same_json_are_taken",
    "errors_before_the_handshake_keep_their_texts",
    "errors_after_the_handshake_keep_their_texts",
    "a_refused_handshake_keeps_its_texts_and_close_codes",
    "who_does_not_authenticate_is_closed_with_4001_after_5_s",
    "a_message_above_128_KB_is_closed_with_1009",
    "a_stop_closes_with_1001",
)


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder whose node_modules holds what package.json names. Skips where it cannot be installed."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"The original's client needs Node 20 with npm; `{program}` is not installed.")
    version = subprocess.run(
        ["node", "--version"], check=False, capture_output=True, text=True
    ).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0] or 0) < 20:
        pytest.skip(f"The original's client needs Node 20; this is {version or 'none that runs'}.")
    manifest = (HERE / "package.json").read_bytes()
    folder = CACHE / hashlib.sha256(manifest).hexdigest()[:16]
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        (Path(work) / "package.json").write_bytes(manifest)
        install = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]
        install += ["--fetch-retries=1"]  # without a registry the tests are skipped soon
        try:
            done = subprocess.run(
                install, check=False, cwd=work, capture_output=True, text=True, timeout=INSTALL_S
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not install the original's client within {INSTALL_S:g} s.")
        if done.returncode:
            why = [line for line in done.stderr.splitlines() if "error" in line]
            pytest.skip(f"npm could not install the original's client: {' '.join(why[:2])[:300]}")
        os.rename(work, folder)
        Path(work).mkdir()  # for its own removal
    return folder


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[list[Instance]]:
    """Two servers with nothing in common but Redis and the first one's issuer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {
        "APP_ENV_REDIS_URL": redis_url,
        "APP_ENV_ROOM_PATTERNS": "public/*",
        "APP_ENV_LOG_LEVEL": "warning",
    }
    here = Instance(environment | {"APP_ENV_DATA_DIR": str(tmp_path_factory.mktemp("here"))})
    there = Instance(
        environment
        | {
            "APP_ENV_DATA_DIR": str(tmp_path_factory.mktemp("there")),
            "APP_ENV_JWKS_URL": f"{here.url}/.well-known/jwks.json",
        }
    )
    nx_signal(here, "members", "load", "-", input=json.dumps(ROSTER))
    try:
        for instance in (here, there):
            instance.start()
        for instance in (here, there):
            instance.wait_ready()
        yield [here, there]
    finally:
        for instance in (here, there):
            if instance.process:
                instance.process.kill()
                instance.process.wait()


def nx_signal(instance: Instance, *arguments: str, input: str = "") -> str:
    return command(instance.environment, *arguments, input=input)


@pytest.fixture(scope="module")
def results(packages: Path, instances: list[Instance], redis_url: str) -> dict[str, str | None]:
    """Each case's failure, or None."""
    redis = urlsplit(redis_url)
    settings = {
        "instances": [
            {"url": each.url, "streamUrl": each.stream_url, "pid": each.process and each.process.pid}
            for each in instances
        ],
        "redis": {"host": redis.hostname, "port": redis.port, "password": redis.password},
        "tokens": {user: nx_signal(instances[0], "token", "--user", user) for user in USERS}
        | {"op": nx_signal(instances[0], "token", "--user", "op", "--permission", "Activity.publish")},
    }
    done = subprocess.run(
        ["node", HERE / "client.mjs", json.dumps(settings)],
        check=False,
        cwd=packages,
        env=os.environ | {"APP_ENV_LOGGER_FOLDER_PATH": str(packages / "logs")},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case":')]
    return {each["case"]: each["failed"] for each in found}


@pytest.mark.parametrize("case", CASES)
def test_with_the_originals_client(results: dict[str, str | None], case: str) -> None:
    assert case in results
    assert results[case] is None, results[case]


def test_no_case_is_left_out(results: dict[str, str | None]) -> None:
    assert tuple(results) == CASES
