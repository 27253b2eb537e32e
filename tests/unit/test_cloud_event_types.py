"""APP_ENV_CLOUDEVENT_TYPES at the start of the service."""

from __future__ import annotations

import pytest

from nx_signal.errors import SettingsError
from nx_signal.service import require_known_types

KNOWN = frozenset({"PAYMENT_SUCCESS", "ORDER_COMPLETED"})


def test_a_mapping_to_a_type_that_is_not_known_ends_the_start_with_the_nearest_one() -> None:
    require_known_types({"com.acme.paid": "PAYMENT_SUCCESS"}, KNOWN)
    with pytest.raises(SettingsError, match=r"PAYMENT_SUCESS is not known.*nearest .* is PAYMENT_SUCCESS"):
        require_known_types({"com.acme.paid": "PAYMENT_SUCESS"}, KNOWN)
