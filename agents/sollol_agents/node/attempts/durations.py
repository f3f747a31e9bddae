"""`keep_alive` as Ollama reads it. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S: Final = (2**63 - 1) / 1e9


def duration_s(value: object) -> float | None:
    """Seconds of a `keep_alive`; infinite is for ever, None is what the engine refuses or makes nonsense of.

    A number counts whole seconds; a text is Go's, such as "1h30m". Negative is for ever.
    """
    seconds = _of_number(value) if isinstance(value, (int, float)) else _of_text(value)
    if seconds is None or abs(seconds) > _LONGEST_S:
        return None
    return math.inf if seconds < 0 else seconds


def _of_number(value: float) -> float | None:
    return None if isinstance(value, bool) or not math.isfinite(value) else float(int(value))


def _of_text(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    text = value[1:] if value[:1] in ("-", "+") else value
    if text == "0":
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    total = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    return -total if value.startswith("-") else total
