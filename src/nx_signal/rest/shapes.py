"""What travels: camelCase, ids as strings, times with milliseconds and Z (CONTRACT §4)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from quart import Request, Response

from nx_signal.model import Json
from nx_signal.model.wire import encode_json
from nx_signal.rest.problems import Problem

MAX_TEXT_CHARS = 256
MAX_INT = 2**63 - 1
"""What the columns hold."""

NO_NUL = r"^(?![\s\S]*\x00)"
"""A pattern: no store holds this character."""
PlainText = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS, pattern=NO_NUL)]


def answer(body: Json, status: int = 200) -> Response:
    """`body`: a Struct, or anything else that msgspec encodes."""
    return Response(encode_json(body), status, content_type="application/json")


async def json_bytes(request: Request) -> bytes:
    """The body of a request that holds JSON, undecoded. 415 for another kind; the app bounds its size."""
    kind = request.mimetype
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"Send application/json, not {kind[:100]}.")
    return await body_bytes(request)


async def body_bytes(request: Request) -> bytes:
    body = await request.get_data(as_text=False)
    return body if isinstance(body, bytes) else body.encode()
