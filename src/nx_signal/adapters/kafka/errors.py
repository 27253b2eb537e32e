"""The errors of aiokafka as sentences (errors.py has the list). Of asyncio's side."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from aiokafka.codec import cramjam  # None where it is not installed
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedCodecError,
    UnsupportedSaslMechanismError,
)

from nx_signal.adapters.kafka.codecs import BatchTooLarge
from nx_signal.errors import SettingsError, SignalError, SourceUnavailable, StoreRejected, Unsupported

UNREADABLE: tuple[type[Exception], ...] = (
    CorruptRecordException,
    BatchTooLarge,
    UnicodeDecodeError,  # the name of a header
    struct.error,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    *((cramjam.DecompressionError,) if cramjam is not None else ()),
)
"""Of a batch whose bytes are not what its producer sent, or not what a client can read."""

USER = "and APP_ENV_KAFKA_SASL_USERNAME and _PASSWORD"

DRIVER_ERRORS = (KafkaError, OSError, TimeoutError, KeyError)
"""KeyError: aiokafka looks up a connection again that a timeout has just removed."""


def consumer_error(error: Exception, servers: str, topic: str, options: Mapping[str, Any]) -> SignalError:
    """For one of DRIVER_ERRORS. `options` are aiokafka's."""
    if refused := refusal(error, servers):
        return refused
    kafka, group_id = f"Kafka at {servers}", options["group_id"]
    match error:
        case InvalidSessionTimeoutError():
            return SettingsError(
                f"{kafka} does not allow a session of {options['session_timeout_ms']} ms: "
                "set APP_ENV_KAFKA_SESSION_TIMEOUT_MS between the broker's group.min.session.timeout.ms "
                "and group.max.session.timeout.ms."
            )
        case GroupAuthorizationFailedError() | InvalidGroupIdError():
            return SettingsError(
                f"{kafka} refuses the group {group_id}: allow it, or set APP_ENV_KAFKA_GROUP_ID."
            )
        case TopicAuthorizationFailedError() | InvalidTopicError():
            return SettingsError(
                f"{kafka} refuses the topic {topic}: allow reading it, or set APP_ENV_KAFKA_TOPIC."
            )
        case UnknownTopicOrPartitionError():
            return SourceUnavailable(
                f"{kafka} has no topic {topic} and does not create topics automatically: create it."
            )
        case InconsistentGroupProtocolError():
            return SourceUnavailable(
                f"{kafka}: the group {group_id} has members with another partition assignment strategy; "
                "stop those, or set APP_ENV_KAFKA_GROUP_ID."
            )
        case UnsupportedCodecError():
            return Unsupported(
                f"The topic {topic} is compressed and this installation cannot read that ({error.args[0]}): "
                "install nx-signal with all its dependencies, cramjam among them."
            )
        case TimeoutError():
            return SourceUnavailable(f"{kafka} did not answer in time.")
        case _:
            return SourceUnavailable(f"{kafka} cannot be reached: {reason(error)}")


def producer_error(error: Exception, servers: str, topic: str) -> SignalError:
    """For one of DRIVER_ERRORS, while messages are sent."""
    if refused := refusal(error, servers):
        return refused
    kafka = f"Kafka at {servers}"
    match error:
        case TopicAuthorizationFailedError() | InvalidTopicError():
            return SettingsError(
                f"{kafka} refuses the topic {topic}: allow writing it, or set APP_ENV_KAFKA_TOPIC."
            )
        case UnknownTopicOrPartitionError():
            return SourceUnavailable(f"{kafka} has no topic {topic}: create it.")
        case MessageSizeTooLargeError():
            return StoreRejected(f"Kafka refuses a message: {error}")
        case _:
            return SourceUnavailable(f"{kafka} did not store the messages: {reason(error)}")


def reason(error: Exception) -> str:
    """Why a broker is not reached, as the end of a sentence."""
    match error:
        case KafkaConnectionError():
            return "no broker answers there."
        case NodeNotReadyError():
            return "the broker that has to answer does not."
        case TimeoutError():
            return "no answer in time."
        case socket.gaierror() if error.strerror:
            return f"{error.strerror}."
        case OSError() if error.errno:
            return f"{os.strerror(error.errno)}."
        case _:
            return f"{error or type(error).__name__}".rstrip(".") + "."


def wrong_protocol(server: str, protocol: str, seen: str) -> SettingsError | None:
    """The sentence for a broker that speaks another protocol than the `security_protocol`; None otherwise.
    `seen`: what it was seen to speak."""
    setting = "APP_ENV_KAFKA_SECURITY_PROTOCOL"
    tls, sasl = protocol.endswith("SSL"), protocol.startswith("SASL_")
    match seen:
        case "another protocol" | "TLS, another protocol":
            text = "is no Kafka broker: check APP_ENV_KAFKA_BOOTSTRAP_SERVERS."
        case "TLS" if not tls:
            text = (
                f"expects TLS: set {setting} to {'SASL_SSL' if sasl else 'SSL, or to SASL_SSL with a user'}."
            )
        case "Kafka" | "Kafka with users" if tls:
            text = f"does not speak TLS: set {setting} to {'SASL_PLAINTEXT' if sasl else 'PLAINTEXT'}."
        case "Kafka with users" if not sasl:
            text = f"expects a user: set {setting} to SASL_PLAINTEXT, {USER}."
        case "TLS, Kafka with users":
            text = (
                f"expects a user: set {setting} to SASL_SSL, and APP_ENV_KAFKA_SASL_USERNAME and _PASSWORD."
            )
        case _:
            return None
    return SettingsError(f"Kafka at {server} {text}")


def refusal(error: Exception, servers: str) -> SettingsError | None:
    """The sentence for a refusal of this client; None for any other error."""
    kafka = f"Kafka at {servers}"
    match error:
        case ssl.SSLCertVerificationError():
            return SettingsError(
                f"{kafka} shows a certificate that is not trusted ({error.verify_message}): "
                "check APP_ENV_KAFKA_SSL_CAFILE and the broker's name."
            )
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            text = str(error.args[0] if error.args else error).rstrip(".")
            return SettingsError(
                f"{kafka} refuses this user: {text}. Check APP_ENV_KAFKA_SASL_USERNAME and "
                "APP_ENV_KAFKA_SASL_PASSWORD."
            )
        case UnsupportedSaslMechanismError() | IllegalSaslStateError() | AuthenticationMethodNotSupported():
            return SettingsError(
                f"{kafka} does not accept this authentication. Check APP_ENV_KAFKA_SECURITY_PROTOCOL and "
                "APP_ENV_KAFKA_SASL_MECHANISM."
            )
        case ClusterAuthorizationFailedError():
            return SettingsError(f"{kafka} refuses this client: {error}")
        case _:
            return None
