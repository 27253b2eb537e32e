"""`nx-signal`: the commands, their options, and how each end of one is told (CONTRACT §6).

Exit status 0 done, 1 failed, 2 bad usage or settings. Heavy imports wait until a command needs them, so
that `--help` and `token` answer at once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nx_signal import __version__
from nx_signal.config import Settings, flag_of
from nx_signal.errors import Fatal, SignalError

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

UNTIL_STOPPED = frozenset({"serve", "listen", "demo"})
"""Commands whose ordinary end is Ctrl-C."""

LONGEST_TTL_S = 366 * 24 * 3600
MAX_ID_CHARS = 256

EPILOG = """\
start here:
  nx-signal demo                              the whole thing, in one terminal
  nx-signal serve                             a server with everything embedded, on port 31090
  nx-signal members load shop.json            who belongs where
  nx-signal listen --user u1                  what u1 gets, as it happens
  nx-signal publish payment.json              something happens

Every flag of serve is also a variable APP_ENV_*; a flag wins.
Exit status: 0 done, 1 failed, 2 bad usage or settings."""


class Parser(argparse.ArgumentParser):
    """Errors are one sentence and status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message.rstrip('.')}; see {self.prog} --help.\n")


def entry() -> NoReturn:
    """The console script."""
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_stdout()
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Errors that were foreseen end as one sentence on stderr."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return MISUSED
    try:
        _run(options)
    except (KeyboardInterrupt, BaseExceptionGroup, Exception) as error:
        return _ended(options.command, error)
    return DONE


def _run(options: argparse.Namespace) -> None:
    flags = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(Settings)}
    # The demo is self-contained: what the environment says of real services is not its business.
    settings = Settings.load(flags, {} if options.command == "demo" else None)
    if options.command not in ("serve", "token"):
        from nx_signal.telemetry.logs import configure_logs

        configure_logs("error", settings.log_format)  # the command itself says what happened
    match options.command:
        case "serve":
            from nx_signal.cli import serve

            serve.run(settings)
        case "migrate":
            from nx_signal.cli import migrate

            migrate.run(settings)
        case "audit":
            from nx_signal.cli import audit

            audit.run(settings)
        case "token":
            from nx_signal.cli import token

            token.run(settings, options.user, options.permission, options.role, options.ttl)
        case "members":
            from nx_signal.cli import members

            members.run(settings, options.file)
        case "publish":
            from nx_signal.cli import publish

            publish.run(settings, options.file, options.url, options.token)
        case "listen":
            from nx_signal.cli import listen

            listen.run(
                settings,
                options.user,
                options.url,
                token=options.token,
                resume=options.resume,
                count=options.count,
                reconnect=options.reconnect,
            )
        case "dead-letters":
            from nx_signal.cli import dead_letters

            dead_letters.run(settings, options.verb, getattr(options, "id", 0), getattr(options, "limit", 0))
        case "demo":
            from nx_signal.cli import demo

            demo.run(settings, keeps_data=options.data_dir is not None, seconds=options.seconds)


def _ended(command: str, error: BaseException) -> int:
    """Say it in one sentence; only what nobody foresaw keeps its traceback."""
    leaves = _leaves(error)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return DONE if command in UNTIL_STOPPED else INTERRUPTED
    if any(isinstance(leaf, BrokenPipeError) for leaf in leaves):  # whoever read our output has left
        _leave_stdout()
        return DONE
    known = _foreseen(leaves)
    if known is None:
        sys.excepthook(type(error), error, error.__traceback__)
        return FAILED
    print(f"nx-signal {command}: {known}", file=sys.stderr)
    return known.exit_status if isinstance(known, Fatal) else FAILED


def _foreseen(leaves: Sequence[BaseException]) -> SignalError | OSError | None:
    """The error that explains the end: a Fatal before any other."""
    for kind in (Fatal, SignalError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return None


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _leave_stdout() -> None:
    """Nobody reads our output any more: let the last flush at exit go nowhere."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


# --- the options -----------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nx-signal",
        description="In-app notifications in real time, never lost: the server and its tools.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nx-signal {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    _serve(commands)
    _demo(commands)
    _token(commands)
    _members(commands)
    _publish(commands)
    _listen(commands)
    _dead_letters(commands)
    _migrate(commands)
    _audit(commands)
    return parser


def _add(commands: argparse._SubParsersAction[Parser], name: str, help: str, examples: str = "") -> Parser:
    return commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _serve(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "serve",
        "run the server until it is stopped",
        "  nx-signal serve\n"
        "  nx-signal serve --port 0 --data-dir /var/lib/nx-signal\n"
        "  nx-signal serve --database-url postgresql://signal@db/signal --redis-url redis://cache:6379/0",
    )
    parser.usage = "nx-signal serve [settings]"
    _settings(parser, *(field.name for field in dataclasses.fields(Settings)))


def _migrate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "migrate",
        "bring the database's schema up to this release; safe to repeat",
        "  nx-signal migrate --database-url postgresql://signal@db/signal",
    )
    _settings(parser, "database_url", "data_dir")


def _audit(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "audit",
        "compare every inbox's counts and revisions with its rows; changes nothing",
        "  nx-signal audit\n  nx-signal audit --database-url postgresql://signal@db/signal || echo drift",
    )
    _settings(parser, "database_url", "data_dir")


def _token(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "token",
        "print a token of the embedded issuer",
        "  nx-signal token --user u1\n"
        "  nx-signal token --user op --role signal-operator --ttl 600\n"
        '  curl -H "Authorization: Bearer $(nx-signal token --user u1)" \\\n'
        "       http://127.0.0.1:31090/v1/api/signal/notifications",
    )
    parser.add_argument("--user", required=True, type=_identifier, help="Whom the token speaks for.")
    parser.add_argument(
        "--permission", action="append", default=[], metavar="CODE", help="Granted in the token; repeatable."
    )
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        type=_identifier,
        help="Held in the token, such as signal-operator; repeatable.",
    )
    parser.add_argument(
        "--ttl",
        type=_whole(1, LONGEST_TTL_S),
        default=3600,
        metavar="SECONDS",
        help="How long it holds (default: 3600).",
    )
    _settings(parser, "data_dir", "jwks_url")


def _members(commands: argparse._SubParsersAction[Parser]) -> None:
    members = _add(commands, "members", "say who belongs where, and who may do what")
    verbs = members.add_subparsers(dest="verb", metavar="load", required=True, parser_class=Parser)
    parser = verbs.add_parser(
        "load",
        help="add or update what a file says",
        description="Add or update organizers, memberships and grants. Safe to repeat; removes nothing.",
        epilog="the file:\n"
        '  {"organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]}],\n'
        '   "members":    [{"userId": "u1", "organizerId": "o1", "merchantId": "m1",\n'
        '                   "role": "staff", "locale": "en"}],\n'
        '   "grants":     [{"userId": "op", "role": "signal-operator"}]}\n'
        "or CSV with the header userId,organizerId,merchantId,role,locale",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="JSON or CSV; - reads standard input.")
    _settings(parser, "data_dir", "database_url")


def _dead_letters(commands: argparse._SubParsersAction[Parser]) -> None:
    letters = _add(
        commands,
        "dead-letters",
        "look at what could not be handled, and handle it again",
        "  nx-signal dead-letters list\n"
        "  nx-signal dead-letters show 132452764876836864 | jq .value\n"
        "  nx-signal dead-letters replay 132452764876836864",
    )
    verbs = letters.add_subparsers(
        dest="verb", metavar="list|show|replay|discard", required=True, parser_class=Parser
    )
    replay = (
        "handle one again, as its first success would have been; works on the store itself, so clients that "
        "are connected learn of the notifications by the servers' next sweep (APP_ENV_SWEEP_S)"
    )
    list_ = _add(verbs, "list", "print id, time, position and error of each, newest first")
    list_.add_argument(
        "--limit", type=_whole(1, 1_000_000), default=100, metavar="N", help="At most N (default: 100)."
    )
    _settings(list_, "data_dir", "database_url")
    for name, help, more in (
        ("show", "print one as JSON; a value that is no UTF-8 in base64", ()),
        ("replay", replay, ("time_zone",)),
        ("discard", "throw one away", ()),
    ):
        parser = _add(verbs, name, help)
        parser.add_argument("id", metavar="ID", type=_whole(1, 2**63 - 1), help="As the list shows it.")
        _settings(parser, "data_dir", "database_url", *more)


def _publish(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "publish",
        "send activities: to a server, or to Kafka",
        "  nx-signal publish payment.json\n"
        "  generate | nx-signal publish - --url http://10.0.0.5:31090 --token TOKEN\n"
        "  nx-signal publish day.ndjson --kafka-bootstrap-servers broker:9092",
    )
    parser.add_argument(
        "file", metavar="FILE", help="One message, a list, or one message a line; - reads standard input."
    )
    parser.add_argument("--url", help="The server (default: http://127.0.0.1 and the port of the settings).")
    parser.add_argument("--token", help="Instead of one of the embedded issuer of the data directory.")
    _settings(
        parser,
        *("kafka_bootstrap_servers", "kafka_topic", "kafka_security_protocol", "kafka_sasl_mechanism"),
        *("kafka_sasl_username", "kafka_sasl_password", "kafka_ssl_cafile", "data_dir", "port", "jwks_url"),
    )


def _listen(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "listen",
        "print what a user gets, one JSON a line, until stopped",
        "  nx-signal listen --user u1\n"
        "  nx-signal listen --user u1 --resume 41 | jq .data.content\n"
        "  nx-signal listen --user u1 --url wss://signal.example.com --token TOKEN",
    )
    parser.add_argument("--user", required=True, type=_identifier, help="Whose notifications.")
    parser.add_argument("--url", help="The stream (default: ws://127.0.0.1 and the port of the settings).")
    parser.add_argument("--token", help="Instead of one of the embedded issuer of the data directory.")
    parser.add_argument(
        "--resume",
        type=_whole(0, 2**63 - 1),
        metavar="REV",
        help="First print what changed after this revision; 0 for all.",
    )
    parser.add_argument(
        "--count", type=_whole(1, 2**31), metavar="N", help="Stop after N lines, with status 0."
    )
    parser.add_argument(
        "--no-reconnect",
        dest="reconnect",
        action="store_false",
        help="Fail when the connection is lost, instead of coming back and resuming.",
    )
    _settings(parser, "data_dir", "port", "jwks_url")


def _demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "demo",
        "show it: a server, a small shop, five people and what reaches them",
        "  nx-signal demo\n  nx-signal demo --seconds 10",
    )
    parser.add_argument(
        "--seconds", type=_whole(1, 86_400), metavar="N", help="Stop after N seconds, with status 0."
    )
    parser.add_argument("--host", help="Address to listen on (default: 127.0.0.1).")
    parser.add_argument("--port", default="0", help="TCP port (default: any free one).")
    parser.add_argument("--data-dir", help="Keep the data there (default: a directory that goes away).")


def _settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """A flag for each of these fields of Settings, with its help and variable. Text only: Settings parses."""
    group = parser.add_argument_group("settings", "each is also the variable named beside it; the flag wins")
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    for name in names:
        field = fields[name]
        if field.default_factory is not dataclasses.MISSING:
            default = "~/.local/share/nx-signal"
        elif isinstance(field.default, tuple):
            default = ",".join(field.default)
        else:
            default = "" if field.default is None else str(field.default)
        told = f"; default: {default}" if default else ""
        text = f"{field.metadata['help']} [{field.metadata['env']}{told}]"
        group.add_argument(flag_of(name), dest=name, metavar=_metavar(name), help=text.replace("%", "%%"))


def _metavar(field_name: str) -> str:
    last = field_name.rpartition("_")[2]
    return {"s": "SECONDS", "ms": "MILLISECONDS"}.get(last, last.upper())


def _identifier(text: str) -> str:
    if not 0 < len(text) <= MAX_ID_CHARS or not text.isprintable():
        raise argparse.ArgumentTypeError(f"it takes 1 to {MAX_ID_CHARS} printable characters")
    return text


class _whole:
    """A whole number within bounds, as an option's type."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and self._low <= int(text) <= self._high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {self._low} to {self._high}")
