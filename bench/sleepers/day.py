"""The requests of a day in an office: many by day, few at night, in minutes that differ."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from bench.routing.fleets import FLEETS, MODELS
from bench.routing.scenarios import Scenario, rate_at_load_one
from bench.routing.workloads import COMPLEX, Request, poisson

SCENARIO = Scenario("day", "F2", COMPLEX, poisson)
"""Chats, code and documents for one model on four machines of three kinds."""
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
_NIGHT, _MORNING, _BUSY, _NOON, _EVENING = 0.03, 0.3, 1.0, 0.6, 0.2
HOURS: Sequence[float] = (
    *(_NIGHT,) * 6,
    *(0.08, _MORNING, 0.7),
    *(_BUSY,) * 3,
    *(_NOON, 0.8),
    *(_BUSY,) * 3,
    *(0.6, 0.35),
    *(_EVENING,) * 3,
    *(0.08, _NIGHT),
)
"""Share of the busiest hour's rate, hour by hour; in between, it goes in a straight line."""
_UNEVEN = 0.35  # sigma of a factor that each ten minutes have of their own


def share_at(at_s: float) -> float:
    """The rate at an instant, as a share of the busiest."""
    hour, into = divmod(at_s % DAY_S / HOUR_S, 1.0)
    return HOURS[int(hour)] * (1.0 - into) + HOURS[(int(hour) + 1) % 24] * into


def requests_of_days(load: float, days: int, seed: int) -> list[Request]:
    """The arrivals of some days, whose busiest hour takes `load` of what the fleet could just sustain."""
    rng = random.Random(f"day/{load}/{seed}")
    peak = load * rate_at_load_one(SCENARIO, FLEETS[SCENARIO.fleet])
    factors = [math.exp(rng.gauss(0.0, _UNEVEN)) for _ in range(days * 144)]
    most = peak * max(factors)
    at = 0.0
    found: list[Request] = []
    while True:
        at += rng.expovariate(most)
        if at >= days * DAY_S:
            return found
        if rng.random() * most < peak * share_at(at) * factors[int(at // 600.0)]:
            found.append(_drawn(len(found), at, rng))


def _drawn(number: int, at: float, rng: random.Random) -> Request:
    task = rng.choices(COMPLEX, [t.share for t in COMPLEX])[0]
    prompt, output = task.draw(rng)
    return Request(number, at, MODELS[task.model], task.name, prompt, output)
