"""One declaration per route: who may call it, what it takes and answers, and an example.

    @routes.post("/dead-letters/<id>/replay")
    @route(authorizer, "Replay a dead letter", permission="DeadLetter.replay",
           answers={202: Replayed}, problems=(404,), example=Example(path={"id": "7"}, answer=...))
    async def replay(call: Call[None, None], id: str) -> Replayed: ...

The declaration is enforced: the permission is required, query and body are read as the types named, and the
value returned is encoded with the first status of `answers`. rest/openapi.py writes the documentation
from the same declaration, and tests/integration/test_openapi.py runs each example."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from quart import Response, request

from nx_signal.activities.fields import readable
from nx_signal.identity.tickets import TicketPurpose
from nx_signal.model import Json, Principal
from nx_signal.model.json import JsonDecoder, decode_json
from nx_signal.rest.access import Authorizer
from nx_signal.rest.problems import Problem
from nx_signal.rest.shapes import answer, body_bytes, json_bytes

JSON = "application/json"


class EventStream(str):
    """The body of an answer that is a stream of Server-Sent Events."""


TEXTS: Mapping[type[str], str] = {str: "text/plain", EventStream: "text/event-stream"}
"""Bodies that are no JSON, and their media types."""

Q = TypeVar("Q")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Example:
    """One request and its answer, as on the wire: names in camelCase."""

    answer: Json = None
    """of the first status declared; None: it has no body, or one that differs each time"""
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = None


@dataclass(frozen=True, slots=True)
class Media:
    """What a body may be in another media type."""

    body: Any
    example: Json


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of a route beside its method and path; `Route.of` finds it again."""

    summary: str
    description: str
    public: bool
    permission: str | None
    ticket: TicketPurpose | None
    path: Mapping[str, Any]
    query: type[msgspec.Struct] | None
    body: Any
    body_required: bool
    media: Mapping[str, Media]
    """of the body, beside application/json"""
    answers: Mapping[int, Any]
    """status → type of the body; None: no body; one of TEXTS"""
    problems: tuple[int, ...]
    headers: Mapping[str, str]
    """of the first answer: name → meaning"""
    example: Example
    wait_s: float
    """for how long it may wait for something to answer, beside handling it"""

    @staticmethod
    def of(view: object) -> Route | None:
        return getattr(view, _DECLARED, None)


_DECLARED = "__route__"


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request as declared: the query and the body are of the types named, or None."""

    query: Q
    body: B
    _caller: Principal | None

    @property
    def caller(self) -> Principal:
        if self._caller is None:
            raise LookupError("A public route does not know its caller.")
        return self._caller

    @property
    def user_id(self) -> str:
        return self.caller.user_id


View: TypeAlias = Callable[..., Awaitable[Response]]


def route(
    authorizer: Authorizer | None,
    summary: str,
    *,
    permission: str | None = None,
    ticket: TicketPurpose | None = None,
    path: Mapping[str, Any] | None = None,
    query: type[msgspec.Struct] | None = None,
    body: Any = None,
    raw_body: bool = False,
    body_required: bool = True,
    media: Mapping[str, Media] | None = None,
    answers: Mapping[int, Any],
    problems: tuple[int, ...] = (),
    headers: Mapping[str, str] | None = None,
    example: Example | None = None,
    wait_s: float = 0.0,
) -> Callable[[Callable[..., Awaitable[Any]]], View]:
    """Declare a handler, which takes a `Call` and the path's parameters. Its docstring is the description.

    `path` gives the path's parameters types, as the handler calls them; those it leaves out are any text.
    Without `permission` any valid token will do, with `ticket` also a ticket for that purpose; a PUBLIC route
    takes none. With `raw_body` the handler gets bytes and validates them itself, by the types that `body`,
    one or several, and `media` name. A handler that returns a Response has answered itself."""
    query_type, path_types, status = query, path or {}, next(iter(answers))
    decoder = None if body is None or raw_body else JsonDecoder[Any](body)

    def declare(handler: Callable[..., Awaitable[Any]]) -> View:
        @wraps(handler)
        async def view(**steps: str) -> Response:
            caller = None if authorizer is None else await authorizer.authorize(permission, ticket)
            for name, kind in path_types.items():
                _check_step(name, steps[name], kind)
            parsed = None if query_type is None else read_query(request.args, query_type)
            sent: Any = None
            if raw_body:
                sent = await json_bytes(request)
            elif decoder is not None:
                sent = await _read_body(decoder, body_required)
            result = await handler(Call(parsed, sent, caller), **steps)
            if isinstance(result, Response):
                return result
            return Response(b"", status) if result is None else answer(result, status)

        declared = Route(
            summary=summary,
            description=handler.__doc__ or "",
            public=authorizer is None,
            permission=permission,
            ticket=ticket,
            path=path_types,
            query=query_type,
            body=body,
            body_required=body_required,
            media=media or {},
            answers=answers,
            problems=problems,
            headers=headers or {},
            example=example or Example(),
            wait_s=wait_s,
        )
        setattr(view, _DECLARED, declared)
        return view

    return declare


def _check_step(name: str, text: str, kind: Any) -> None:
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, camel(name)) from None


def camel(name: str) -> str:
    """A parameter of a path as the outside calls it."""
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


S = TypeVar("S", bound=msgspec.Struct)


def read_query(args: Mapping[str, str], parameters: type[S]) -> S:
    """The parameters as a Struct; a field that is a Struct itself is JSON. An empty value counts as not
    given, unknown parameters are ignored. Raises a 400 Problem that names the parameter."""
    given: dict[str, Any] = {name: value for name, value in args.items() if value}
    for each in msgspec.structs.fields(parameters):
        if each.encode_name in given and (form := struct_in(each.type)) is not None:
            given[each.encode_name] = _read_form(each.encode_name, given[each.encode_name], form)
    try:
        return msgspec.convert(given, parameters, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from None


def struct_in(kind: Any) -> type[msgspec.Struct] | None:
    """The Struct that a parameter's type is, or is a union with."""
    for option in getattr(kind, "__args__", (kind,)):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _read_form(name: str, text: str, form: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        parsed: msgspec.Struct = decode_json(text, form)
        return parsed
    except msgspec.ValidationError as error:
        raise invalid(error, name) from None
    except msgspec.DecodeError:
        raise Problem(400, f"{name} takes a JSON object.", "invalid_parameter") from None


async def _read_body(decoder: JsonDecoder[Any], required: bool) -> Any:
    """An absent body that is not required counts as {}, whatever its Content-Type."""
    raw = await body_bytes(request)
    if raw or required:
        raw = await json_bytes(request)
    try:
        body = decoder.decode(raw or b"{}")
    except msgspec.ValidationError as error:
        if "`$" not in str(error) and "Expected `object`" in str(error):
            raise Problem(400, "The body is not a JSON object.", "invalid_json") from None
        raise invalid(error) from None
    except msgspec.DecodeError:
        raise Problem(400, "The body is not JSON.", "invalid_json") from None
    if required and not raw:  # all its fields are optional: a forgotten body would change nothing, unnoticed
        raise Problem(400, "The body is missing.", "invalid_json")
    return body


def invalid(error: msgspec.ValidationError, root: str = "") -> Problem:
    return Problem(400, str(readable(error, root)), "invalid_parameter")
