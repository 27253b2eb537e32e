"""A client of `/events` (CONTRACT §1, Server-Sent Events).

async with open_events("http://127.0.0.1:31090", token) as events:
    while True:
        event = await events.receive()
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

import h11
import httpx
import msgspec
import trio

from nx_signal.client.http import tls_for
from nx_signal.client.rest import RestUnavailable, error_of
from nx_signal.client.websocket import READ_BYTES, open_connection, split_url
from nx_signal.model import Json
from nx_signal.model.json import decode_json

CONNECT_S = 10.0
QUIET_S = 60.0
"""The server sends a comment within 25 s."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id`: of the last one that had any, to resume from. None before there was one."""

    event: str
    data: Json
    id: str | None


class EventParser:
    """Bytes to events (WHATWG HTML §9.2.6). Lines end as this server ends them, in LF."""

    def __init__(self, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        """of the last whole event: to resume from"""
        self.retry_ms: int | None = None
        self.comments = 0
        self._rest = b""
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, received: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [event for line in lines if (event := self._line(line.decode())) is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            self.comments += 1
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        elif name == "retry":
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> Event | None:
        name, data, self._event, self._data = self._event, self._data, "", []
        self.last_event_id = self._id
        return Event(name or "message", decode_json("\n".join(data)), self.last_event_id) if data else None


class Events:
    """An open stream. Obtain by `open_events`."""

    def __init__(self, tcp: trio.abc.Stream, url: str, last_event_id: str | None) -> None:
        self._tcp = tcp
        self._url = url
        self._http = h11.Connection(h11.CLIENT)
        self._waiting: deque[Event] = deque()
        self.parser = EventParser(last_event_id)

    async def open(self, host: str, target: str, headers: Sequence[tuple[str, str]]) -> None:
        """Raises RestRefused, RestUnavailable."""
        request = h11.Request(method="GET", target=target, headers=[("Host", host), *headers])
        await self._tcp.send_all(
            (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        )
        answer = await self._next()
        if not isinstance(answer, h11.Response):
            raise RestUnavailable(f"{self._url} closed the connection.")
        if answer.status_code != 200:
            body = b""
            while isinstance(data := await self._next(), h11.Data):
                body += data.data
            raise error_of(
                httpx.Response(answer.status_code, headers=list(answer.headers), content=body), self._url
            )

    async def receive(self) -> Event:
        """The next event. Raises RestUnavailable once the server ends the stream, or cannot be reached."""
        while not self._waiting:
            data = await self._next()
            if not isinstance(data, h11.Data):
                raise RestUnavailable(f"{self._url} ended the stream.")
            try:
                self._waiting += self.parser.feed(bytes(data.data))
            except (msgspec.DecodeError, ValueError) as error:
                raise RestUnavailable(f"{self._url} sent what is no event: {error}") from None
        await trio.lowlevel.checkpoint()
        return self._waiting.popleft()

    async def _next(self) -> h11.Event:
        try:
            while not isinstance(event := self._http.next_event(), h11.Event):
                with trio.fail_after(QUIET_S):
                    self._http.receive_data(bytes(await self._tcp.receive_some(READ_BYTES)))
        except (trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError) as error:
            why = str(error) or "it was quiet for too long"
            raise RestUnavailable(f"{self._url} is not read any more: {why}") from None
        return event


@asynccontextmanager
async def open_events(
    url: str,
    token: str,
    *,
    scheme: Literal["Bearer", "Ticket"] = "Bearer",
    last_event_id: str | None = None,
    rooms: Sequence[str] = (),
) -> AsyncIterator[Events]:
    """`url`: http://host:port, and a path before `/events` where there is one. `scheme` `Ticket`: `token` is
    a ticket. `last_event_id`: what came after it is first. Raises RestRefused, RestUnavailable,
    SettingsError."""
    headers, query = [("Accept", "text/event-stream")], {}
    if rooms:
        query["rooms"] = ",".join(rooms)
    if scheme == "Ticket":
        query["ticket"] = token
    else:
        headers.append(("Authorization", f"Bearer {token}"))
    secure, host, port, path = split_url(f"{url.replace('http', 'ws', 1)}/events")
    if last_event_id is not None:
        headers.append(("Last-Event-ID", last_event_id))
    try:
        with trio.fail_after(CONNECT_S):
            tcp = await open_connection(secure, host, port, tls_for(url))
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        why = str(error) or type(error).__name__
        raise RestUnavailable(f"{url} cannot be reached: {why}") from None
    try:
        events = Events(tcp, url, last_event_id)
        shown = f"[{host}]" if ":" in host else host
        await events.open(f"{shown}:{port}", f"{path}?{urlencode(query)}", headers)
        yield events
    finally:
        await trio.aclose_forcefully(tcp)
