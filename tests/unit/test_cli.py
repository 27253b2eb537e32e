"""The command line up to the point where a command runs, and what it reads from files."""

from __future__ import annotations

import argparse
import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from nx_signal import __version__
from nx_signal.cli import main as cli
from nx_signal.cli.explain import _lines, _print_around
from nx_signal.cli.listen import Listener
from nx_signal.cli.options import build_parser
from nx_signal.cli.publish import MAX_BATCH_BYTES, Message, batches, read_messages
from nx_signal.client.server_keys import rest_of
from nx_signal.config import Settings
from nx_signal.errors import SettingsError, SignalError, StoreUnavailable
from nx_signal.identity.roster import read_roster
from nx_signal.model import Grant, Member, Organizer
from nx_signal.rest.explain import ActivitiesAround, ActivityExplanation, ActivityTrace
from nx_signal.setting_fields import flag_of


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(Settings):
        monkeypatch.delenv(field.metadata["env"], raising=False)


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command line that does not get as far as running."""
    try:
        status = cli.main(arguments)
    except SystemExit as exit:
        status = int(exit.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


# --- what goes to a server without TLS ---


@pytest.mark.parametrize("command", [["publish", "FILE"], ["explain", "e1"]], ids=["publish", "explain"])
@pytest.mark.parametrize(
    ("url", "warns"),
    [("http://192.0.2.1:9", True), ("http://127.0.0.1:9", False), ("https://192.0.2.1:9", False)],
)
def test_a_command_that_sends_its_token_in_clear_beyond_this_machine_warns_once(
    command: list[str],
    url: str,
    warns: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "one.json"
    file.write_text('{"eventId": "e1"}')

    def run(*_: object) -> None:
        raise StoreUnavailable("Nothing is sent here.")

    monkeypatch.setattr(trio, "run", run)
    words = [str(file) if word == "FILE" else word for word in command]
    status, out, err = ended(capsys, *words, "--url", url, "--token", "T")
    assert (status, out) == (1, "")
    assert err.count("without TLS") == warns


@pytest.mark.parametrize(
    "url", ["x", "http://", "ftp://h", "http://h:999999", "http://xn--/", "http://u:p4ss@"]
)
def test_what_is_no_url_of_a_server_is_refused_before_anything_is_sent(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ended(capsys, "explain", "e1", "--url", url, "--token", "T")
    assert status == 2
    assert "is not the URL of a server; use http://host:port." in err and "p4ss" not in err


def test_what_a_server_answers_to_explain_cannot_act_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _print_around(ActivitiesAround("ann", "\x1b[2J", "b", [], [], []))
    out, _ = capsys.readouterr()
    assert "\x1b" not in out


# --- options ---


def test_serve_has_a_flag_for_every_setting() -> None:
    flags = [word for name in dataclasses.fields(Settings) for word in (flag_of(name.name), name.name)]
    options = build_parser().parse_args(["serve", *flags])
    assert all(getattr(options, field.name) == field.name for field in dataclasses.fields(Settings))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["serve", "--kafka-sasl-passwd", "hunter2"], "--kafka-sasl-passwd;"),
        (["serve", "--databse-url=postgresql://u:hunter2@h/db"], "--databse-url;"),
        (["serve", "postgresql://u:hunter2@h/db"], "postgresql://u:***@h/db;"),
        (["publish", "f", "--tokn", "hunter2", "--port", "x\x1b[2J"], "--tokn;"),
        (["listen", "--user", "u", "--stream-version", "\x1b[2J"], "invalid int value"),
    ],
)
def test_no_secret_and_nothing_that_acts_on_a_terminal_is_in_an_error_of_usage(
    arguments: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ended(capsys, *arguments)
    assert status == 2 and shown in err
    assert "hunter2" not in err and "\x1b" not in err


def test_the_help_of_serve_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ended(capsys, "serve", "--help")
    assert status == 0
    flat = " ".join(out.split())
    for field in dataclasses.fields(Settings):
        assert field.metadata["env"] in flat
        assert " ".join(field.metadata["help"].split()) in flat


@pytest.mark.parametrize(
    "command",
    [
        *("serve", "demo", "token", "members", "publish", "listen", "migrate", "audit"),
        *("members load", "members list", "members remove", "explain"),
        *("dead-letters", "dead-letters list", "dead-letters show"),
        *("dead-letters replay", "dead-letters discard"),
    ],
)
def test_every_command_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ended(capsys, *command.split(), "--help")
    assert (status, err) == (0, "")
    assert f"nx-signal {command}" in out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(capsys, "--version") == (0, f"nx-signal {__version__}\n", "")


def test_the_completion_script_of_bash_completes_commands_options_and_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, script, err = ended(capsys, "--print-completion", "bash")
    assert (status, err) == (0, "")
    (tmp_path / "payment.json").touch()

    def completions(*words: str) -> list[str]:
        request = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_nx_signal\n"
        run = subprocess.run(
            ["bash", "--norc"],
            input=script + request + 'printf "%s\\n" "${COMPREPLY[@]}"',
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.split()

    assert completions("nx-signal", "de") == ["demo", "dead-letters"]
    assert completions("nx-signal", "token", "--us") == ["--user"]
    assert "payment.json" in completions("nx-signal", "publish", "pay")


def test_the_completion_script_of_zsh_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    status, script, err = ended(capsys, "--print-completion", "zsh")
    assert (status, err) == (0, "")
    assert script.startswith("#compdef nx-signal\n")


def test_no_command_shows_the_help_as_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ended(capsys)
    assert (status, out) == (2, "")
    assert "start here:" in err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["tokn"], "'tokn'"),
        (["--print-completion", "csh"], "'csh'"),
        (["token"], "--user"),
        (["token", "--user", ""], "--user"),
        (["token", "--user", "a\nb"], "--user"),
        (["token", "--user", "u" * 257], "--user"),
        (["token", "--user", "u", "--ttl", "0"], "--ttl"),
        (["token", "--user", "u", "--ttl", "1e3"], "--ttl"),
        (["token", "--use", "u"], "--use"),
        (["token", "--user", "u", "--permission", "Nothing.atAll"], "'Nothing.atAll'"),
        (["token", "--user", "u", "--jwks-url", "http://issuer/jwks"], "http://issuer/jwks"),
        (["serve", "--port", "http"], "--port"),
        (["serve", "--prot", "1"], "--prot"),
        (["serve", "--database-url", "mysql://x"], "--database-url"),
        (["members"], "load"),
        (["members", "load"], "FILE"),
        (["members", "load", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
        (["dead-letters"], "list"),
        (["dead-letters", "burn"], "'burn'"),
        (["dead-letters", "show"], "ID"),
        (["dead-letters", "replay", "-1"], "-1"),
        (["dead-letters", "discard", "1e3"], "'1e3'"),
        (["dead-letters", "list", "--limit", "0"], "--limit"),
        (["publish"], "FILE"),
        (["publish", "/nowhere/at/all.json"], "/nowhere/at/all.json"),
        (["listen", "--user", "u", "--url", "http://127.0.0.1:1"], "ws://"),
        (["listen", "--user", "u", "--resume", "-1"], "--resume"),
        (["listen", "--user", "u", "--count", "0"], "--count"),
        (["listen", "--user", "u", "--stream-version", "3"], "--stream-version"),
        (["listen", "--user", "u", "--server-key", "AAAA"], "43 characters"),
        (["listen", "--user", "u", "--jwks-url", "http://issuer/jwks"], "--token"),
        (["demo", "--seconds", "never"], "--seconds"),
        (["demo", "--port", "x"], "--port"),
    ],
)
def test_misuse_ends_with_one_sentence_that_names_it_and_status_2(
    arguments: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = ended(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("nx-signal") and err.endswith(".\n")
    assert names in err


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("APP_ENV_DRAIN_S", "soon")
    status, _, err = ended(capsys, "token", "--user", "u")
    assert status == 2
    assert err == "nx-signal token: APP_ENV_DRAIN_S is 'soon'; it takes seconds from 0.5 to 600.\n"


@pytest.mark.parametrize(
    ("url", "more", "warning"),
    [
        ("ws://signal.example.com/stream", [], "pin the server's key"),
        ("ws://signal.example.com/stream", ["--stream-version", "1"], "read the token"),
        ("ws://signal.example.com/stream", ["--server-key", "A" * 43], "number, size and time"),
        ("ws://127.0.0.1:1/stream", [], None),
        ("wss://signal.example.com/stream", [], None),
    ],
)
def test_listening_without_tls_beyond_this_machine_is_warned_of_in_one_sentence(
    url: str,
    more: list[str],
    warning: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def run(listener: Listener) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Listener, "run", run)
    status, out, err = ended(capsys, "listen", "--user", "u", "--token", "t", "--url", url, *more)
    assert (status, out) == (0, "")
    assert err.count("\n") == (warning is not None)
    assert warning is None or warning in err


# --- how errors end ---


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (SettingsError("The password is refused."), 2, "The password is refused."),
        (StoreUnavailable("The database is unavailable."), 1, "The database is unavailable."),
        (OSError("in use"), 1, "in use"),
        (ExceptionGroup("", [OSError("first"), ExceptionGroup("", [SettingsError("cause")])]), 2, "cause"),
        (ExceptionGroup("", [MemoryError()]), 1, cli.OUT_OF_MEMORY),
        (ExceptionGroup("", [RuntimeError("can't start new thread")]), 1, cli.OUT_OF_MEMORY),
        (KeyboardInterrupt(), 130, None),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, None),
    ],
)
def test_an_expected_error_is_one_sentence(
    error: BaseException,
    status: int,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert ended(capsys, "migrate") == (
        status,
        "",
        "" if expected is None else f"nx-signal migrate: {expected}\n",
    )


@pytest.mark.parametrize("command", [["serve"], ["demo"], ["listen", "--user", "u"]])
def test_ctrl_c_is_the_ordinary_end_of_what_runs_until_stopped(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert ended(capsys, *command) == (0, "", "")


def test_an_unexpected_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "_run", fail)
    status, _, err = ended(capsys, "migrate")
    assert status == 1
    assert "Traceback" in err and "a bug" in err


# --- publish: reading messages ---

ONE = b'{"eventId":"e1","organizerId":"o1"}'


def test_one_message_a_list_and_lines_are_all_accepted() -> None:
    two = b'{"eventId":"e2","organizerId":"o1"}'
    as_list = read_messages(b" [" + ONE + b",\n" + two + b"]\n", "f")
    as_lines = read_messages(ONE + b"\r\n\n" + two + b"\n", "f")
    assert [m.body for m in as_list] == [m.body for m in as_lines] == [ONE, two]
    assert [m.body for m in read_messages(b"\xef\xbb\xbf" + ONE, "f")] == [ONE]
    assert len(read_messages(msgspec.json.format(ONE, indent=2), "f")) == 1


def test_a_message_with_an_event_id_is_sent_byte_for_byte() -> None:
    odd = b'{ "eventId": "e1",  "data": {"n": 1.10, "big": 123456789012345678901234567890} }'
    assert read_messages(odd, "f")[0].body == odd


@pytest.mark.parametrize("bad", [b"\\ud83d", b"\\u0000", b"\0", b"\xf0\x9f"])
def test_a_message_with_a_character_that_no_store_holds_is_sent_as_it_stands(bad: bytes) -> None:
    one, two = (b'{"eventId":"e%d","data":{"text":"a%b"}}' % (n, bad) for n in (1, 2))
    for raw in (one + b"\n" + two, b"[" + one + b" , " + two + b"]"):
        assert [message.body for message in read_messages(raw, "f")] == [one, two]
    (without_id,) = read_messages(b'{"data":{"text":"a%b"}}' % bad, "f")
    assert msgspec.json.decode(without_id.body)["data"] == {"text": "a\ufffd"}


@pytest.mark.parametrize("message", [b'{"organizerId":"o1"}', b'{"organizerId":"o1","eventId":null}', b"{}"])
def test_a_message_without_an_event_id_gets_one_of_its_own_before_the_first_try(message: bytes) -> None:
    first, second = (msgspec.json.decode(read_messages(message, "f")[0].body) for _ in range(2))
    assert isinstance(first["eventId"], str) and len(first["eventId"]) == 36
    assert first["eventId"] != second["eventId"]


def test_messages_are_keyed_by_their_organizer_so_that_its_activities_stay_in_order() -> None:
    assert read_messages(ONE, "f")[0].key == "o1"
    keyless = read_messages(b'{"eventId":"e1"}', "f")[0]
    assert keyless.key == "e1"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"", "orders is empty"),
        (b" \n", "orders is empty"),
        (b"hello", "orders is not JSON"),
        (b"5", "orders: a message is a JSON object"),
        (b"[1]", "orders, [0]: a message is a JSON object"),
        (b"[" + ONE, "orders is not JSON"),
        (ONE + b"\n" + ONE[:-3] + b"\n", "orders, line 2 is not JSON"),
        (ONE + b"\n[]\n", "orders, line 2: a message is a JSON object"),
        (b"\xff\xfe", "orders is not JSON"),
        (b"[" * 100_000, "orders is not JSON"),
        (b'{"eventId":"' + b"x" * MAX_BATCH_BYTES + b'"}', "orders: the message is larger than"),
    ],
)
def test_what_is_not_a_message_is_refused_with_its_position(raw: bytes, where: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_messages(raw, "orders")
    assert str(error.value).startswith(where)


def test_batches_hold_at_most_a_thousand_messages() -> None:
    sizes = [len(batch) for batch in batches([Message("k", b"{}")] * 2_001)]
    assert sizes == [1_000, 1_000, 1]


def test_batches_stay_below_the_size_of_a_request() -> None:
    messages = [Message("k", b"x" * 400_000) for _ in range(5)]
    made = list(batches(messages))
    assert [len(batch) for batch in made] == [2, 2, 1]
    assert [message for batch in made for message in batch] == messages


# --- members: reading a roster ---


def test_a_roster_is_read_from_json() -> None:
    roster = read_roster(
        b"""{"organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]}],
             "members": [{"userId": "u1", "organizerId": "o1", "merchantId": "m1", "role": "staff",
                          "locale": "en"},
                         {"userId": "u2", "organizerId": "o1", "merchantId": null, "role": "owner",
                          "locale": null}],
             "grants": [{"userId": "op", "role": "signal-operator"},
                        {"userId": "op", "permission": "WebSocketClient.find"}]}""",
        "shop.json",
    )
    assert roster.organizers == (Organizer("o1", "vi", ("m1", "m2")),)
    assert roster.members == (
        Member("u1", "o1", "m1", "staff", "en"),
        Member("u2", "o1", None, "owner", None),
    )
    assert roster.grants == (Grant("op", "signal-operator", None), Grant("op", None, "WebSocketClient.find"))


def test_a_roster_is_read_from_csv() -> None:
    roster = read_roster(
        b"\xef\xbb\xbfuserId,organizerId,merchantId,role,locale\r\n"
        b"u1,o1,m1,staff,en\r\n\r\nu2,o1,,owner,\r\n"
        b'"u,3",o2,m2,,vi\r\n',
        "shop.csv",
    )
    assert (roster.organizers, roster.grants) == ((), ())
    assert roster.members == (
        Member("u1", "o1", "m1", "staff", "en"),
        Member("u2", "o1", None, "owner", None),
        Member("u,3", "o2", "m2", "staff", "vi"),
    )


def test_an_organizations_time_zone_stands_beside_its_locale_or_in_a_column() -> None:
    as_json = read_roster(
        b'{"organizers": [{"id": "o1", "locale": "vi", "timeZone": "Asia/Ho_Chi_Minh"}, {"id": "o2"}]}', "f"
    )
    assert [each.time_zone for each in as_json.organizers] == ["Asia/Ho_Chi_Minh", None]
    as_csv = read_roster(
        b"userId,organizerId,timeZone\nu1,o1,Asia/Ho_Chi_Minh\nu2,o1,\nu3,o2,\nu4,o1,Asia/Ho_Chi_Minh\n", "f"
    )
    assert as_csv.organizers == (Organizer("o1", None, (), "Asia/Ho_Chi_Minh"),)
    assert len(as_csv.members) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"organizers": [{"id": "o", "timeZone": "Mars/Olympus"}]}',
            "shop, organizers[0], timeZone: it takes an IANA time zone such as UTC or Asia/Ho_Chi_Minh, not",
        ),
        (
            '{"organizers": [{"id": "o", "timeZone": "../../etc/passwd"}]}',
            "shop, organizers[0], timeZone: it",
        ),
        ("userId,organizerId,timeZone\nu,o,+07:00\n", "shop, line 2, timeZone: it takes an IANA time zone"),
        (
            "userId,organizerId,timeZone\nu,o,UTC\nv,o,Asia/Tokyo\n",
            "shop, line 3: organizer 'o' has the time zone UTC already.",
        ),
        ("[]", "shop: expected `object`, got `array`."),
        ("{", "shop is not JSON"),
        ('{"member": []}', "shop: object contains unknown field `member`."),
        ('{"members": [{"userId": "u1"}]}', "shop, members[0]: organizerId is missing."),
        ('{"members": [{"userId": 1, "organizerId": "o"}]}', "shop, members[0].userId: expected `str`"),
        ('{"members": [{"userId": "", "organizerId": "o"}]}', "shop, members[0].userId: expected `str` of"),
        (
            '{"members": [{"userId": "u", "organizerId": "o", "locale": "very english"}]}',
            "shop, members[0].locale: expected a language such as en or vi-VN.",
        ),
        (
            '{"organizers": [{"id": "o1", "merchants": ["m"]}, {"id": "o2", "merchants": ["m"]}]}',
            "shop, organizers[1]: merchant 'm' is under organizer 'o1' already.",
        ),
        (
            '{"organizers": [{"id": "o1", "merchants": ["m"]}], '
            '"members": [{"userId": "u", "organizerId": "o2", "merchantId": "m"}]}',
            "shop, members[0]: merchant 'm' is under organizer 'o1' already.",
        ),
        ('{"grants": [{"userId": "u"}]}', "shop, grants[0]: it takes either role or permission."),
        (
            '{"grants": [{"userId": "u", "role": "r", "permission": "Activity.publish"}]}',
            "shop, grants[0]: it takes either role or permission.",
        ),
        (
            '{"grants": [{"userId": "u", "permission": "Activity.all"}]}',
            "shop, grants[0]: the permission 'Activity.all' does not exist.",
        ),
        ('{"grants": [{"userId": "u\\u0000", "role": "r"}]}', "shop holds a NUL character"),
        ("", "shop, line 1: it takes a JSON object, or CSV with the header userId,"),
        ("userId,role\nu,r\n", "shop, line 1: it takes a JSON object, or CSV"),
        ("userId,organizerId\nu\n", "shop, line 2: 1 cells instead of 2."),
        ("userId,organizerId\nu,o\n,o\n", "shop, line 3: userId is missing."),
        ("userId,organizerId,locale\nu,o,klingon!\n", "shop, line 2, locale: expected a language"),
    ],
)
def test_a_bad_roster_is_refused_with_its_row(text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as error:
        read_roster(text.encode(), "shop")
    assert str(error.value).startswith(expected)


def test_a_roster_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SignalError, match="shop is not UTF-8"):
        read_roster(b"\xff\xfe{", "shop")


def test_a_file_is_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    from nx_signal.cli.files import read_input

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ONE)))
    assert read_input("-") == ONE


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        ("ws://h:1", "http://h:1"),
        ("ws://h:1/stream", "http://h:1"),
        ("wss://h/signal/stream", "https://h/signal"),
    ],
)
def test_rest_is_below_the_same_path_as_the_stream(stream: str, rest: str) -> None:
    assert rest_of(stream) == rest


def test_a_cloud_event_is_published_unchanged_under_its_own_id_and_organizer() -> None:
    event = (
        b'{"specversion": "1.0", "id": "42", "source": "/s", "type": "T", "organizerid": "o1", "data": {}}'
    )
    assert read_messages(event, "f") == [Message("o1", event, "42")]
    without = event.replace(b', "organizerid": "o1"', b"")
    assert read_messages(b"[" + without + b"]", "f") == [Message("42", without, "42")]


def test_an_explanation_prints_no_control_character_of_a_publisher() -> None:
    type, reason = "\x1b]0;title\x07X", "\x1b[2J"
    nothing = (None, None, None, "https://x\x1b[2J")
    trace = ActivityTrace("t/0/1", type, None, None, 0, "unknown_type", reason, "2026-01-01", [], *nothing)
    found = ActivityExplanation("e\x1b[2J", "e", trace, 0, [], [])
    assert all(line.isprintable() for line in _lines(found))


def test_each_command_on_the_database_takes_its_schema_as_well() -> None:
    takes = [
        parser
        for parser in parsers_of(build_parser())
        if any("--database-url" in action.option_strings for action in parser._actions)
    ]
    assert len(takes) > 5
    for parser in takes:
        assert any("--database-schema" in action.option_strings for action in parser._actions), parser.prog


def parsers_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers_of(below)
