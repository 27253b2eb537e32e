"""The documentation: complete, valid, and each of its examples runs."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
import schemathesis
from test_rest_api import Desk

from nx_signal.delivery.operator import ClientsPage
from nx_signal.delivery.sessions import LiveSessions, SessionState
from nx_signal.identity.issuer import Issuer, open_issuer
from nx_signal.model import (
    PERMISSIONS,
    ActivityContext,
    Correction,
    DeadLetter,
    Draft,
    Grant,
    Member,
    Organizer,
    Position,
    Roster,
    Trace,
)
from nx_signal.rest.openapi import METHODS, declared, document
from nx_signal.rest.route import TEXTS, Route

BASE = "/v1/api/signal"
_TRACE = ("position", "type", "scope", "rule", "recipients", "outcome", "reason")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return open_issuer(Path(tmp_path_factory.mktemp("data")))


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer)


def schema_of(described: Any, whole: dict[str, Any]) -> Any:
    """A validator of a schema in the document, formats included."""
    schema = {**described, "components": whole["components"]}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


async def test_every_route_is_documented(desk: Desk) -> None:
    """Except those of the documentation itself."""
    documented = {rule for rule, _, _, _ in declared(desk.app)}
    routes = {
        re.sub(r"<(?:\w+:)?(\w+)>", lambda m: "{" + _camel(m[1]) + "}", rule.rule)
        for rule in desk.app.url_map.iter_rules()
        if not rule.endpoint.startswith("doc") and set(rule.methods or ()) & set(METHODS)
    }
    assert routes == documented == set(document(desk.app)["paths"])


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda m: m[1].upper(), name)


async def test_the_document_is_valid_openapi(desk: Desk) -> None:
    served = (await desk.call("GET", "/doc/openapi.json", None)).json
    assert served["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(served).validate()
    for schema in served["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator(schema | {"components": served["components"]})
    named = re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(served))
    for path in set(named):
        found: Any = served
        for step in path.split("/"):
            found = found[step]
    names = [op["operationId"] for path in served["paths"].values() for op in path.values()]
    assert len(names) == len(set(names))


async def test_it_is_served_below_the_base_path_too(desk: Desk) -> None:
    for name in ("openapi.json", "asyncapi.json", "swagger-ui.css"):
        here = await desk.call("GET", f"/doc/{name}", None)
        there = await desk.call("GET", f"{BASE}/doc/{name}", None)
        assert here.status == 200
        assert here.body == there.body


async def test_the_viewer_loads_nothing_from_elsewhere(desk: Desk) -> None:
    page = await desk.call("GET", "/doc", None)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="([^"]+)"', page.body.decode())
    assert len(named) == 4
    for name in named:
        if name != "data:,":
            part = await desk.call("GET", f"/{name}", None)
            assert part.status == 200
            assert "nosniff" in part.headers["X-Content-Type-Options"]
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "<script>" not in page.body.decode()
    slashed = await desk.call("GET", "/doc/", None)
    assert (slashed.status, slashed.headers["Location"]) == (308, "../doc")


@pytest.mark.parametrize("name", ["nothing", "README.md", "..%2F__init__.py", "index.html", "%00"])
async def test_the_viewer_serves_its_files_alone(desk: Desk, name: str) -> None:
    assert (await desk.call("GET", f"/doc/{name}", None)).status == 404


async def test_each_permission_is_named_by_the_routes_that_need_it(desk: Desk) -> None:
    """And is required: without it the example is a 403."""
    restricted = [(path, method, each) for path, method, _, each in declared(desk.app) if each.permission]
    assert {each.permission for _, _, each in restricted} <= set(PERMISSIONS)
    for path, method, each in restricted:
        others = [code for code in PERMISSIONS if code != each.permission]
        reply = await desk.call(method, address(path, each), body=each.example.body, permissions=others)
        assert (reply.status, reply.code) == (403, "forbidden")


# --- the examples ---


def address(path: str, each: Route) -> str:
    steps = {name: quote(value, safe="") for name, value in each.example.path.items()}
    query = "&".join(f"{name}={quote(value)}" for name, value in each.example.query.items())
    return path.format(**steps) + ("?" + query if query else "")


async def furnished(issuer: Issuer) -> Desk:
    """A desk with the data of the examples."""
    desk = Desk(issuer)
    desk.time = NOON
    routes = {(path, method): each for path, method, _, each in declared(desk.app)}
    row = routes[f"{BASE}/notifications/{{id}}", "GET"].example.answer
    await desk.database.inbox.insert(
        [
            Draft(
                recipient_id="ann",
                activity_id="payment-42",
                type=row["type"],
                organizer_id=row["organizerId"],
                merchant_id=row["merchantId"],
                subject=row["subject"],
                locale=row["locale"],
                content=row["content"],
                content_html=row["contentHtml"],
                action_url=row["actionUrl"],
                data=row["data"],
                priority=row["priority"],
                expires_at=datetime.fromisoformat(row["expiresAt"]),
                collapse_key=row["collapseKey"],
                occurred_at=NOON,
            )
        ]
    )
    explained = routes[f"{BASE}/activities/{{eventId}}/explain", "GET"].example.answer
    fields = {name: explained["trace"][name] for name in _TRACE}
    context = ActivityContext(explained["trace"]["traceparent"])
    await desk.database.traces.add([Trace("payment-42", **fields, context=context)])
    session = explained["deliveries"][0]["sessions"][0]
    desk.operator.live = LiveSessions(
        (SessionState(session["id"], session["serverId"], "ann", NOON, 0, 1, False, False, 0),), ()
    )
    dead_letter = routes[f"{BASE}/dead-letters/{{id}}", "GET"].example.answer
    topic, partition, offset = dead_letter["position"].split("/")
    await desk.database.dead_letters.add(
        [
            DeadLetter(
                0,
                Position(topic, int(partition), int(offset)),
                dead_letter["key"]["text"],
                dead_letter["value"]["text"].encode(),
                {},
                dead_letter["error"],
            )
        ]
    )
    (correction,) = explained["corrections"]
    position = correction["position"]
    await desk.database.corrections.add(Correction("payment-42", "update", {}, NOON, position, "d"))
    desk.database.driver.connection.execute("UPDATE activity_correction SET changed = 1")
    await desk.database.directory.load(
        Roster(
            [Organizer("o1", "vi", ("m1",))],
            [Member("ann", "o1", "m1", "staff", "en")],
            [Grant("ann", None, "Activity.publish")],
        )
    )
    status = routes[f"{BASE}/socket/websocket/clients/status", "GET"].example.answer
    client = routes[f"{BASE}/socket/websocket/clients/{{clientId}}", "GET"].example.answer

    async def clients(*query: Any) -> ClientsPage:
        return ClientsPage((client,), 1, None, ())

    async def find(client_id: str) -> Any:
        return (client, ()) if client_id == client["id"] else (None, ())

    desk.operator.status = lambda: status  # type: ignore[method-assign]
    desk.operator.clients = clients  # type: ignore[method-assign]
    desk.operator.client = find  # type: ignore[method-assign]
    desk.health.up("store")
    return desk


async def test_each_example_is_answered_as_documented(issuer: Issuer) -> None:
    for path, method, _, each in declared((await furnished(issuer)).app):
        desk = await furnished(issuer)
        permissions = [each.permission] if each.permission else []
        user = None if each.public else "ann"
        reply = await desk.call(
            method, address(path, each), user, body=each.example.body, permissions=permissions
        )
        if path == "/stream":
            assert reply.status == 426
            continue
        status, kind = next(iter(each.answers.items()))
        assert reply.status == status, (path, reply.body)
        whole = strict(document(desk.app))
        described = whole["paths"][path][method.lower()]["responses"][str(status)]
        if kind is None:
            assert reply.body == b""
        elif kind not in TEXTS:
            documented = each.example.answer or reply.json
            if isinstance(documented, dict):
                random = {name: reply.json[name] for name in ("history", "ticket") if name in documented}
                documented = {**documented, **random}
            assert reply.json == documented, path
            schema_of(described["content"]["application/json"]["schema"], whole).validate(reply.json)


async def test_each_example_in_another_media_type_is_answered_as_well(issuer: Issuer) -> None:
    tried = 0
    for path, method, _, each in declared((await furnished(issuer)).app):
        for name, media in each.media.items():
            desk = await furnished(issuer)
            reply = await desk.call(
                method,
                address(path, each),
                "ann",
                data=json.dumps(media.example).encode(),
                headers={"Content-Type": name},
                permissions=[each.permission or ""],
            )
            assert reply.status == next(iter(each.answers)), (path, name, reply.body)
            tried += 1
    assert tried == 3


def strict(whole: dict[str, Any]) -> dict[str, Any]:
    """The document, with objects that have no other properties than those it names."""
    for schema in whole["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return whole


async def test_each_example_fits_its_schema(desk: Desk) -> None:
    whole = document(desk.app)

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "schema" in node and "example" in node:
                schema_of(node["schema"], whole).validate(node["example"])
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(whole["paths"])


async def test_each_route_has_an_example(desk: Desk) -> None:
    for path, method, _, each in declared(desk.app):
        assert set(re.findall(r"\{(\w+)\}", path)) == set(each.example.path), (method, path)
        if each.body is not None:
            assert each.example.body is not None, (method, path)
        if path not in ("/metrics", "/stream", "/.well-known/jwks.json") and next(iter(each.answers)) != 204:
            assert each.example.answer is not None, (method, path)
