"""What a connection learns from its wire."""

from __future__ import annotations


class WireObserver:
    """What a wire reports, synchronously. Here each report is ignored."""

    __slots__ = ()

    def drained(self) -> None:
        """A frame was refused before, and there is room again."""

    def stalled(self) -> None:
        """The client took nothing for `wire.STALL_S`. Called again as long as that goes on."""

    def breached(self, code: int) -> None:
        """What the client sends is beyond its bounds; the close frame with this code is on its way."""

    def close_owed(self) -> tuple[int, str] | None:
        """The code and the reason of a close that trio-websocket begins without a close frame."""
        return None
