"""The services that the other tests use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services import (
    GUARD,
    Kafka,
    Postgres,
    Redis,
    Service,
    ServiceFailed,
    Tansu,
    alive,
    children_of,
    free_port,
    kafka_leaders,
    psql,
)

TESTS = Path(__file__).resolve().parent.parent


def redis(url_or_server: str | Redis, command: str) -> str:
    url = url_or_server if isinstance(url_or_server, str) else url_or_server.url
    host, _, port = url.removeprefix("redis://").partition("/")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(1024).decode().strip()


def test_no_port_is_given_out_twice_also_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    one = free_port()
    monkeypatch.setattr("services.PORTS", range(one, one + 1))
    with pytest.raises(ServiceFailed):
        free_port()
    monkeypatch.setattr("services._reserved", {})  # as in another process
    with pytest.raises(ServiceFailed):
        free_port()


def test_postgres_gives_each_module_an_empty_database_in_utf8(postgres_url: str) -> None:
    assert psql(postgres_url, "SELECT count(*) FROM pg_stat_user_tables") == "0"
    assert psql(postgres_url, "SHOW server_encoding") == "UTF8"
    assert "/test_" in postgres_url


def test_redis_answers(redis_url: str) -> None:
    assert redis(redis_url, "PING") == "+PONG"


def test_a_kafka_topic_is_fresh_and_has_four_partitions(kafka_servers: str, kafka_topic: str) -> None:
    assert len(kafka_leaders(kafka_servers, kafka_topic)) == 4


@pytest.mark.parametrize("kafka_topic", [7], indirect=True)
def test_a_kafka_topic_has_the_requested_partitions(kafka_servers: str, kafka_topic: str) -> None:
    assert len(kafka_leaders(kafka_servers, kafka_topic)) == 7


def test_each_broker_creates_topics(kafka_broker: Kafka) -> None:
    topic = kafka_broker.create_topic(partitions=2)
    assert len(kafka_leaders(kafka_broker.servers, topic)) == 2


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_postgres_restarts_on_its_address_with_its_data(own_postgres: Postgres, end: str) -> None:
    psql(own_postgres.url, "CREATE TABLE kept AS SELECT 41 AS n")
    url = own_postgres.url
    getattr(own_postgres, end)()
    with pytest.raises(ServiceFailed, match="refused"):
        psql(url, "SELECT 1")
    own_postgres.start()
    assert own_postgres.url == url
    assert psql(url, "SELECT n FROM kept") == "41"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_restarts_on_its_address_with_its_data(own_redis: Redis, end: str) -> None:
    redis(own_redis, "SET kept 41")
    url = own_redis.url
    getattr(own_redis, end)()
    with pytest.raises(ConnectionRefusedError):
        redis(url, "PING")
    own_redis.start()
    assert own_redis.url == url
    assert redis(url, "GET kept").endswith("41")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_broker_in_memory_restarts_on_its_address_empty(own_kafka: Tansu, end: str) -> None:
    servers, topic = own_kafka.servers, own_kafka.create_topic()
    getattr(own_kafka, end)()
    with pytest.raises(ConnectionRefusedError):
        kafka_leaders(servers, None)
    own_kafka.start()
    assert own_kafka.servers == servers
    assert kafka_leaders(servers, topic) == []


def test_a_paused_service_keeps_its_connections_and_answers_once_resumed(own_redis: Redis) -> None:
    with socket.create_connection(("127.0.0.1", own_redis.port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"
        own_redis.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(64)
        own_redis.resume()
        connection.settimeout(5)
        assert connection.recv(64) == b"+PONG\r\n"


def test_pausing_postgres_freezes_the_sessions_that_are_open(own_postgres: Postgres) -> None:
    own_postgres.pause()
    assert own_postgres._process is not None
    family = [own_postgres._process.pid, *children_of(own_postgres._process.pid)]
    assert len(family) > 1
    deadline = time.monotonic() + 5  # a signal arrives when its target is next scheduled
    while any(state(pid) != "T" for pid in family):
        assert time.monotonic() < deadline
    own_postgres.stop()  # also out of a pause
    with pytest.raises(ServiceFailed):
        psql(own_postgres.url, "SELECT 1")


def state(pid: int) -> str:
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]


def test_a_service_that_cannot_start_shows_the_end_of_its_log() -> None:
    class Broken(Service):
        name = "broken"

        def command(self) -> list[str]:
            return [sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"]

        def answers(self) -> bool:
            return False

    broken = Broken()
    with pytest.raises(ServiceFailed, match=r"(?s)broken ended with status 3.*no such luck"):
        broken.start()
    broken.close()


RUN = """
import services, sys, time
held = [services.Postgres(), services.Redis(), services.Tansu()]
for each in held:
    each.start()
print(*(each._process.pid for each in held), flush=True)
print(*(each.directory for each in held), flush=True)
held[0].pause()
print("ready", flush=True)
time.sleep(60)
"""


def test_no_service_outlives_a_run_that_is_killed() -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    GUARD.send("watch", run.pid)
    assert run.stdout is not None
    with run, run.stdout as output:
        pids = [int(pid) for pid in output.readline().split()]
        directories = [Path(each) for each in output.readline().split()]
        assert output.readline() == "ready\n"
        family = [member for pid in pids for member in (pid, *children_of(pid))]
        os.kill(run.pid, signal.SIGKILL)
    GUARD.send("forget", run.pid)
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in family) or any(each.exists() for each in directories):
        assert time.monotonic() < deadline
