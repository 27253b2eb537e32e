"""How this client authenticates itself to Kafka."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nx_signal.errors import SettingsError


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """`protocol`: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; `mechanism`: PLAIN, SCRAM-SHA-256 or
    SCRAM-SHA-512; `ca_file`: instead of the system's authorities. Raises SettingsError for settings that
    contradict each other."""

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
                    f"APP_ENV_KAFKA_SSL_CAFILE {self.ca_file} is not a readable file of PEM certificates: "
                    f"{error}."
                ) from None
        return options


PLAINTEXT = KafkaSecurity()
