"""Names of GPUs as people say them. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_NOISE: Final = re.compile(
    r"\((?:R|TM)\)|\b(?:NVIDIA|GeForce|Tesla|AMD|Radeon(?= RX)|Intel|Corporation|Graphics|GPU|Generation)\b",
    re.IGNORECASE,
)


def short_gpu(name: str) -> str:
    """A card's name without its maker: `RTX 4090`; the whole name where nothing else is in it."""
    return " ".join(_NOISE.sub(" ", name).split()) or name


def short_gpus(names: Iterable[str]) -> str:
    """All cards of a machine: `2 x RTX 4090`; empty for none."""
    counts = Counter(short_gpu(name) for name in names)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())
