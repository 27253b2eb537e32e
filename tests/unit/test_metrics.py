"""Every series whose labels are known exists at 0 from the start, so that a rate shows its first increase."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nx_signal
from nx_signal.activities.compose import compose_activities
from nx_signal.activities.content import Renderer
from nx_signal.activities.loader import discover
from nx_signal.adapters.sqlite.memory import MemoryDatabase
from nx_signal.model.timestamps import now
from nx_signal.telemetry.health import Health
from nx_signal.telemetry.metrics import Metrics

SOURCE = Path(nx_signal.__file__).parent


def series(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


@pytest.mark.parametrize(
    "name",
    [
        *(
            f'signal_activities_total{{outcome="{o}"}}'
            for o in ("stored", "duplicate", "unknown_type", "dead_letter")
        ),
        'signal_closes_total{code="4008"}',
        'signal_source_gaps_total{reason="retention"}',
        'signal_restarts_total{part="relay"}',
        'signal_degraded{part="relay"}',
        'signal_untranslated_total{locale="vi",type="PAYMENT_SUCCESS"}',
        "signal_rows_total",
        "signal_lost_records_total",
    ],
)
def test_a_series_begins_at_0(name: str) -> None:
    metrics, registry = Metrics(), discover()
    Health(("relay",), metrics)
    compose_activities(
        database=MemoryDatabase(now),
        registry=registry,
        renderer=Renderer(registry, "UTC"),
        announce=lambda changes: None,
        metrics=metrics,
        now=now,
    )
    assert series(metrics)[name] == 0


def test_no_label_in_the_code_is_missing_at_the_start() -> None:
    found = series(Metrics())
    labels = [
        label
        for path in SOURCE.rglob("*.py")
        for label in re.findall(r'\.labels\("(\w+)"\)', path.read_text("utf-8"))
    ]
    codes = re.findall(r"= \((\d{4}), ", (SOURCE / "websocket" / "protocol.py").read_text("utf-8"))
    assert len(labels) > 5 and len(codes) > 5
    assert [each for each in (*labels, *codes) if not any(f'="{each}"' in name for name in found)] == []


def test_a_part_that_runs_again_is_counted() -> None:
    metrics = Metrics()
    health = Health(("relay",), metrics)
    health.restarted("relay")
    assert series(metrics)['signal_restarts_total{part="relay"}'] == 1
