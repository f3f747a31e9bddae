"""What a node remembers of the models in an Ollama's memory beyond what the engine tells of them.

The engine tells the context and when a model leaves. It does not tell the other load options, nor what a model gets
when nobody asks for a context, nor for how long it would stay: these are remembered from loads and from looks at it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

_SAME_STAY_S: Final = 2.0
"""Two stays that differ by less are one: the engine's clock and ours are read at different moments."""
_SHORT_STAY_S: Final = 60.0


class InForce(NamedTuple):
    """How a model is loaded, and how it would be."""

    is_loaded: bool = False
    context_tokens: int = 0
    """0: not known, or not loaded."""
    options: Mapping[str, Any] = {}
    """Load options beside the context that it was loaded with."""
    automatic_tokens: int = 0
    """The context that it gets when nobody asks for one; 0 when not known."""
    trained_tokens: int = 0
    """The longest context that it can get; 0 when not known."""
    floor_s: float = 0.0
    """How long callers and the engine's own setting want it kept; infinite for ever."""


class _Runner(msgspec.Struct):
    options: dict[str, Any] = {}
    context_tokens: int = 0
    sent_s: float = 0.0
    floor_s: float = 0.0


class Runners:
    """The models in memory by the digest of their weights: names of one blob share a runner."""

    def __init__(self) -> None:
        self._runners: dict[str, _Runner] = {}
        self._automatic: dict[str, int] = {}
        self._usual_stay_s: float | None = None

    def in_force(
        self, blob: str, model: str, *, context_tokens: int, trained_tokens: int, own_tokens: int = 0
    ) -> InForce:
        """How a loaded model is loaded, by what the engine tells and what is remembered.

        `own_tokens` is the context that the model's own settings ask for, 0 when they ask for none.
        """
        runner = self._runners.get(blob) or _Runner()
        return InForce(
            is_loaded=True,
            context_tokens=context_tokens or runner.context_tokens,
            options=runner.options,
            automatic_tokens=self._automatic.get(model, own_tokens),
            trained_tokens=trained_tokens,
            floor_s=runner.floor_s,
        )

    def automatic_tokens(self, model: str) -> int:
        """The context that a model gets when nobody asks for one; 0 when not known."""
        return self._automatic.get(model, 0)

    def loaded(self, blob: str, model: str, options: Mapping[str, Any], context_tokens: int) -> None:
        """The node loaded a model with these options, and the engine tells this context."""
        asked = options.get("num_ctx")
        others = {name: value for name, value in options.items() if name != "num_ctx"}
        floor_s = self._runners[blob].floor_s if blob in self._runners else 0.0
        self._runners[blob] = _Runner(options=others, context_tokens=asked or 0, floor_s=floor_s)
        if asked is None and context_tokens:
            self._automatic[model] = context_tokens

    def stays_by_itself(self) -> bool:
        """Whether a model that is loaded without a word about its stay lasts until the request that needs it."""
        return self._usual_stay_s is None or self._usual_stay_s >= _SHORT_STAY_S

    def note_usual_stay(self, stay_s: float) -> None:
        """A model that was loaded without a word about its stay has this one."""
        self._usual_stay_s = stay_s

    def keeps(self, blob: str, sent_s: float, asked_s: float, *, is_order: bool = False) -> None:
        """A request tells the engine how long to keep the model.

        Args:
            blob: The model's weights.
            sent_s: What the engine is told.
            asked_s: What of it is the caller's wish, not the scorer's.
            is_order: Whether that is all the request is for: then it also makes the stay shorter.
        """
        runner = self._runners.setdefault(blob, _Runner())
        runner.sent_s = max(runner.sent_s, sent_s)
        runner.floor_s = asked_s if is_order else max(runner.floor_s, asked_s)

    def forget(self, blob: str) -> None:
        """Nothing is known of how a model is loaded: it leaves, or its engine failed."""
        self._runners.pop(blob, None)

    def look(self, stays_s: Mapping[str, float]) -> None:
        """The models in memory and the seconds until they leave; what others than this node made longer is kept."""
        for blob in self._runners.keys() - stays_s.keys():
            del self._runners[blob]
        for blob, stay_s in stays_s.items():
            runner = self._runners.setdefault(blob, _Runner())
            if stay_s > runner.sent_s + _SAME_STAY_S:
                runner.floor_s = max(runner.floor_s, stay_s if math.isinf(stay_s) else float(math.ceil(stay_s)))
