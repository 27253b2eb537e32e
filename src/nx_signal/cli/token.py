"""`nx-signal token`, and the tokens that other commands need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.model import PERMISSIONS
from nx_signal.setting_values import redact


def run(settings: Settings, user: str, permissions: Sequence[str], roles: Sequence[str], ttl_s: int) -> None:
    """Print the token alone."""
    sys.stdout.write(mint(settings, user, ttl_s=ttl_s, permissions=permissions, roles=roles) + "\n")
    sys.stdout.flush()


def mint(
    settings: Settings,
    user: str,
    *,
    ttl_s: int,
    permissions: Sequence[str] = (),
    roles: Sequence[str] = (),
    instead: str = "get a token from that issuer",
) -> str:
    """A token of the data directory's issuer. Raises SettingsError where there is no such issuer, or another
    one is configured; `instead` is the advice in its text."""
    from nx_signal.identity.issuer import open_issuer

    if settings.jwks_url is not None:
        raise SettingsError(
            f"Tokens are verified with the keys at {redact(settings.jwks_url)}, so one of the embedded "
            f"issuer would be refused; {instead}."
        )
    unknown = [code for code in permissions if code not in PERMISSIONS]
    if unknown:
        raise SettingsError(
            f"The permission {unknown[0]!r} does not exist; use one of: {', '.join(PERMISSIONS)}."
        )
    issuer = open_issuer(settings.data_dir, make=False)
    return issuer.sign(user, ttl_s, permissions, roles, datetime.now(UTC))
