"""A strategy and a task detector of your own, found by SOLLOL Bus through entry points.

    pip install ./examples/custom_strategy          # where the scorer and the dispatcher run
    sollol node --id roof --label power=solar
    sollol strategy set green_power
    sollol dispatcher --detector sql

The strategy takes the node with the least predicted cost, but counts the time on nodes that do not carry the
label `power=solar` one and a half times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sollol_agents.requests.detector import Task, WordDetector
from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies import Choice
from sollol_schemas.events import Outcome

_SURCHARGE = 1.5
_WORDS = WordDetector()


class GreenPower:
    """Least predicted cost, with a surcharge on nodes without solar power."""

    name = "green_power"
    prune_ratio: float | None = None
    """Every candidate's cost is wanted: the dearest may be the greenest."""

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The candidate with the least surcharged cost among those that can start now, or else among all."""
        del waiting, now, rng
        candidates = [cost for cost in costs if cost.is_free] or list(costs)
        best = min(candidates, key=surcharged_s)
        return Choice(best, f"{surcharged_s(best):.2f} s with the surcharge on grey power")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing: costs rest on what the fleet learnt."""


def surcharged_s(cost: Cost) -> float:
    """The candidate's cost in seconds, times 1.5 unless its node has solar power."""
    is_green = cost.horizon.node.telemetry.labels.get("power") == "solar"
    return cost.total_s * (1.0 if is_green else _SURCHARGE)


class SqlDetector:
    """Calls every prompt that looks like SQL a coding task, and leaves the rest to the built-in detector."""

    def detect(self, text: str) -> Task:
        """The task; quick, and never raises."""
        if "select " in text.lower() and " from " in text.lower():
            return Task(task_type="generation", coding_category="coding")
        return _WORDS.detect(text)
