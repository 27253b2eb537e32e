"""The sentences about the database never show its password, whatever the URL looks like."""

from __future__ import annotations

import pytest

from nx_signal.adapters.postgres.faults import place_of


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:s3cret@db.example:5432/signal", "db.example:5432/signal"),
        ("postgresql://db.example/signal", "db.example/signal"),
        ("postgresql://u:s3cret@a:1,b:2/signal?target_session_attrs=primary", "a:1,b:2/signal"),
        ("postgresql://u:s3c@ret@[::1]:5432/signal", "[::1]:5432/signal"),
        ("postgresql://db.example/signal?user=u&password=s3cret", "db.example/signal"),
        ("postgresql://u:s3c/ret@db.example/signal", "the server of APP_ENV_DATABASE_URL"),
        ("postgresql://u:s3c?ret@db.example/signal", "the server of APP_ENV_DATABASE_URL"),
        ("postgresql://db.example/signal?password=s3c@ret", "the server of APP_ENV_DATABASE_URL"),
    ],
)
def test_a_place_is_host_and_database(url: str, place: str):
    assert place_of(url) == place
