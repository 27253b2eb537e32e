"""The examples of docs/deploying as they are, before a server: nginx and Caddy from Debian's packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio

from debian import NoDebian, debian
from nx_signal.client.events import open_events
from nx_signal.client.rest import open_rest
from nx_signal.client.stream import open_stream
from nx_signal.delivery.topics import CONNECTED
from nx_signal.model.wire import CREATED
from nx_signal.server.http import KEEP_ALIVE_S
from nx_signal.websocket.protocol import HEARTBEAT_TIMEOUT_S
from services import free_port
from serving import COMMAND, PATIENCE_S, Instance, activity

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "docs" / "deploying"
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn; events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {example};
}}
"""


@dataclass
class Site:
    """`port` is the proxy's, where Signal is below /signal/."""

    port: int
    instance: Instance

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/signal"

    def token(self, user: str, *more: str) -> str:
        command = [*COMMAND, "token", "--user", user, *more]
        return subprocess.check_output(command, env=self.instance.environment, text=True).strip()


def program(package: str, path: str) -> tuple[str, dict[str, str]]:
    try:
        unpacked = debian(package)
    except NoDebian as why:
        pytest.skip(str(why))
    return str(unpacked.program(path)), unpacked.environment


CHANGES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "nginx": ("nginx.conf", {"8080": "{port}", "31090": "{upstream}", "120s": "2s"}),
    "caddy": ("Caddyfile", {"8080": "{port}", "31090": "{upstream}"}),
    "compose": ("compose.Caddyfile", {":80 {": ":{port} {{", "signal:3000": "127.0.0.1:{upstream}"}),
}
"""The file of each example, and what a test replaces in it."""


def command_of(proxy: str, port: int, upstream: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    """That of the example, with the ports of the test, and nginx's timeouts of a minute in seconds."""
    name, changes = CHANGES[proxy]
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new.format(port=port, upstream=upstream))
    example = folder / name
    example.write_text(text)
    if proxy != "nginx":
        binary, env = program("caddy", "usr/bin/caddy")
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        return [binary, "run", "--config", str(example), "--adapter", "caddyfile"], env | home
    binary, env = program("nginx", "usr/sbin/nginx")
    main = folder / "main.conf"
    main.write_text(MAIN.format(folder=folder, example=example))
    return [binary, "-e", "stderr", "-p", str(folder), "-c", str(main)], env


@pytest.fixture(params=["nginx", "caddy", pytest.param("compose", marks=pytest.mark.full)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with serving(request.param, tmp_path) as site:
        yield site


@contextmanager
def serving(proxy: str, tmp_path: Path, **settings: str) -> Iterator[Site]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    instance = Instance(
        clean
        | {"APP_ENV_DATA_DIR": str(tmp_path / "data"), "APP_ENV_LAME_DUCK_S": "0"}
        | {"APP_ENV_PATH_PREFIX": "/signal", "APP_ENV_TRUSTED_PROXIES": "127.0.0.1"}
        | settings
    )
    port = free_port()
    command, env = command_of(proxy, port, instance.port, tmp_path)
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stderr=log)
    try:
        instance.start()
        instance.wait_ready()
        site = Site(port, instance)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (
                tmp_path / "proxy.log"
            ).read_text()
            try:
                if httpx.get(f"{site.url}/healthz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.05)  # between two requests to another process
        yield site
    finally:
        process.kill()
        process.wait()
        if instance.process and instance.process.poll() is None:
            instance.process.kill()
            instance.process.wait()


def test_the_documentation_and_its_links_work_below_the_prefix(site: Site) -> None:
    with httpx.Client(follow_redirects=True) as client:
        for page in ("/doc", "/doc/"):
            html = client.get(site.url + page)
            links = re.findall(r'(?:src|href)="([^":]+)"', html.text)
            assert len(links) == 3
            for link in links:
                assert client.get(html.url.join(link)).status_code == 200
        document = client.get(f"{site.url}/doc/openapi.json")
        server = document.url.join(document.json()["servers"][0]["url"])
        assert client.get(f"{server}/v1/api/signal/socket/websocket/clients/status").status_code == 200
        stream = client.get(f"{site.url}/doc/asyncapi.json").json()["servers"]["local"]
        assert stream["pathname"] == "/signal"


async def test_a_push_arrives_and_a_quiet_connection_outlives_the_proxys_timeouts(site: Site) -> None:
    stream_url = f"{site.url.replace('http', 'ws')}/stream"
    writer = site.token("w", "--permission", "Activity.publish")
    async with open_stream(stream_url, site.token("ann"), heartbeat_s=0.5) as stream:
        with trio.move_on_after(6):  # three times the proxy's timeout: the client's heartbeats alone
            await stream.receive()
        async with open_rest(site.url, writer) as rest:
            message, _ = activity(4)
            await rest.publish([message])
        with trio.fail_after(PATIENCE_S):
            while (await stream.receive()).event != CREATED:
                pass


async def test_server_sent_events_arrive_at_once_and_outlive_the_proxys_timeouts(
    site: Site,
) -> None:
    """nginx cuts off after 2 s here, and the server's comments come after 15 s: the client resumes."""
    writer, reader, last = site.token("w", "--permission", "Activity.publish"), site.token("ann"), None
    for n in range(2):
        async with (
            open_events(site.url, reader, last_event_id=last) as events,
            open_rest(site.url, writer) as rest,
        ):
            assert (await events.receive()).event == CONNECTED
            message, _ = activity(4)
            await rest.publish([message | {"eventId": f"e{n}"}])
            with trio.fail_after(1.5):
                while (event := await events.receive()).event != CREATED:
                    pass
            assert (event.data["activityId"], event.data["rev"]) == (f"e{n}", n + 1)
            last = event.id


def test_server_sent_events_of_another_machine_need_tls_at_the_proxy(site: Site) -> None:
    token = site.token("ann")
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": "203.0.113.9"}
    answer = httpx.get(f"{site.instance.url}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "plaintext_refused")


async def test_a_long_poll_passes_a_proxy(site: Site) -> None:
    writer = site.token("w", "--permission", "Activity.publish")
    async with open_rest(site.url, site.token("ann")) as rest, open_rest(site.url, writer) as other:
        assert (await rest.changes(0, wait_s=1)).changes == []
        async with trio.open_nursery() as nursery:
            message, _ = activity(4)
            nursery.start_soon(other.publish, [message])
            assert [change.data["rev"] for change in (await rest.changes(0, wait_s=1)).changes] in ([], [1])


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
async def test_limits_count_by_the_clients_own_address_whatever_it_sends(proxy: str, tmp_path: Path) -> None:
    with serving(
        proxy, tmp_path, APP_ENV_RATE_FACTOR="0.0001"
    ) as site:  # one handshake at once for an address
        assert await refused(site, "127.0.0.2") is False
        assert await refused(site, "127.0.0.2", ("X-Forwarded-For", "6.6.6.6")) is True
        assert await refused(site, "127.0.0.2", ("Forwarded", "for=6.6.6.7")) is True
        assert await refused(site, "127.0.0.3") is False


async def refused(site: Site, address: str, *headers: tuple[str, str]) -> bool:
    """Whether the server closes a connection from this address as one too many."""
    tcp = await trio.open_tcp_stream("127.0.0.1", site.port, local_address=address)
    async with tcp:
        lines = [f"{name}: {value}" for name, value in headers]
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
        upgrade = ["GET /signal/stream HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket", key]
        await tcp.send_all("\r\n".join([*upgrade, *lines, "", ""]).encode())
        received = b""
        with trio.fail_after(PATIENCE_S):
            while b"\r\n\r\n" not in received:
                received += await tcp.receive_some()
        assert received.startswith(b"HTTP/1.1 101"), received
        with trio.move_on_after(1):  # one that is not refused gets nothing before it authenticates
            received += await tcp.receive_some()
        return (4007).to_bytes(2) in received.partition(b"\r\n\r\n")[2]


def test_a_large_body_and_a_long_query_pass(site: Site) -> None:
    headers = {"Authorization": f"Bearer {site.token('w', '--permission', 'Activity.publish')}"}
    message, _ = activity(4)
    large = [message | {"eventId": f"e{n}", "padding": "x" * 900} for n in range(750)]
    inbox = f"{site.url}/v1/api/signal"
    assert len(json.dumps(large)) > 900_000
    assert httpx.post(f"{inbox}/activities", json=large, headers=headers).status_code == 202
    spaces = "+" * 16_000
    answer = httpx.get(f'{inbox}/notifications?filter={{"limit":{spaces}1}}', headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/signal", pytest.param("", marks=pytest.mark.full)])
async def test_a_proxy_need_not_remove_the_prefix(tmp_path: Path, path: str) -> None:
    with serving("nginx", tmp_path) as site:
        token, direct = site.token("ann"), site.instance.url + path
        async with open_stream(f"{direct.replace('http', 'ws')}/stream", token) as stream:
            assert stream.user_id == "ann"
        async with open_rest(direct, token) as rest:
            assert (await rest.count()).total == 0


def test_the_examples_timeouts_suit_the_servers() -> None:
    nginx, caddy = ((EXAMPLES / name).read_text() for name in ("nginx.conf", "Caddyfile"))
    for text, pattern in ((nginx, r"keepalive_timeout (\d+)s;"), (caddy, r"keepalive (\d+)s")):
        assert [seconds for seconds in re.findall(pattern, text) if int(seconds) < KEEP_ALIVE_S]
    assert (
        min(int(seconds) for seconds in re.findall(r"proxy_\w+_timeout (\d+)s;", nginx)) > HEARTBEAT_TIMEOUT_S
    )
