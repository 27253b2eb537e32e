"""Variables that libraries read by themselves change nothing that was not set on purpose, and end nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from services import free_port
from serving import PATIENCE_S, Instance, activity, command

NOWHERE = "127.0.0.1:9"
HOSTILE: Mapping[str, Mapping[str, str]] = {
    "odd proxies, files that are not there": {
        "NO_PROXY": "localhost,10.0.0.0/8,[::1]",
        "no_proxy": "[::1]",
        "ALL_PROXY": f"socks5h://{NOWHERE}",
        "all_proxy": f"socks4://{NOWHERE}",
        "SSL_CERT_FILE": "/nothing",
        "SSL_CERT_DIR": "/nothing",
        "SSLKEYLOGFILE": "/nothing/secrets",
        "TZ": "/etc/passwd",
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PROMETHEUS_MULTIPROC_DIR": "/nothing",
        "QUART_DEBUG": "1",
        "FLASK_DEBUG": "1",
    },
    "proxies that are away, files of another kind": {
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), f"http://u:p@{NOWHERE}"),
        "SSL_CERT_FILE": "/etc/passwd",
        "REQUESTS_CA_BUNDLE": "/nothing",
        "NETRC": "/etc/passwd",
        "TZ": ":/etc",
        "LANG": "vi_VN.UTF-8",
        "LC_ALL": "xx_YY.nothing",
        "LANGUAGE": "ja:fr",
        "HOME": "/nothing",
        "XDG_CONFIG_HOME": "/nothing",
    },
    "proxies that are no URL, variables of other programs": {
        "HTTP_PROXY": "::::",
        "HTTPS_PROXY": "ftp://x",
        "ALL_PROXY": "%%",
        "TZ": "Nowhere/City",
        "PGHOST": "nowhere",
        "PGPORT": "x",
        "PGSERVICE": "none",
        "PGSSLMODE": "bogus",
        "PGPASSFILE": "/etc/passwd",
        "PGTARGETSESSIONATTRS": "bogus",
        "PGSSLMINPROTOCOLVERSION": "x",
        "QUART_APP": "x",
        "WEB_CONCURRENCY": "9",
        "PORT": "x",
        "HOST": "x",
        "HOME": "",
    },
}
KEY = ec.generate_private_key(ec.SECP256R1())


class KeyServer(ThreadingHTTPServer):
    """An issuer that publishes one key, and stays away while `away`."""

    away = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/jwks"


class Answer(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        key: Any = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        body = json.dumps({"keys": [{**key, "kid": "k"}]}).encode()
        self.send_response(500 if self.server.away else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[KeyServer]:
    server = KeyServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def environment(data_dir: Path, more: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    return clean | {"APP_ENV_DATA_DIR": str(data_dir), "APP_ENV_LAME_DUCK_S": "0"} | dict(more)


def get(url: str, token: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(url, headers=headers, timeout=10, trust_env=False)


def stop(instance: Instance) -> None:
    if instance.process and instance.process.poll() is None:
        instance.process.kill()
        instance.process.wait()


def wait(instance: Instance, path: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert instance.process and instance.process.poll() is None, "serve ended"
        assert time.monotonic() < deadline
        try:
            answer = get(instance.url + path)
            if answer.status_code == status:
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.05)  # between two requests to another process


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_service_and_its_commands_work_under_variables_of_other_programs(
    tmp_path: Path, issuer: KeyServer, hostile: Mapping[str, str]
) -> None:
    """`serve` with an external issuer; `token`, `publish` and `listen` with one that is embedded."""
    embedded = Instance(environment(tmp_path / "embedded", hostile))
    external = Instance(environment(tmp_path / "external", {**hostile, "APP_ENV_JWKS_URL": issuer.url}))
    try:
        embedded.start()
        external.start()
        wait(external, "/readyz", 200)
        token = jwt.encode({"sub": "u", "exp": time.time() + 60}, KEY, "ES256", {"kid": "k"})
        assert get(f"{external.url}/v1/api/signal/notifications", token).status_code == 200
        wait(embedded, "/readyz", 200)
        env, port = embedded.environment, str(embedded.port)
        assert command(env, "token", "--user", "ann").count(".") == 2
        message, _ = activity(4)
        command(env, "publish", "-", "--port", port, input=json.dumps(message))
        rows = "signal_rows_total 2.0"
        while rows not in wait(embedded, "/metrics", 200).text:
            pass
        options = ["--resume", "0", "--count", "1", "--no-reconnect", "--port", port]
        assert "Order 4" in command(env, "listen", "--user", "ann", *options)
    finally:
        stop(embedded)
        stop(external)


def test_an_instance_is_ready_once_it_has_the_issuers_keys_and_stays_so(
    tmp_path: Path, issuer: KeyServer
) -> None:
    issuer.away = True
    instance = Instance(environment(tmp_path, {"APP_ENV_JWKS_URL": issuer.url}))
    token = jwt.encode({"sub": "u", "exp": time.time() + 60}, KEY, "ES256", {"kid": "k"})
    inbox = f"{instance.url}/v1/api/signal/notifications"
    try:
        instance.start()
        answer = wait(instance, "/readyz", 503)
        while answer.json()["down"].get("issuer") != "unavailable":
            answer = wait(instance, "/readyz", 503)
        assert get(inbox, token).status_code == 503
        issuer.away = False
        wait(instance, "/readyz", 200)
        assert get(inbox, token).status_code == 200
        issuer.away = True
        stranger = jwt.encode({"sub": "u", "exp": time.time() + 60}, KEY, "ES256", {"kid": "other"})
        assert get(inbox, stranger).status_code == 401
        deadline = time.monotonic() + PATIENCE_S
        while "issuer" not in (answer := wait(instance, "/readyz", 200)).json()["degraded"]:
            assert time.monotonic() < deadline, answer.text
        assert get(inbox, token).status_code == 200
    finally:
        stop(instance)


def test_the_demo_works_on_a_terminal_that_is_not_utf8(tmp_path: Path) -> None:
    env = environment(tmp_path, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    out = command(env, "demo", "--seconds", "4", "--port", str(free_port()))
    assert "Chi sends" in out or "B\\xecnh" in out or "pays" in out
