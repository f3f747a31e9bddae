"""How long a caller waits for dispatchers. Pure."""

from __future__ import annotations

import random
from typing import Final

from sollol_bus.errors import ActorStopped

TAKEN_WITHIN_S: Final = 2.0
_TAKEN_WITHIN_MAX_S: Final = 60.0
_GONE_WITHIN_MAX_S: Final = 3600.0


def taken_within_s(unconfirmed: int, rng: random.Random) -> float:
    """How long a dispatcher may take to confirm a request, of which so many sendings came to nothing before.

    Returns:
        2 to 3 s at first, twice that for each further sending, at most 60 s.
    """
    return min(_TAKEN_WITHIN_MAX_S, TAKEN_WITHIN_S * 2.0**unconfirmed * rng.uniform(1.0, 1.5))


def gone_within_s(error: ActorStopped) -> float:
    """Within how many seconds whoever shuts down is gone, as far as it says so; at most an hour is believed."""
    told = error.details.get("gone_within_s")
    return min(float(told), _GONE_WITHIN_MAX_S) if isinstance(told, (int, float)) and told > 0 else 0.0
