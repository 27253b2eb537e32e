"""The OpenAPI 3.1 document of the routes that are declared (rest/route.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from quart_trio import QuartTrio

from nx_signal import __version__
from nx_signal.model import Json
from nx_signal.model.json import decode_json
from nx_signal.rest.route import JSON, TEXTS, EventStream, Route, camel, struct_in
from nx_signal.server.problem import ProblemDetails

PROBLEM_JSON = "application/problem+json"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_SCHEMAS = "#/components/schemas/{name}"
_STEP = re.compile(r"<(?:\w+:)?(\w+)>")
_INFO = {
    "title": "Signal",
    "version": __version__,
    "summary": "In-app notifications that are never lost.",
    "description": (
        "Each user's own inbox, operators' view of live connections, and activities without Kafka. "
        "/doc/asyncapi.json describes the stream.\n\n"
        "Errors are `application/problem+json` (RFC 9457) with a stable `code`. Every answer has an "
        "`X-Request-Id`, yours where you send one. A route that takes no query ignores one; unknown "
        "parameters are ignored, and a parameter without a value counts as not given."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_HEADERS: Mapping[str, Json] = {
    "RateLimit": {
        "description": "Requests left, and seconds until all are there again.",
        "schema": {"type": "string"},
        "example": '"user";r=999;t=1',
    },
    "RateLimit-Policy": {
        "description": "Requests at once, and seconds in which as many come again.",
        "schema": {"type": "string"},
        "example": '"user";q=1000;w=10',
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "X-Request-Id": {"description": "Names the request in the logs.", "schema": {"type": "string"}},
}


def document(app: QuartTrio, prefix: str = "") -> dict[str, Json]:
    """`prefix`: of the paths, as a browser sees them. Raises TypeError for a type that has no schema."""
    routes = list(declared(app))
    types = [kind for _, _, _, each in routes for kind in _types_of(each)]
    schemas, components = msgspec.json.schema_components([*types, ProblemDetails], ref_template=_SCHEMAS)
    schema_of = {id(kind): schema for kind, schema in zip([*types, ProblemDetails], schemas, strict=True)}
    paths: dict[str, dict[str, Json]] = {}
    for path, method, endpoint, each in routes:
        operation = _operation(each, path, endpoint, schema_of, components)
        paths.setdefault(path, {})[method.lower()] = operation
    for name in {r.query.__name__ for _, _, _, r in routes if r.query is not None}:
        del components[name]  # spread out as parameters
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "servers": [{"url": prefix or "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def declared(app: QuartTrio) -> Iterator[tuple[str, str, str, Route]]:
    """(path, method, endpoint, declaration) of each route that has one."""
    for rule in app.url_map.iter_rules():
        each = Route.of(app.view_functions.get(rule.endpoint))
        if each is not None:
            path = _STEP.sub(lambda step: f"{{{camel(step[1])}}}", rule.rule)
            yield from ((path, m, rule.endpoint, each) for m in METHODS if m in (rule.methods or ()))


def _types_of(each: Route) -> Iterator[Any]:
    yield from (kind for kind in each.answers.values() if kind is not None and kind not in TEXTS)
    yield from each.path.values()
    if each.query is not None:
        yield each.query
    yield from _bodies(each)
    yield from (media.body for media in each.media.values())


def _bodies(each: Route) -> tuple[Any, ...]:
    """The types that the body may be of."""
    if each.body is None:
        return ()
    return each.body if isinstance(each.body, tuple) else (each.body,)


def _operation(
    each: Route, path: str, endpoint: str, schema_of: Mapping[int, Json], components: Mapping[str, Any]
) -> dict[str, Json]:
    tag, _, name = endpoint.rpartition(".")
    description = " ".join(each.description.split())
    if each.permission is not None:
        description = f"Needs the permission `{each.permission}`. {description}"
    operation: dict[str, Json] = {
        "operationId": f"{tag}.{name.strip('_')}",
        "tags": [tag],
        "summary": each.summary,
        "description": description,
        "security": _security(each),
        "responses": _responses(each, schema_of, has_path="{" in path),
    }
    types = {camel(step): schema_of[id(kind)] for step, kind in each.path.items()}
    parameters = [*_steps(each, path, types), *_parameters(each, components)]
    if parameters:
        operation["parameters"] = parameters
    if each.body is not None:
        schemas = [schema_of[id(kind)] for kind in _bodies(each)]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"schema": schema} | _example(each.example.body)
        others = {
            name: {"schema": schema_of[id(media.body)]} | _example(media.example)
            for name, media in each.media.items()
        }
        operation["requestBody"] = {"required": each.body_required, "content": {JSON: content} | others}
    return operation


def _steps(each: Route, path: str, types: Mapping[str, Json]) -> Iterator[Json]:
    for name in re.findall(r"\{(\w+)\}", path):
        schema = types.get(name) or {"type": "string", "minLength": 1}
        parameter = {"name": name, "in": "path", "required": True, "schema": schema}
        yield parameter | _example(each.example.path.get(name))


def _parameters(each: Route, components: Mapping[str, Any]) -> Iterator[Json]:
    if each.query is None:
        return
    properties = components[each.query.__name__]["properties"]
    for field in msgspec.structs.fields(each.query):
        schema = dict(properties[field.encode_name])
        parameter: dict[str, Json] = {"name": field.encode_name, "in": "query", "required": field.required}
        parameter["allowEmptyValue"] = not field.required
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        example = each.example.query.get(field.encode_name)
        if struct_in(field.type) is not None:
            parsed = None if example is None else decode_json(example)
            yield parameter | {"content": {JSON: {"schema": schema} | _example(parsed)}}
        else:
            typed = None if example is None else msgspec.convert(example, field.type, strict=False)
            yield parameter | {"schema": schema} | _example(typed)


def _security(each: Route) -> list[Json]:
    """Either of what is listed."""
    if each.public:
        return []
    bearer: Json = {"bearer": [each.permission] if each.permission else []}
    return [bearer] if each.ticket is None else [bearer, {"ticket": []}]


def _responses(each: Route, schema_of: Mapping[int, Json], *, has_path: bool) -> Json:
    responses: dict[str, Json] = {}
    for status, kind in each.answers.items():
        first = not responses
        response: dict[str, Json] = {
            "description": HTTPStatus(status).phrase,
            "headers": _refs("X-Request-Id"),
        }
        if not each.public:
            response["headers"] |= _refs("RateLimit", "RateLimit-Policy")
        if first or status == HTTPStatus.NOT_MODIFIED:
            for name, meaning in each.headers.items():
                response["headers"][name] = {"description": meaning, "schema": {"type": "string"}}
        if kind in TEXTS:
            example = _example(each.example.answer) if first else {}
            schema: dict[str, Json] = {} if kind is EventStream else {"schema": {"type": "string"}}
            response["content"] = {TEXTS[kind]: schema | example}  # OpenAPI 3.1 has none of an event
        elif kind is not None:
            example = _example(each.example.answer) if first else {}
            response["content"] = {JSON: {"schema": schema_of[id(kind)]} | example}
        responses[str(status)] = response
    for status in sorted(_problems(each, has_path)):
        headers = _refs("X-Request-Id", *(["Retry-After"] if status in (429, 503) else []))
        responses.setdefault(
            str(status),
            {
                "description": HTTPStatus(status).phrase,
                "headers": headers,
                "content": {PROBLEM_JSON: {"schema": schema_of[id(ProblemDetails)]}},
            },
        )
    return responses


def _problems(each: Route, has_path: bool) -> set[int]:
    """What follows from what a route takes, beside what it declares."""
    statuses = {*each.problems}
    if each.query is not None:
        statuses |= {400, 414}
    if each.path:
        statuses.add(400)
    if each.body is not None:
        statuses |= {400, 408, 413, 415, 422}
    if not each.public:
        statuses |= {401, 429, 503}
    if each.permission is not None:
        statuses.add(403)
    return statuses


def _example(value: Json) -> dict[str, Json]:
    return {} if value is None else {"example": value}


def _refs(*names: str) -> dict[str, Json]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
