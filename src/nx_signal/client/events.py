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

import httpx
import msgspec

from nx_signal.client.http import http_client
from nx_signal.client.rest import RestUnavailable, error_of
from nx_signal.model import Json
from nx_signal.model.json import decode_json

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
        self.retry_ms: int | None = None
        self.comments = 0
        self._rest = b""
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
            self.last_event_id = value
        elif name == "retry":
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> Event | None:
        name, data, self._event, self._data = self._event, self._data, "", []
        return Event(name or "message", decode_json("\n".join(data)), self.last_event_id) if data else None


class Events:
    """An open stream. Obtain by `open_events`."""

    def __init__(self, received: AsyncIterator[bytes], url: str, last_event_id: str | None) -> None:
        self._received = received
        self._url = url
        self._waiting: deque[Event] = deque()
        self.parser = EventParser(last_event_id)

    async def receive(self) -> Event:
        """The next event. Raises RestUnavailable once the server ends the stream, or cannot be reached."""
        while not self._waiting:
            try:
                self._waiting += self.parser.feed(await anext(self._received))
            except StopAsyncIteration:
                raise RestUnavailable(f"{self._url} ended the stream.") from None
            except (httpx.RequestError, msgspec.DecodeError, ValueError) as error:
                why = str(error) or type(error).__name__
                raise RestUnavailable(f"{self._url} is not read any more: {why}") from None
        return self._waiting.popleft()


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
    headers = {"Accept": "text/event-stream"}
    query = {"rooms": ",".join(rooms)} if rooms else {}
    if scheme == "Ticket":
        query["ticket"] = token
    else:
        headers["Authorization"] = f"Bearer {token}"
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    async with http_client(url, QUIET_S, headers=headers) as http:
        try:
            request = http.build_request("GET", "/events", params=query)
            answer = await http.send(request, stream=True)
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise RestUnavailable(f"{url} cannot be reached: {why}") from None
        try:
            if not answer.is_success:
                await answer.aread()
                raise error_of(answer, url)
            yield Events(answer.aiter_raw(), url, last_event_id)
        finally:
            await answer.aclose()
