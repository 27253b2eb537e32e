"""What operators may see and do with live connections, on whichever instance they are (CONTRACT §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from nx_signal.delivery.hub import Hub
from nx_signal.delivery.peers import Peers
from nx_signal.delivery.session import Session
from nx_signal.delivery.sessions import LiveSessions, SessionState
from nx_signal.delivery.topics import DISCONNECT
from nx_signal.errors import RelayLost
from nx_signal.model import Json, RelayMessage
from nx_signal.model.timestamps import format_timestamp

MAX_CLIENTS = 100
"""In one page, and so in one answer of an instance."""
MAX_ROOMS_SHOWN = 100
MAX_SESSIONS = 200
"""In one answer of an instance to the question for some users' sessions."""


@dataclass(frozen=True, slots=True)
class ClientsPage:
    """Clients as CONTRACT §4 shows them, ordered by id; `unanswered` names the instances whose clients
    are missing because they did not answer in time or could not be asked."""

    clients: tuple[Mapping[str, Json], ...]
    total: int
    next_after: str | None
    unanswered: tuple[str, ...]


class _Query(msgspec.Struct, rename="camel"):
    user_id: str | None
    room: str | None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLIENTS)]
    after: str | None


class _ClientId(msgspec.Struct):
    id: str


class _Users(msgspec.Struct, rename="camel"):
    user_ids: list[str]


class _Part(msgspec.Struct):
    """One instance's share of a page: its first clients, how many match there, whether more follow."""

    clients: list[dict[str, Any]]
    total: int
    more: bool


class LocalClients:
    """The clients of this instance, for its own operators and for the other instances."""

    def __init__(self, server_id: str, hub: Hub) -> None:
        self._server_id = server_id
        self._hub = hub

    def reply(self, question: str, data: Json) -> Json:
        """The answer to another instance; None for a question that is not understood."""
        try:
            if question == "clients":
                return msgspec.to_builtins(self.page(msgspec.convert(data, _Query)))
            if question == "client":
                return self.client(msgspec.convert(data, _ClientId).id)
            if question == "sessions":
                return msgspec.to_builtins(self.sessions_of(msgspec.convert(data, _Users).user_ids))
        except msgspec.ValidationError:
            pass
        return None

    def page(self, query: _Query) -> _Part:
        if query.user_id is not None:
            found = self._hub.sessions_of(query.user_id)
        elif query.room is not None:
            found = self._hub.sessions_in(query.room)
        else:
            found = self._hub.sessions
        matching = [session for session in found if query.room is None or query.room in session.rooms]
        later = sorted((s for s in matching if s.client_id > (query.after or "")), key=lambda s: s.client_id)
        shown = [self._shown(session) for session in later[: query.limit]]
        return _Part(shown, len(matching), len(later) > query.limit)

    def client(self, client_id: str) -> dict[str, Json] | None:
        session = self._hub.session(client_id)
        return None if session is None else self._shown(session)

    def sessions_of(self, user_ids: Sequence[str]) -> list[SessionState]:
        found = [s for user_id in user_ids for s in self._hub.sessions_of(user_id) if s.live]
        return [self._state_of(session) for session in found[:MAX_SESSIONS]]

    def _state_of(self, session: Session) -> SessionState:
        cursor = session.cursor
        return SessionState(
            client_id=session.client_id,
            server_id=self._server_id,
            user_id=session.user_id,
            connected_at=session.connected_at,
            baseline_rev=cursor.baseline_rev,
            rev=cursor.rev,
            recovering=cursor.recovering,
            backpressured=cursor.backpressured,
            queued_bytes=session.queued_bytes,
        )

    def _shown(self, session: Session) -> dict[str, Json]:
        return {
            "id": session.client_id,
            "userId": session.user_id,
            "rooms": sorted(session.rooms)[:MAX_ROOMS_SHOWN],
            "state": "authenticated",
            "encrypted": session.transport.encrypted,
            "connectedAt": format_timestamp(session.connected_at),
            "lastActivity": format_timestamp(session.last_activity),
            "serverId": self._server_id,
            "queued": session.queued_bytes,
        }


class Operator:
    """Queries go to every instance over the relay; sends and disconnects are published like any other."""

    def __init__(
        self, server_id: str, started_at: datetime, hub: Hub, local: LocalClients, peers: Peers
    ) -> None:
        self._server_id = server_id
        self._started_at = started_at
        self._hub = hub
        self._local = local
        self._peers = peers

    def status(self) -> Mapping[str, Json]:
        """CONTRACT §4, `GET …/clients/status`."""
        return {
            "status": "ok",
            "serverId": self._server_id,
            "instances": 1 + len(self._peers.known),
            "clients": len(self._hub.sessions),
            "users": len(self._hub.users),
            "rooms": len(self._hub.rooms),
            "startedAt": format_timestamp(self._started_at),
            "unanswered": self._peers.not_asked,
        }

    async def clients(
        self, user_id: str | None, room: str | None, limit: int, after: str | None
    ) -> ClientsPage:
        """The first `limit` clients with an id above `after`, of the user and in the room if given."""
        query = _Query(user_id, room, min(limit, MAX_CLIENTS), after)
        answers = await self._peers.query("clients", msgspec.to_builtins(query))
        parts, unanswered = [self._local.page(query)], list(answers.missing)
        for server_id, answer in answers.by_server.items():
            try:
                parts.append(msgspec.convert(answer, _Part))
            except msgspec.ValidationError:  # an instance of another release
                unanswered.append(server_id)
        found = sorted((client for part in parts for client in part.clients), key=lambda c: c["id"])
        more = len(found) > query.limit or any(part.more for part in parts)
        page = tuple(found[: query.limit])
        next_after = page[-1]["id"] if more and page else None
        return ClientsPage(page, sum(part.total for part in parts), next_after, tuple(sorted(unanswered)))

    async def client(self, client_id: str) -> tuple[Mapping[str, Json] | None, tuple[str, ...]]:
        """(the client or None, the instances that may have it and gave no answer)"""
        client = self._local.client(client_id)
        if client is not None:
            return client, ()
        answers = await self._peers.query("client", {"id": client_id})
        found = (client for client in answers.by_server.values() if isinstance(client, dict))
        return next(found, None), answers.missing

    async def sessions_of(self, user_ids: Sequence[str]) -> LiveSessions:
        """How far the clients of these users are in their inboxes' logs, on every instance."""
        answers = await self._peers.query("sessions", {"userIds": list(user_ids)})
        sessions, unanswered = self._local.sessions_of(user_ids), list(answers.missing)
        for server_id, answer in answers.by_server.items():
            try:
                sessions += msgspec.convert(answer, list[SessionState])
            except msgspec.ValidationError:  # an instance of another release
                unanswered.append(server_id)
        return LiveSessions(tuple(sessions), tuple(sorted(unanswered)))

    async def broadcast(self, topic: str, data: bytes) -> tuple[str, ...]:
        """The instances that may not have it."""
        return await self._send(RelayMessage("broadcast", None, topic, data))

    async def send_to_room(self, room: str, topic: str, data: bytes) -> tuple[str, ...]:
        """Likewise."""
        return await self._send(RelayMessage("room", room, topic, data))

    async def send_to_client(self, client_id: str, topic: str, data: bytes) -> tuple[str, ...]:
        """The instances that may have the client and may not have the message: none where it is connected
        here. Raises RelayLost where it is not, and the others cannot be reached."""
        return await self._send_to_client(RelayMessage("client", client_id, topic, data))

    async def disconnect(self, client_id: str) -> tuple[str, ...]:
        """Likewise."""
        return await self._send_to_client(RelayMessage("client", client_id, DISCONNECT, b"null"))

    async def _send_to_client(self, message: RelayMessage) -> tuple[str, ...]:
        if self._hub.session(message.target or "") is not None:
            await self._hub.deliver(message)
            return ()
        if not self._peers.reachable:
            raise RelayLost("The relay is away: the other instances, which may have the client, get nothing.")
        return await self._send(message)

    async def _send(self, message: RelayMessage) -> tuple[str, ...]:
        if not self._peers.reachable:  # in the relay's queue it would wait, and surprise when it is back
            await self._hub.deliver(message)
            return self._peers.not_asked
        if not await self._hub.send(message):
            return tuple(sorted({*self._peers.known, *self._peers.not_asked}))
        # Messages of one instance keep their order: who answers this has what was sent before it.
        return (await self._peers.query("received", None)).missing
