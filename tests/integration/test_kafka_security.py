"""Kafka with SASL and TLS: what is accepted, and the sentences for what is refused."""

from __future__ import annotations

import os
import struct
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from certificates import self_signed
from memory_source import MemoryPositions
from nx_signal.adapters.kafka.producer import open_producer
from nx_signal.adapters.kafka.security import KafkaSecurity
from nx_signal.adapters.kafka.source import KafkaSource
from nx_signal.errors import SettingsError, SourceUnavailable
from nx_signal.ports import Batch
from services import ApacheKafka, free_port, kafka_request, kafka_string

PATIENCE_S = 60.0
SESSION_MS = 10_000

LISTENER = """\
listener.name.{name}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.{name}.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_ann="right";
listener.name.{name}.scram-sha-256.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class GuardedKafka(ApacheKafka):
    """Apache Kafka with three more listeners: `sasl`, `ssl` and `both`; user ann, password right."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners = {listener: f"127.0.0.1:{free_port()}" for listener in ("sasl", "ssl", "both")}
        self.ca_file = self.directory / "ca.pem"

    def prepare(self) -> None:
        super().prepare()
        key, certificate = self_signed("127.0.0.1")
        (self.directory / "broker.pem").write_bytes(key + certificate)
        self.ca_file.write_bytes(certificate)
        path = self.directory / "server.properties"
        text = path.read_text()
        listeners = [
            f"{name}://{self.listeners[listener]}"
            for name, listener in (("SASL_PLAINTEXT", "sasl"), ("SSL", "ssl"), ("SASL_SSL", "both"))
        ]
        for setting in ("listeners=", "advertised.listeners="):
            text = text.replace(f"\n{setting}", f"\n{setting}{','.join(listeners)},")
        text = text.replace(
            "protocol.map=", "protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,"
        )
        text += "ssl.keystore.type=PEM\nssl.keystore.location=broker.pem\n"
        text += LISTENER.format(name="sasl_plaintext") + LISTENER.format(name="sasl_ssl")
        path.write_text(text)

    def _java(self, main: str, *args: str) -> list[str]:
        if main == "kafka.tools.StorageTool":
            args += ("--add-scram", "SCRAM-SHA-256=[name=ann,password=right]")
        return super()._java(main, *args)

    def access_to(self, way: str) -> tuple[str, KafkaSecurity]:
        """(servers, the security settings for them)"""
        match way:
            case "PLAIN" | "SCRAM-SHA-256":
                return self.listeners["sasl"], KafkaSecurity("SASL_PLAINTEXT", way, "ann", "right")
            case "TLS":
                return self.listeners["ssl"], KafkaSecurity("SSL", ca_file=self.ca_file)
            case _:
                security = KafkaSecurity("SASL_SSL", "SCRAM-SHA-256", "ann", "right", self.ca_file)
                return self.listeners["both"], security


@pytest.fixture(scope="module")
def guarded(apache_kafka: ApacheKafka) -> Iterator[GuardedKafka]:  # skipped where that is
    with GuardedKafka() as broker:
        yield broker


def source_of(servers: str, topic: str, security: KafkaSecurity) -> KafkaSource:
    group = f"group-{uuid.uuid4().hex[:12]}"
    return KafkaSource(servers, topic, group, "tests", "latest", SESSION_MS, MemoryPositions(), security)


async def read_one(source: KafkaSource, publish: Callable[[], Any]) -> bytes:
    send, batches = trio.open_memory_channel[Batch](10)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(source.run, send)
            await publish()
            value = (await batches.receive()).records[0].value
            nursery.cancel_scope.cancel()
    return value


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "TLS", "both"])
async def test_with_the_right_credentials_records_are_produced_and_consumed(
    guarded: GuardedKafka, way: str
) -> None:
    topic = guarded.create_topic(1)
    servers, security = guarded.access_to(way)

    async def publish() -> None:
        async with open_producer(servers, topic, security) as produce:
            await produce([("k", b"1")])

    assert await read_one(source_of(servers, topic, security), publish) == b"1"


USER = "refuses this user: .* APP_ENV_KAFKA_SASL_PASSWORD"
CERTIFICATE = "a certificate that is not trusted .* APP_ENV_KAFKA_SSL_CAFILE"

REFUSED = {
    "wrong password": ("sasl", KafkaSecurity("SASL_PLAINTEXT", "PLAIN", "ann", "wrong"), USER),
    "wrong password, SCRAM": ("sasl", KafkaSecurity("SASL_PLAINTEXT", "SCRAM-SHA-256", "ann", "wrong"), USER),
    "unknown user": ("sasl", KafkaSecurity("SASL_PLAINTEXT", "PLAIN", "bob", "wrong"), USER),
    "another mechanism": (
        "sasl",
        KafkaSecurity("SASL_PLAINTEXT", "SCRAM-SHA-512", "ann", "wrong"),
        "APP_ENV_KAFKA_SASL_MECHANISM",
    ),
    "an unknown authority": ("ssl", KafkaSecurity("SSL"), CERTIFICATE),
    "an unknown authority, with a user": (
        "both",
        KafkaSecurity("SASL_SSL", "SCRAM-SHA-256", "ann", "right"),
        CERTIFICATE,
    ),
}


@pytest.mark.parametrize(("listener", "security", "error"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_kafka_refuses_is_a_settings_error_and_not_shown(
    guarded: GuardedKafka, listener: str, security: KafkaSecurity, error: str
) -> None:
    async def consume() -> None:
        await read_one(source_of(guarded.listeners[listener], "any", security), trio.sleep_forever)

    async def produce() -> None:
        async with open_producer(guarded.listeners[listener], "any", security):
            pass

    for attempt in (consume, produce):
        with pytest.RaisesGroup(
            pytest.RaisesExc(SettingsError, match=error), flatten_subgroups=True
        ) as raised:
            with trio.fail_after(PATIENCE_S):
                await attempt()
        assert "wrong" not in repr(raised.value)


async def test_a_wrong_password_over_tls_is_a_settings_error(guarded: GuardedKafka) -> None:
    security = KafkaSecurity("SASL_SSL", "SCRAM-SHA-256", "ann", "wrong", guarded.ca_file)
    with pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match=USER), flatten_subgroups=True):
        await read_one(source_of(guarded.listeners["both"], "any", security), trio.sleep_forever)


PROTOCOL = "APP_ENV_KAFKA_SECURITY_PROTOCOL to"
MISMATCHES = [
    ("PLAINTEXT", "ssl", f"expects TLS: set {PROTOCOL} SSL"),
    ("PLAINTEXT", "both", f"expects TLS: set {PROTOCOL} SSL"),
    ("PLAINTEXT", "sasl", f"expects a user: set {PROTOCOL} SASL_PLAINTEXT"),
    ("SASL_PLAINTEXT", "ssl", f"expects TLS: set {PROTOCOL} SASL_SSL"),
    ("SASL_PLAINTEXT", "both", f"expects TLS: set {PROTOCOL} SASL_SSL"),
    ("SASL_PLAINTEXT", "plain", "does not accept this authentication"),
    ("SSL", "plain", f"does not speak TLS: set {PROTOCOL} PLAINTEXT"),
    ("SSL", "sasl", f"does not speak TLS: set {PROTOCOL} PLAINTEXT"),
    ("SSL", "both", f"expects a user: set {PROTOCOL} SASL_SSL"),
    ("SASL_SSL", "plain", f"does not speak TLS: set {PROTOCOL} SASL_PLAINTEXT"),
    ("SASL_SSL", "sasl", f"does not speak TLS: set {PROTOCOL} SASL_PLAINTEXT"),
    ("SASL_SSL", "ssl", "does not accept this authentication"),
]


@pytest.mark.parametrize(("protocol", "listener", "error"), MISMATCHES)
async def test_a_protocol_that_the_port_does_not_speak_is_one_sentence(
    guarded: GuardedKafka, protocol: str, listener: str, error: str
) -> None:
    servers = guarded.servers if listener == "plain" else guarded.listeners[listener]
    name, password = ("ann", "right") if protocol.startswith("SASL") else (None, None)
    ca_file = guarded.ca_file if protocol.endswith("SSL") else None
    security = KafkaSecurity(protocol, "PLAIN", name, password, ca_file)

    async def consume() -> None:
        await read_one(source_of(servers, "any", security), trio.sleep_forever)

    async def produce() -> None:
        async with open_producer(servers, "any", security):
            pass

    for attempt in (consume, produce):
        with pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match=error), flatten_subgroups=True):
            with trio.fail_after(PATIENCE_S):
                await attempt()


async def test_a_name_that_is_not_resolved_is_waited_for_and_named() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(SourceUnavailable, match="no-such-host.invalid:9092 cannot be reached: .*known"),
        flatten_subgroups=True,
    ):
        await read_one(source_of("no-such-host.invalid:9092", "any", KafkaSecurity()), trio.sleep_forever)


async def test_a_broker_without_sasl_is_a_settings_error(guarded: GuardedKafka) -> None:
    security = KafkaSecurity("SASL_PLAINTEXT", "PLAIN", "ann", "right")
    with pytest.RaisesGroup(
        pytest.RaisesExc(SettingsError, match="APP_ENV_KAFKA_SECURITY_PROTOCOL"), flatten_subgroups=True
    ):
        await read_one(source_of(guarded.servers, "any", security), trio.sleep_forever)


@pytest.mark.parametrize("command", ["serve", "publish"])
async def test_with_wrong_credentials_the_process_ends_with_one_sentence_and_status_2(
    guarded: GuardedKafka, command: str, tmp_path: Path
) -> None:
    (tmp_path / "activity.json").write_text("{}")
    arguments = ["--port", "0"] if command == "serve" else [str(tmp_path / "activity.json")]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("APP_ENV_")},
        "APP_ENV_DATA_DIR": str(tmp_path / "data"),
        "APP_ENV_LOG_LEVEL": "error",
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": guarded.listeners["sasl"],
        "APP_ENV_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "APP_ENV_KAFKA_SASL_USERNAME": "ann",
        "APP_ENV_KAFKA_SASL_PASSWORD": "hunter2",
    }
    with trio.fail_after(PATIENCE_S):
        done = await trio.run_process(
            [sys.executable, "-m", "nx_signal", command, *arguments],
            env=environment,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
    stderr = done.stderr.decode()
    assert done.returncode == 2, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith(f"nx-signal {command}: Kafka at {guarded.listeners['sasl']} refuses this user: ")
    assert last.endswith("Check APP_ENV_KAFKA_SASL_USERNAME and APP_ENV_KAFKA_SASL_PASSWORD.")
    assert "Traceback" not in stderr
    assert "hunter2" not in stderr


# --- rights ---------------------------------------------------------------------------------------

TOPIC, GROUP, ALLOW, LITERAL, READ, WRITE = 2, 3, 3, 3, 3, 4
"""Of CreateAcls (https://kafka.apache.org/protocol)."""


class LockedKafka(GuardedKafka):
    """Its users have the rights alone that they are given; a client of the plain listener gives them."""

    def prepare(self) -> None:
        super().prepare()
        with (self.directory / "server.properties").open("a") as properties:
            properties.write(
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
                "super.users=User:ANONYMOUS\n"
            )

    def allow(self, kind: int, name: str, operation: int) -> None:
        rule = struct.pack(">b", kind) + kafka_string(name) + struct.pack(">b", LITERAL)
        rule += kafka_string("User:ann") + kafka_string("*") + struct.pack(">bb", operation, ALLOW)
        answer = kafka_request(self.servers, (30, 1), struct.pack(">i", 1) + rule)
        answer.take("i"), answer.take("i")  # throttle time, one answer
        assert answer.take("h") == 0, answer.string()


@pytest.fixture(scope="module")
def locked(apache_kafka: ApacheKafka) -> Iterator[LockedKafka]:  # skipped where that is
    with LockedKafka() as broker:
        yield broker


async def test_each_missing_right_is_one_sentence(locked: LockedKafka) -> None:
    topic = locked.create_topic(1)
    servers, security = locked.access_to("PLAIN")
    source = source_of(servers, topic, security)

    async def consume() -> None:
        await read_one(source, trio.sleep_forever)

    async def produce() -> None:
        async with open_producer(servers, topic, security) as send:
            await send([("k", b"1")])

    async def refused(attempt: Callable[[], Any], error: str) -> None:
        with pytest.RaisesGroup(pytest.RaisesExc(SettingsError, match=error), flatten_subgroups=True):
            with trio.fail_after(PATIENCE_S):
                await attempt()

    await refused(consume, f"refuses the topic {topic}: allow reading it")
    await refused(produce, f"refuses the topic {topic}: allow writing it")
    locked.allow(TOPIC, topic, READ)
    await refused(consume, f"refuses the group {source.group_id}: allow it")
    locked.allow(GROUP, source.group_id, READ)
    locked.allow(TOPIC, topic, WRITE)
    assert await read_one(source, produce) == b"1"


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"protocol": "SASL_SSL"}, "set APP_ENV_KAFKA_SASL_USERNAME and APP_ENV_KAFKA_SASL_PASSWORD"),
        ({"protocol": "SASL_SSL", "username": "ann"}, "APP_ENV_KAFKA_SASL_PASSWORD"),
        ({"username": "ann", "password": "pw"}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
        ({"protocol": "SSL", "password": "pw"}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is SSL"),
        ({"ca_file": Path("ca.pem")}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
    ],
)
def test_settings_that_contradict_each_other_are_a_settings_error(parts: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError, match=error):
        KafkaSecurity(**parts)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "other"])
def test_a_file_without_certificates_is_a_settings_error(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(SettingsError, match=r"APP_ENV_KAFKA_SSL_CAFILE .*/ca\.pem"):
        KafkaSecurity("SSL", ca_file=tmp_path / "ca.pem").options()


def test_printing_the_security_settings_hides_the_password() -> None:
    assert "hunter" not in repr(KafkaSecurity("SASL_SSL", "PLAIN", "ann", "hunter2"))
