"""How long an engine may be silent: to load, to the first token, and between two tokens.

The limits are generous floors under multiples of what was predicted, because a limit that is too short kills work
that would have finished, and a dead engine is found by other means long before.
"""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from sollol_agents.node.config import NodeConfig
from sollol_schemas.execution import Exec

_FIRST_TOKEN_FACTOR = 5.0
_GAP_FACTOR = 20.0
_TOOLS_FACTOR = 3.0
"""Tool calls arrive whole, at the end: with tools, silence may last this multiple of the predicted total."""


class Phase(Enum):
    """What an attempt waits for."""

    LOADING = "loading the model"
    FIRST_TOKEN = "the first token"  # noqa: S105 not a secret
    BETWEEN_TOKENS = "the next token"
    PERMISSION = "the dispatcher's permission to speak"

    @property
    def setting(self) -> str:
        """The node's setting that allows a longer silence; empty: none does."""
        return _SETTINGS.get(self, "")


_SETTINGS = {
    Phase.LOADING: "load_floor_s",
    Phase.FIRST_TOKEN: "first_token_floor_s",
    Phase.BETWEEN_TOKENS: "gap_floor_s",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The longest silence in each phase, in seconds."""

    load_s: float
    first_token_s: float
    gap_s: float

    @property
    def shortest_s(self) -> float:
        """The shortest of them."""
        return min(self.load_s, self.first_token_s, self.gap_s)

    def of(self, phase: Phase) -> float:
        """The longest silence in `phase`."""
        match phase:
            case Phase.LOADING:
                return self.load_s
            case Phase.FIRST_TOKEN:
                return self.first_token_s
            case Phase.BETWEEN_TOKENS:
                return self.gap_s
            case Phase.PERMISSION:
                return math.inf  # not the engine's silence; the deadline bounds it


def limits_of(exec_: Exec, config: NodeConfig, *, load_s: float, may_load: bool = False) -> Limits:
    """The limits of one attempt.

    Args:
        exec_: What is to be run, with its forecast.
        config: Settings.
        load_s: How long a load of the model may take.
        may_load: Whether the engine may have to load it although nothing was predicted.

    Between tokens: max(floor, factor x predicted gap + the longest co-runner's prefill); with tools at least three
    times the predicted total. To the first token: max(floor, factor x (predicted + co-runner's prefill)), and the
    load's limit on top when the engine may load meanwhile.
    """
    forecast = exec_.decision.forecast
    prefill_s = forecast.co_runner_prefill_s
    first_token_s = max(config.first_token_floor_s, _FIRST_TOKEN_FACTOR * (forecast.first_token_s + prefill_s))
    gap_s = max(config.gap_floor_s, _GAP_FACTOR * forecast.gap_s + prefill_s)
    if exec_.has_tools:
        whole_s = _TOOLS_FACTOR * forecast.total_s
        first_token_s, gap_s = max(first_token_s, whole_s), max(gap_s, whole_s)
    if forecast.needs_load or may_load:
        first_token_s += load_s
    return Limits(load_s=load_s, first_token_s=first_token_s, gap_s=gap_s)


class Watchdog:
    """Watches one attempt for silence; costs one assignment a chunk.

    Args:
        limits: The longest silences.
        now: Monotonic seconds.
    """

    __slots__ = ("_limits", "_phase", "_since")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._phase = Phase.FIRST_TOKEN
        self._since = now

    @property
    def phase(self) -> Phase:
        """What is being waited for."""
        return self._phase

    @property
    def limit_s(self) -> float:
        """The longest silence now."""
        return self._limits.of(self._phase)

    def enter(self, phase: Phase, now: float) -> None:
        """Something came, and now `phase` is waited for."""
        self._phase = phase
        self._since = now

    def left_s(self, now: float) -> float:
        """Seconds until the silence is too long; 0 or less: it is."""
        return self._since + self.limit_s - now
