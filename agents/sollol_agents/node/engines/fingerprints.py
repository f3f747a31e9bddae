"""One word for what decides an answer: nodes that say the same may go on with each other's answers. Pure."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

_HEX: Final = 20


def fingerprint_of(engine: str, *told: Any) -> str:  # noqa: ANN401 whatever an engine put there
    """The word for an engine and what it tells of weights and template; the same on every node that tells the same."""
    digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()
    return f"{engine}:{digest[:_HEX]}"
