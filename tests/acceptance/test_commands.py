"""The commands as their users run them: processes, files, pipes, signals, exit statuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import trio

from nx_signal import __version__
from nx_signal.cli import demo
from nx_signal.config import Settings
from nx_signal.identity.issuer import open_issuer
from services import free_port

COMMAND = [sys.executable, "-m", "nx_signal"]
PATIENCE_S = 30.0
"""For one step on a busy machine; nothing waits that long when it works."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
ENVIRONMENT |= {"APP_ENV_LAME_DUCK_S": "0"}
ROSTER: dict[str, list[dict[str, Any]]] = {
    "organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]}],
    "members": [
        {"userId": "owner", "organizerId": "o1", "merchantId": None, "role": "owner", "locale": "en"},
        {"userId": "an", "organizerId": "o1", "merchantId": "m1", "role": "staff", "locale": None},
        {"userId": "bo", "organizerId": "o1", "merchantId": "m2", "role": "staff", "locale": "en"},
    ],
    "grants": [{"userId": "op", "role": "signal-operator"}],
}
CREATED = "observation/signal/notification/created"


def run(
    *arguments: str | Path, input: str = "", env: Mapping[str, str] = ENVIRONMENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        check=False,
        input=input,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def error_of(process: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a command that printed nothing else."""
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr


def payment(event_id: str | None, *recipients: str, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {
        "eventType": "PAYMENT_SUCCESS",
        "recipientScope": "users",
        "recipientIds": list(recipients),
        "actorId": "customer",
        "actor": {"id": "customer", "name": "Chi", "type": "customer"},
        "organizerId": "o1",
        "data": {"payment": {"subject": event_id, "amount": 5, "currency": "USD"}},
        "occurredAt": "2026-01-02T03:04:05Z",
    }
    return message | ({} if event_id is None else {"eventId": event_id}) | more


@dataclass
class Server:
    """`nx-signal serve` with everything embedded, as a process."""

    data_dir: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream(self) -> str:
        return f"ws://127.0.0.1:{self.port}/stream"

    def start(self) -> None:
        with (self.data_dir / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--port", str(self.port), "--data-dir", self.data_dir],
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._ready():
            assert self.process.poll() is None, (self.data_dir / "serve.log").read_text()
            assert time.monotonic() < deadline, (self.data_dir / "serve.log").read_text()
            time.sleep(0.02)  # between two requests to another process

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def token(self, user: str, *more: str) -> str:
        process = run("token", "--user", user, "--data-dir", self.data_dir, *more)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    def get(self, user: str, path: str) -> Any:
        if user not in self.tokens:
            self.tokens[user] = self.token(user)
        answer = httpx.get(
            f"{self.url}/v1/api/signal{path}",
            headers={"Authorization": f"Bearer {self.tokens[user]}"},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def publish(self, *messages: dict[str, Any]) -> None:
        process = run(
            "publish", "-", "--url", self.url, "--data-dir", self.data_dir, input=json.dumps(messages)
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.startswith(f"accepted {len(messages)}\n"), process.stderr

    def wait_total(self, user: str, total: int) -> Any:
        """The user's page once it holds so many; what was accepted becomes rows a moment later."""
        deadline = time.monotonic() + PATIENCE_S
        while (page := self.get(user, "/notifications?limit=100"))["total"] < total:
            assert time.monotonic() < deadline, page["total"]
            time.sleep(0.02)  # between two requests to another process
        return page


class Listener:
    """`nx-signal listen` as a process; `connected` and `frame` wait for its next line."""

    def __init__(self, server: Server, user: str, *more: str) -> None:
        self.process = subprocess.Popen(
            [
                *COMMAND,
                "listen",
                "--user",
                user,
                "--url",
                server.stream,
                "--data-dir",
                server.data_dir,
                *more,
            ],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def connected(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "connected to" in line:
                return
        raise AssertionError("listen ended before it was connected")

    def frame(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=PATIENCE_S)[1]
        frame = json.loads(line)
        assert set(frame) == {"event", "data"}
        return frame

    def created(self) -> str:
        """The subject of the next created notification's payment; other events are passed over."""
        while (frame := self.frame())["event"] != CREATED:
            pass
        return str(frame["data"]["data"]["payment"]["subject"])

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """(exit status, the rest of stdout, the rest of stderr)"""
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(data_dir: Path) -> Iterator[Server]:
    server = Server(data_dir, free_port())
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@contextlib.contextmanager
def listening(server: Server, user: str, *more: str) -> Iterator[Listener]:
    listener = Listener(server, user, *more)
    try:
        yield listener
    finally:
        listener.process.kill()
        listener.process.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module; each test uses users of its own."""
    data_dir = tmp_path_factory.mktemp("data")
    process = run("members", "load", "-", "--data-dir", data_dir, input=json.dumps(ROSTER))
    assert process.returncode == 0, process.stderr
    with serving(data_dir) as server:
        yield server


# --- token ---


def test_token_prints_the_token_alone(tmp_path: Path) -> None:
    open_issuer(tmp_path)
    process = run(
        "token", "--user", "u1", "--permission", "Activity.publish", "--permission", "DeadLetter.find",
        "--role", "signal-operator", "--ttl", "60", "--data-dir", tmp_path,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    token, end = process.stdout[:-1], process.stdout[-1]
    assert end == "\n" and re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["sub"] == "u1"
    assert claims["exp"] - claims["iat"] == 60
    assert claims["permissions"] == ["Activity.publish", "DeadLetter.find"]
    assert claims["roles"] == ["signal-operator"]


def test_token_takes_the_data_directory_from_the_environment(tmp_path: Path) -> None:
    key = open_issuer(tmp_path)
    process = run("token", "--user", "u1", env=ENVIRONMENT | {"APP_ENV_DATA_DIR": str(tmp_path)})
    assert process.returncode == 0
    assert jwt.get_unverified_header(process.stdout.strip())["kid"] == key.kid


@pytest.mark.parametrize("command", [["token", "--user", "u1"], ["listen", "--user", "u1"], ["publish", "-"]])
def test_no_command_makes_a_key_that_no_server_uses(tmp_path: Path, command: list[str]) -> None:
    process = run(*command, "--data-dir", tmp_path / "data", input=json.dumps(payment("x", "x")))
    assert process.returncode == 2
    assert f"{tmp_path / 'data' / 'issuer-key.pem'} does not exist" in error_of(process)
    assert not (tmp_path / "data").exists()


def test_token_is_refused_where_another_issuer_is_configured(tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"APP_ENV_JWKS_URL": "http://issuer.example/jwks"}
    process = run("token", "--user", "u1", "--data-dir", tmp_path, env=environment)
    assert process.returncode == 2
    assert "http://issuer.example/jwks" in error_of(process)
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_written_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = run("serve", "--port", "0", "--data-dir", tmp_path / "file")
    assert process.returncode == 2
    assert str(tmp_path / "file") in error_of(process)


# --- migrate and members ---


def test_migrate_prints_its_steps_and_then_has_nothing_left_to_do(tmp_path: Path) -> None:
    first, second = (run("migrate", "--data-dir", tmp_path / "new") for _ in range(2))
    assert (first.returncode, first.stderr) == (second.returncode, second.stderr) == (0, "")
    assert len(first.stdout.splitlines()) >= 2
    assert second.stdout == "The schema is up to date.\n"


def test_migrate_reports_an_unavailable_database_in_one_sentence() -> None:
    process = run("migrate", "--database-url", f"postgresql://app:hunter2@127.0.0.1:{free_port()}/signal")
    assert process.returncode == 1
    assert "hunter2" not in error_of(process)


def test_migrate_and_members_work_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    too_early = run("members", "load", "-", "--database-url", postgres_url, input=json.dumps(ROSTER))
    assert too_early.returncode == 1
    assert "nx-signal migrate" in error_of(too_early)
    migrated = run("migrate", "--database-url", postgres_url)
    assert migrated.returncode == 0, migrated.stderr
    for _ in range(2):
        loaded = run("members", "load", "-", "--database-url", postgres_url, input=json.dumps(ROSTER))
        assert (loaded.returncode, loaded.stderr) == (0, "")


def test_members_load_prints_the_counts_and_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(ROSTER))
    for _ in range(2):
        process = run("members", "load", tmp_path / "shop.json", "--data-dir", tmp_path / "data")
        assert (process.returncode, process.stderr) == (0, "")
        loaded = "Loaded 1 organizer, 2 merchants, 3 memberships, 1 grant into"
        assert process.stdout == f"{loaded} {tmp_path / 'data' / 'signal.db'}.\n"


def test_members_load_names_the_row_that_is_wrong_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("userId,organizerId\nu1,o1\nu2\n")
    process = run("members", "load", tmp_path / "shop.csv", "--data-dir", tmp_path / "data")
    assert process.returncode == 2
    assert f"{tmp_path / 'shop.csv'}, line 3: " in error_of(process)
    assert not (tmp_path / "data").exists()


def members(data_dir: Path, *arguments: str, input: str = "") -> str:
    process = run("members", *arguments, "--data-dir", data_dir, input=input)
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    return process.stdout


def test_members_list_prints_what_members_load_takes(tmp_path: Path) -> None:
    members(tmp_path, "load", "-", input=json.dumps(ROSTER))
    listed = members(tmp_path, "list")
    assert listed.splitlines() == [
        "userId,organizerId,merchantId,role,locale",
        "an,o1,m1,staff,",
        "bo,o1,m2,staff,en",
        "owner,o1,,owner,en",
    ]
    members(tmp_path / "copy", "load", "-", input=listed)
    assert members(tmp_path / "copy", "list") == listed
    assert members(tmp_path, "list", "--merchant", "m2").splitlines()[1:] == ["bo,o1,m2,staff,en"]
    assert members(tmp_path, "list", "--grants") == "userId,role,permission\nop,signal-operator,\n"


def test_members_remove_takes_memberships_and_grants_away(tmp_path: Path) -> None:
    members(tmp_path, "load", "-", input=json.dumps(ROSTER))
    out = "'an': 'staff' in merchant 'm1'\n"
    remove = ("remove", "--user", "an", "--organizer", "o1")
    assert members(tmp_path, *remove, "--dry-run") == out + "Would remove 1 membership, 0 grants.\n"
    assert members(tmp_path, *remove) == out + "Removed 1 membership, 0 grants.\n"
    assert members(tmp_path, *remove) == "Removed 0 memberships, 0 grants.\n"
    assert "Removed 0 memberships, 1 grant." in members(tmp_path, "remove", "--user", "op")
    assert members(tmp_path, "list", "--grants") == "userId,role,permission\n"
    assert members(tmp_path, "list").count("\n") == 3


def test_members_remove_wants_to_be_told_of_whom(tmp_path: Path) -> None:
    process = run("members", "remove", "--role", "staff", "--data-dir", tmp_path)
    assert process.returncode == 2
    assert "--user, --organizer or --merchant" in error_of(process)


def test_members_load_replace_removes_what_the_file_no_longer_lists(tmp_path: Path) -> None:
    members(tmp_path, "load", "-", input=json.dumps(ROSTER))
    fewer = json.dumps({"organizers": ROSTER["organizers"], "members": ROSTER["members"][:1]})
    preview = members(tmp_path, "load", "-", "--replace", "--dry-run", input=fewer)
    assert "Would remove 2 memberships, 0 grants.\nWould load 1 organizer" in preview
    assert members(tmp_path, "list").count("\n") == 4
    done = members(tmp_path, "load", "-", "--replace", input=fewer)
    assert "'an': 'staff' in merchant 'm1'\n'bo': 'staff' in merchant 'm2'\nRemoved 2 memberships" in done
    assert members(tmp_path, "list").splitlines()[1:] == ["owner,o1,,owner,en"]


def test_members_of_a_csv_file_are_reached_in_their_language(server: Server, tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text(
        "userId,organizerId,merchantId,role,locale\ncsv-1,o9,m9,staff,vi\ncsv-2,o9,m9,staff,en\n"
    )
    loaded = run("members", "load", tmp_path / "more.csv", "--data-dir", server.data_dir)
    assert loaded.stdout.startswith("Loaded 0 organizers, 0 merchants, 2 memberships, 0 grants into ")
    server.publish(payment("csv", organizerId="o9", merchantId="m9", recipientScope="merchant"))
    locales = {user: server.wait_total(user, 1)["data"][0]["locale"] for user in ("csv-1", "csv-2")}
    assert locales == {"csv-1": "vi", "csv-2": "en"}


# --- explain ---


def explain(server: Server, *arguments: str) -> str:
    process = run("explain", *arguments, "--data-dir", server.data_dir)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_explain_gives_the_reason_for_each_person(server: Server) -> None:
    server.publish(payment("shop", merchantId="m1", recipientScope="merchant"))
    activity_id = server.wait_total("an", 1)["data"][0]["activityId"]
    asked = explain(server, activity_id, "--recipient", "an")
    assert "PAYMENT_SUCCESS at journal/0/" in asked and "'an': notification " in asked
    assert "'bo': There is no notification" in (missed := explain(server, activity_id, "--recipient", "bo"))
    assert "no member of merchant m1 of organizer o1." in missed
    whole = json.loads(explain(server, activity_id, "--json", "--url", server.url))
    assert (whole["trace"]["outcome"], whole["deliveries"][0]["delivery"]) == ("stored", "not_connected")


def test_explain_lists_what_a_person_received_and_what_not(server: Server) -> None:
    server.publish(payment("for-eve", "eve"), payment("for-pat", "pat"))
    server.wait_total("pat", 1)
    for url in ([], ["--url", server.url]):
        received, _, missed = explain(server, "--recipient", "eve", "--since", "1h", *url).partition(
            "Handled without a notification"
        )
        assert "for-eve: PAYMENT_SUCCESS" in received and "for-pat" not in received
        assert "for-pat: PAYMENT_SUCCESS" in missed and "not among the 1 that recipientIds names" in missed


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["never-heard-of"], 1, "Nothing is known of 'never-heard-of'"),
        ([], 2, "Name an event, or --recipient and --since."),
        (["--recipient", "an", "--since", "yesterday"], 2, "--since is 'yesterday'"),
    ],
)
def test_explain_without_an_answer_is_one_sentence(
    server: Server, arguments: list[str], status: int, sentence: str
) -> None:
    process = run("explain", *arguments, "--data-dir", server.data_dir)
    assert process.returncode == status
    assert sentence in error_of(process)


# --- publish ---


def test_publish_takes_lines_from_a_pipe(server: Server) -> None:
    lines = "\n".join(json.dumps(payment(f"line-{n}", "lines")) for n in range(3))
    process = run("publish", "-", "--url", server.url, "--data-dir", server.data_dir, input=lines)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("accepted 3\n") and len(process.stdout.splitlines()) == 4
    assert [row["data"]["payment"]["subject"] for row in server.wait_total("lines", 3)["data"]] == [
        "line-2",
        "line-1",
        "line-0",
    ]


def test_publish_takes_a_file_of_more_than_one_request(server: Server, tmp_path: Path) -> None:
    many = [payment(f"many-{n}", "many") for n in range(2_100)]
    (tmp_path / "many.json").write_text(json.dumps(many))
    process = run("publish", tmp_path / "many.json", "--url", server.url, "--data-dir", server.data_dir)
    assert process.stdout.startswith("accepted 2100\n"), process.stderr
    server.wait_total("many", 2_100)


def test_publishing_the_same_event_again_makes_no_second_row(server: Server) -> None:
    server.publish(payment("twice", "twice"))
    server.publish(payment("twice", "twice"), payment("after", "twice"))
    assert server.wait_total("twice", 2)["total"] == 2


def test_publish_takes_a_token_instead_of_making_one(server: Server, tmp_path: Path) -> None:
    token = server.token("publisher", "--permission", "Activity.publish")
    process = run(
        "publish", "-", "--url", server.url, "--token", token, "--data-dir", tmp_path / "unused",
        input=json.dumps(payment(None, "tokens")),
    )  # fmt: skip
    assert process.stdout.startswith("accepted 1\n"), process.stderr
    assert not (tmp_path / "unused").exists()


def test_publish_with_a_token_of_another_issuer_fails_in_one_sentence(server: Server, tmp_path: Path) -> None:
    open_issuer(tmp_path)
    process = run(
        "publish", "-", "--url", server.url, "--data-dir", tmp_path, input=json.dumps(payment("x", "x"))
    )
    assert process.returncode == 1
    assert "401" in error_of(process) and "--data-dir" in process.stderr


def test_publish_prints_the_error_of_the_server(server: Server) -> None:
    broken = payment("broken", "u") | {"recipientScope": "all"}
    process = run(
        "publish", "-", "--url", server.url, "--data-dir", server.data_dir, input=json.dumps(broken)
    )
    assert process.returncode == 1
    assert "recipientScope" in error_of(process)


def test_publish_gives_up_on_an_unavailable_server(tmp_path: Path) -> None:
    open_issuer(tmp_path)
    process = run(
        "publish", "-", "--url", f"http://127.0.0.1:{free_port()}", "--data-dir", tmp_path,
        input=json.dumps(payment("x", "x")),
    )  # fmt: skip
    assert process.returncode == 1
    assert "cannot be reached" in error_of(process)


def test_publish_to_kafka_gives_up_on_unavailable_brokers() -> None:
    process = run(
        "publish", "-", "--kafka-bootstrap-servers", f"127.0.0.1:{free_port()}",
        input=json.dumps(payment("x", "x")),
    )  # fmt: skip
    assert process.returncode == 1
    assert "cannot be reached" in error_of(process)


def test_publish_names_the_event_ids_and_the_types_that_the_server_does_not_know(server: Server) -> None:
    to = ("--url", server.url, "--data-dir", server.data_dir)
    messages = [payment("known-1", "typed"), payment("typo-1", "typed") | {"eventType": "PAYMNT_SUCCESS"}]
    refused = run("publish", "-", "--strict", *to, input=json.dumps(messages))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the nearest that is known is PAYMENT_SUCCESS" in refused.stderr
    process = run("publish", "-", *to, input=json.dumps(messages))
    assert (process.returncode, process.stdout) == (0, "accepted 2\nknown-1\ntypo-1\n")
    assert process.stderr == (
        "nx-signal publish: The event type PAYMNT_SUCCESS is not known to the server. "
        "Its activities make no notification.\n"
    )
    assert server.wait_total("typed", 1)["total"] == 1


def test_what_a_client_gets_of_a_message_with_bad_characters_and_large_numbers(server: Server) -> None:
    """From the file to the list, in both languages."""
    data = {
        "payment": {"subject": "Order ☠", "amount": 12.5, "currency": "RSD"},
        "id": 132452764876836864,
        "total": "12345678901234567890.50",
    }
    message = payment("odd-1", "odd", data=data) | {"organizerId": "odd"}
    text = json.dumps(message, ensure_ascii=False).encode()
    bad = text.replace("☠".encode(), b"\\ud83d").replace(b"12.5,", b"12.50,")
    (server.data_dir / "odd.json").write_bytes(bad)
    process = run("publish", server.data_dir / "odd.json", "--url", server.url, "--data-dir", server.data_dir)
    assert (process.returncode, process.stdout) == (0, "accepted 1\nodd-1\n"), process.stderr
    (row,) = server.wait_total("odd", 1)["data"]
    assert row["content"].replace("\u202f", " ") == (
        "Payment of RSD12.50 for Order \ufffd succeeded on Jan 2, 2026, 3:04 AM UTC"
    )
    assert row["data"] == {
        "payment": {"subject": "Order \ufffd", "amount": 12.5, "currency": "RSD"},
        "id": "132452764876836864",
        "total": "12345678901234567890.50",
    }
    (again,) = server.get("odd", "/notifications?locale=vi")["data"]
    assert again["content"].replace("\xa0", " ") == (
        "Thanh toán thành công 12,50 RSD cho Order \ufffd lúc 03:04 UTC 2 thg 1, 2026"
    )


def test_publish_needs_messages(tmp_path: Path) -> None:
    process = run("publish", "-", "--data-dir", tmp_path)
    assert process.returncode == 2
    assert error_of(process) == (
        "nx-signal publish: standard input is empty; it takes a message, a list, or one per line.\n"
    )


# --- listen ---


def test_listen_prints_each_frame_as_a_line_at_once(server: Server) -> None:
    with listening(server, "live") as listener:
        listener.connected()
        server.publish(payment("first", "live", "another-user"))
        frame = listener.frame()
        assert frame["event"] == CREATED
        assert "5,00" in frame["data"]["content"]  # in the organizer's language, as "live" has none
        assert (frame["data"]["rev"], frame["data"]["unread"]) == (1, 1)
        server.publish(payment("for others", "another-user"), payment("second", "live"))
        assert listener.created() == "second"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_listen_stops_cleanly_when_it_is_signalled(server: Server, how: signal.Signals) -> None:
    with listening(server, "signalled") as listener:
        listener.connected()
        assert listener.end(how) == (0, "", "")


def test_listen_resumes_from_a_revision(server: Server) -> None:
    server.publish(*(payment(f"past-{n}", "past") for n in range(3)))
    server.wait_total("past", 3)
    with listening(server, "past", "--resume", "1", "--count", "3") as listener:
        out, _ = listener.process.communicate(timeout=PATIENCE_S)
    frames = [json.loads(line) for line in out.splitlines()]
    assert [frame["data"]["rev"] for frame in frames] == [2, 3, 3]
    assert frames[-1]["event"] == "observation/signal/notification/state"
    assert listener.process.returncode == 0


def test_listen_ends_without_an_error_when_its_output_is_closed(server: Server) -> None:
    with listening(server, "piped") as listener:
        listener.connected()
        assert listener.process.stdout is not None and listener.process.stderr is not None
        listener.process.stdout.close()
        server.publish(payment("unread", "piped"))
        assert listener.process.wait(PATIENCE_S) == 0
        assert listener.process.stderr.read() == ""


def test_listen_reconnects_after_a_crash_and_misses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server, listening(server, "faithful") as listener:
        listener.connected()
        server.end(signal.SIGKILL)
        server.start()
        server.publish(payment("during", "faithful"))
        assert listener.created() == "during"
        server.end(signal.SIGTERM)
        server.start()
        server.publish(payment("after", "faithful"))
        assert listener.created() == "after"
        status, rest, _ = listener.end()
        assert status == 0
        assert CREATED not in rest


def test_listen_fails_where_its_token_is_refused(server: Server, tmp_path: Path) -> None:
    open_issuer(tmp_path)
    process = run("listen", "--user", "u", "--url", server.stream, "--data-dir", tmp_path)
    assert process.returncode == 1
    assert "Authentication failed" in error_of(process)


def test_listen_without_reconnecting_fails_when_no_server_listens(tmp_path: Path) -> None:
    open_issuer(tmp_path)
    process = run(
        "listen", "--user", "u", "--no-reconnect", "--url", f"ws://127.0.0.1:{free_port()}",
        "--data-dir", tmp_path,
    )  # fmt: skip
    assert process.returncode == 1
    assert "cannot be reached" in error_of(process)


# --- serve ---


def test_serve_reports_its_address_its_version_and_its_documentation(server: Server) -> None:
    lines = map(json.loads, (server.data_dir / "serve.log").read_text().splitlines())
    (line,) = [line for line in lines if line["event"] == "serving"]
    assert (line["url"], line["version"]) == (server.url, __version__)
    assert httpx.get(line["doc"], trust_env=False).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - not bound
def test_the_embedded_issuer_beyond_this_machine_has_to_be_asked_for(tmp_path: Path, host: str) -> None:
    process = run("serve", "--host", host, "--port", "0", "--data-dir", tmp_path / "data")
    assert process.returncode == 2
    assert "APP_ENV_EMBEDDED_ISSUER=always" in error_of(process) and "APP_ENV_JWKS_URL" in process.stderr
    assert not (tmp_path / "data").exists()


def test_the_embedded_issuer_serves_beyond_this_machine_where_it_is_asked_for(tmp_path: Path) -> None:
    flags = ["--host", "0.0.0.0", "--embedded-issuer", "always", "--port", "0", "--data-dir", str(tmp_path)]  # noqa: S104 - not bound
    with subprocess.Popen([*COMMAND, "serve", *flags], env=ENVIRONMENT, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            assert any(b'"serving"' in line for line in process.stderr)
        finally:
            process.kill()


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["token", "--user", "u1"], ["migrate"]])
def test_a_misspelt_variable_ends_every_command(tmp_path: Path, command: list[str]) -> None:
    environment = ENVIRONMENT | {"APP_ENV_JWKS_URI": "https://issuer.example/jwks"}
    process = run(*command, "--data-dir", tmp_path / "data", env=environment)
    assert process.returncode == 2
    assert "APP_ENV_JWKS_URI is not a setting; the nearest is APP_ENV_JWKS_URL" in error_of(process)
    assert not (tmp_path / "data").exists()


def test_serve_ends_with_status_0_when_it_is_signalled(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.end(signal.SIGTERM) == 0


def test_serve_reports_a_taken_port_in_one_sentence(server: Server, tmp_path: Path) -> None:
    process = run("serve", "--port", str(server.port), "--data-dir", tmp_path, "--log-level", "error")
    assert process.returncode == 2
    assert f"127.0.0.1:{server.port}" in error_of(process)


# --- demo ---

PEOPLE = {"Mai", "David", "Linh", "Tom", "Hoa"}


def printed_activities(output: str) -> list[tuple[str, dict[str, str]]]:
    """(what happened, {who received it: what}) for each activity of the demo."""
    happened: list[tuple[str, dict[str, str]]] = []
    for line in output.splitlines():
        if match := re.match(r"\d\d:\d\d:\d\d  (.+)", line):
            happened.append((match[1], {}))
        elif match := re.match(r"    -> (\w+) +(.+)", line):
            happened[-1][1][match[1]] = match[2]
    return happened


def test_the_demo_shows_each_notification_with_its_recipient_and_stops_by_itself() -> None:
    process = run("demo", "--seconds", "9")
    assert (process.returncode, process.stderr) == (0, "")
    assert "\x1b" not in process.stdout
    first, second, third = printed_activities(process.stdout)[:3]
    assert "pays 45,000 VND" in first[0]
    assert set(first[1]) == {"David", "Linh"}
    assert "Payment of ₫45,000" in first[1]["David"]
    assert "Payment" not in first[1]["Linh"] and "45.000" in first[1]["Linh"]
    assert set(second[1]) == {"Tom", "Hoa"}
    assert "Order" in second[1]["Tom"] and "Order" not in second[1]["Hoa"]
    assert set(third[1]) == PEOPLE


def pasted(line: str) -> str:
    """What a command line prints in another terminal, which has nothing of ours on its PATH."""
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("started", [COMMAND, [str(Path(sys.executable).with_name("nx-signal"))]])
def test_the_commands_that_the_demo_prints_work(started: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [*started, "demo", "--data-dir", tmp_path],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            intro = ""
            while "Ctrl-C" not in intro:
                intro += process.stdout.readline()
            listen, publish, curl = re.findall(r"^  (/.+|echo .+|curl .+)$", intro, re.MULTILINE)
            assert pasted(f"{listen} --resume 0 --count 1").startswith('{"event":')
            assert pasted(publish).startswith("accepted 1\n")
            assert "data" in json.loads(pasted(curl))
            for line in process.stdout:
                if "$5.00" in line:
                    assert "Tom" in line
                    break
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()


def test_a_stop_in_the_middle_of_a_publication_is_no_failure_of_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own server accepts nothing any more while it drains."""
    settings = Settings(data_dir=tmp_path)
    open_issuer(tmp_path)
    trio.run(demo._publish, demo.Screen(), settings, free_port())
    assert "An pays 45,000 VND" in capsys.readouterr().out
