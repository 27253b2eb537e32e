"""`nx-signal listen`: a user's stream as JSON lines, over reconnects without a gap."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import msgspec
import trio

from nx_signal.cli.token import mint
from nx_signal.client.http import is_exposed
from nx_signal.client.rest import open_rest
from nx_signal.client.server_keys import rest_of
from nx_signal.client.stream import (
    Frame,
    HandshakeRefused,
    Stream,
    StreamClosed,
    StreamUnavailable,
    open_stream,
)
from nx_signal.client.websocket import PROTOCOL_ERROR, split_url
from nx_signal.config import Settings
from nx_signal.delivery.topics import GOAWAY, STATE
from nx_signal.errors import SignalError
from nx_signal.model.terminal import visible, visible_json
from nx_signal.supervise import Backoff
from nx_signal.telemetry.redaction import redacted
from nx_signal.websocket.channel import VERSION
from nx_signal.websocket.protocol import AUTHENTICATION_FAILED, ENCRYPTION_REQUIRED

TOKEN_TTL_S = 3600
MAX_PAUSE_S = 15.0
REVISION_TIMEOUT_S = 5.0
STDOUT = 1
EXPOSED = (
    "without TLS a machine between here and the server can pretend to be it, and read the token: use wss://, "
    "or pin the server's key with --server-key.",
    "without TLS the number, size and time of the messages show; their contents are sealed to the key given.",
)
"""Warnings, without and with a key that is pinned."""
NOT_RETRIED = frozenset({ENCRYPTION_REQUIRED[0], PROTOCOL_ERROR})
"""Close codes after which a retry is useless."""


class ResumeFrom(NamedTuple):
    """As in CONTRACT §1: a revision, and its `history` where that is known. None: no revision is known."""

    rev: int | None
    history: str | None = None


class Trust(NamedTuple):
    """The version of the stream's cryptography, and the key that the server has to prove on version 2; None:
    one of those that it publishes."""

    version: int = VERSION
    server_key: bytes | None = None


class ListenFailed(SignalError):
    """A retry with the same token would fail in the same way."""


def run(
    settings: Settings,
    user: str,
    url: str | None,
    *,
    token: str | None,
    resume: ResumeFrom,
    count: int | None,
    reconnect: bool,
    trust: Trust,
) -> None:
    """Print until signalled, or until `count` lines are out."""
    url = url or f"ws://127.0.0.1:{settings.port}/stream"
    split_url(url)

    def token_of() -> str:
        return token or mint(
            settings, user, ttl_s=TOKEN_TTL_S, instead="pass one of that issuer with --token"
        )

    token_of()  # reports a wrong setting before the first connection
    if is_exposed(url):
        _report(EXPOSED[trust.version == VERSION and trust.server_key is not None])
    listener = Listener(url, token_of, resume, count, reconnect, trust)
    trio.run(listener.run)


class Listener:
    """Prints frames. `_from` is the last revision that was printed, or known when listening began."""

    def __init__(
        self,
        url: str,
        token_of: Callable[[], str],
        resume: ResumeFrom,
        count: int | None,
        reconnect: bool,
        trust: Trust,
    ) -> None:
        self._url = url
        self._token_of = token_of
        self._from = resume
        self._resumes_automatically = False
        self._left = count
        self._reconnect = reconnect
        self._trust = trust
        self._backoff = Backoff(longest_s=MAX_PAUSE_S)
        self._pause_s = 0.0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, nursery.cancel_scope)
            if self._from.rev is None and self._reconnect and not is_exposed(self._url):
                await self._read_revision()
            await self._listen()
            nursery.cancel_scope.cancel()

    async def _read_revision(self) -> None:
        """Start from the current revision: a reconnect before the first frame then misses nothing. The token
        goes over HTTP for that."""
        try:
            async with open_rest(rest_of(self._url), self._token_of(), timeout_s=REVISION_TIMEOUT_S) as rest:
                counted = await rest.count()
                self._from = ResumeFrom(counted.rev, counted.history)
                self._resumes_automatically = True
        except SignalError:
            pass  # then the revision is unknown until the first frame

    async def _listen(self) -> None:
        while True:
            try:
                rev, history = self._from
                async with self._open(rev, history) as stream:
                    _report(f"connected to {self._url} as client {stream.client_id}")
                    self._backoff.reset()
                    await self._print_all(stream)
                    return
            except HandshakeRefused as error:
                if error.code == AUTHENTICATION_FAILED[0]:
                    hint = "Pass that server's --data-dir, or a --token that it accepts."
                    raise ListenFailed(f"{error} {hint}") from None
                if error.code in NOT_RETRIED or not self._reconnect:
                    raise
                _report(f"{error} Trying again.")
            except (StreamClosed, StreamUnavailable) as error:
                if not self._reconnect:
                    raise
                _report(f"{error} Trying again.")
            await trio.sleep(self._pause_s)
            self._pause_s = 0.0
            await self._backoff.pause()

    def _open(self, rev: int | None, history: str | None) -> AbstractAsyncContextManager[Stream]:
        version, key = self._trust
        return open_stream(
            self._url,
            self._token_of(),
            resume=rev,
            history=history,
            version=version,
            server_keys=None if key is None else (key,),
        )

    async def _print_all(self, stream: Stream) -> None:
        while self._left is None or self._left > 0:
            frame = await stream.receive()
            if frame.event == GOAWAY:
                self._pause_s = _retry_after_s(frame)
            if not self._is_automatic_state(frame):
                await _print(frame)
                if self._left is not None:
                    self._left -= 1
            if stream.rev is not None:
                self._from = ResumeFrom(stream.rev, stream.history)

    def _is_automatic_state(self, frame: Frame) -> bool:
        """The state frame that answers the automatic resume, when it holds nothing new."""
        if frame.event != STATE or not self._resumes_automatically:
            return False
        self._resumes_automatically = False
        return isinstance(frame.data, dict) and not frame.data.get("reset")


def _retry_after_s(frame: Frame) -> float:
    after_ms = frame.data.get("retryAfterMs") if isinstance(frame.data, dict) else None
    return min(after_ms / 1000, MAX_PAUSE_S) if type(after_ms) is int and after_ms > 0 else 0.0


async def _print(frame: Frame) -> None:
    """One line, at once. In a thread: a reader that stalls must not stall heartbeats and signals."""
    line = visible_json(msgspec.json.encode({"event": frame.event, "data": frame.data}).decode())
    await trio.to_thread.run_sync(_write, line.encode() + b"\n", abandon_on_cancel=True)


def _write(line: bytes) -> None:
    while line:
        line = line[os.write(STDOUT, line) :]


def _report(sentence: str) -> None:
    print(f"nx-signal listen: {visible(redacted(sentence))}", file=sys.stderr, flush=True)


async def _cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
