"""What may be ended next. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Something that can be ended."""

    name: str
    group: str
    """What can stand in for it."""
    kind: str
    """`node`, `engine` or `connection`."""
    is_down: bool


class Hit(NamedTuple):
    """What was ended."""

    name: str
    kind: str
    at_mono_s: float


def fit_to_hit(parts: Sequence[Part], rng: random.Random) -> Part | None:
    """One of them, each kind as often; of a group in which something is down nothing else is ended."""
    down = {part.group for part in parts if part.is_down}
    fit = [part for part in parts if part.group not in down]
    if not fit:
        return None
    kind = rng.choice(sorted({part.kind for part in fit}))
    return rng.choice([part for part in fit if part.kind == kind])
