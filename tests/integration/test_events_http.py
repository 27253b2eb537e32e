"""`/events` and `/notifications/changes` of a whole server: requests, refusals, connections, its stop."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
import trio

from nx_signal.client.events import Event, Events, open_events
from nx_signal.client.rest import RestRefused, RestUnavailable, open_rest
from nx_signal.client.stream import open_stream
from nx_signal.config import Settings
from nx_signal.delivery.topics import CLOSED, CONNECTED, GOAWAY, STATE
from nx_signal.errors import SettingsError
from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now
from nx_signal.model.wire import CREATED
from nx_signal.service import run

BASE = "/v1/api/signal"
CHANGES = f"{BASE}/notifications/changes"
CONTRACT = Path(__file__).resolve().parent.parent.parent / "docs" / "contract.md"


@dataclass
class Server:
    port: int
    data_dir: Path
    stop: trio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, user: str = "ann", *permissions: str, ttl_s: int = 3600) -> str:
        return open_issuer(self.data_dir).sign(user, ttl_s, permissions, (), now())

    def headers(self, user: str = "ann", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"} | more

    async def publish(self, *ids: str, user: str = "ann") -> None:
        messages = [
            {
                "eventType": "PAYMENT_SUCCESS",
                "eventId": id,
                "recipientScope": "users",
                "recipientIds": [user],
                "organizerId": "o1",
                "actorId": "a",
                "actor": {"id": "a", "name": "A", "type": "USER"},
                "data": {"payment": {"subject": id, "amount": 1, "currency": "VND"}},
                "occurredAt": "2026-01-01T10:00:00Z",
            }
            for id in ids
        ]
        async with open_rest(self.url, self.token("w", "Activity.publish")) as rest:
            await rest.publish(messages)

    async def raw(self, request: bytes, until: bytes) -> bytes:
        """What is answered, up to this."""
        received = b""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as tcp:
            await tcp.send_all(request)
            with trio.fail_after(10):
                while until not in received:
                    received += bytes(await tcp.receive_some())
        return received


@asynccontextmanager
async def serving(tmp_path: Path, **settings: str) -> AsyncIterator[Server]:
    data_dir, stop = tmp_path / "data", trio.Event()
    given = {"data_dir": str(data_dir), "port": "0", "drain_s": "3", "lame_duck_s": "0", **settings}
    loaded = Settings.load(given, {})
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[int]) -> None:
            await run(loaded, stop=stop, task_status=task_status)

        server = Server(await nursery.start(serve), data_dir, stop)
        await until(lambda answer: answer.status_code == 200, f"{server.url}/readyz")
        yield server
        stop.set()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(tmp_path, cors_origins="https://shop.example") as server:
        yield server


def plain_http() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=30)


async def until(condition: Callable[[httpx.Response], bool], url: str) -> None:
    """Ask until the answer is as wanted."""
    async with plain_http() as http:
        with trio.fail_after(10):
            while not condition(await http.get(url)):  # noqa: ASYNC110 - another connection brings it
                await trio.sleep(0.01)


async def clients(server: Server, count: int) -> None:
    """Wait until so many are connected."""
    status = f"{server.url}{BASE}/socket/websocket/clients/status"
    await until(lambda answer: answer.json()["clients"] == count, status)


async def get(server: Server, path: str, headers: Mapping[str, str]) -> httpx.Response:
    async with plain_http() as http:
        return await http.get(server.url + path, headers=headers)


# --- Server-Sent Events ---


async def test_a_client_gets_what_is_published_and_resumes_after_it(server: Server) -> None:
    async with open_events(server.url, server.token()) as events:
        assert [(await events.receive()).event for _ in range(2)] == [CONNECTED, STATE]
        await server.publish("a", "b")
        first = [await events.receive() for _ in range(2)]
        assert [event.data["activityId"] for event in first] == ["a", "b"]
    await server.publish("c")
    async with open_events(server.url, server.token(), last_event_id=first[0].id) as events:
        replayed = [event for event in await received(events, 4) if event.event == CREATED]
        assert [event.data["rev"] for event in replayed] == [2, 3]


async def received(events: Events, count: int) -> list[Event]:
    return [await events.receive() for _ in range(count)]


async def test_the_answer_is_neither_stored_nor_buffered_nor_compressed(server: Server) -> None:
    async with plain_http() as http:
        headers = server.headers(**{"Origin": "https://shop.example", "Accept-Encoding": "gzip"})
        async with http.stream("GET", f"{server.url}/events", headers=headers) as answer:
            assert answer.status_code == 200
            sent = answer.headers
            assert sent["content-type"] == "text/event-stream"
            assert (sent["cache-control"], sent["x-accel-buffering"]) == ("no-store", "no")
            assert (sent["connection"], sent["access-control-allow-origin"]) == (
                "close",
                "https://shop.example",
            )
            assert not {"content-length", "transfer-encoding", "content-encoding"} & set(sent)


async def test_a_connection_that_had_other_requests_may_become_a_stream(server: Server) -> None:
    head = f"Host: x\r\nAuthorization: Bearer {server.token()}\r\n\r\n"
    received = await server.raw(
        f"GET {BASE}/notifications/count HTTP/1.1\r\n{head}GET /events HTTP/1.1\r\n{head}".encode(), b"/state"
    )
    assert received.count(b"HTTP/1.1 200 ") == 2


async def test_a_client_of_http_1_0_gets_it_too(server: Server) -> None:
    request = f"GET /events HTTP/1.0\r\nAuthorization: Bearer {server.token()}\r\n\r\n"
    assert b"\r\n\r\nretry: " in await server.raw(request.encode(), b"/state")


async def test_head_answers_without_a_session(server: Server) -> None:
    async with plain_http() as http:
        answer = await http.head(f"{server.url}/events", headers=server.headers())
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        status = await http.get(f"{server.url}{BASE}/socket/websocket/clients/status")
        assert status.json()["clients"] == 0


async def test_other_methods_are_refused_and_a_preflight_is_answered(server: Server) -> None:
    async with plain_http() as http:
        answer = await http.post(f"{server.url}/events", headers=server.headers())
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
        preflight = await http.options(f"{server.url}/events", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        assert "Last-Event-ID" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({"Authorization": ""}, "", 401, "unauthorized"),
        ({"Authorization": "Bearer x"}, "", 401, "unauthorized"),
        ({"Last-Event-ID": "nonsense"}, "", 400, "invalid_parameter"),
        ({}, "?lastEventId=1.a.b%20c", 400, "invalid_parameter"),
        ({"X-Forwarded-For": "203.0.113.9"}, "", 403, "plaintext_refused"),
        ({"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}, "", 403, "plaintext_refused"),
    ],
)
async def test_what_is_refused_is_a_problem(
    server: Server, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    answer = await get(server, f"/events{query}", server.headers() | headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_came_over_tls_to_a_proxy_is_served(server: Server) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    async with plain_http() as http:
        headers = server.headers() | forwarded
        async with http.stream("GET", f"{server.url}/events", headers=headers) as answer:
            assert answer.status_code == 200


async def test_a_setting_allows_it_without_tls(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, events_plaintext="true") as server,
        plain_http() as http,
    ):
        headers = server.headers(**{"X-Forwarded-For": "203.0.113.9"})
        async with http.stream("GET", f"{server.url}/events", headers=headers) as answer:
            assert answer.status_code == 200


async def test_a_session_too_many_is_refused(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, max_sessions_per_user="1") as server,
        open_events(server.url, server.token()) as events,
    ):
        await events.receive()
        for path in ("/events", f"{CHANGES}?after=0"):
            answer = await get(server, path, server.headers())
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_sessions")


async def rest_of(events: Events) -> list[Event]:
    """Until the server ends the stream."""
    seen = []
    try:
        while True:
            seen.append(await events.receive())
    except RestUnavailable:
        return seen


async def test_it_ends_with_its_token_and_the_next_connection_is_a_401(server: Server) -> None:
    token = server.token(ttl_s=2)
    async with open_events(server.url, token) as events:
        seen = await rest_of(events)
    assert seen[-1].data == {"code": 4005, "reason": "Token expired"}
    with pytest.raises(RestRefused) as refused:
        async with open_events(server.url, token):
            pass
    assert refused.value.status == 401


async def ticket(server: Server, purpose: str) -> str:
    async with plain_http() as http:
        url, body = f"{server.url}{BASE}/tickets", {"purpose": purpose}
        made = await http.post(url, json=body, headers=server.headers())
        return str(made.json()["ticket"])


async def test_a_ticket_is_taken_once_in_place_of_a_token(server: Server) -> None:
    async with plain_http() as http:
        made = await http.post(
            f"{server.url}{BASE}/tickets", json={"purpose": "events"}, headers=server.headers()
        )
        target = f"/events?ticket={made.json()['ticket']}"
        await server.raw(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), b'"userId":"ann"')
        again = await http.get(server.url + target)
        assert (again.status_code, again.json()["code"]) == (401, "unauthorized")


async def test_a_ticket_for_the_stream_opens_no_events_and_no_other_route_takes_one(server: Server) -> None:
    async with plain_http() as http:
        for purpose, path in (
            ("stream", "/events"),
            ("events", f"{BASE}/notifications"),
            ("events", CHANGES),
        ):
            made = await http.post(
                f"{server.url}{BASE}/tickets", json={"purpose": purpose}, headers=server.headers()
            )
            answer = await http.get(f"{server.url}{path}?ticket={made.json()['ticket']}")
            assert answer.status_code == 401


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such option")
async def test_a_client_that_vanished_is_forgotten_although_the_kernel_still_takes_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nx_signal.sse.connection.GONE_AFTER_S", 0.5)
    async with serving(tmp_path) as server:
        client = trio.socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await client.connect(("127.0.0.1", server.port))
        with client:
            head = "".join(f"{name}: {value}\r\n" for name, value in server.headers().items())
            await client.send(f"GET /events HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
            await clients(server, 1)
            await server.publish(*(f"{n}" * 100 for n in range(100)))
            await clients(server, 0)


async def test_no_ticket_is_in_an_error_about_an_address() -> None:
    with pytest.raises(SettingsError) as refused:
        async with open_events("http://127.0.0.1:many", "sgt_secret", scheme="Ticket"):
            pass
    assert "sgt_secret" not in str(refused.value)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_the_client_reads_from_an_address_of_ipv6(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, host="::", embedded_issuer="always") as server,
        open_events(f"http://[::1]:{server.port}", server.token()) as events,
    ):
        assert (await events.receive()).event == CONNECTED


async def test_it_is_below_the_prefix_too(tmp_path: Path) -> None:
    async with serving(tmp_path, path_prefix="/signal") as server:
        for url in (server.url, f"{server.url}/signal"):
            async with open_events(url, server.token()) as events:
                assert (await events.receive()).event == CONNECTED


async def test_a_stop_ends_streams_and_waits_and_takes_no_longer_for_them(tmp_path: Path) -> None:
    answers: list[httpx.Response] = []
    seen: list[str] = []
    async with trio.open_nursery() as nursery, serving(tmp_path) as server:

        async def wait_for_changes() -> None:
            async with open_rest(server.url, server.token()) as rest:
                answer = await rest._http.get(f"{CHANGES}?after=0&wait=25")
                answers.append(answer)

        async def listen(task_status: trio.TaskStatus[None]) -> None:
            async with open_events(server.url, server.token()) as events:
                await events.receive()
                task_status.started()
                seen.extend([event.event for event in await rest_of(events)])

        await nursery.start(listen)
        nursery.start_soon(wait_for_changes)
        await clients(server, 2)
        began = trio.current_time()
        server.stop.set()
    assert trio.current_time() - began < 2.5
    assert seen[-2:] == [GOAWAY, CLOSED]
    assert [(answer.status_code, answer.json()["changes"]) for answer in answers] == [(200, [])]


# --- the long poll ---


async def test_a_loop_of_polls_gets_each_change_once(server: Server) -> None:
    async with open_rest(server.url, server.token()) as rest, trio.open_nursery() as nursery:
        place = await rest.changes()
        assert (place.rev, place.total, place.changes) == (0, 0, [])
        nursery.start_soon(server.publish, "a", "b")
        seen: list[Any] = []
        while len(seen) < 3:
            place = await rest.changes(place.rev, place.history, wait_s=10)
            seen += [change.data["activityId"] for change in place.changes]
            if len(seen) == 2:
                nursery.start_soon(server.publish, "c")
        assert seen == ["a", "b", "c"]
        assert (place.rev, place.unread, place.unseen, place.total, place.reset) == (3, 3, 3, 3, False)


async def test_a_poll_may_wait_longer_than_a_handler_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nx_signal.rest.app.HANDLING_TIMEOUT_S", 0.5)
    async with serving(tmp_path) as server:
        began = trio.current_time()
        answer = await get(server, f"{CHANGES}?after=0&wait=1", server.headers())
        assert (answer.status_code, answer.json()["changes"]) == (200, [])
        assert trio.current_time() - began >= 1


async def test_the_client_waits_as_long_as_it_asks_the_server_to(server: Server) -> None:
    async with open_rest(server.url, server.token(), timeout_s=0.5) as rest:
        assert (await rest.changes(0, wait_s=1)).changes == []


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=0&wait=56", "after=0&wait=x", "limit=101", "limit=0"]
)
async def test_what_a_poll_does_not_take_is_refused(server: Server, query: str) -> None:
    answer = await get(server, f"{CHANGES}?{query}", server.headers())
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_hangs_up_waits_no_longer(server: Server, reset: bool) -> None:
    request = (
        f"GET {CHANGES}?after=0&wait=50 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token()}\r\n\r\n"
    )
    tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
    await tcp.send_all(request.encode())
    await clients(server, 1)
    if reset:
        tcp.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER: close with an RST
    await tcp.aclose()
    await clients(server, 0)


async def test_many_that_wait_hold_up_no_other_request(server: Server) -> None:
    limits, headers = httpx.Limits(max_connections=200), server.headers()
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as waiting,
        trio.open_nursery() as nursery,
    ):

        async def wait() -> None:
            await waiting.get(f"{server.url}{CHANGES}?after=0", headers=headers)

        for _ in range(100):
            nursery.start_soon(wait)
        await clients(server, 100)
        with trio.fail_after(5):
            answer = await get(server, f"{BASE}/notifications", server.headers("bob"))
        assert answer.status_code == 200
        nursery.cancel_scope.cancel()


# --- three roads, one sequence ---


async def test_each_transport_of_a_whole_server_shows_the_same(server: Server) -> None:
    token = server.token()
    websocket_url = server.url.replace("http", "ws") + "/stream"
    async with (
        open_stream(websocket_url, token, resume=0) as stream,
        open_events(server.url, token, last_event_id="0") as events,
        open_rest(server.url, token) as rest,
    ):
        await server.publish(*"abcd")
        polled: list[Any] = []
        rev, history = 0, None
        while len(polled) < 4:
            answer = await rest.changes(rev, history, wait_s=10, limit=3)
            polled += [(change.event, change.data) for change in answer.changes]
            rev, history = answer.rev, answer.history
        framed = await four(stream.receive)
        evented = await four(events.receive)
    assert framed == evented == polled


async def four(receive: Any) -> list[Any]:
    found: list[Any] = []
    while len(found) < 4:
        frame = await receive()
        if frame.event == CREATED:
            found.append((frame.event, frame.data))
    return found


# --- the examples of the contract ---


def examples() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", CONTRACT.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("n", [0, 1], ids=["events", "changes"])
async def test_the_contracts_examples_for_curl_show_what_is_published(server: Server, n: int) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl or bash is not installed: the examples for curl are not run")
    assert len(examples()) == 2
    environment = {"URL": server.url, "TOKEN": server.token(), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    script = examples()[n].replace("curl ", "curl -s ", 1) if n == 0 else examples()[n]
    await server.publish("before")
    async with open_rest(server.url, server.token()) as rest:
        await rest.changes(0, wait_s=20)
    async with trio.open_nursery() as nursery:
        curl = partial(trio.run_process, ["bash", "-c", script], env=environment, stdout=PIPE, check=False)
        process = await nursery.start(curl)
        assert process.stdout is not None
        received = b""
        with trio.fail_after(20):
            await clients(server, 1)
            await server.publish("after")
            while b'"activityId":"after"' not in received:
                received += bytes(await process.stdout.receive_some())
        assert (b'"activityId":"before"' in received) == (n == 1)
        nursery.cancel_scope.cancel()
