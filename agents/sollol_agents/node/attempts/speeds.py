"""What the node learns about the speed of its engine, per model.

Exponential averages with weight 0.25 (0.3 for loads) on speeds of attempts that ran alone, as the base speed is
that of one request by itself. A sample counts at most as 1.3 times and at least as 0.3 times the present value, so
that one odd figure cannot overturn what many taught, and a sample far below the present value, a slow phase rather
than a slower engine, counts with a fifth of the weight. The first sample is believed at once.
Short work is not timed: below 8 output tokens or 16 prompt tokens the engine's own overhead would be measured.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import LearnedSpeed

_SPEED_WEIGHT: Final = 0.25
_LOAD_WEIGHT: Final = 0.3
_LOWEST: Final = 0.3
_HIGHEST: Final = 1.3
_SLOW_PHASE: Final = 0.6
_ALONE: Final = 0.1
_MIN_OUTPUT_TOKENS: Final = 8
_MIN_PROMPT_TOKENS: Final = 16
_MAX_MODELS: Final = 256
_FASTEST_TPS: Final = 1e7  # nothing is faster; a figure above it is none


class _Learned(msgspec.Struct):
    prompt_tps: float = 0.0
    decode_tps: float = 0.0
    load_s: float = 0.0
    samples: int = 0


class Speeds:
    """Learned speeds of every model that ran here (256 at most, those used last)."""

    def __init__(self) -> None:
        self._models: dict[str, _Learned] = {}

    def learn(self, model: str, figures: Figures) -> None:
        """Takes in the figures of one finished attempt."""
        learned = self._of(model)
        if figures.co_runners > _ALONE:
            return
        decode_tps = _speed((figures.output_tokens or 0) - 1, figures.decode_s, _MIN_OUTPUT_TOKENS - 1)
        if decode_tps is not None:
            learned.decode_tps = _blend(learned.decode_tps, decode_tps)
            learned.samples += 1
        # Cached tokens are counted in the prompt but cost no time; who does not tell them may have had some.
        fresh = (figures.prompt_tokens or 0) - (figures.cached_tokens or 0)
        prompt_tps = _speed(fresh, figures.prompt_s, _MIN_PROMPT_TOKENS)
        if prompt_tps is not None:
            learned.prompt_tps = _blend(learned.prompt_tps, prompt_tps)

    def learn_load(self, model: str, load_s: float) -> None:
        """Takes in how long one load took."""
        if not (math.isfinite(load_s) and load_s > 0):
            return
        learned = self._of(model)
        learned.load_s = load_s if not learned.load_s else learned.load_s + _LOAD_WEIGHT * (load_s - learned.load_s)

    def all(self) -> tuple[LearnedSpeed, ...]:
        """Everything learned, for telemetry."""
        return tuple(
            LearnedSpeed(
                model=model,
                prompt_tps=learned.prompt_tps,
                decode_tps=learned.decode_tps,
                load_s=learned.load_s,
                samples=learned.samples,
            )
            for model, learned in self._models.items()
            if learned.samples or learned.load_s or learned.prompt_tps
        )

    def _of(self, model: str) -> _Learned:
        learned = self._models.pop(model, None) or _Learned()
        self._models[model] = learned  # the last used stands last
        if len(self._models) > _MAX_MODELS:
            del self._models[next(iter(self._models))]
        return learned


def _speed(tokens: int, seconds: float | None, least: int) -> float | None:
    """Tokens a second, or None when there is too little to tell."""
    if seconds is None or not math.isfinite(seconds) or seconds <= 0 or tokens < least:
        return None
    speed = tokens / seconds
    return speed if speed <= _FASTEST_TPS else None


def _blend(present: float, sample: float) -> float:
    if not present:
        return sample
    weight = _SPEED_WEIGHT if sample >= _SLOW_PHASE * present else _SPEED_WEIGHT / 5
    clipped = min(max(sample, _LOWEST * present), _HIGHEST * present)
    return present + weight * (clipped - present)
