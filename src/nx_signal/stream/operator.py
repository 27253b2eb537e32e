"""What operators may see and do with live connections, on whichever instance they are (CONTRACT §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from nx_signal.model import Dispatch, Json, LiveSessions, SessionState
from nx_signal.stream.hub import Hub
from nx_signal.stream.session import Session
from nx_signal.stream.topics import DISCONNECT, stamp

MAX_CLIENTS = 100
"""In one page, and so in one answer of an instance."""
MAX_ROOMS_SHOWN = 100
MAX_SESSIONS = 200
"""In one answer of an instance to the question for some users' sessions."""


@dataclass(frozen=True, slots=True)
class ClientsPage:
    """Clients as CONTRACT §4 shows them, ordered by id; `unanswered` names the instances whose clients
    are missing because they did not answer in time."""

    clients: tuple[Mapping[str, Json], ...]
    total: int
    next_after: str | None
    unanswered: tuple[str, ...]


class _Query(msgspec.Struct, rename="camel"):
    user_id: str | None
    room: str | None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLIENTS)]
    after: str | None


class _Which(msgspec.Struct):
    id: str


class _Users(msgspec.Struct, rename="camel"):
    user_ids: list[str]


class _Part(msgspec.Struct):
    """One instance's share of a page: its first clients, how many match there, whether more follow."""

    clients: list[dict[str, Any]]
    total: int
    more: bool


class Operator:
    """Reads ask every instance over the relay; sends and disconnects are published like any other."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        hub.on_question = self._reply

    def status(self) -> Mapping[str, Json]:
        return self._hub.status()

    async def clients(
        self, user_id: str | None, room: str | None, limit: int, after: str | None
    ) -> ClientsPage:
        """The first `limit` clients with an id above `after`, of the user and in the room if given."""
        query = _Query(user_id, room, min(limit, MAX_CLIENTS), after)
        answers = await self._hub.peers.ask("clients", msgspec.to_builtins(query))
        parts, unanswered = [self._clients_here(query)], list(answers.silent)
        for server_id, answer in answers.of.items():
            try:
                parts.append(msgspec.convert(answer, _Part))
            except msgspec.ValidationError:  # an instance of another release
                unanswered.append(server_id)
        found = sorted((client for part in parts for client in part.clients), key=lambda c: c["id"])
        more = len(found) > query.limit or any(part.more for part in parts)
        page = tuple(found[: query.limit])
        next_after = page[-1]["id"] if more and page else None
        return ClientsPage(page, sum(part.total for part in parts), next_after, tuple(unanswered))

    async def client(self, client_id: str) -> tuple[Mapping[str, Json] | None, tuple[str, ...]]:
        """(the client or None, the instances that did not answer in time)"""
        session = self._hub.session(client_id)
        if session is not None:
            return self._shown(session), ()
        answers = await self._hub.peers.ask("client", {"id": client_id})
        found = (client for client in answers.of.values() if isinstance(client, dict))
        return next(found, None), answers.silent

    async def sessions_of(self, user_ids: Sequence[str]) -> LiveSessions:
        """How far the clients of these users are in their inboxes' logs, on every instance."""
        answers = await self._hub.peers.ask("sessions", {"userIds": list(user_ids)})
        sessions, unanswered = self._sessions_here(user_ids), list(answers.silent)
        for server_id, answer in answers.of.items():
            try:
                sessions += msgspec.convert(answer, list[SessionState])
            except msgspec.ValidationError:  # an instance of another release
                unanswered.append(server_id)
        return LiveSessions(tuple(sessions), tuple(sorted(unanswered)))

    async def broadcast(self, topic: str, data: bytes) -> None:
        await self._hub.send(Dispatch("broadcast", None, topic, data))

    async def send_to_room(self, room: str, topic: str, data: bytes) -> None:
        await self._hub.send(Dispatch("room", room, topic, data))

    async def send_to_client(self, client_id: str, topic: str, data: bytes) -> None:
        await self._hub.send(Dispatch("client", client_id, topic, data))

    async def disconnect(self, client_id: str) -> None:
        await self._hub.send(Dispatch("client", client_id, DISCONNECT, b"null"))

    def _reply(self, question: str, data: Json) -> Json:
        """What this instance answers another; None for what it does not understand."""
        try:
            if question == "clients":
                return msgspec.to_builtins(self._clients_here(msgspec.convert(data, _Query)))
            if question == "client":
                session = self._hub.session(msgspec.convert(data, _Which).id)
                return None if session is None else self._shown(session)
            if question == "sessions":
                return msgspec.to_builtins(self._sessions_here(msgspec.convert(data, _Users).user_ids))
        except msgspec.ValidationError:
            pass
        return None

    def _clients_here(self, query: _Query) -> _Part:
        sessions = self._hub.find(query.user_id, query.room)
        later = sorted((s for s in sessions if s.client_id > (query.after or "")), key=lambda s: s.client_id)
        shown = [self._shown(session) for session in later[: query.limit]]
        return _Part(shown, len(sessions), len(later) > query.limit)

    def _sessions_here(self, user_ids: Sequence[str]) -> list[SessionState]:
        found = [s for user_id in user_ids for s in self._hub.find(user_id, None) if s.live]
        return [
            SessionState(
                client_id=session.client_id,
                server_id=self._hub.server_id,
                user_id=session.user_id,
                connected_at=session.connected_at,
                since=session.since,
                rev=session.rev,
                behind=session.behind,
                lagging=session.lagging,
                queued_bytes=session.wire.queued_bytes,
            )
            for session in found[:MAX_SESSIONS]
        ]

    def _shown(self, session: Session) -> dict[str, Json]:
        return {
            "id": session.client_id,
            "userId": session.user_id,
            "rooms": sorted(session.rooms)[:MAX_ROOMS_SHOWN],
            "state": "authenticated",
            "encrypted": True,
            "connectedAt": stamp(session.connected_at),
            "lastActivity": stamp(session.last_activity),
            "serverId": self._hub.server_id,
            "queued": session.wire.queued_bytes,
        }
