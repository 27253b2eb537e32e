"""How the services are taken away and come back. Each returns once the service is back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from faults.load import Fault, Load
from faults.proxy import Proxy
from faults.stage import Stage
from services import Service
from serving import PATIENCE_S


def stopped(
    service: Callable[[Stage], Service], end: Callable[[Any], None], for_s: float, *, silence: bool = False
) -> Fault:
    """With `silence` the load ends before the service returns: no later change reveals a lost one."""

    def fault(stage: Stage, load: Load) -> None:
        end(service(stage))
        time.sleep(for_s)  # the outage itself
        if silence:
            load.end()
        service(stage).start()

    return fault


def frozen(service: Callable[[Stage], Service], for_s: float, *, silence: bool = False) -> Fault:
    def fault(stage: Stage, load: Load) -> None:
        service(stage).pause()
        time.sleep(for_s)  # the outage itself
        if silence:
            load.end()
        service(stage).resume()

    return fault


def service_stopped(for_s: float) -> Fault:
    """One of the two instances does not run for that long, as when its machine is suspended."""

    def fault(stage: Stage, load: Load) -> None:
        process = stage.instances[0].process
        assert process
        process.send_signal(signal.SIGSTOP)
        time.sleep(for_s)  # the outage itself
        process.send_signal(signal.SIGCONT)

    return fault


def cut(proxy: Callable[[Stage], Proxy], times: int) -> Fault:
    def fault(stage: Stage, load: Load) -> None:
        for _ in range(times):
            time.sleep(0.3)  # some traffic on the connections that are cut
            with_connections(proxy(stage)).cut()

    return fault


def with_connections(proxy: Proxy) -> Proxy:
    """Returns once a connection has been opened through it again."""
    deadline = time.monotonic() + PATIENCE_S
    while not proxy.connections:
        assert time.monotonic() < deadline, "no connection was opened"
        time.sleep(0.05)  # other threads open the connections
    return proxy
