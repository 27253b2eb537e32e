"""`POST /tickets`: what authenticates a client once that cannot send a header."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from quart import Blueprint

from nx_signal.identity.tickets import TicketPurpose, Tickets
from nx_signal.model.timestamps import format_timestamp
from nx_signal.model.wire import Time
from nx_signal.rest.access import Authorizer
from nx_signal.rest.route import Call, Example, route


class TicketRequest(Struct, forbid_unknown_fields=True):
    """`events`: for `/events?ticket=`. `stream`: for `authenticate` and `refresh` on the stream."""

    purpose: TicketPurpose


class IssuedTicket(Struct, rename="camel"):
    """`ticket` is a secret until it is used or has expired."""

    ticket: Annotated[str, Meta(pattern="^sgt_[A-Za-z0-9_-]{43}$")]
    purpose: TicketPurpose
    expires_at: Time


def ticket_routes(authorizer: Authorizer, tickets: Tickets) -> Blueprint:
    routes = Blueprint("tickets", __name__)

    @routes.post("/tickets")
    @route(
        authorizer,
        "Make a ticket",
        body=TicketRequest,
        answers={201: IssuedTicket},
        example=Example(
            body={"purpose": "stream"},
            answer={
                "ticket": "sgt_vS3hLlb0h8nMrhlcGkYq6jJ1TnnWQ2VwS3w2mNqXc0E",
                "purpose": "stream",
                "expiresAt": "2026-01-01T12:00:30.000Z",
            },
        ),
    )
    async def issue(call: Call[None, TicketRequest]) -> IssuedTicket:
        """It stands in for the token of this call once, within 30 s, at any instance: for a client that
        cannot send a header, or shall not hold the token. What it authenticates has the rights of that token,
        and ends when that expires. A user has at most 32 that are neither used nor expired; with one more,
        the one that expires first is removed."""
        issued = await tickets.issue(call.caller, call.body.purpose)
        return IssuedTicket(issued.text, call.body.purpose, format_timestamp(issued.expires_at))

    return routes
