"""Tickets on the stream, on real sockets: sessions that begin, go on and end with one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from test_websocket_connection import NEVER, Server, connect, end_of, now, send_event, serving

from nx_signal.client.stream import HandshakeRefused, Stream, StreamClosed, open_stream
from nx_signal.client.websocket import open_websocket
from nx_signal.delivery.topics import REFRESHED
from nx_signal.errors import StoreUnavailable
from nx_signal.identity.tickets import TicketPurpose
from nx_signal.model import Principal
from nx_signal.server import limits
from nx_signal.server.limits import Rate
from nx_signal.websocket import protocol
from nx_signal.websocket.sealing import KeyPair
from stream_kit import SERVER_KEY

BOTH = pytest.mark.parametrize("version", [1, 2])


async def issue(
    server: Server, user: str = "u1", purpose: TicketPurpose = "stream", expires_at: datetime = NEVER
) -> str:
    return (await server.tickets.issue(Principal(user, "jti-1", expires_at), purpose)).text


def open_with(server: Server, ticket: str, version: int = 2) -> Any:
    return open_stream(server.url, ticket, scheme="Ticket", version=version, server_keys=[SERVER_KEY])


async def end_of_stream(stream: Stream) -> StreamClosed:
    with trio.fail_after(10):
        while True:
            try:
                await stream.receive()
            except StreamClosed as closed:
                return closed


async def refused(server: Server, ticket: str, version: int = 2) -> int:
    with pytest.raises(HandshakeRefused) as refusal:
        async with open_with(server, ticket, version):
            pass
    return refusal.value.code


@BOTH
async def test_a_session_that_a_ticket_began_is_one_of_its_token_s_user(version: int) -> None:
    async with serving() as server, open_with(server, await issue(server), version) as stream:
        await server.notify("u1", "a1")
        assert (await stream.receive()).data["rev"] == 1
        session = server.hub.session(stream.client_id)
        assert session and session.principal == Principal("u1", "jti-1", NEVER)


@BOTH
async def test_a_ticket_begins_one_session(version: int) -> None:
    async with serving() as server:
        ticket = await issue(server)
        async with open_with(server, ticket, version):
            pass
        assert await refused(server, ticket, version) == 4003


async def test_every_ticket_that_is_not_valid_is_refused_as_a_token_that_is_not() -> None:
    async with serving() as server:
        key = KeyPair.generate().public_b64
        refusals = []
        events = await issue(server, purpose="events")
        for credentials in (
            {"token": "bad"},
            {"type": "Ticket", "token": events},
            {"type": "Ticket", "token": "sgt_" + "A" * 43},
            {"type": "Ticket", "token": "u1"},
            {"type": "Bearer", "token": ""},
        ):
            async with open_websocket(server.url) as ws:
                await send_event(ws, "authenticate", {**credentials, "publicKey": key})
                refusals.append(await end_of(ws))
        assert refusals == [refusals[0]] * 5
        assert refusals[0][1:] == (4003, "Authentication failed")


async def test_the_session_ends_when_the_token_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WARN_BEFORE_EXPIRY_S", 0.1)
    async with serving() as server:
        ticket = await issue(server, expires_at=now() + timedelta(seconds=0.5))
        async with open_with(server, ticket) as stream:
            closed = await end_of_stream(stream)
            assert (closed.code, closed.reason) == (4005, "Token expired")


@BOTH
async def test_a_session_goes_on_with_a_ticket_of_the_same_user_alone(version: int) -> None:
    async with serving() as server:
        ticket = await issue(server, expires_at=now() + timedelta(seconds=90))
        async with open_with(server, ticket, version) as stream:
            await stream.send("refresh", {"type": "Ticket", "token": await issue(server)})
            await stream.send("resume", {"rev": 0})
            answers = [(await stream.receive()).event for _ in range(version)]
            assert answers[-1].endswith("/state") and (REFRESHED in answers) == (version == 2)
            session = server.hub.session(stream.client_id)
            assert session and session.principal.expires_at == NEVER
            await stream.send("refresh", {"type": "Ticket", "token": await issue(server, "u2")})
            assert (await end_of_stream(stream)).code == 4003


async def test_a_session_stays_while_the_store_cannot_check_its_new_ticket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("The store is away.")

    async with serving() as server:
        tickets = [await issue(server) for _ in range(2)]
        async with open_with(server, tickets[0]) as stream:
            monkeypatch.setattr(server.database.tickets, "use", away)
            await stream.send("refresh", {"type": "Ticket", "token": tickets[1]})
            await server.notify("u1", "a1")
            assert (await stream.receive()).data["rev"] == 1


async def test_a_handshake_while_the_store_is_away_is_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("The store is away.")

    async with serving() as server, open_websocket(server.url) as ws:
        ticket = await issue(server)
        monkeypatch.setattr(server.database.tickets, "use", away)
        key = KeyPair.generate().public_b64
        await send_event(ws, "authenticate", {"type": "Ticket", "token": ticket, "publicKey": key})
        assert await end_of(ws) == ([], 1013, "Try again later")


async def test_guesses_of_an_address_have_a_rate_that_valid_tickets_do_not_count_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ADDRESS_TICKETS", Rate(per_s=0.001, burst=3))
    async with serving() as server:
        for _ in range(5):
            async with open_with(server, await issue(server)):
                pass
        ticket = await issue(server)
        assert [await refused(server, "sgt_" + "A" * 43) for _ in range(3)] == [4003] * 3
        assert await refused(server, "sgt_" + "A" * 43) == 4007
        assert await refused(server, ticket) == 4007, "no ticket is looked at any more"
        async with connect(server, "u1"):
            assert len(server.hub.sessions) == 1, "tokens are"


@BOTH
async def test_a_ticket_is_in_no_log_line_of_the_stream(version: int) -> None:
    async with serving() as server:
        ticket, other = await issue(server), await issue(server, purpose="events")
        with capture_logs() as logs:
            async with open_with(server, ticket, version) as stream:
                await stream.send("refresh", {"type": "Ticket", "token": ticket})
                await end_of_stream(stream)
            await refused(server, other, version)
        assert ticket not in repr(logs) and other not in repr(logs)
        assert "ticket_refused" in repr(logs)
