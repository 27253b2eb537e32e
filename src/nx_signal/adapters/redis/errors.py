"""What an error of redis-py means for the relay: whether waiting helps. No I/O."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterDownError,
    InvalidResponse,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from nx_signal.errors import RelayLost, SettingsError, SignalError, Unsupported

REFUSALS = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError)
LOSSES = (RedisError, OSError, TimeoutError, ValueError)
"""ValueError: asyncio's reader, when the peer does not follow Redis' protocol."""

_PASSING = (ClusterDownError, TryAgainError, ReadOnlyError)
_PASSING_WORDS = ("BUSY", "max number of clients", "upstream", "NOREPLICAS", "MISCONF")
_NOT_KNOWN = ("unknown command", "unsupported command", "unknown subcommand")
_NO_TLS = frozenset(
    {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
)
_SHOWN = 200


def is_final(error: BaseException) -> bool:
    """Whether another server, or another try, would end in the same way."""
    return not isinstance(meaning(error, "", connecting=True), RelayLost)


def meaning(error: BaseException, server: str, *, connecting: bool) -> SignalError:
    """`connecting`: nothing has worked on this connection yet, so that what the peer does not accept is due
    to the settings. Later an unexpected reply is a loss: connecting anew shows what it is."""
    where = f"Redis at {server}"
    if isinstance(error, REFUSALS):
        return SettingsError(f"{where} refuses this user: {_shown(error)} Check APP_ENV_REDIS_URL.")
    if isinstance(error, ResponseError) and any(text in str(error).lower() for text in _NOT_KNOWN):
        return Unsupported(f"{where} lacks what this release needs: {_shown(error)}")
    if connecting and (final := _not_accepted(error, server, where)):
        return final
    return RelayLost(f"{where} is lost: {_shown(error)}")


def wrong_tls(server: str, *, uses_tls: bool) -> SettingsError:
    if uses_tls:
        return SettingsError(f"Redis at {server} offers no TLS: use redis:// in APP_ENV_REDIS_URL.")
    return SettingsError(f"Redis at {server} requires TLS: use rediss:// in APP_ENV_REDIS_URL.")


def _not_accepted(error: BaseException, server: str, where: str) -> SignalError | None:
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return SettingsError(
                    f"{where} has a certificate that is not trusted: {cause.verify_message}. "
                    "Name its CA with ?ssl_ca_certs=/path/of/ca.pem in APP_ENV_REDIS_URL."
                )
            case ssl.SSLError(reason=str(reason)) if reason in _NO_TLS:
                return wrong_tls(server, uses_tls=True)
            case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
                return SettingsError(f"{where} refuses this TLS client: {reason}. Check APP_ENV_REDIS_URL.")
            case PermissionError() if server.startswith("/"):
                return SettingsError(f"{where}: this user may not open the socket of APP_ENV_REDIS_URL.")
            case InvalidResponse():
                return another_protocol(str(cause), server)
            case ResponseError() if not _may_pass(cause):
                return SettingsError(
                    f"{where} does not accept what APP_ENV_REDIS_URL requests: {_shown(cause)}"
                )
    return None


def another_protocol(reply: str, server: str) -> SettingsError:
    """`reply`: its first bytes, as repr shows them."""
    if r"\x15\x03" in reply:  # a TLS alert
        return wrong_tls(server, uses_tls=False)
    kind = "is an HTTP server" if "HTTP" in reply or "<" in reply else "has another protocol"
    return SettingsError(f"Redis at {server} {kind}: check host and port in APP_ENV_REDIS_URL.")


def _may_pass(error: ResponseError) -> bool:
    return isinstance(error, _PASSING) or any(word in str(error) for word in _PASSING_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """redis-py raises errors of its own in place of those of asyncio."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _shown(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_SHOWN]
