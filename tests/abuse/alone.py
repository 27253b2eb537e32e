"""One instance on its embedded parts, and what its process uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from nx_signal.identity.issuer import open_issuer
from nx_signal.model.timestamps import now
from serving import Instance


@contextmanager
def alone(
    data_dir: Path, *, before: Sequence[str] = (), ready: str | None = None, **settings: str
) -> Iterator[Instance]:
    """Once it is ready, by the URL `ready`. `before` is put before its command; the settings come without
    APP_ENV_."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")}
    environment |= {f"APP_ENV_{name}": value for name, value in settings.items()}
    environment |= {"APP_ENV_DATA_DIR": str(data_dir), "APP_ENV_LAME_DUCK_S": "0"}
    instance = Instance(environment, before=before)
    instance.start()
    try:
        instance.wait_ready(ready)
        yield instance
    finally:
        assert instance.process
        instance.process.kill()
        instance.process.wait()


def token(data_dir: Path, user: str) -> str:
    return open_issuer(data_dir).sign(user, 600, (), (), now())


def connect(instance: Instance, send: bytes = b"", address: str = "127.0.0.1") -> socket.socket:
    """From any address of the loopback network; it takes only some KB of what it does not read."""
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    tcp.settimeout(20)
    tcp.bind((address, 0))
    tcp.connect(("127.0.0.1", instance.port))
    tcp.sendall(send)
    return tcp


def to_end(tcp: socket.socket) -> bytes:
    received = b""
    try:
        while part := tcp.recv(65_536):
            received += part
    except ConnectionResetError:
        pass
    return received


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def metric(url: str, name: str) -> float:
    """With its labels as they are written."""
    text = httpx.get(f"{url}/metrics", timeout=20).text
    (line,) = (line for line in text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])


def resident_bytes(instance: Instance) -> int:
    assert instance.process
    status = Path("/proc", str(instance.process.pid), "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def cpu_s(instance: Instance) -> float:
    """Used so far."""
    assert instance.process
    fields = Path("/proc", str(instance.process.pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
