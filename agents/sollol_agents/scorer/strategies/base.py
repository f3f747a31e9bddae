"""What a strategy is asked, and what it answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_schemas.events import Outcome


class Choice(NamedTuple):
    """Where a request goes: at once when `cost.is_free`, otherwise it waits for that node."""

    cost: Cost
    reason: str
    """Why, where that is another than the costs; empty: they say it."""
    costs: Sequence[Cost] = ()
    """Every candidate that was worked out; the planner fills it in."""
    note: str = ""
    """What is said behind the reason, whoever gives that."""


class Strategy(Protocol):
    """Picks one candidate for a request."""

    name: str
    prune_ratio: float | None
    """A candidate that costs more than the best one is never chosen if it is busy, and if it costs at least
    `prune_ratio ** (1 + waiting.held_ahead)` times as much not even if it is free; and none that is busy is chosen
    while a free one costs less. Such candidates need not be worked out.
    None: all must be."""

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The candidate to take, out of at least one; must not keep references to its arguments."""
        ...

    def learn(self, outcome: Outcome) -> None:
        """Takes note of how an attempt ended."""
        ...


def pick_highest(costs: Sequence[Cost], score: Callable[[Cost], float], rng: random.Random) -> tuple[Cost, float]:
    """The candidate with the highest score and that score; ties are broken at random."""
    scored = [(score(c), c) for c in costs]
    top = max(value for value, _ in scored)
    return rng.choice([c for value, c in scored if value == top]), top


def free_or_soonest(costs: Sequence[Cost]) -> Sequence[Cost]:
    """Candidates that can start now; when none can, the one that can start soonest."""
    free = [c for c in costs if c.is_free]
    return free or [min(costs, key=lambda c: c.start)]
