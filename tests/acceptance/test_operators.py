"""Operators list, message and close connections on two processes, whichever of them they call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from nx_signal.client.stream import StreamClosed, open_stream
from serving import deployed

CLIENTS = "/v1/api/signal/socket/websocket/clients"


async def test_operators_reach_the_clients_of_every_instance(
    tmp_path: Path, postgres_url: str, redis_url: str, kafka_servers: str
) -> None:
    with deployed(tmp_path, postgres_url, redis_url, kafka_servers, count=2) as deployment:
        one, two = deployment.instances
        operator = deployment.run("token", "--user", "op", "--role", "signal-operator")
        headers = {"Authorization": f"Bearer {operator}"}
        async with (
            httpx.AsyncClient(base_url=one.url + CLIENTS, headers=headers, timeout=10) as rest,
            open_stream(one.stream_url, deployment.token("ann")) as near,
            open_stream(two.stream_url, deployment.token("binh")) as far,
        ):

            async def post(path: str, body: Any = None) -> int:
                return (await rest.post(path, json=body)).status_code

            with trio.fail_after(10):
                while (await rest.get("/status")).json()["instances"] < 2:
                    await trio.sleep(0.1)
            page = (await rest.get("")).json()
            assert {client["id"] for client in page["data"]} == {near.client_id, far.client_id}
            assert page["total"] == 2 and page["unanswered"] == [] and page["nextCursor"] is None
            shown = (await rest.get(f"/{far.client_id}")).json()
            assert shown["userId"] == "binh"
            assert (await rest.get("/00000000-0000-0000-0000-000000000000")).status_code == 404

            assert await post(f"/{far.client_id}/send", {"topic": "to/one", "data": {"n": 1}}) == 202
            assert await post("/rooms/signal%2Fnotification%2Fbinh/send", {"topic": "to/room"}) == 202
            assert await post("/broadcast", {"topic": "to/all", "data": [1]}) == 202
            assert [(f.event, f.data) for f in [await far.receive() for _ in range(3)]] == [
                ("to/one", {"n": 1}),
                ("to/room", None),
                ("to/all", [1]),
            ]
            frame = await near.receive()
            assert (frame.event, frame.data) == ("to/all", [1])

            assert await post(f"/{far.client_id}/disconnect") == 202
            with pytest.raises(StreamClosed) as closed:
                await far.receive()
            assert (closed.value.code, closed.value.reason) == (4006, "Disconnected by operator")
            without_permission = {"Authorization": f"Bearer {deployment.token('ann')}"}
            for path in ("/broadcast", f"/{near.client_id}/send", f"/{near.client_id}/disconnect"):
                assert (
                    await rest.post(path, json={"topic": "t"}, headers=without_permission)
                ).status_code == 403
