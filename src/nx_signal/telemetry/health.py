"""Which parts are up. `/readyz` is this; each transition is logged once."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
import trio

from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()


class Health:
    """Parts are named up front and start as down, "starting"; ready is when none is down."""

    def __init__(self, parts: tuple[str, ...], metrics: Metrics) -> None:
        self._down: dict[str, str] = dict.fromkeys(parts, "starting")
        self._metrics = metrics
        self._changed = trio.Event()
        for part in parts:
            metrics.part_up.labels(part).set(0)

    @property
    def ready(self) -> bool:
        return not self._down

    @property
    def down(self) -> Mapping[str, str]:
        """part → why it is not up"""
        return dict(self._down)

    def up(self, part: str) -> None:
        if self._down.pop(part, None) is None:
            return
        self._metrics.part_up.labels(part).set(1)
        log.info("part_up", part=part)
        if self.ready:
            log.info("ready")
        self._notify()

    def fail(self, part: str, why: str) -> None:
        """Say once, when it goes down or the first reason shows; then keep quiet until it is up."""
        before = self._down.get(part)
        self._down[part] = why
        if before is None or before == "starting":
            self._metrics.part_up.labels(part).set(0)
            log.warning("part_down", part=part, why=why)
        if before != why:
            self._notify()

    async def wait_ready(self) -> None:
        while not self.ready:
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
