"""Characters that no store holds, in the JSON of a message: NUL, half of a surrogate pair (a text cut in the
middle of an emoji), control characters that JSON wants escaped, bytes that are not UTF-8.

Line breaks and tabs that are not escaped stay, escaped: a store holds these."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from nx_signal.model.json import JsonDecoder

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_SUSPECT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\\u(?:0000|[dD][89a-fA-F])")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(?P<bad>\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})|[\x00-\x08\x0b\x0c\x0e-\x1f])"
    rb"|\\.",
    re.DOTALL,
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""To the end of the value where it does not end: tried again at each quote, it would take quadratic time."""
_BREAK = re.compile(rb"[\t\n\r]")
"""White space between the values of JSON; inside of its texts JSON wants them escaped."""
_raw = JsonDecoder[msgspec.Raw](msgspec.Raw)
_raw_list = JsonDecoder[list[msgspec.Raw]](list[msgspec.Raw])
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def repaired(value: bytes) -> tuple[bytes, int]:
    """The message with U+FFFD in the place of each such character, and how many there were."""
    count = 0

    def replace(bad: bytes) -> bytes:
        nonlocal count
        count += 1
        return b"\\ufffd"

    value = _each_bad(_each_break(value, _escaped), replace)
    try:
        value.decode()
    except UnicodeDecodeError:
        text = value.decode(errors="replace")
        count += text.count(REPLACEMENT) - value.count(REPLACEMENT.encode())
        value = text.encode()
    return value, count


def spelled(value: bytes) -> bytes:
    r"""The message with such characters as their codes, as in `\u0000`: texts that differ stay different."""
    value = _each_break(value, _escaped)
    value = _each_bad(value, lambda bad: b"\\" + bad if len(bad) > 1 else b"\\\\u%04x" % ord(bad))
    text = value.decode(errors="surrogateescape")
    return _UNDECODABLE.sub(lambda found: f"\\\\x{ord(found[0]) - 0xDC00:02x}", text).encode()


def slices(body: bytes) -> list[bytes]:
    """The values of a JSON list, each as it stands. Raises what msgspec raises."""
    same_length = _each_break(body, lambda found: b" ")
    same_length = _each_bad(same_length, lambda bad: b"\\ufffd" if len(bad) > 1 else b" ")
    found, end = [], 0
    for raw in _raw_list.decode(same_length):
        start = same_length.index(raw, end)
        end = start + len(bytes(raw))
        found.append(body[start:end])
    return found


def _each_bad(value: bytes, replace: Callable[[bytes], bytes]) -> bytes:
    if not _SUSPECT.search(value):
        return value
    return _ESCAPE.sub(lambda found: replace(found["bad"]) if found["bad"] else found[0], value)


def _each_break(value: bytes, replace: Callable[[re.Match[bytes]], bytes]) -> bytes:
    """Those inside of texts."""
    if not _BREAK.search(value):
        return value
    try:
        _raw.decode(value)
    except msgspec.DecodeError:
        return _STRING.sub(lambda text: _BREAK.sub(replace, text[0]), value)
    return value  # between the values alone, the usual case


def _escaped(found: re.Match[bytes]) -> bytes:
    return {b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}[found[0]]
