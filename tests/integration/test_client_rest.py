"""The REST client, and `publish` with it, against scripted servers over real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trio

from nx_signal.cli import publish
from nx_signal.client.rest import RestRefused, RestUnavailable, open_rest

ITEM: dict[str, Any] = {
    "id": "7", "activityId": "a1", "recipientId": "u1", "type": "T", "organizerId": "o", "merchantId": None,
    "subject": None,
    "content": "c", "contentHtml": "<p>c</p>", "locale": "en", "actionUrl": None, "data": {}, "isRead": False,
    "readAt": None, "rev": 3, "createdAt": "2026-01-02T03:04:05.678Z",
}  # fmt: skip
NOT_READY = {"code": "unavailable", "title": "Service Unavailable", "detail": "Try again shortly."}


@dataclass
class Scripted:
    """Answers each request with the next of `answers`: (status, headers, body)."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    authorization: str | None = None

    def will(self, status: int, body: Any = None, **headers: str) -> None:
        self.answers.append((status, {k.replace("_", "-"): v for k, v in headers.items()}, body))


@pytest.fixture
def server() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.requests.append((self.command, self.path, json.loads(body) if body else None))
            script.authorization = self.headers["Authorization"]
            status, headers, answer = script.answers.pop(0)
            content = (
                answer
                if isinstance(answer, bytes)
                else b""
                if answer is None
                else json.dumps(answer).encode()
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        script.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield script
        http.shutdown()
        thread.join()


async def test_each_call_is_the_one_of_the_contract(server: Scripted) -> None:
    page = {"data": [ITEM], "total": 1, "unread": 1, "rev": 3, "nextCursor": "abc"}
    server.will(200, page)
    server.will(200, {"count": 1, "total": 1, "unread": 1, "rev": 3})
    server.will(200, ITEM)
    server.will(200, ITEM | {"isRead": True, "readAt": "2026-01-02T03:04:06Z"})
    server.will(200, {"updated": 1, "unread": 0, "rev": 5, "readAt": "2026-01-02T03:04:07Z"})
    server.will(204)
    server.will(202, {"accepted": [{"eventId": "e1"}, {"eventId": "e2"}]})
    async with open_rest(server.url, "T") as rest:
        listed = await rest.list(limit=1, cursor="x/y", type="A&B")
        assert (listed.data[0].content_html, listed.next_cursor, listed.rev) == ("<p>c</p>", "abc", 3)
        assert (await rest.count(isRead="false")).unread == 1
        assert (await rest.get("7")).recipient_id == "u1"
        assert (await rest.mark_read("7")).read_at is not None
        assert (await rest.mark_all_read(up_to_rev=4)).updated == 1
        await rest.delete("a/b")
        assert await rest.publish([{"a": 1}, {"b": 2}]) == ["e1", "e2"]
    assert server.authorization == "Bearer T"
    base = "/v1/api/signal"
    assert server.requests == [
        ("GET", f"{base}/notifications?limit=1&type=A%26B&cursor=x%2Fy", None),
        ("GET", f"{base}/notifications/count?isRead=false", None),
        ("GET", f"{base}/notifications/7", None),
        ("PATCH", f"{base}/notifications/7/mark-read", None),
        ("PATCH", f"{base}/notifications/mark-all-read", {"upToRev": 4}),
        ("DELETE", f"{base}/notifications/a%2Fb", None),
        ("POST", f"{base}/activities", [{"a": 1}, {"b": 2}]),
    ]


async def test_each_mark_is_the_one_of_the_contract(server: Scripted) -> None:
    marked = {"updated": 1, "unread": 2, "unseen": 1, "total": 9, "rev": 5, "history": "9f"}
    archived = ITEM | {"isSeen": True, "archivedAt": "2026-01-02T03:04:07.000Z"}
    for answer in (ITEM, archived, ITEM, marked | {"unknown": ["8"]}, *4 * [marked]):
        server.will(200, answer)
    async with open_rest(server.url, "T") as rest:
        assert (await rest.mark_unread("7")).is_seen is False
        assert (await rest.archive("7")).archived_at == "2026-01-02T03:04:07.000Z"
        await rest.unarchive("7")
        assert (await rest.mark_ids(["7", "8"], "archive")).unknown == ["8"]
        assert (await rest.mark_all_seen(4, history="7c")).unseen == 1
        await rest.mark_all_unread()
        await rest.archive_all(only_read=True)
        await rest.unarchive_all(4)
    base = "/v1/api/signal/notifications"
    assert server.requests == [
        ("PATCH", f"{base}/7/mark-unread", None),
        ("PATCH", f"{base}/7/archive", None),
        ("PATCH", f"{base}/7/unarchive", None),
        ("PATCH", base, {"ids": ["7", "8"], "op": "archive"}),
        ("PATCH", f"{base}/mark-all-seen", {"upToRev": 4, "history": "7c"}),
        ("PATCH", f"{base}/mark-all-unread", {}),
        ("PATCH", f"{base}/archive-all", {"isRead": True}),
        ("PATCH", f"{base}/unarchive-all", {"upToRev": 4}),
    ]


async def test_a_refusal_carries_the_problem_that_the_server_names(server: Scripted) -> None:
    server.will(403, {"code": "forbidden", "title": "Forbidden", "detail": "This needs the permission X."})
    async with open_rest(server.url, "T") as rest:
        with pytest.raises(RestRefused) as error:
            await rest.count()
    assert (error.value.status, error.value.code, error.value.detail) == (
        403,
        "forbidden",
        "This needs the permission X.",
    )


async def test_a_server_that_is_not_ready_states_when_to_try_again(server: Scripted) -> None:
    server.will(503, NOT_READY, Retry_After="7")
    async with open_rest(server.url, "T") as rest:
        with pytest.raises(RestUnavailable, match=r"Try again shortly\.") as error:
            await rest.count()
    assert error.value.retry_after_s == 7


@pytest.mark.parametrize("to", ["http://127.0.0.1:1/", "data:x", "http://xn--/"])
async def test_a_redirect_is_a_refusal_wherever_it_leads(server: Scripted, to: str) -> None:
    server.will(302, None, Location=to)
    async with open_rest(server.url, "T") as rest:
        with pytest.raises(RestRefused, match="HTTP status 302"):
            await rest.count()


@pytest.mark.parametrize("body", [b"<html>", b"[]", {"count": "many"}])
async def test_an_answer_that_is_not_from_the_service_is_refused(server: Scripted, body: Any) -> None:
    server.will(200, body)
    async with open_rest(server.url, "T") as rest:
        with pytest.raises(RestRefused, match="unexpected answer"):
            await rest.count()


def test_publish_retries_a_server_that_was_not_ready_with_the_same_event_ids(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(trio, "sleep", pause)
    server.will(503, NOT_READY, Retry_After="3")
    server.will(503, NOT_READY)
    server.will(202, {"accepted": [{"eventId": "e"}]})
    messages = publish.read_messages(b"{}", "f")
    accepted = trio.run(publish._post, server.url, "T", messages, False)
    assert [one.event_id for one in accepted] == ["e"]
    assert paused == [3, publish.FIRST_PAUSE_S * 2]
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[1] == server.requests[2]


def test_publish_reports_how_many_were_accepted_when_it_gives_up(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "FIRST_PAUSE_S", 0)
    monkeypatch.setattr(publish, "MAX_BATCH_MESSAGES", 1)
    server.will(202, {"accepted": [{"eventId": "e"}]})
    for _ in range(publish.TRIES):
        server.will(503, NOT_READY)
    messages = publish.read_messages(b"[{},{},{}]", "f")
    with pytest.raises(publish.PublishFailed) as error:
        trio.run(publish._post, server.url, "T", messages, False)
    assert str(error.value).endswith("1 of 3 messages were accepted before that.")
    assert len(server.requests) == 1 + publish.TRIES
