"""What an operator sees of a running server: why a user was notified or not, and the dead letters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_commands import PATIENCE_S, Server, listening, payment, run

from services import free_port


class Operated(Server):
    """A server, and its operator over REST."""

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        if "op" not in self.tokens:
            self.tokens["op"] = self.token("op", "--role", "signal-operator")
        return httpx.request(
            method,
            f"{self.url}/v1/api/signal{path}",
            json=body,
            headers={"Authorization": f"Bearer {self.tokens['op']}"},
            timeout=PATIENCE_S,
            trust_env=False,
        )

    def explained(self, event_id: str, user: str, delivery: str) -> Any:
        """The explanation, once it has this delivery: rows are written and pushed a moment after a 202."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.call("GET", f"/activities/{event_id}/explain?recipientId={user}")
            body = answer.json()
            deliveries = [each["delivery"] for each in body.get("deliveries", ())]
            if body.get("trace") and deliveries == [delivery]:
                return body
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)  # between two requests to another process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Operated]:
    server = Operated(tmp_path, free_port())
    server.start()
    yield server
    assert server.end() == 0


def test_an_operator_sees_which_recipients_were_notified_and_which_were_not(server: Operated) -> None:
    preview = server.call("POST", "/activities/preview", payment("e1", "an", "bo")).json()
    assert [each["recipientId"] for each in preview["recipients"]] == ["an", "bo"]
    with listening(server, "an") as listener:
        listener.connected()
        server.publish(payment("e1", "an", "bo"))
        shown = server.explained("e1", "an", "delivered")
        (session,) = shown["deliveries"][0]["sessions"]
        assert session["rev"] == shown["deliveries"][0]["row"]["rev"] == 1
        assert shown["trace"]["outcome"] == "stored" and shown["rows"] == 2
        server.explained("e1", "bo", "not_connected")
        server.explained("e1", "che", "no_row")
    assert server.call("GET", "/activities/e2/explain").status_code == 404


def test_a_dead_letter_is_found_replayed_and_discarded(server: Operated) -> None:
    server.publish(payment("poison", "an", data={"payment": {"amount": "a lot"}}), payment("good", "an"))
    server.wait_total("an", 1)
    explained = server.explained("poison", "an", "no_row")
    assert explained["trace"]["outcome"] == "dead_letter"
    (dead_letter,) = server.call("GET", "/dead-letters").json()["data"]
    assert dead_letter["error"] == explained["trace"]["reason"]
    assert json.loads(dead_letter["value"]["text"])["eventId"] == "poison"
    again = server.call("POST", f"/dead-letters/{dead_letter['id']}/replay")
    assert (again.status_code, again.json()["detail"]) == (422, dead_letter["error"])
    arguments = (dead_letter["id"], "--data-dir", server.data_dir)
    failed = run("dead-letters", "replay", *arguments)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert dead_letter["error"] in failed.stderr
    assert run("dead-letters", "discard", *arguments).returncode == 0
    assert server.call("GET", "/dead-letters").json()["data"] == []
