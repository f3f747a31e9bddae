"""Faults of the simulated machines, by a schedule that is the same for every policy.

Each machine crashes and hangs (silent, then gone for 45 s), slows down to a quarter for 60 s, and stalls for
25 s, each at random with its own mean time between failures; one machine answers 12 % of its requests with an
error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.routing.engine import Machine

_HORIZON_S = 20_000.0
_ERROR_RATIO = 0.12


class Fault(NamedTuple):
    """One kind of fault of one machine."""

    mean_s: float
    lasts_s: float
    begin: Callable[[], None]
    end: Callable[[], None]


def begin_faults(machines: Sequence[Machine], rng: random.Random) -> dict[str, float]:
    """Schedules every fault of a run; returns the share of requests that a machine answers with an error, by name."""
    for machine in machines:
        for fault in (
            Fault(500.0, 45.0, machine.crash, machine.revive),
            Fault(600.0, 60.0, _speed(machine, 0.25), _speed(machine, 1.0)),
            Fault(900.0, 25.0, _speed(machine, 0.0), _speed(machine, 1.0)),
        ):
            _repeat(machine, rng, fault)
    return {machines[1].name: _ERROR_RATIO}


def _repeat(machine: Machine, rng: random.Random, fault: Fault) -> None:
    at = rng.expovariate(1.0 / fault.mean_s)
    while at < _HORIZON_S:
        machine.time.at(at, fault.begin)
        machine.time.at(at + fault.lasts_s, fault.end)
        at += fault.lasts_s + rng.expovariate(1.0 / fault.mean_s)


def _speed(machine: Machine, speed: float) -> Callable[[], None]:
    return lambda: machine.set_speed(speed)
