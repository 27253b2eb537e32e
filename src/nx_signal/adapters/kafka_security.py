"""How we show Kafka who we are, and what it says when it does not let us in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from nx_signal.errors import SettingsError

ASK_WHY_S = 3.0


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """`protocol`: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; `mechanism`: PLAIN, SCRAM-SHA-256 or
    SCRAM-SHA-512; `ca_file`: instead of the system's authorities. Raises SettingsError for parts that do
    not belong together."""

    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if self.sasl and (self.username is None or self.password is None):
            raise SettingsError(
                f"APP_ENV_KAFKA_SECURITY_PROTOCOL is {self.protocol}: set APP_ENV_KAFKA_SASL_USERNAME and "
                "APP_ENV_KAFKA_SASL_PASSWORD as well."
            )
        if not self.sasl and (self.username is not None or self.password is not None):
            raise SettingsError(
                "APP_ENV_KAFKA_SASL_USERNAME or _PASSWORD is set, and APP_ENV_KAFKA_SECURITY_PROTOCOL is "
                f"{self.protocol}: set that to SASL_SSL or SASL_PLAINTEXT, or unset these."
            )
        if not self.tls and self.ca_file is not None:
            raise SettingsError(
                f"APP_ENV_KAFKA_SSL_CAFILE is set, and APP_ENV_KAFKA_SECURITY_PROTOCOL is {self.protocol}: "
                "set that to SSL or SASL_SSL, or unset this."
            )

    @property
    def sasl(self) -> bool:
        return self.protocol.startswith("SASL_")

    @property
    def tls(self) -> bool:
        return self.protocol.endswith("SSL")

    def options(self) -> dict[str, Any]:
        """As aiokafka takes them; reads the file. Raises SettingsError."""
        options: dict[str, Any] = {"security_protocol": self.protocol}
        if self.sasl:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        if self.tls:
            try:
                options["ssl_context"] = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:
                raise SettingsError(
                    f"APP_ENV_KAFKA_SSL_CAFILE {self.ca_file} is no readable file of certificates (PEM): "
                    f"{error}."
                ) from None
        return options


PLAINTEXT = KafkaSecurity()


def refusal(error: Exception, servers: str) -> SettingsError | None:
    """The sentence for an error that waiting cannot mend; None for any other."""
    kafka = f"Kafka at {servers}"
    match error:
        case ssl.SSLCertVerificationError():
            return SettingsError(
                f"{kafka} shows a certificate that is not trusted ({error.verify_message}): "
                "check APP_ENV_KAFKA_SSL_CAFILE and the broker's name."
            )
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            return SettingsError(
                f"{kafka} refuses this user: {_words(error)}. Check APP_ENV_KAFKA_SASL_USERNAME and "
                "APP_ENV_KAFKA_SASL_PASSWORD."
            )
        case UnsupportedSaslMechanismError() | IllegalSaslStateError() | AuthenticationMethodNotSupported():
            return SettingsError(
                f"{kafka} does not take this way to log in. Check APP_ENV_KAFKA_SECURITY_PROTOCOL and "
                "APP_ENV_KAFKA_SASL_MECHANISM."
            )
        case ClusterAuthorizationFailedError():
            return SettingsError(f"{kafka} refuses this client: {error}")
        case _:
            return None


def _words(error: Exception) -> str:
    return str(error.args[0] if error.args else error).rstrip(".")


async def aio_refusal(options: Mapping[str, Any]) -> Exception | None:
    """Why none of the brokers lets us in, if it is a refusal: aiokafka only logs that, and says that it
    cannot connect. `options` as for aiokafka."""
    if options["security_protocol"] == "PLAINTEXT":
        return None
    security = {key: options[key] for key in options if key.startswith(("security_", "sasl_", "ssl_"))}
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            async with asyncio.timeout(ASK_WHY_S):
                connection = await create_conn(host, port, **security)
                await connection.close()
        except (KafkaError, OSError, TimeoutError) as error:
            if refusal(error, host) is not None:
                return error
    return None
