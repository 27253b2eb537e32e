"""What is logged: no secret by any path, and nothing that acts on a terminal."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart_trio import QuartTrio

from gate_kit import a_listener, a_visit, open_gate
from nx_signal.activities.outcome import failure_reason
from nx_signal.cli import main as cli
from nx_signal.model.terminal import visible, visible_json, visible_lines
from nx_signal.rest.problems import register_problems
from nx_signal.server.http import Http
from nx_signal.supervise import watch
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.logs import configure_logs, shown_error
from nx_signal.telemetry.metrics import Metrics
from nx_signal.telemetry.redaction import redacted

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
TICKET = "sgt_vS3hLlb0h8nMrhlcGkYq6jJ1TnnWQ2VwS3w2mNqXc0E"
PASSWORD = "hunter2/@x"
LOCAL = "only-in-a-local"
FORMATS = pytest.mark.parametrize("format", ["json", "console"])


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], io.StringIO]]:
    """What is written to stderr, once the logs are configured for a format."""
    err = io.StringIO()
    root = logging.getLogger()

    def configure(format: str) -> io.StringIO:
        monkeypatch.setattr("sys.stderr", err)
        monkeypatch.setattr(root, "handlers", [])
        configure_logs("debug", format)
        return err

    yield configure
    structlog.reset_defaults()


def fail(authorization: str = f"Bearer {TOKEN}") -> None:
    """An unforeseen error, with a token and claims in locals."""
    claims = {"sub": LOCAL, "authorization": authorization}
    raise KeyError(len(claims))


def fail_quoting() -> None:
    """As libraries do: the message has what they were given."""
    raise ValueError(
        f"no: {TOKEN} {TICKET} postgresql://ann:{PASSWORD}@db/x password='{PASSWORD}' \x1b[2J\u202e\x9b"
    )


def no_secret_in(text: str) -> None:
    for secret in (TOKEN, TOKEN[:30], TICKET, TICKET[:20], PASSWORD, LOCAL):
        assert secret not in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", re.sub("\x1b\\[[0-9;]*m", "", text))


@FORMATS
@pytest.mark.parametrize("error", [fail, fail_quoting])
async def test_no_secret_of_an_unforeseen_error_is_logged_by_rest(
    logged: Callable[[str], io.StringIO], format: str, error: Callable[[], None]
) -> None:
    err = logged(format)
    app = QuartTrio("x")
    register_problems(app)

    @app.get("/")
    async def handler() -> str:
        error()
        return ""

    answer = await app.test_client().get("/")
    assert answer.status_code == 500
    assert "http_failed" in err.getvalue() and "handler" in err.getvalue()
    no_secret_in(err.getvalue())
    no_secret_in(await answer.get_data(as_text=True))


@FORMATS
@pytest.mark.parametrize("error", [fail, fail_quoting])
async def test_no_secret_of_an_unforeseen_error_is_logged_by_the_server_the_pipeline_and_libraries(
    logged: Callable[[str], io.StringIO], format: str, error: Callable[[], None]
) -> None:
    err = logged(format)

    async def websocket(*_: object) -> None:
        error()

    async def app(*_: object) -> None:
        error()

    http = Http(app, websocket)
    client, server = (trio.SocketStream(each) for each in trio.socket.socketpair())
    async with trio.open_nursery() as nursery:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        nursery.start_soon(http.serve, server, head, a_visit())
        async with client:
            with trio.move_on_after(5):
                await client.receive_some()
    assert "http_app_failed" in err.getvalue()

    try:
        error()
    except Exception as raised:
        assert "Internal error" in failure_reason(raised)
        logging.getLogger("library").warning("lost", exc_info=raised)
        structlog.get_logger().warning("part_down", why=str(raised), error=raised)
    assert "activity_failed" in err.getvalue() and "lost" in err.getvalue()
    no_secret_in(err.getvalue())


@FORMATS
@pytest.mark.parametrize("error", [fail, fail_quoting])
async def test_no_secret_of_an_unforeseen_error_is_logged_by_a_connection_of_the_stream(
    logged: Callable[[str], io.StringIO], format: str, error: Callable[[], None]
) -> None:
    err = logged(format)

    async def serve(*_: object) -> None:
        error()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(a_listener(serve, serve, open_gate()).run, listeners)
        async with await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as client:
            await client.send_all(b"GET /stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
            assert not await client.receive_some()
        nursery.cancel_scope.cancel()
    assert "connection_failed" in err.getvalue()
    no_secret_in(err.getvalue())


@pytest.mark.parametrize("error", [fail, fail_quoting])
async def test_no_secret_of_an_unforeseen_error_is_in_the_traceback_that_ends_a_command(
    error: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def check() -> None:
        error()

    def run(_: object) -> None:
        error()

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["migrate"]) == 1
    _, err = capsys.readouterr()
    assert "Traceback" in err
    no_secret_in(err)
    with pytest.raises(
        (KeyError, ValueError)
    ) as caught:  # what a supervised part does not foresee ends the process
        await watch("store", check, Health(("store",), Metrics()))
    no_secret_in(shown_error(caught.value))


@FORMATS
def test_a_hostile_text_makes_no_line_of_its_own(logged: Callable[[str], io.StringIO], format: str) -> None:
    err = logged(format)
    log = structlog.get_logger()
    log.info("x", why="a\n2026-01-01T00:00:00Z [info] forged", title="\x1b]0;title\x07")
    try:
        raise ValueError("a\n2026-01-01T00:00:00Z [info] forged")
    except ValueError:
        log.exception("y")
    lines = err.getvalue().splitlines()
    assert not any(line.startswith("2026-01-01T00") for line in lines)
    assert "\x07" not in err.getvalue() and "\x1b]" not in err.getvalue()


def test_a_line_of_json_has_its_values_as_they_are(logged: Callable[[str], io.StringIO]) -> None:
    err = logged("json")
    value = {"text": "\x1b\u202eNguyễn 👩\u200d👧 \ud83d", "n": 1, "none": None, "list": ["a", 1.5]}
    structlog.get_logger().info("x", value=value)
    (line,) = err.getvalue().splitlines()
    assert line.isprintable() and json.loads(line)["value"] == value


@FORMATS
def test_no_secret_of_a_chain_of_errors_with_notes_is_logged(
    logged: Callable[[str], io.StringIO], format: str
) -> None:
    err = logged(format)
    try:
        try:
            fail_quoting()
        except ValueError as error:
            error.add_note(f"for b'Bearer {TOKEN}'\n{TOKEN}")
            raise ExceptionGroup(f"password='{PASSWORD}'", [error, KeyError({"token": LOCAL})]) from error
    except ExceptionGroup:
        structlog.get_logger().exception("x")
    assert "fail_quoting" in err.getvalue()
    no_secret_in(err.getvalue())


@FORMATS
def test_a_field_with_the_name_of_a_secret_is_hidden_at_any_depth(
    logged: Callable[[str], io.StringIO], format: str
) -> None:
    err = logged(format)
    structlog.get_logger().info("x", password=LOCAL, settings=[{"sasl_password": LOCAL, "token_id": "shown"}])
    assert LOCAL not in err.getvalue() and "shown" in err.getvalue()


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@FORMATS
def test_a_log_that_cannot_be_written_stops_no_work(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.setattr("sys.stderr", Broken())
    configure_logs("debug", format)
    structlog.get_logger().info("x", why="its reader has exited")
    structlog.reset_defaults()


@FORMATS
def test_a_value_that_has_no_text_and_a_record_that_has_a_wrong_format_are_logged_without_it(
    logged: Callable[[str], io.StringIO], format: str
) -> None:
    class Wrong:
        def __str__(self) -> str:
            raise ValueError(LOCAL)

        __repr__ = __str__

    err = logged(format)
    structlog.get_logger().info("x", value=Wrong())
    logging.getLogger("library").warning("%d", LOCAL)
    assert "<Wrong>" in err.getvalue() and "library" in err.getvalue()
    assert LOCAL not in err.getvalue()


def test_a_broken_connection_of_the_server_is_no_success_of_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["serve"]) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"a {TOKEN[:40]}", "a ***"),
        (f"a {TICKET[:20]}", "a sgt_***"),
        (f"GET /events?ticket={TICKET}&x=1 HTTP/1.1", "GET /events?ticket=***&x=1 HTTP/1.1"),
        ("/events?ticket=s%67t_abc", "/events?ticket=***"),
        (f'b\'{{"type":"Ticket","token":"{TICKET}"}}\'', 'b\'{"type":"Ticket","token":***}\''),
        ("the budgets_total of gadgets_in_total", "the budgets_total of gadgets_in_total"),
        ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
        ("https://u:p@h/jwks", "https://u:***@h/jwks"),
        ("Authorization: Basic YW5uOmh1bnRlcjI5OTk=", "Authorization: Basic ***"),
        ("/stream?access_token=abc&x=1", "/stream?access_token=***&x=1"),
        ('{"token": "abc", "a": 1}', '{"token": ***, "a": 1}'),
        ("user=ann password='a b' host=h", "user=ann password=*** host=h"),
        ("password = 'a \\' b' host=h", "password = *** host=h"),
        ("{'token': b'abc', 'a': 1}", "{'token': ***, 'a': 1}"),
        ("f(token=b'abc', a=1)", "f(token=***, a=1)"),
        ('{\\"secretKey\\" : \\"abc\\", \\"a\\": 1}', '{\\"secretKey\\" : ***, \\"a\\": 1}'),
        (f'"token": "{"a.b " * 300}"', '"token": ***'),
        ('"token": "abc', '"token": ***'),
        ("X-API-Key: abc", "X-API-Key: ***"),
        ("(b'Authorization', b'Bearer abc')", "(b'Authorization', b'Bearer ***')"),
        ("redis://:s3'cret@h:1/0", "redis://:***@h:1/0"),
        (repr(f"a\n{TOKEN}"), "'a\\n***'"),
        (f"x%3D{TOKEN}%26", "x%3D***%26"),
        (f"x_{TOKEN}", "x_***"),
        ("ewogImFsZyI6IkVTMjU2In0.e30.c2ln", "***"),
        ("the keyJoin of monkeyAlgorithms", "the keyJoin of monkeyAlgorithms"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END", "-----BEGIN EC PRIVATE KEY-----***-----END"),
        ("The token has expired; the password: is wrong", "The token has expired; the password: is wrong"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "part",
    [
        "a://",
        "eyJ",
        "token=",
        "token='",
        'token=\\"',
        "token:",
        "bearer ",
        "-----BEGIN ",
        "a:",
        '"',
        "\\",
        "A1b2",
    ],
)
def test_redaction_takes_linear_time(part: str) -> None:
    redacted(part * 20_000)  # pytest's timeout ends it otherwise


@given(st.text())
def test_what_is_shown_is_printable_and_json_keeps_its_value(text: str) -> None:
    assert visible(text).isprintable()
    assert all(c == "\n" or c.isprintable() for c in visible_lines(text))
    value: Any = {text: [text]}
    shown = visible_json(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value and shown.isprintable()
