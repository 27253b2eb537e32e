"""The head of a request, checked before h11 or wsproto parses it (RFC 9112, RFC 9110 §5.5 and §7.2).

Refused is what two programs could read as two different requests: a proxy in front would check one of them,
and this server would serve the other. h11 takes bare line feeds, folded lines, control characters in values,
and Transfer-Encoding beside Content-Length or in HTTP/1.0."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

import h11

MAX_HEAD_BYTES = 32_768
"""A query of 16 KiB, which the application takes, and as much of headers."""
MAX_HEAD_READS = 512
"""Of the socket, for one head: it fits into 25 full segments, and each read costs a turn of the loop."""
MAX_FIELDS = 128
"""Browsers send some 20, each proxy adds up to 10."""
MAX_LENGTH_DIGITS = 18
"""Of Content-Length: what a 64-bit integer holds."""

_END = b"\r\n\r\n"
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_BEGINNING = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+;=-]*)(?::[0-9]{0,5})?")

_SINGLE = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"authorization", b"sec-websocket-key", b"upgrade"}
)
"""Fields that one request has once: of two, each program may take another."""


class BadRequest(h11.RemoteProtocolError):
    """A request that is refused with `error_status_hint`, in one sentence, and closed."""


def head_length(data: bytes, seen: int = 0) -> int | None:
    """Of the head at the beginning of `data`, with its empty line; None where more of it has to arrive. The
    first `seen` bytes had no end and no fault before: a head in many pieces is not read again for each.

    Raises BadRequest as soon as it cannot become a good one."""
    if data and not _BEGINNING.match(data):
        raise BadRequest("A request begins with its method.")
    end = data.find(_END, max(0, seen - len(_END)))
    length = end + len(_END) if end >= 0 else None
    if length is None and len(data) > MAX_HEAD_BYTES:
        raise BadRequest(f"The head of a request has at most {MAX_HEAD_BYTES} bytes.", 431)
    if _BARE.search(data, max(0, seen - 1), len(data) if length is None else length):
        raise BadRequest("Each line of a request's head ends with CR LF; neither occurs alone.")
    return length


def check_head(head: bytes) -> dict[bytes, bytes]:
    """The fields of a whole head that are looked at here, by lower-case name. Raises BadRequest."""
    request_line, *lines = head[: -len(_END)].split(b"\r\n")
    parts = _REQUEST_LINE.fullmatch(request_line)
    if parts is None:
        raise BadRequest("The request line is not METHOD TARGET HTTP/1.1.")
    if len(lines) > MAX_FIELDS:
        raise BadRequest(f"A request has at most {MAX_FIELDS} header fields.", 431)
    fields = list(check_fields(lines))
    single = _single(fields)
    _check_host(single.get(b"host"), parts[3])
    _check_body(single, parts[3])
    if b"websocket" in single.get(b"upgrade", b"").lower():
        _check_upgrade(single, fields)
    return single


def arrived(data: bytes, seen: int = 0) -> bool:
    """Whether the head is whole, or is to be refused already. `seen` as in `head_length`."""
    try:
        return head_length(data, seen) is not None
    except BadRequest:
        return True


def well_formed(data: bytes) -> bool:
    """Whether `data` begins with a whole head that is not refused."""
    try:
        length = head_length(data)
        if length is not None:
            check_head(data[:length])
    except BadRequest:
        return False
    return length is not None


def check_fields(lines: Iterable[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Lower-case name and value of each. Raises BadRequest."""
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            _refuse_line(line)
        yield field[1].lower(), field[2].rstrip(b"\t ")


def _refuse_line(line: bytes) -> NoReturn:
    if line[:1] in (b" ", b"\t"):
        raise BadRequest("A header field is on one line; it is not folded.")
    name = line.partition(b":")[0]
    if name[-1:] in (b" ", b"\t"):
        raise BadRequest("There is no space between the name of a header field and its colon.")
    raise BadRequest("A header field is NAME: VALUE, without control characters.")


def _single(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    single: dict[bytes, bytes] = {}
    for name, value in fields:
        if name in _SINGLE:
            if name in single:
                raise BadRequest(f"A request has one {name.decode().title()} at most.")
            single[name] = value
    return single


def _check_host(host: bytes | None, minor: bytes) -> None:
    if host is None:
        if minor == b"1":
            raise BadRequest("A request of HTTP/1.1 has a Host.")
        return
    if not _HOST.fullmatch(host):
        raise BadRequest("Host is the name or address of a host, and a port.")
    if b"xn--" in host.lower():
        try:
            host.decode("idna")  # as wsproto does
        except UnicodeError:
            raise BadRequest("Host is no internationalized domain name.") from None


def _check_body(fields: dict[bytes, bytes], minor: bytes) -> None:
    length, encoding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if length is not None and not (length.isdigit() and len(length) <= MAX_LENGTH_DIGITS):
        raise BadRequest("Content-Length is a number of bytes.")
    if encoding is None:
        return
    if length is not None:
        raise BadRequest("A request has Content-Length or Transfer-Encoding, not both.")
    if minor == b"0":
        raise BadRequest("A request of HTTP/1.0 has no Transfer-Encoding.")
    if encoding.lower() != b"chunked":
        raise BadRequest("The only Transfer-Encoding is chunked.")


def _check_upgrade(single: dict[bytes, bytes], fields: Iterable[tuple[bytes, bytes]]) -> None:
    if b"transfer-encoding" in single or int(single.get(b"content-length", b"0")):
        raise BadRequest("An upgrade to a WebSocket has no body.")
    for name, value in fields:
        if (name == b"connection" or name.startswith(b"sec-websocket-")) and not value.isascii():
            raise BadRequest("Connection and Sec-WebSocket-* are ASCII.")
