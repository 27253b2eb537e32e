"""`nx-signal token`, and the tokens that other commands make for themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from nx_signal.config import Settings
from nx_signal.errors import SettingsError
from nx_signal.model import PERMISSIONS


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
    instead: str = "ask that issuer for a token",
) -> str:
    """A token of the data directory's issuer. Raises SettingsError where tokens come from elsewhere,
    saying what to do `instead`."""
    from nx_signal.identity.issuer import open_issuer

    if settings.jwks_url is not None:
        raise SettingsError(
            f"Tokens are verified with the keys at {settings.jwks_url}, so one of the embedded issuer would "
            f"be refused; {instead}."
        )
    unknown = [code for code in permissions if code not in PERMISSIONS]
    if unknown:
        raise SettingsError(
            f"There is no permission {unknown[0]!r}; the known ones: {', '.join(PERMISSIONS)}."
        )
    issuer = open_issuer(settings.data_dir)
    return issuer.sign(user, ttl_s, permissions, roles, datetime.now(UTC))
