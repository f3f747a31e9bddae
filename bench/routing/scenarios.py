"""The scenarios that policies are measured on, and what load 1.0 means for each.

Everything is drawn from one seed before the run starts, so that every policy sees the same arrivals.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from bench.routing.capacity import best_rate
from bench.routing.fleets import FLEETS, MODELS, MachineSpec, ModelSpec
from bench.routing.workloads import (
    AGENT,
    AGENT_PREFIX_TOKENS,
    COMPLEX,
    MIXED,
    TALK,
    TEN_TOKENS,
    UNIFORM,
    Classes,
    Request,
    TaskClass,
    agents,
    bursty,
    clients,
    conversations,
    poisson,
    prioritised,
)

_MEAN_SAMPLES = 4000


class Scenario(NamedTuple):
    """A named workload with the fleet it is measured on."""

    name: str
    fleet: str
    classes: Classes
    make: Callable[[Classes, float, int, random.Random], list[Request]]
    has_faults: bool = False
    is_closed: bool = False
    """Its load is a number of clients, each of which asks again as soon as it is answered."""


def rate_at_load_one(scenario: Scenario, fleet: tuple[MachineSpec, ...]) -> float:
    """Requests per second that the fleet could just sustain."""
    rng = random.Random(12345)
    rows = []
    for task in scenario.classes:
        prompts, outputs = _means(task, rng)
        prompts += AGENT_PREFIX_TOKENS * 0.2 if task.name == "agent" else 0.0
        model = MODELS[task.model]
        rows.append([_node_seconds(m, model, prompts, outputs) for m in fleet])
    total = sum(t.share for t in scenario.classes)
    return best_rate([t.share / total for t in scenario.classes], rows)


def _means(task: TaskClass, rng: random.Random) -> tuple[float, float]:
    drawn = [task.draw(rng) for _ in range(_MEAN_SAMPLES)]
    return sum(p for p, _ in drawn) / _MEAN_SAMPLES, sum(o for _, o in drawn) / _MEAN_SAMPLES


def _node_seconds(machine: MachineSpec, model: ModelSpec, prompt: float, output: float) -> float:
    if not machine.fits(model):
        return math.inf
    work = prompt / machine.prompt(model) + output / machine.decode(model)
    return work * (1.0 + machine.beta * (model.slots - 1)) / model.slots


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("uniform", "F3", UNIFORM, poisson),
        Scenario("complex", "F1", COMPLEX, poisson),
        Scenario("models", "F1", MIXED, poisson),
        Scenario("prio", "F1", COMPLEX, prioritised),
        Scenario("burst", "F1", COMPLEX, bursty),
        Scenario("chat", "F1", TALK, conversations),
        Scenario("agent", "F1", AGENT, agents),
        Scenario("faults", "F1", COMPLEX, poisson, has_faults=True),
        Scenario("closed", "F2", COMPLEX, clients, is_closed=True),
        Scenario("steps", "steps", TEN_TOKENS, clients, is_closed=True),
    )
}


def requests_of(scenario: Scenario, fleet: str, load: float, count: int, seed: int) -> list[Request]:
    """The arrivals of one run: the same for every policy."""
    rng = random.Random(f"{scenario.name}/{fleet}/{load}/{seed}")
    rate = load if scenario.is_closed else load * rate_at_load_one(scenario, FLEETS[fleet])
    return scenario.make(scenario.classes, rate, count, rng)
