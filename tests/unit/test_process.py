"""The connections that the limit of open files allows."""

from __future__ import annotations

import resource

import pytest
from structlog.testing import capture_logs

from nx_signal.errors import SettingsError
from nx_signal.process import OTHER_FILES, allow_connections

INFINITY = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The last is in force."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    return limits


@pytest.mark.parametrize("hard", [1_048_576, INFINITY])
def test_the_soft_limit_is_raised_for_all_of_them(limits: list[tuple[int, int]], hard: int) -> None:
    limits.append((1_024, hard))
    with capture_logs() as logs:
        assert allow_connections(20_000, 64) == 20_000
    assert limits[-1] == (20_000 + 64 + OTHER_FILES, hard)
    assert logs == []


@pytest.mark.parametrize(("hard", "allowed"), [(256, 128), (1_024, 704), (4_096, 3_776), (20_000, 19_680)])
def test_a_low_hard_limit_lowers_their_number_and_is_stated_once(
    limits: list[tuple[int, int]], hard: int, allowed: int
) -> None:
    limits.append((min(hard, 1_024), hard))
    with capture_logs() as logs:
        assert allow_connections(20_000, 64) == allowed
    (line,) = logs
    assert (line["event"], line["allowed"], line["open_files"]) == ("fewer_connections", allowed, hard)


def test_too_few_for_any_is_a_sentence(limits: list[tuple[int, int]]) -> None:
    limits.append((128, 128))
    with pytest.raises(SettingsError, match=r"Only 128 files may be open.*ulimit -n"):
        allow_connections(20_000, 64)
