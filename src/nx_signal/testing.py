"""For the tests of a package that adds event types (docs/plugins.md): `check` a class as the server does when
it starts."""

from nx_signal.activities.checks import check
from nx_signal.activities.content import Rendered
from nx_signal.errors import SettingsError

__all__ = ["Rendered", "SettingsError", "check"]
