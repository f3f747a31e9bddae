"""The classic strategies: turns, counting and chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.base import Choice, free_or_soonest, pick_highest
from sollol_schemas.events import Outcome


class RoundRobin:
    """Takes the nodes in turn, in the order of their ids; nodes that come and go do not restart the turn."""

    name = "round_robin"
    prune_ratio: float | None = None

    def __init__(self) -> None:
        self._last = ""

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The next node after the last one."""
        del waiting, now, rng
        by_id = sorted(free_or_soonest(costs), key=lambda c: c.horizon.node.node_id)
        cost = next((c for c in by_id if c.horizon.node.node_id > self._last), by_id[0])
        if cost.is_free:
            self._last = cost.horizon.node.node_id
        return Choice(cost, "next in turn")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing."""


class LeastLoaded:
    """Takes the node with the smallest share of its slots in use."""

    name = "least_loaded"
    prune_ratio: float | None = None

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The node with the lowest in-flight count per slot."""
        del waiting, now
        cost, score = pick_highest(free_or_soonest(costs), lambda c: -load_ratio(c), rng)
        return Choice(cost, f"least loaded, {-score:.0%} of its slots in use")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing."""


class RandomChoice:
    """Takes any node, each with the same chance."""

    name = "random"
    prune_ratio: float | None = None

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """Any free node."""
        del waiting, now
        return Choice(rng.choice(list(free_or_soonest(costs))), "by chance")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing."""


def load_ratio(cost: Cost) -> float:
    """Share of a node's slots in use, by the scorer's own count; >= 0."""
    horizon = cost.horizon
    return len(horizon.finishes) / max(1, horizon.slots)
