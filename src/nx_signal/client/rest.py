"""A client of the REST API (CONTRACT §4): one user's inbox, and publishing activities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from nx_signal.client.http import http_client
from nx_signal.errors import SignalError, Unavailable
from nx_signal.model import Json, Mark, Priority, wire
from nx_signal.model.json import decode_json

BASE = "/v1/api/signal"
TIMEOUT_S = 30.0

T = TypeVar("T")


class RestRefused(SignalError):
    """The server answers with an error that a retry does not help (RFC 9457: `code`, `detail`)."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"The server refuses with HTTP status {status} ({code}): {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class RestUnavailable(Unavailable):
    """The server cannot be reached, or answers that it is not ready; `retry_after_s` where it states one."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Notification(wire.Notification, frozen=True, rename="camel", kw_only=True):
    activity_id: str = ""
    """empty from a server of a release that does not state it"""
    priority: Priority = "normal"
    expires_at: wire.Time | None = None
    collapse_key: str | None = None
    is_seen: bool = False
    archived_at: wire.Time | None = None
    """so from a server of a release that does not know it"""


class Page(msgspec.Struct, frozen=True, rename="camel"):
    """Newest first; all numbers are of one moment."""

    data: list[Notification]
    total: int
    unread: int
    rev: int
    next_cursor: str | None
    history: str | None = None
    """None from a server of a release that does not state it; so in the others, also for `unseen`."""
    unseen: int | None = None


class Count(msgspec.Struct, frozen=True, rename="camel"):
    count: int
    total: int
    unread: int
    rev: int
    history: str | None = None
    unseen: int | None = None


class MarkedAll(msgspec.Struct, frozen=True, rename="camel"):
    updated: int
    unread: int
    rev: int
    read_at: datetime | None
    history: str | None = None
    unseen: int | None = None
    total: int | None = None


class Marked(msgspec.Struct, frozen=True):
    """`unknown`: of a change by ids, those of no notification that one has."""

    updated: int
    unread: int
    unseen: int
    total: int
    rev: int
    history: str
    unknown: Sequence[str] = ()


class ChangeFrame(msgspec.Struct, frozen=True):
    event: str
    data: dict[str, Json]


class Changes(msgspec.Struct, frozen=True):
    """`rev` and `history`: what to ask with next. `reset`: the list is to be fetched again."""

    changes: list[ChangeFrame]
    rev: int
    history: str
    unread: int
    unseen: int
    total: int
    reset: bool


class Accepted(msgspec.Struct, frozen=True, rename="camel"):
    """`unknown_type`: its event type is not known to the server, so it will make no notification."""

    event_id: str
    unknown_type: bool = False


class Ticket(msgspec.Struct, frozen=True, rename="camel"):
    """Stands in for the token once, until `expires_at`."""

    ticket: str
    purpose: str
    expires_at: datetime


class AcceptedAll(msgspec.Struct, frozen=True, rename="camel"):
    accepted: list[Accepted]


class Rest:
    """The API as the bearer of one token. Obtain by `open_rest`."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def list(self, *, limit: int = 20, cursor: str | None = None, **where: str) -> Page:
        """`where`: isRead, archived, type, organizerId, merchantId, subject, priority, from, to."""
        query = {"limit": str(limit), **where}
        if cursor is not None:
            query["cursor"] = cursor
        return await self._call(Page, "GET", "/notifications", query=query)

    async def count(self, **where: str) -> Count:
        return await self._call(Count, "GET", "/notifications/count", query=where)

    async def changes(
        self, after: int | None = None, history: str | None = None, *, wait_s: int = 20, limit: int = 100
    ) -> Changes:
        """What changed after this revision; where nothing did, what does within `wait_s`. Without `after`:
        where the inbox stands."""
        query = {"wait": str(wait_s), "limit": str(limit)}
        if after is not None:
            query["after"] = str(after)
        if history:
            query["history"] = history
        timeout_s = (self._http.timeout.read or TIMEOUT_S) + wait_s
        return await self._call(Changes, "GET", "/notifications/changes", query=query, timeout_s=timeout_s)

    async def get(self, id: str) -> Notification:
        return await self._call(Notification, "GET", f"/notifications/{quote(id, safe='')}")

    async def mark_read(self, id: str) -> Notification:
        return await self._mark(id, "mark-read")

    async def mark_unread(self, id: str) -> Notification:
        return await self._mark(id, "mark-unread")

    async def archive(self, id: str) -> Notification:
        return await self._mark(id, "archive")

    async def unarchive(self, id: str) -> Notification:
        return await self._mark(id, "unarchive")

    async def mark_ids(self, ids: Sequence[str], op: Mark) -> Marked:
        """One change for at most 100 ids."""
        return await self._call(Marked, "PATCH", "/notifications", body={"ids": ids, "op": op})

    async def mark_all_seen(self, up_to_rev: int | None = None, *, history: str | None = None) -> Marked:
        return await self._mark_all("mark-all-seen", upToRev=up_to_rev, history=history)

    async def mark_all_unread(self, up_to_rev: int | None = None, *, history: str | None = None) -> Marked:
        return await self._mark_all("mark-all-unread", upToRev=up_to_rev, history=history)

    async def archive_all(
        self, up_to_rev: int | None = None, *, history: str | None = None, only_read: bool = False
    ) -> Marked:
        is_read = True if only_read else None
        return await self._mark_all("archive-all", upToRev=up_to_rev, history=history, isRead=is_read)

    async def unarchive_all(self, up_to_rev: int | None = None, *, history: str | None = None) -> Marked:
        return await self._mark_all("unarchive-all", upToRev=up_to_rev, history=history)

    async def _mark(self, id: str, step: str) -> Notification:
        return await self._call(Notification, "PATCH", f"/notifications/{quote(id, safe='')}/{step}")

    async def _mark_all(self, step: str, **given: Json) -> Marked:
        body = {name: value for name, value in given.items() if value is not None}
        return await self._call(Marked, "PATCH", f"/notifications/{step}", body=body)

    async def mark_all_read(
        self,
        up_to_rev: int | None = None,
        *,
        history: str | None = None,
        type: str | None = None,
        subject: str | None = None,
    ) -> MarkedAll:
        """`history`: that of `up_to_rev`; RestRefused (`history_lost`) where the inbox has another now."""
        body = {"upToRev": up_to_rev, "history": history, "type": type, "subject": subject}
        body = {name: value for name, value in body.items() if value is not None}
        return await self._call(MarkedAll, "PATCH", "/notifications/mark-all-read", body=body)

    async def delete(self, id: str) -> None:
        await self._send("DELETE", f"/notifications/{quote(id, safe='')}")

    async def publish(self, messages: Sequence[Json]) -> Sequence[str]:
        """Messages as of CONTRACT §3, or msgspec.Raw of such. The event ids, once all of them are durable."""
        return [one.event_id for one in await self.publish_all(messages)]

    async def publish_all(self, messages: Sequence[Json], *, strict: bool = False) -> Sequence[Accepted]:
        """As `publish`; with `strict` one unknown event type refuses all of them."""
        query = {"strict": "true"} if strict else None
        answer = await self._call(AcceptedAll, "POST", "/activities", query=query, body=messages)
        return answer.accepted

    async def ticket(self, purpose: str) -> Ticket:
        """`purpose`: events or stream."""
        return await self._call(Ticket, "POST", "/tickets", body={"purpose": purpose})

    async def explain(self, type: type[T], event_id: str, query: Mapping[str, str]) -> T:
        """What was done with an activity, decoded as `type`."""
        return await self._call(type, "GET", f"/activities/{quote(event_id, safe='')}/explain", query=query)

    async def explain_around(self, type: type[T], query: Mapping[str, str]) -> T:
        """What a person received in a time, and what not, decoded as `type`."""
        return await self._call(type, "GET", "/activities/explain", query=query)

    async def _call(
        self,
        type: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        timeout_s: float | None = None,
    ) -> T:
        answer = await self._send(method, path, query=query, body=body, timeout_s=timeout_s)
        try:
            decoded: T = decode_json(answer.content, type)
            return decoded
        except msgspec.DecodeError as error:
            raise RestRefused(answer.status_code, "not_understood", f"unexpected answer: {error}.") from None

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """`timeout_s`: None: the client's own."""
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s)
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = await self._http.request(
                method, BASE + path, params=query, content=content, headers=headers, timeout=timeout
            )
        except httpx.RequestError as error:
            why = str(error) or type(error).__name__
            raise RestUnavailable(f"{self._url} cannot be reached: {why}") from None
        if answer.is_success:
            return answer
        raise error_of(answer, self._url)


@asynccontextmanager
async def open_rest(url: str, token: str, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Rest]:
    """`url`: http://host:port, without the base path. Connects at the first call.

    Takes no proxy from the environment: the service is on one's own network. Trusts the public authorities
    and those of the system."""
    headers = {"Authorization": f"Bearer {token}"}
    async with http_client(url, timeout_s, headers=headers) as http:
        yield Rest(http, url)


def error_of(answer: httpx.Response, url: str) -> RestRefused | RestUnavailable:
    """Of an answer that is no success."""
    code, detail = _problem(answer)
    if answer.status_code in (429, 502, 503, 504):
        return RestUnavailable(
            f"{url} is not ready ({answer.status_code}, {code}): {detail}", _retry_after_s(answer)
        )
    return RestRefused(answer.status_code, code, detail)


class Problem(msgspec.Struct, frozen=True):
    code: str = "unknown"
    title: str = ""
    detail: str = ""


def _problem(answer: httpx.Response) -> tuple[str, str]:
    try:
        problem: Problem = decode_json(answer.content, Problem)
    except msgspec.DecodeError:
        problem = Problem()
    return problem.code, problem.detail or problem.title or answer.reason_phrase


def _retry_after_s(answer: httpx.Response) -> float | None:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None
