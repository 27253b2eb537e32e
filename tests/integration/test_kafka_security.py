"""Kafka that asks who comes, and over TLS: what is let in, and what ends with a sentence."""

from __future__ import annotations

import datetime
import ipaddress
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nx_signal.adapters.kafka import KafkaSource
from nx_signal.adapters.kafka_producer import open_producer
from nx_signal.adapters.kafka_security import KafkaSecurity
from nx_signal.errors import SettingsError
from nx_signal.ports import Batch
from services import ApacheKafka, free_port

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
    """Apache Kafka with three more doors: `sasl`, `ssl`, and `both`; the user is ann, her password right."""

    def __init__(self) -> None:
        super().__init__()
        self.doors = {door: f"127.0.0.1:{free_port()}" for door in ("sasl", "ssl", "both")}
        self.ca_file = self.directory / "ca.pem"

    def prepare(self) -> None:
        super().prepare()
        key, certificate = self_signed("127.0.0.1")
        (self.directory / "broker.pem").write_bytes(key + certificate)
        self.ca_file.write_bytes(certificate)
        path = self.directory / "server.properties"
        text = path.read_text()
        doors = [
            f"{name}://{self.doors[door]}"
            for name, door in (("SASL_PLAINTEXT", "sasl"), ("SSL", "ssl"), ("SASL_SSL", "both"))
        ]
        for setting in ("listeners=", "advertised.listeners="):
            text = text.replace(f"\n{setting}", f"\n{setting}{','.join(doors)},")
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

    def way_in(self, way: str) -> tuple[str, KafkaSecurity]:
        """(servers, how to get in there)"""
        match way:
            case "PLAIN" | "SCRAM-SHA-256":
                return self.doors["sasl"], KafkaSecurity("SASL_PLAINTEXT", way, "ann", "right")
            case "TLS":
                return self.doors["ssl"], KafkaSecurity("SSL", ca_file=self.ca_file)
            case _:
                security = KafkaSecurity("SASL_SSL", "SCRAM-SHA-256", "ann", "right", self.ca_file)
                return self.doors["both"], security


def self_signed(address: str) -> tuple[bytes, bytes]:
    """(private key, certificate) in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def guarded(apache_kafka: ApacheKafka) -> Iterator[GuardedKafka]:  # skipped where that is
    with GuardedKafka() as broker:
        yield broker


def source_of(servers: str, topic: str, security: KafkaSecurity) -> KafkaSource:
    group = f"group-{uuid.uuid4().hex[:12]}"
    return KafkaSource(servers, topic, group, "tests", "latest", SESSION_MS, security)


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
async def test_with_the_right_credentials_records_flow(guarded: GuardedKafka, way: str) -> None:
    topic = guarded.create_topic(1)
    servers, security = guarded.way_in(way)

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
}


@pytest.mark.parametrize(("door", "security", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_kafka_refuses_is_a_wrong_setting_and_not_shown(
    guarded: GuardedKafka, door: str, security: KafkaSecurity, says: str
) -> None:
    async def consume() -> None:
        await read_one(source_of(guarded.doors[door], "any", security), trio.sleep_forever)

    async def produce() -> None:
        async with open_producer(guarded.doors[door], "any", security):
            pass

    for attempt in (consume, produce):
        with pytest.RaisesGroup(
            pytest.RaisesExc(SettingsError, match=says), flatten_subgroups=True
        ) as raised:
            with trio.fail_after(PATIENCE_S):
                await attempt()
        assert "wrong" not in repr(raised.value)


async def test_a_broker_that_knows_no_users_is_a_wrong_setting(guarded: GuardedKafka) -> None:
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
        "APP_ENV_KAFKA_BOOTSTRAP_SERVERS": guarded.doors["sasl"],
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
    said = done.stderr.decode()
    assert done.returncode == 2, said
    last = said.splitlines()[-1]
    assert last.startswith(f"nx-signal {command}: Kafka at {guarded.doors['sasl']} refuses this user: ")
    assert last.endswith("Check APP_ENV_KAFKA_SASL_USERNAME and APP_ENV_KAFKA_SASL_PASSWORD.")
    assert "Traceback" not in said
    assert "hunter2" not in said


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"protocol": "SASL_SSL"}, "set APP_ENV_KAFKA_SASL_USERNAME and APP_ENV_KAFKA_SASL_PASSWORD"),
        ({"protocol": "SASL_SSL", "username": "ann"}, "APP_ENV_KAFKA_SASL_PASSWORD"),
        ({"username": "ann", "password": "pw"}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
        ({"protocol": "SSL", "password": "pw"}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is SSL"),
        ({"ca_file": Path("ca.pem")}, "APP_ENV_KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
    ],
)
def test_parts_that_do_not_belong_together_are_a_wrong_setting(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        KafkaSecurity(**parts)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "other"])
def test_a_file_without_certificates_is_a_wrong_setting(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(SettingsError, match=r"APP_ENV_KAFKA_SSL_CAFILE .*/ca\.pem"):
        KafkaSecurity("SSL", ca_file=tmp_path / "ca.pem").options()


def test_printing_how_we_get_in_hides_the_password() -> None:
    assert "hunter" not in repr(KafkaSecurity("SASL_SSL", "PLAIN", "ann", "hunter2"))
