"""Secrets in texts that are logged. Nothing logs one on purpose; this is for the errors of libraries, which
quote what they were given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
TICKET_PREFIX = "sgt_"
"""Of every ticket (identity/tickets.py), so that one is found wherever it is."""
MAX_TEXT_CHARS = 65_536
"""Of one value: more than any traceback here, and it bounds the work of a log line."""

_NAME = r"(?i:(?:passw(?:or)?d|passphrase|pwd|secret(?:[-_]?key)?|token|ticket|api[-_]?key)\b)"
_NAMES = ("passw", "passphrase", "pwd", "secret", "token", "ticket", "apikey", "api_key", "api-key")
_IS_NAME = re.compile(rf".*{_NAME}", re.DOTALL)
_SECRETS = (
    # A JWT begins as base64url of a brace and a quote, space or line break; it may be cut anywhere, and an
    # escape may be before it.
    (
        ("eyj", "eya", "ewo", "ew0"),
        re.compile(
            r"((?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4})|(?<=%[0-9A-Fa-f]{2})))"
            r"e(?:y[JA]|w[o0])[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
        ),
    ),
    ((TICKET_PREFIX,), re.compile(rf"({TICKET_PREFIX})[A-Za-z0-9_-]{{8,}}")),
    # The password of a URL, which may hold anything up to its last @.
    (
        ("://",),
        re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s:/?#@\"']{0,256}:)[^\s\"]{0,512}(?=@)"),
    ),
    (
        ("authorization",),
        re.compile(
            r"((?i:authorization)[\"'\\]{0,4}[ :=,b\"'\\]{1,8}(?i:bearer|basic) +)[^\s\"'\\,;)}]{1,8192}"
        ),
    ),
    (("bearer", "basic"), re.compile(r"((?i:\b(?:bearer|basic)) +)[A-Za-z0-9._~+/=-]{16,}")),
    # In quotes, perhaps escaped ones: "password": "…", as in JSON; token=b'…', as Python shows it.
    (
        _NAMES,
        re.compile(
            rf"({_NAME}(?:\\*[\"'])? {{0,4}}[=:] {{0,4}}\[?)b?(?P<q>\\*[\"']).{{1,8192}}?(?:(?<!\\)(?P=q)|\Z)"
        ),
    ),
    # password=…, as in a connection string or a query; X-API-Key: …, as in a head.
    (_NAMES, re.compile(rf"({_NAME} ?= ?|(?i:api[-_]?key) ?: ?)[^\s&,;)\"'}}]{{1,8192}}")),
    (("-----begin",), re.compile(r"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----)[^-]*")),
)
"""Each with the texts of which what it finds has one, in small letters: most texts have none and are
searched no further."""


def redacted(text: str) -> str:
    """Without what looks like a token, a password or a private key."""
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS] + "…"
    lowered = text.lower()
    for signs, secret in _SECRETS:
        if any(sign in lowered for sign in signs):
            text = secret.sub(rf"\1{HIDDEN}", text)
    return text


def redacted_value(value: Any) -> Any:
    """The value of a field of a log line: texts redacted at any depth, as is what has the name of a secret;
    what JSON has no kind for as its text."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redacted(value)
        case Mapping():
            return {redacted(str(name)): _of_name(str(name), each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redacted_value(each) for each in value]
        case _:
            return redacted(_text(value))


def _of_name(name: str, value: Any) -> Any:
    return HIDDEN if value is not None and _IS_NAME.fullmatch(name) else redacted_value(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # its own code: no log line is worth more than the work that writes it
        return f"<{type(value).__name__}>"
