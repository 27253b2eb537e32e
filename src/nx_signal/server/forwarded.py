"""The address of a client behind proxies: X-Forwarded-For as proxies write it, and Forwarded (RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_HOPS = 64
"""The last few are of proxies; what is before them the client wrote, in any number."""

_PROTO = b"x-forwarded-proto"
_WITH_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d*)?|(?P<v4>[0-9.]+):\d*")


def client_address(peer: str, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[Network]) -> str:
    """The address that limits apply to: the last hop that is not a trusted proxy, where the peer is one; else
    the peer. Also the peer where the headers do not show that hop, or differ about it: a proxy writes one of
    them, and the other may be the client's. IPv6 counts by its /64, which one customer holds whole."""
    nearest = _address(peer)
    if nearest is None:
        return peer
    if not _within(nearest, trusted):
        return _limited(nearest)
    lines = [(name.lower(), value.decode("latin-1")) for name, value in headers]
    hops = [hop for name, value in lines if name == b"x-forwarded-for" for hop in value.split(",")]
    elements = [part for name, value in lines if name == b"forwarded" for part in _split(value, ",")]
    chains = (
        [_hop(hop) for hop in hops[-MAX_HOPS:]],
        [_named(element) for element in elements[-MAX_HOPS:] if element.strip()],
    )
    found = {_last_untrusted(chain, nearest, trusted) for chain in chains if chain}
    return _limited(found.pop() if len(found) == 1 else nearest)


def is_confidential(peer: str, headers: Iterable[tuple[bytes, bytes]], trusted: Sequence[Network]) -> bool:
    """Whether no third party reads what the client and this server exchange: it came over TLS, as a trusted
    proxy or one on this machine states (X-Forwarded-Proto, or `proto` in Forwarded), or from this machine."""
    nearest = _address(peer)
    if nearest is None or not (nearest.is_loopback or _within(nearest, trusted)):
        return False
    lines = [(name.lower(), value.decode("latin-1")) for name, value in headers]
    elements = [part for name, value in lines if name == b"forwarded" for part in _split(value, ",")]
    protocols = [part.strip() for name, value in lines if name == _PROTO for part in value.split(",")]
    protocols += [stated for element in elements for stated in _values(element, "proto")]
    if protocols and all(protocol.lower() == "https" for protocol in protocols):
        return True
    hops = [_hop(hop) for name, value in lines if name == b"x-forwarded-for" for hop in value.split(",")]
    hops += [_hop(stated) for element in elements for stated in _values(element, "for")]
    return nearest.is_loopback and all(hop is not None and hop.is_loopback for hop in hops)


def is_within(peer: str, networks: Sequence[Network]) -> bool:
    """Whether the peer is in one of the networks, such as a trusted proxy."""
    address = _address(peer) if networks else None
    return address is not None and _within(address, networks)


def _last_untrusted(chain: list[Address | None], nearest: Address, trusted: Sequence[Network]) -> Address:
    """The first one, where all are trusted; the nearest one where it is unknown."""
    for hop in reversed(chain):
        if hop is None:
            return nearest
        if not _within(hop, trusted):
            return hop
    return chain[0] or nearest


def _named(element: str) -> Address | None:
    """By the `for` of an element of a Forwarded header."""
    named = _values(element, "for")
    return _hop(named[0]) if named else None


def _values(element: str, of: str) -> list[str]:
    pairs = (pair.partition("=") for pair in _split(element, ";"))
    return [text.strip().strip('"') for name, _, text in pairs if name.strip().lower() == of]


def _split(text: str, separator: str) -> list[str]:
    """At each separator that is not within quotes."""
    parts, start, quoted, escaped = [], 0, False, False
    for at, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\" and quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _hop(text: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, also quoted; None for any other."""
    text = text.strip().strip('"').strip()
    with_port = _WITH_PORT.fullmatch(text)
    return _address((with_port["v6"] or with_port["v4"] or "") if with_port else text)


def _address(text: str) -> Address | None:
    """Without a zone; an IPv4 address that is mapped into IPv6 is that IPv4 address."""
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def _limited(ip: Address) -> str:
    return str(ip if ip.version == 4 else IPv6Network((int(ip), 64), strict=False))


def _within(ip: Address, networks: Sequence[Network]) -> bool:
    return any(ip in network for network in networks)
