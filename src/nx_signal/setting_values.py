"""How the text of a setting becomes its value, and what may be shown of it. A parser raises ValueError with
what it expects."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from nx_signal.model import timestamps

HIDDEN = "***"
KAFKA_PORT = "9092"
OWN_PATHS = frozenset({"v1", "doc", "stream", "metrics", "healthz", "readyz", ".well-known"})


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def url(*schemes: str) -> Callable[[str], str]:
    expected = "a URL that starts with " + " or ".join(f"{s}://" for s in schemes)

    def parse(text: str) -> str:
        text = text.strip()  # as from a file of secrets, which ends with a newline
        scheme, _, rest = text.partition("://")
        if scheme in schemes and scheme.startswith(("redis", "unix")) and rest:
            return text  # perhaps several hosts, which urlsplit does not know: the adapter takes it apart
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            raise ValueError(expected) from None
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(expected)
        return text

    return parse


def database(text: str) -> str:
    """The adapter takes it apart."""
    if not re.match(r"\s*(postgres(ql)?(\+\w+)?://|\w+\s*=)", text):
        raise ValueError("a URL that starts with postgresql://")
    return text


def schema(text: str) -> str:
    if not 0 < len(text.encode()) < 64 or not text.isprintable() or text.startswith("pg_"):
        raise ValueError("the name of a schema, of at most 63 bytes")
    return text


def choice(*options: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in options:
            raise ValueError("one of " + ", ".join(options))
        return text

    return parse


def switch(text: str) -> bool:
    return choice("true", "false")(text) == "true"


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`name=value`, each name once."""
    found = [tuple(part.strip() for part in word.rpartition("=")[::2]) for word in words(text)]
    if not all(name and value for name, value in found) or len({name for name, _ in found}) < len(found):
        raise ValueError("pairs name=value separated by commas, each name once")
    return tuple((name, value) for name, value in found)


def servers(text: str) -> str:
    """Kafka's brokers as providers write them, as host:port pairs."""
    brokers = [_broker(each) for each in re.split(r"[,;\s]+", text.strip()) if each]
    if not brokers:
        raise ValueError("host:port pairs separated by commas")
    return ",".join(brokers)


def _broker(text: str) -> str:
    """`[scheme://]host[:port]`, an IPv6 address in brackets or without a port."""
    expected = "host:port pairs separated by commas"
    if "@" in text:
        raise ValueError(f"{expected}, without a user: set APP_ENV_KAFKA_SASL_USERNAME and _PASSWORD")
    scheme, _, where = text.rpartition("://")
    if scheme.lower() not in ("", "kafka", "kafka+ssl", "plaintext", "ssl", "sasl_plaintext", "sasl_ssl"):
        raise ValueError(expected)
    where = where.rstrip("/")
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", where):
        where = f"[{where}]"
    found = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:/?#]+)(?::(\d{1,5}))?", where)
    if found is None or not 0 < int(found[2] or KAFKA_PORT) < 65536:
        raise ValueError(expected)
    if found[1].startswith("["):
        try:
            ip_address(found[1][1:-1].partition("%")[0])
        except ValueError:
            raise ValueError(expected) from None
    return f"{found[1]}:{found[2] or KAFKA_PORT}"


def host(text: str) -> str:
    text = text.strip().strip("[]")
    return "::" if text in ("", "*", "all") else text


def prefix(text: str) -> str:
    path = "/" + text.strip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+|/", path) or {".", ".."} & set(path.split("/")):
        raise ValueError("a path such as /signal, of letters, digits and . _ ~ -")
    if path.split("/")[1] in OWN_PATHS:
        raise ValueError("a path that does not begin as one of this service's own, such as /signal")
    return "" if path == "/" else path


def zone(text: str) -> str:
    return timestamps.time_zone(text).key


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(word) for word in words(text))
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, separated by commas") from None


def number(low: float, high: float, unit: str = "a number") -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{unit} from {low:g} to {high:g}") from None
        if not low <= value <= high:  # also refuses nan
            raise ValueError(f"{unit} from {low:g} to {high:g}")
        return value

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    return number(low, high, "seconds")


def name(expected: str, pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(expected)
        return text

    return parse


def path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("a path; the home directory of its user is not known") from None


def text(text: str) -> str:
    return text


def redact(url: str) -> str:
    """The URL without its user's password and without its query, which may hold one too."""
    scheme, mark, rest = url.partition("://")
    # Not by urlsplit: an unescaped / ? or # in a password would end the host there, and show the rest of it.
    before, *query = re.split("[?#]", rest, maxsplit=1)
    user, at, where = before.rpartition("@")
    if not mark or any("@" in text for text in query):  # the password may go on in the query
        return f"{scheme}{mark}{HIDDEN}" if mark else HIDDEN
    shown_user = f"{user.partition(':')[0]}:***" if at else ""
    return f"{scheme}{mark}{shown_user}{at}{where}"


def hide(_: str) -> str:
    return HIDDEN
