"""When the scorer looks at what time alone changes: soon while anything waits, runs or is in doubt, else once a second.

An idle fleet has one rule of time, that a silent node becomes suspect, and the instant of that is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.sleeper import Phase
from sollol_bus.waiting import happens
from sollol_schemas.events import BreakerState
from sollol_schemas.telemetry import NodeState

REST_S: Final = 1.0
"""The longest pause between two looks."""
_IS_SETTLED: Final = (NodeState.UP, NodeState.DRAINING)
_HAS_CLOCK: Final = (Phase.LEAVING, Phase.WAKING)


class Ticking:
    """The pauses between looks.

    Args:
        core: What is looked at.
        tick_s: The pause while anything may change with time.
        clock: Monotonic seconds.
    """

    def __init__(self, core: SchedulerCore, tick_s: float, clock: Callable[[], float]) -> None:
        self._core = core
        self._tick_s = tick_s
        self._clock = clock
        self._is_resting = False
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Something came that may wait or run: a long pause ends."""
        if self._is_resting and self._is_busy():
            self._stirred.set()

    async def pause(self) -> float:
        """Waits until the next look; returns the seconds for which it meant to."""
        rest_s = self.rest_s(self._clock())
        if rest_s <= self._tick_s:
            await asyncio.sleep(rest_s)
            return rest_s
        self._stirred.clear()
        self._is_resting = True
        await happens(self._stirred, rest_s)
        self._is_resting = False
        return rest_s

    def rest_s(self, now: float) -> float:
        """Seconds in which nothing follows from the passing of time."""
        if self._is_busy():
            return self._tick_s
        until = now + REST_S
        for node in self._core.fleet.nodes.values():
            if node.state in _IS_SETTLED:
                until = min(until, node.seen_at + self._core.config.suspect_after_s)
            if node.state is NodeState.SUSPECT or _has_clock(node):
                return self._tick_s
        return max(self._tick_s, until - now)

    def _is_busy(self) -> bool:
        return len(self._core.waiting) > 0 or self._core.fleet.in_flight > 0


def _has_clock(node: Node) -> bool:
    """Whether time brings a change that no message tells."""
    if node.sleeper is not None and node.sleeper.phase in _HAS_CLOCK:
        return True
    return any(breaker.state is not BreakerState.CLOSED for breaker in node.breakers.by_model.values())
