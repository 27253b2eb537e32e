"""Opens `/events`: who may, and how many. What is refused is refused before the answer begins."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from nx_signal.errors import RateExceeded, SessionsFull, Stopping, StoreUnavailable
from nx_signal.model import Principal
from nx_signal.server.limits import Limits
from nx_signal.sse.connection import EventConnection, EventParts
from nx_signal.sse.encoding import Place


@dataclass(kw_only=True, eq=False)
class EventServer(EventParts):
    """Of one instance. `limits` are those of the stream's handshakes and rooms, counted together."""

    limits: Limits
    _stopping: bool = field(default=False, init=False)

    async def open(
        self, principal: Principal, address: str, place: Place | None, rooms: Sequence[str]
    ) -> EventConnection:
        """A connection that is admitted; its caller has it served, or abandons it. `place`: to resume from.
        Raises RateExceeded, SessionsFull, Stopping, StoreUnavailable."""
        user_id = principal.user_id
        if self._stopping:
            raise Stopping("This instance is stopping; connect again, to another one.")
        if not self._within_rate(user_id, address, len(rooms)):
            raise RateExceeded("These are too many connections; try again shortly.")
        connection = EventConnection(self, place, rooms)
        try:
            self.admission.require_room(user_id)
            await connection.admit(self.admission.open(str(uuid.uuid4()), principal, connection))
        except SessionsFull:
            self.metrics.handshakes.labels("sessions").inc()
            raise
        except StoreUnavailable:
            self.metrics.handshakes.labels("unavailable").inc()
            raise
        return connection

    def _within_rate(self, user_id: str, address: str, rooms: int) -> bool:
        if not (self.limits.handshake_from(address) and self.limits.handshake_of(user_id)):
            self.metrics.handshakes.labels("flood").inc()
            return False
        client = self.limits.client()
        client.authenticated(user_id)
        return not rooms or client.rooms(rooms)

    def stop(self) -> None:
        """Open none any more; the drain ends those that there are."""
        self._stopping = True
