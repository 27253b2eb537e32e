"""`nx-signal`: run one command and report how it ended (CONTRACT §6).

Exit status 0 done, 1 failed, 2 bad usage or settings. A command's imports are inside `_run`, so that
`--help` and `token` are fast."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from nx_signal.cli.arguments import MISUSED
from nx_signal.cli.environment import settle_environment, settle_output
from nx_signal.cli.options import build_parser
from nx_signal.config import Settings
from nx_signal.errors import Fatal, SignalError, is_out_of_memory
from nx_signal.model.terminal import visible_lines
from nx_signal.telemetry.redaction import redacted

DONE, FAILED, INTERRUPTED = 0, 1, 130

UNTIL_STOPPED = frozenset({"serve", "listen", "demo"})
"""Commands whose ordinary end is Ctrl-C."""


def entry() -> NoReturn:
    """The console script."""
    settle_environment(os.environ)
    settle_output()
    status = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status. An expected error is printed as one sentence on stderr."""
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
    # The demo is self-contained: variables that name real services do not apply to it.
    demo_only = {"APP_ENV_EMBEDDED_ISSUER": "always"} if options.command == "demo" else None
    settings = Settings.load(flags, demo_only)
    if options.command not in ("serve", "token"):
        from nx_signal.telemetry.logs import configure_logs

        configure_logs("error", settings.log_format)  # the command itself reports what happened
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
            _members(settings, options)
        case "publish":
            from nx_signal.cli import publish

            publish.run(settings, options.file, options.url, options.token, options.strict)
        case "listen":
            from nx_signal.cli import listen

            listen.run(
                settings,
                options.user,
                options.url,
                token=options.token,
                resume=listen.ResumeFrom(options.resume, options.history),
                count=options.count,
                reconnect=options.reconnect,
                trust=listen.Trust(options.stream_version, options.server_key),
            )
        case "explain":
            from nx_signal.cli import explain

            explain.run(
                settings,
                options.event,
                options.recipient,
                options.source,
                options.since,
                options.until,
                options.limit,
                options.url,
                options.token,
                as_json=options.json,
            )
        case "dead-letters":
            from nx_signal.cli import dead_letters

            dead_letters.run(settings, options.verb, getattr(options, "id", 0), getattr(options, "limit", 0))
        case "demo":
            from nx_signal.cli import demo

            demo.run(settings, keeps_data=options.data_dir is not None, seconds=options.seconds)


def _members(settings: Settings, options: argparse.Namespace) -> None:
    from nx_signal.cli import members
    from nx_signal.model import Holding

    if options.verb == "load":
        return members.load(settings, options.file, replace=options.replace, dry_run=options.dry_run)
    where = Holding(options.user, options.organizer, options.merchant, options.role, options.permission)
    if options.verb == "list":
        return members.list_(settings, where, grants=options.grants)
    return members.remove(settings, where, dry_run=options.dry_run)


OUT_OF_MEMORY = (
    "This process is out of memory, or of threads, and ends; what it had accepted is kept. "
    "Start it again, with a higher limit."
)


def _ended(command: str, error: BaseException) -> int:
    """Report an error in one sentence; only an unexpected one keeps its traceback."""
    leaves = _leaves(error)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return DONE if command in UNTIL_STOPPED else INTERRUPTED
    if command != "serve" and any(isinstance(leaf, BrokenPipeError) for leaf in leaves):
        # the reader of the output has exited
        _discard_stdout()
        return DONE
    if any(map(is_out_of_memory, leaves)):
        print(f"nx-signal {command}: {OUT_OF_MEMORY}", file=sys.stderr)
        return FAILED
    known = _expected(leaves)
    if known is None:
        from nx_signal.telemetry.logs import shown_error

        print(shown_error(error), end="", file=sys.stderr)
        return FAILED
    print(f"nx-signal {command}: {visible_lines(redacted(str(known)))}", file=sys.stderr)
    return known.exit_status if isinstance(known, Fatal) else FAILED


def _expected(leaves: Sequence[BaseException]) -> SignalError | OSError | None:
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


def _discard_stdout() -> None:
    """The output is no longer read: discard what the last flush at exit writes."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
