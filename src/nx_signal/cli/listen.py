"""`nx-signal listen`: a user's stream as JSON lines, over reconnects without a gap."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

import msgspec
import trio

from nx_signal.cli.token import mint
from nx_signal.client.rest import open_rest
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
from nx_signal.errors import SignalError
from nx_signal.stream.protocol import AUTHENTICATION_FAILED, ENCRYPTION_REQUIRED
from nx_signal.stream.topics import GOAWAY, STATE
from nx_signal.supervise import Backoff

TOKEN_TTL_S = 3600
LONGEST_PAUSE_S = 15.0
LOOK_TIMEOUT_S = 5.0
STDOUT = 1
HOPELESS = frozenset({ENCRYPTION_REQUIRED[0], PROTOCOL_ERROR})
"""Refusals that the same client would meet again."""


class ListenFailed(SignalError):
    """Trying again with the same token would end the same way."""


def run(
    settings: Settings,
    user: str,
    url: str | None,
    *,
    token: str | None,
    resume: int | None,
    count: int | None,
    reconnect: bool,
) -> None:
    """Print until signalled, or until `count` lines are out."""
    url = url or f"ws://127.0.0.1:{settings.port}/stream"
    split_url(url)

    def token_of() -> str:
        return token or mint(
            settings, user, ttl_s=TOKEN_TTL_S, instead="pass one of that issuer with --token"
        )

    token_of()  # a wrong setting shows before the first connection does
    listener = Listener(url, token_of, resume, count, reconnect)
    trio.run(listener.run)


class Listener:
    """Prints frames. `_rev` is the last revision that was printed, or known when listening began."""

    def __init__(
        self, url: str, token_of: Callable[[], str], resume: int | None, count: int | None, reconnect: bool
    ) -> None:
        self._url = url
        self._token_of = token_of
        self._rev = resume
        self._asked_unprompted = False
        self._left = count
        self._reconnect = reconnect
        self._backoff = Backoff(longest_s=LONGEST_PAUSE_S)
        self._pause_s = 0.0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_signal, nursery.cancel_scope)
            if self._rev is None and self._reconnect:
                await self._look()
            await self._listen()
            nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        """Where the inbox stands now: a reconnect before the first frame then misses nothing either."""
        parts = urlsplit(self._url)
        base = urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "", "", ""))
        try:
            async with open_rest(base, self._token_of(), timeout_s=LOOK_TIMEOUT_S) as rest:
                self._rev = (await rest.count()).rev
                self._asked_unprompted = True
        except SignalError:
            pass  # then from the connection on

    async def _listen(self) -> None:
        while True:
            try:
                async with open_stream(self._url, self._token_of(), resume=self._rev) as stream:
                    _say(f"connected to {self._url} as client {stream.client_id}")
                    self._backoff.reset()
                    await self._print_all(stream)
                    return
            except HandshakeRefused as error:
                if error.code == AUTHENTICATION_FAILED[0]:
                    hint = "Pass that server's --data-dir, or a --token that it takes."
                    raise ListenFailed(f"{error} {hint}") from None
                if error.code in HOPELESS or not self._reconnect:
                    raise
                _say(f"{error} Trying again.")
            except (StreamClosed, StreamUnavailable) as error:
                if not self._reconnect:
                    raise
                _say(f"{error} Trying again.")
            await trio.sleep(self._pause_s)
            self._pause_s = 0.0
            await self._backoff.pause()

    async def _print_all(self, stream: Stream) -> None:
        while self._left is None or self._left > 0:
            frame = await stream.receive()
            if frame.event == GOAWAY:
                self._pause_s = _retry_after_s(frame)
            if not self._is_own_question(frame):
                await _print(frame)
                if self._left is not None:
                    self._left -= 1
            if stream.rev is not None:
                self._rev = stream.rev

    def _is_own_question(self, frame: Frame) -> bool:
        """The answer to the resume that nobody asked for, when it says nothing new."""
        if frame.event != STATE or not self._asked_unprompted:
            return False
        self._asked_unprompted = False
        return isinstance(frame.data, dict) and not frame.data.get("reset")


def _retry_after_s(frame: Frame) -> float:
    after_ms = frame.data.get("retryAfterMs") if isinstance(frame.data, dict) else None
    return min(after_ms / 1000, LONGEST_PAUSE_S) if type(after_ms) is int and after_ms > 0 else 0.0


async def _print(frame: Frame) -> None:
    """One line, at once. In a thread: a reader that stalls must not stall heartbeats and signals."""
    line = msgspec.json.encode({"event": frame.event, "data": frame.data}) + b"\n"
    await trio.to_thread.run_sync(_write, line, abandon_on_cancel=True)


def _write(line: bytes) -> None:
    while line:
        line = line[os.write(STDOUT, line) :]


def _say(sentence: str) -> None:
    print(f"nx-signal listen: {sentence}", file=sys.stderr, flush=True)


async def _cancel_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
