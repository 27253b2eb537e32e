"""Whether this instance can serve, and what is wrong meanwhile. `/readyz` is this; each transition is logged
once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import structlog
import trio

from nx_signal.telemetry.metrics import Metrics

log = structlog.get_logger()

NEEDED = frozenset({"store", "journal", "service"})
"""Without one of these an instance cannot serve. Any other part is needed at the start only: when Redis or
Kafka is away, the instances still serve, and must not become unready all at once."""
NEEDED_ONCE = frozenset({"issuer"})
"""Without the keys of the token issuer no client can be served; once fetched they serve while it is away."""
SHOWN_S = 3600.0
"""How long a fact that was reported is shown."""
START_WITHIN_S = 15.0
"""How long a start waits for the other parts."""


class Health:
    """Parts are named up front and start as down, "starting". Ready once each was up, after START_WITHIN_S
    once those that are NEEDED or NEEDED_ONCE were; from then on until one that is NEEDED is down."""

    def __init__(self, parts: tuple[str, ...], metrics: Metrics) -> None:
        self._down: dict[str, str] = dict.fromkeys(parts, "starting")
        self._starting = set(parts)
        self._facts: dict[str, tuple[str, float]] = {}
        self._metrics = metrics
        for part in parts:
            metrics.part_up.labels(part).set(0)
            metrics.restarts.labels(part)
            self._measure(part)

    @property
    def ready(self) -> bool:
        return not self.down

    @property
    def outages(self) -> Mapping[str, str]:
        """part → why it is not up"""
        return dict(self._down)

    @property
    def down(self) -> Mapping[str, str]:
        """part → why this instance cannot serve"""
        return {part: why for part, why in self._down.items() if self._prevents(part)}

    @property
    def degraded(self) -> Mapping[str, str]:
        """part → what is wrong with it, although this instance can serve"""
        found = {part: why for part, why in self._down.items() if not self._prevents(part)}
        for part, (fact, until_s) in list(self._facts.items()):
            if trio.current_time() >= until_s:
                del self._facts[part]
            else:
                found[part] = f"{found[part]} {fact}" if part in found else fact
        return found

    async def end_start(self) -> None:
        """After START_WITHIN_S: an instance that is started while Redis is away serves as well."""
        await trio.sleep(START_WITHIN_S)
        was_ready = self.ready
        self._starting &= NEEDED_ONCE
        if self.ready and not was_ready:
            log.info("ready", degraded=self.degraded)

    def up(self, part: str) -> None:
        if part not in self._down:
            return
        was_ready = self.ready
        del self._down[part]
        self._starting.discard(part)
        self._metrics.part_up.labels(part).set(1)
        log.info("part_up", part=part)
        if self.ready and not was_ready:
            log.info("ready")

    def restarted(self, part: str) -> None:
        self._metrics.restarts.labels(part).inc()

    def fail(self, part: str, why: str) -> None:
        """Logged once per outage: when the part goes down, or with the first reason after "starting"."""
        before = self._down.get(part)
        self._down[part] = why
        if before is None or before == "starting":
            self._metrics.part_up.labels(part).set(0)
            self._measure(part)
            log.warning("part_down", part=part, why=why)

    def report(self, part: str, fact: str, for_s: float = SHOWN_S) -> None:
        """Show a fact about a part, which may be up, in `degraded` for a while: one sentence, logged when it
        is new. It replaces an earlier one about the same part."""
        if part not in self._facts or self._facts[part][0] != fact:
            self._measure(part)
            log.warning("degraded", part=part, why=fact)
        self._facts[part] = fact, trio.current_time() + for_s

    def _prevents(self, part: str) -> bool:
        return part in NEEDED or part in self._starting

    def _measure(self, part: str) -> None:
        self._metrics.degraded.labels(part).set_function(partial(self._is_degraded, part))

    def _is_degraded(self, part: str) -> float:
        return float(part in self.degraded)
