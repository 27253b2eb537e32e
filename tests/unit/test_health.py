"""What makes an instance unready, and what is only named."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

PARTS = ("store", "relay", "journal", "kafka")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def health(metrics: Metrics) -> Health:
    health = Health(PARTS, metrics)
    for part in PARTS:
        health.up(part)
    return health


def value(metrics: Metrics, part: str) -> Any:
    return metrics.registry.get_sample_value("signal_degraded", {"part": part})


def test_an_instance_is_not_ready_before_each_part_was_up_once(metrics: Metrics) -> None:
    health = Health(PARTS, metrics)
    for part in PARTS:
        assert part in health.down and not health.ready
        health.fail(part, "cannot be reached")
        assert health.down[part] == "cannot be reached"
        health.up(part)
    assert health.ready and not health.degraded


async def test_a_start_without_what_is_not_needed_becomes_ready_after_a_while(
    autojump_clock: MockClock, metrics: Metrics
) -> None:
    health = Health(PARTS, metrics)
    for part in PARTS:
        health.fail(part, "cannot be reached")
    await health.end_start()
    assert set(health.down) == {"store", "journal"} and set(health.degraded) == {"relay", "kafka"}
    health.up("store")
    health.up("journal")
    assert health.ready


@pytest.mark.parametrize("part", ["relay", "kafka"])
def test_an_outage_of_what_all_instances_share_is_named_and_leaves_the_instance_ready(
    health: Health, metrics: Metrics, part: str
) -> None:
    assert value(metrics, part) == 0
    health.fail(part, "cannot be reached")
    assert health.ready and health.degraded == {part: "cannot be reached"} and value(metrics, part) == 1
    health.up(part)
    assert not health.degraded and value(metrics, part) == 0


@pytest.mark.parametrize("part", ["store", "journal", "service"])
def test_without_what_it_needs_an_instance_is_not_ready(health: Health, part: str) -> None:
    health.fail(part, "gone")
    assert health.down == {part: "gone"} and not health.ready and not health.degraded
    health.up(part)
    assert health.ready


async def test_a_reported_fact_is_shown_for_a_while_and_logged_once(
    autojump_clock: MockClock, health: Health, metrics: Metrics
) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            health.report("kafka", "5 records were lost.", for_s=60)
    assert [line["event"] for line in logs] == ["degraded"]
    assert (
        health.ready and health.degraded == {"kafka": "5 records were lost."} and value(metrics, "kafka") == 1
    )
    health.fail("kafka", "The broker is away.")
    assert health.degraded == {"kafka": "The broker is away. 5 records were lost."}
    await trio.sleep(61)
    assert health.degraded == {"kafka": "The broker is away."}
    health.up("kafka")
    assert not health.degraded and value(metrics, "kafka") == 0


async def test_a_start_without_the_issuers_keys_does_not_end_as_one_without_redis_does(
    autojump_clock: MockClock, metrics: Metrics
) -> None:
    health = Health(("relay", "issuer"), metrics)
    await health.end_start()
    assert list(health.down) == ["issuer"] and list(health.degraded) == ["relay"]
    health.up("issuer")
    assert health.ready
    health.fail("issuer", "away")
    assert health.ready and list(health.degraded) == ["relay", "issuer"]


def test_ready_is_logged_when_it_becomes_true_only(health: Health) -> None:
    with capture_logs() as logs:
        health.fail("relay", "away")
        health.up("relay")
        health.fail("store", "away")
        health.up("store")
    assert [line["event"] for line in logs] == ["part_down", "part_up", "part_down", "part_up", "ready"]
