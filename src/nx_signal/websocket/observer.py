"""What a connection learns from its wire."""

from __future__ import annotations

from nx_signal.delivery.writer import WriterObserver


class WireObserver(WriterObserver):
    """What a wire reports, synchronously. Here each report is ignored."""

    __slots__ = ()

    def breached(self, code: int) -> None:
        """What the client sends is beyond its bounds; the close frame with this code is on its way."""

    def close_owed(self) -> tuple[int, str] | None:
        """The code and the reason of a close that trio-websocket begins without a close frame."""
        return None
