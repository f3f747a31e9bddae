"""Who asks for what: uniform, mixed, priority, faults, burst; on three machines and on six.

Arrivals and lengths come from `bench.routing`, one seed each, so that every system sees the same requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from bench.live.workload import playable
from bench.routing.capacity import best_rate
from bench.routing.fleets import FLEETS, G16, MODELS, SLOTS, MachineSpec
from bench.routing.workloads import COMPLEX, UNIFORM, Classes, Request, bursty, poisson, prioritised

FLEETS["three equal"] = (G16,) * 3
FLEETS["six equal"] = (G16,) * 6
MIXED_FLEETS = {3: "MVT", 6: "F1"}
"""By number of machines: an RTX 3090, an RTX 3060 and four cores; four GPUs and two servers without one."""
EQUAL_FLEETS = {3: "three equal", 6: "six equal"}
SIZES = (1, 2, 4, 8, 16)
"""Numbers of equal machines of the curve."""
HIGH, LOW = 9, 2
_SAMPLES = 800


class Scenario(NamedTuple):
    """One workload, its fleets and how hard it drives them."""

    name: str
    about: str
    fleets: dict[int, str]
    classes: Classes
    make: Callable[[Classes, float, int, random.Random], list[Request]]
    load: float
    """Share of what the fleet could sustain at best, playable lengths taken."""
    has_faults: bool = False
    compression: float = 12.0
    """Of time, as far as two cores carry it without waiting for processors."""


SCENARIOS = {
    s.name: s
    for s in (
        Scenario("uniform", "equal requests, equal machines", EQUAL_FLEETS, UNIFORM, poisson, 0.5, compression=2.0),
        Scenario("mixed", "short and long requests, unequal machines", MIXED_FLEETS, COMPLEX, poisson, 0.5),
        Scenario("priority", "15 % at 9, 55 % at 5, 30 % at 2", MIXED_FLEETS, COMPLEX, prioritised, 0.8),
        Scenario(
            "faults", "crashes, stalls, slow phases, errors", MIXED_FLEETS, COMPLEX, poisson, 0.4, has_faults=True
        ),
        Scenario("burst", "bursts of five times the rate", MIXED_FLEETS, COMPLEX, bursty, 0.5),
    )
}


def equal_fleet(size: int) -> str:
    """The name of a fleet of so many equal machines."""
    name = f"{size} equal"
    FLEETS[name] = (G16,) * size
    return name


def requests_of(scenario: Scenario, fleet: str, count: int, seed: int) -> list[Request]:
    """The requests of one run, in uncompressed seconds."""
    rng = random.Random(f"validation/{scenario.name}/{fleet}/{seed}")
    rate = scenario.load * _best_rate(scenario.classes, FLEETS[fleet])
    return [playable(r) for r in scenario.make(scenario.classes, rate, count, rng)]


def endless(classes: Classes, seed: int) -> Callable[[], Request]:
    """The next request of callers that ask again as soon as they are answered."""
    rng = random.Random(seed)
    number = 0

    def following() -> Request:
        nonlocal number
        number += 1
        (request,) = poisson(classes, 1.0, 1, rng)
        return replace(playable(request), number=number)

    return following


def _best_rate(classes: Classes, fleet: tuple[MachineSpec, ...]) -> float:
    """Requests per second that a fleet could just sustain if each went where it is served best."""
    rng = random.Random(1)
    rows = [[_slot_seconds(machine, task_requests) for machine in fleet] for task_requests in _drawn(classes, rng)]
    total = sum(task.share for task in classes)
    return best_rate([task.share / total for task in classes], rows)


def _drawn(classes: Classes, rng: random.Random) -> list[list[Request]]:
    return [[playable(r) for r in poisson((task,), 1.0, _SAMPLES, rng)] for task in classes]


def _slot_seconds(machine: MachineSpec, requests: list[Request]) -> float:
    model = MODELS["base:8b"]
    work = sum(r.prompt_tokens / machine.prompt(model) + r.output_tokens / machine.decode(model) for r in requests)
    return work / len(requests) * (1.0 + machine.beta * (SLOTS - 1)) / SLOTS
