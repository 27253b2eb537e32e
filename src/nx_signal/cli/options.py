"""The commands and options of `nx-signal` (CONTRACT §6)."""

from __future__ import annotations

import argparse
import dataclasses

from nx_signal import __version__
from nx_signal.cli.arguments import (
    Parser,
    PrintCompletion,
    WholeNumber,
    file_argument,
    identifier,
    server_key,
    settings_flags,
)
from nx_signal.config import Settings

MAX_TTL_S = 366 * 24 * 3600


EPILOG = """\
start here:
  nx-signal demo                              a server and a small shop, in one terminal
  nx-signal serve                             a server with everything embedded, on port 31090
  nx-signal members load shop.json            load memberships
  nx-signal listen --user u1                  print what u1 receives
  nx-signal publish payment.json              send an activity

Every flag of serve is also a variable APP_ENV_*; a flag wins.
Exit status: 0 done, 1 failed, 2 bad usage or settings."""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nx-signal",
        description="In-app notifications in real time, never lost: the server and its tools.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nx-signal {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh"),
        help="print a completion script for this shell, and exit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    _serve(commands)
    _demo(commands)
    _token(commands)
    _members(commands)
    _publish(commands)
    _listen(commands)
    _explain(commands)
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
    settings_flags(parser, *(field.name for field in dataclasses.fields(Settings)))


def _migrate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "migrate",
        "bring the database's schema up to this release; safe to repeat",
        "  nx-signal migrate --database-url postgresql://signal@db/signal",
    )
    settings_flags(parser, "database_url", "database_schema", "data_dir")


def _audit(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "audit",
        "compare every inbox's counts and revisions with its rows; changes nothing",
        "  nx-signal audit\n  nx-signal audit --database-url postgresql://signal@db/signal || echo drift",
    )
    settings_flags(parser, "database_url", "database_schema", "data_dir")


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
    parser.add_argument("--user", required=True, type=identifier, help="The user whose token it is.")
    parser.add_argument(
        "--permission", action="append", default=[], metavar="CODE", help="Granted in the token; repeatable."
    )
    parser.add_argument(
        "--role",
        action="append",
        default=[],
        type=identifier,
        help="Granted in the token, such as signal-operator; repeatable.",
    )
    parser.add_argument(
        "--ttl",
        type=WholeNumber(1, MAX_TTL_S),
        default=3600,
        metavar="SECONDS",
        help="How long it is valid (default: 3600).",
    )
    settings_flags(parser, "data_dir", "jwks_url")


def _members(commands: argparse._SubParsersAction[Parser]) -> None:
    members = _add(
        commands,
        "members",
        "load, list and remove memberships and grants",
        "  nx-signal members load shop.json\n"
        "  nx-signal members load shop.json --replace --dry-run\n"
        "  nx-signal members list --organizer o1 > o1.csv\n"
        "  nx-signal members remove --user u1 --merchant m1\n"
        "  nx-signal members remove --user op --role signal-operator",
    )
    verbs = members.add_subparsers(
        dest="verb", metavar="load|list|remove", required=True, parser_class=Parser
    )
    load = _add(
        verbs,
        "load",
        "add or update what a file holds; safe to repeat, removes nothing without --replace",
        '  {"organizers": [{"id": "o1", "locale": "vi", "merchants": ["m1", "m2"]}],\n'
        '   "members":    [{"userId": "u1", "organizerId": "o1", "merchantId": "m1",\n'
        '                   "role": "staff", "locale": "en"}],\n'
        '   "grants":     [{"userId": "op", "role": "signal-operator"}]}\n'
        "or CSV with the header userId,organizerId,merchantId,role,locale",
    )
    file_argument(load, "JSON or CSV; - reads standard input.")
    load.add_argument(
        "--replace",
        action="store_true",
        help="Also remove what the file no longer lists: of each organizer that it names, the memberships in "
        "it and in its merchants; where it lists grants, those of Signal's permissions, of signal-operator "
        "and of the roles that it grants. All in one transaction.",
    )
    _dry_run(load)
    settings_flags(load, "data_dir", "database_url", "database_schema")
    list_ = _add(verbs, "list", "print memberships as CSV, in the form that load takes")
    list_.add_argument("--grants", action="store_true", help="Print the grants instead.")
    _holding(list_)
    settings_flags(list_, "data_dir", "database_url", "database_schema")
    remove = _add(
        verbs,
        "remove",
        "take away memberships and grants: all for which everything given here holds",
        "  nx-signal members remove --user u1                          all that u1 has\n"
        "  nx-signal members remove --user u1 --organizer o1           in o1 and in its merchants\n"
        "  nx-signal members remove --user u1 --permission Activity.publish",
    )
    _holding(remove)
    _dry_run(remove)
    settings_flags(remove, "data_dir", "database_url", "database_schema")


def _holding(parser: argparse.ArgumentParser) -> None:
    for name, help in (
        ("user", "Of this user."),
        ("organizer", "Memberships in this organization and in its merchants."),
        ("merchant", "Memberships in this merchant."),
        ("role", "With this role."),
        ("permission", "Grants of this permission."),
    ):
        parser.add_argument(
            f"--{name}", type=identifier, metavar="ID" if name != "role" else "ROLE", help=help
        )


def _dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only print what would be removed.")


def _explain(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "explain",
        "print what was done with an activity, or what a person received and what not",
        "  nx-signal explain payment-42 --recipient ann\n"
        "  nx-signal explain --recipient ann --since 2h\n"
        "  nx-signal explain payment-42 --url http://127.0.0.1:31090      also which clients got it",
    )
    parser.add_argument(
        "event",
        nargs="?",
        metavar="EVENT",
        help="Its eventId, position or activityId.",
    )
    parser.add_argument("--recipient", type=identifier, metavar="USER", help="For this user.")
    parser.add_argument("--source", type=identifier, help="The event's source, where several have this id.")
    parser.add_argument("--since", metavar="TIME", help="ISO 8601, or how long ago: 90m, 2h, 3d.")
    parser.add_argument("--until", metavar="TIME", help="The same (default: now).")
    parser.add_argument(
        "--limit", type=WholeNumber(1, 50), default=20, metavar="N", help="At most N of each (default: 20)."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--url", help="Ask this server, also of connected clients (default: read the store).")
    parser.add_argument("--token", help="Instead of one of the embedded issuer of the data directory.")
    settings_flags(parser, "data_dir", "database_url", "database_schema", "jwks_url")


def _dead_letters(commands: argparse._SubParsersAction[Parser]) -> None:
    dead_letters = _add(
        commands,
        "dead-letters",
        "inspect activities that could not be processed, and replay them",
        "  nx-signal dead-letters list\n"
        "  nx-signal dead-letters show 132452764876836864 | jq .value\n"
        "  nx-signal dead-letters replay 132452764876836864",
    )
    verbs = dead_letters.add_subparsers(
        dest="verb", metavar="list|show|replay|discard", required=True, parser_class=Parser
    )
    replay = (
        "process one again; it writes to the store directly, so connected clients receive the "
        "notifications at the servers' next sweep (APP_ENV_SWEEP_S)"
    )
    list_ = _add(verbs, "list", "print the id, time, position and error of each, newest first")
    list_.add_argument(
        "--limit", type=WholeNumber(1, 1_000_000), default=100, metavar="N", help="At most N (default: 100)."
    )
    settings_flags(list_, "data_dir", "database_url", "database_schema")
    for name, help, more in (
        ("show", "print one as JSON; a value that is not UTF-8 is in base64", ()),
        ("replay", replay, ("time_zone",)),
        ("discard", "delete one", ()),
    ):
        parser = _add(verbs, name, help)
        parser.add_argument("id", metavar="ID", type=WholeNumber(1, 2**63 - 1), help="As the list shows it.")
        settings_flags(parser, "data_dir", "database_url", "database_schema", *more)


def _publish(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "publish",
        "send activities: to a server, or to Kafka",
        "  nx-signal publish payment.json\n"
        "  generate | nx-signal publish - --url http://10.0.0.5:31090 --token TOKEN\n"
        "  nx-signal publish day.ndjson --kafka-bootstrap-servers broker:9092",
    )
    file_argument(parser, "One message, a list, or one message a line; - reads standard input.")
    parser.add_argument("--strict", action="store_true", help="Refuse event types that are not known.")
    parser.add_argument("--url", help="The server (default: http://127.0.0.1 and the port of the settings).")
    parser.add_argument("--token", help="Instead of one of the embedded issuer of the data directory.")
    settings_flags(
        parser,
        *("kafka_bootstrap_servers", "kafka_topic", "kafka_security_protocol", "kafka_sasl_mechanism"),
        *("kafka_sasl_username", "kafka_sasl_password", "kafka_ssl_cafile", "data_dir", "port", "jwks_url"),
    )


def _listen(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "listen",
        "print the frames that a user receives, one JSON object per line, until stopped",
        "  nx-signal listen --user u1\n"
        "  nx-signal listen --user u1 --resume 41 | jq .data.content\n"
        "  nx-signal listen --user u1 --url wss://signal.example.com --token TOKEN",
    )
    parser.add_argument("--user", required=True, type=identifier, help="The user to print for.")
    parser.add_argument("--url", help="The stream (default: ws://127.0.0.1 and the port of the settings).")
    parser.add_argument("--token", help="Instead of one of the embedded issuer of the data directory.")
    parser.add_argument(
        "--resume",
        type=WholeNumber(0, 2**63 - 1),
        metavar="REV",
        help="First print what changed after this revision; 0 for all.",
    )
    parser.add_argument(
        "--history",
        help="The `history` of the frame with that revision: so a restored store is noticed.",
    )
    parser.add_argument(
        "--count", type=WholeNumber(1, 2**31), metavar="N", help="Stop after N lines, with status 0."
    )
    parser.add_argument(
        "--no-reconnect",
        dest="reconnect",
        action="store_false",
        help="Fail when the connection is lost, instead of coming back and resuming.",
    )
    parser.add_argument(
        "--stream-version",
        type=int,
        choices=(1, 2),
        default=2,
        help="Of the stream's cryptography (default: 2); the server may be of a release that has 1 alone.",
    )
    parser.add_argument(
        "--server-key",
        type=server_key,
        metavar="X",
        help="The key that the server has to prove, as `x` in its JWK (default: those that it publishes).",
    )
    settings_flags(parser, "data_dir", "port", "jwks_url")


def _demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _add(
        commands,
        "demo",
        "run a server with a small shop, five users and the notifications they receive",
        "  nx-signal demo\n  nx-signal demo --seconds 10",
    )
    parser.add_argument(
        "--seconds", type=WholeNumber(1, 86_400), metavar="N", help="Stop after N seconds, with status 0."
    )
    parser.add_argument("--host", help="Address to listen on (default: 127.0.0.1).")
    parser.add_argument("--port", default="0", help="TCP port (default: any free one).")
    parser.add_argument("--data-dir", help="Keep the data there (default: a temporary directory).")
