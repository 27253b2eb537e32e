"""One deployment for the whole folder: starting it takes longer than most of its tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.stage import Stage, staged


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("data")) as stage:
        yield stage
