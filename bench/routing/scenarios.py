"""The scenarios that policies are measured on, and what load 1.0 means for each.

Everything is drawn from one seed before the run starts, so that every policy sees the same arrivals.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench.routing.capacity import best_rate
from bench.routing.fleets import FLEETS, MODELS, MachineSpec, ModelSpec
from bench.routing.workloads import (
    AGENT,
    AGENT_PREFIX_TOKENS,
    COMPLEX,
    LONG,
    LONGER,
    MIXED,
    SHORT,
    SHORTER,
    TALK,
    TEN_TOKENS,
    UNIFORM,
    Classes,
    Request,
    TaskClass,
    agents,
    at_once,
    bursty,
    clients,
    conversations,
    forty_clients,
    of_two_models,
    poisson,
    prioritised,
)
from sollol_agents.dispatcher.pace import Pace
from sollol_schemas.routing import RoutingMode

_MEAN_SAMPLES = 4000
TIMEOUT_S, _PATIENCE_S = 300.0, 86_400.0
_JOB_WINDOW = Pace().job_window
_SIZES = (30, 60, 200, 1000)
_FAULTY, _CLIENTS = (0.3, 0.5), (8, 16, 32)


class Scenario(NamedTuple):
    """A named workload with the fleet it is measured on."""

    name: str
    fleet: str
    classes: Classes
    make: Callable[[Classes, float, int, random.Random], list[Request]]
    has_faults: bool = False
    is_closed: bool = False
    """Its load is a number of clients, each of which asks again as soon as it is answered."""
    is_batch: bool = False
    """Its load is a number of requests, all of which count, and of which none is given up."""
    mode: RoutingMode = RoutingMode.FAST
    warm_machines: int = 0
    """So many machines, from the first on, hold the models from the start."""
    loads: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85, 0.95)
    """What is played when nothing else is asked for."""

    @property
    def timeout_s(self) -> float:
        """Seconds after which callers give up."""
        return _PATIENCE_S if self.is_batch else TIMEOUT_S

    @property
    def job_window(self) -> int:
        """Jobs of each priority that a dispatcher takes ahead of their slots; 0: all requests ask at once."""
        return _JOB_WINDOW if self.is_batch and self.mode is RoutingMode.ASYNC else 0


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


def _batches() -> Iterator[Scenario]:
    """So many requests at once, on a desk's fleet of which all, one or no machine holds the models."""
    lengths = {"short": SHORT, "long": LONG, "mixed": COMPLEX}
    for mode, (warm, machines), models, (length, classes) in itertools.product(
        (RoutingMode.ASYNC, RoutingMode.FAST), {"all": 4, "one": 1, "none": 0}.items(), (1, 2), lengths.items()
    ):
        yield Scenario(
            f"batch-{mode}-{warm}-warm-{models}-{length}",
            "desk",
            of_two_models(classes) if models == 2 else classes,
            at_once,
            is_batch=True,
            mode=mode,
            warm_machines=machines,
            loads=_SIZES,
        )


def _cold_lengths() -> Iterator[Scenario]:
    """Forty clients, whose answers are much shorter or longer than the planner expects at first."""
    for name, classes in {"shorter": SHORTER, "longer": LONGER}.items():
        yield Scenario(
            f"cold_lengths-{name}",
            "desk",
            classes,
            forty_clients,
            is_closed=True,
            is_batch=True,
            warm_machines=4,
            loads=_SIZES,
        )


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
        Scenario("faults", "F1", COMPLEX, poisson, has_faults=True, loads=_FAULTY),
        Scenario("closed", "F2", COMPLEX, clients, is_closed=True, loads=_CLIENTS),
        Scenario("steps", "steps", TEN_TOKENS, clients, is_closed=True, loads=(12,)),
        *_batches(),
        *_cold_lengths(),
    )
}


def named(names: str) -> list[str]:
    """The scenarios of a list with commas; a name stands for all that begin with it and a hyphen, too.

    Raises:
        LookupError: No scenario has such a name.
    """
    found: list[str] = []
    for name in names.split(","):
        those = [s for s in SCENARIOS if name in ("all", s) or s.startswith(f"{name}-")]
        if not those:
            raise LookupError(f"unknown scenario '{name}'; known are {', '.join(SCENARIOS)}")
        found += those
    return found


def requests_of(scenario: Scenario, fleet: str, load: float, count: int, seed: int) -> list[Request]:
    """The arrivals of one run: the same for every policy."""
    rng = random.Random(f"{scenario.name}/{fleet}/{load}/{seed}")
    if scenario.is_batch:
        return scenario.make(scenario.classes, load, int(load), rng)
    rate = load if scenario.is_closed else load * rate_at_load_one(scenario, FLEETS[fleet])
    return scenario.make(scenario.classes, rate, count, rng)
