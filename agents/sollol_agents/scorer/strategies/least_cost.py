"""`plan`: least predicted cost in seconds, waiting for a better node only when that clearly pays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.base import Choice
from sollol_schemas.events import Outcome
from sollol_schemas.routing import RoutingMode

TIE_S = 0.001
TIE_RATIO = 0.001
"""Costs that differ by less than either are equal."""

_PAUSE_FACTOR: Final = 4.0
"""A second of waiting counts so often where somebody waits in the middle of an answer."""
_LEAST_HOLD = 0.2  # share of the threshold that stays when no newcomers are expected: predictions are not exact


class LeastCost:
    """Takes the cheapest candidate; a busy one only if it saves at least `hold` of the best free one's cost.

    Without that threshold a request would wait for small gains that prediction errors eat up (mean 8.0 s
    instead of 6.4 s when it never waits, 6.6 s when it waits for any gain). Patient work waits for any gain.

    A slow server pays from some queue length on, which is shorter for all requests together than for each alone
    (Lin and Kumar, 1984: optimal control of a queue with two heterogeneous servers). So every request that the
    same walk holds already asks for the same saving once more: callers that come back as soon as they are
    answered would otherwise queue for the fast nodes for ever. Not so where waiting spares the fleet work, a
    prefix or a load.

    An answer that broke off in its middle waits for what saves four times as much: its reader sees the pause.
    """

    name = "plan"

    def __init__(self, *, hold: float = 0.3) -> None:
        self._hold = hold
        self.prune_ratio: float | None = 1.0 / (1.0 - hold)

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The cheapest candidate under the hold rule."""
        best = costs[0]
        if len(costs) == 1:
            return Choice(best, "", costs)
        best_free: Cost | None = None
        for cost in costs:
            if cost.total_s < best.total_s:
                best = cost
            if cost.is_free and (best_free is None or cost.total_s < best_free.total_s):
                best_free = cost
        if best_free is None:
            return Choice(best, "")
        if best_free is not best:
            hold = 0.0 if waiting.mode is RoutingMode.ASYNC else self._hold
            hold *= _LEAST_HOLD + (1.0 - _LEAST_HOLD) * waiting.newcomers_ratio
            held = 0.0 if _spares_work(best, best_free) else waiting.newcomers_ratio * waiting.held_ahead
            pause_s = (_PAUSE_FACTOR - 1.0) * max(0.0, best.start - now) if waiting.is_broken_off else 0.0
            if best.total_s + pause_s < (1.0 - hold) ** (1 + held) * best_free.total_s:
                return Choice(best, "")
        return Choice(_break_tie(costs, best_free, rng), "")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing of its own: costs rest on what the fleet learnt."""


def _spares_work(busy: Cost, free: Cost) -> bool:
    """Whether the busy node has a prefix at hand that the free one lacks, or needs no load."""
    is_load_spared = busy.load is None and free.load is not None
    return is_load_spared or busy.estimate.hit_tokens > free.estimate.hit_tokens


def _break_tie(costs: Sequence[Cost], best: Cost, rng: random.Random) -> Cost:
    limit = best.total_s + max(TIE_S, TIE_RATIO * abs(best.total_s))
    equal = [c for c in costs if c.is_free and c.total_s <= limit]
    if len(equal) > 1:
        fewest = min(len(c.horizon.finishes) for c in equal)
        return rng.choice([c for c in equal if len(c.horizon.finishes) == fewest])
    return best
