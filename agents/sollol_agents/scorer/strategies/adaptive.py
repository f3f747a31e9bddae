"""Strategies that learn from outcomes: what was fast and safe, and what worked for which kind of task."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.base import Choice, free_or_soonest, pick_highest
from sollol_schemas.errors import FREE_OF_CHARGE
from sollol_schemas.events import Outcome, OutcomeStatus

_ALPHA = 0.2
_BROKEN = (OutcomeStatus.FAILED, OutcomeStatus.PRESUMED_LOST)
_EXPLORATION_SHARE = 0.1
_PAIRS_LIMIT = 20_000


class Performance:
    """Takes the node with the best success ratio per second of its latest answers."""

    name = "performance"
    prune_ratio: float | None = None

    def __init__(self) -> None:
        self._latency_s: dict[str, float] = {}

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The free node with the highest `success / (1 + mean seconds)`."""
        del waiting, now
        cost, value = pick_highest(free_or_soonest(costs), self.score, rng)
        return Choice(cost, f"performance {value:.2f}")

    def score(self, cost: Cost) -> float:
        """Success ratio divided by one plus the mean seconds; a node never used counts as instant; 0 to 1."""
        node = cost.horizon.node
        return node.record.expected / (1.0 + self._latency_s.get(node.node_id, 0.0))

    def learn(self, outcome: Outcome) -> None:
        """Averages the actual times of successes."""
        if outcome.status is OutcomeStatus.SUCCESS and outcome.figures is not None:
            known = self._latency_s.get(outcome.node_id, outcome.figures.actual_s)
            self._latency_s[outcome.node_id] = known + _ALPHA * (outcome.figures.actual_s - known)


class Affinity:
    """Takes the node that succeeded most for this category of task: +1 a success, -2 a failure, floor 0."""

    name = "affinity"
    prune_ratio: float | None = None

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], float] = {}

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The free node with the most points for the task."""
        del now
        cost, value = pick_highest(free_or_soonest(costs), lambda c: self.score(waiting, c), rng)
        return Choice(cost, f"affinity {value:.0f}")

    def score(self, waiting: Waiting, cost: Cost) -> float:
        """Points of a node for the request's task; >= 0."""
        return self._points.get((waiting.request.context.task_type, cost.horizon.node.node_id), 0.0)

    def learn(self, outcome: Outcome) -> None:
        """Counts points for the outcome's task type."""
        key = (outcome.decision.task_type, outcome.node_id)
        if key not in self._points and len(self._points) >= _PAIRS_LIMIT:
            return
        if outcome.status is OutcomeStatus.SUCCESS:
            self._points[key] = self._points.get(key, 0.0) + 1.0
        elif outcome.status in _BROKEN and outcome.code not in FREE_OF_CHARGE:
            self._points[key] = max(0.0, self._points.get(key, 0.0) - 2.0)


class Hybrid:
    """Mixes affinity and performance, and explores with one request in ten."""

    name = "hybrid"
    prune_ratio: float | None = None

    def __init__(self) -> None:
        self._affinity = Affinity()
        self._performance = Performance()

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The free node with the highest mixed score, or any with the exploration's chance."""
        del now
        candidates = free_or_soonest(costs)
        if rng.random() < _EXPLORATION_SHARE:
            return Choice(rng.choice(list(candidates)), "exploring")
        most = max(self._affinity.score(waiting, c) for c in candidates) or 1.0

        def mixed(cost: Cost) -> float:
            return 0.5 * self._affinity.score(waiting, cost) / most + 0.5 * self._performance.score(cost)

        cost, value = pick_highest(candidates, mixed, rng)
        return Choice(cost, f"affinity and performance {value:.2f}")

    def learn(self, outcome: Outcome) -> None:
        """Teaches both parts."""
        self._affinity.learn(outcome)
        self._performance.learn(outcome)
