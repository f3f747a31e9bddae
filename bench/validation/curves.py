"""Two claims that are curves: throughput grows with the machines, and a cold start is over after few requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.live.stack import engines_of
from bench.live.workload import hastened
from bench.routing.fleets import SLOTS
from bench.routing.workloads import COMPLEX
from bench.validation.callers import Callers, Sample
from bench.validation.scenarios import MIXED_FLEETS, SCENARIOS, SIZES, endless, equal_fleet, requests_of
from bench.validation.systems import system

BLOCK = 5
"""Requests of one point of the cold curve."""
_WARM_UP_SHARE = 0.25


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """So many equal machines, kept busy by four callers each."""

    machines: int
    throughput_rps: float
    """In uncompressed seconds."""
    of_linear_ratio: float
    """Against so many times the throughput of one machine."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in the order of their arrival after a start without any knowledge."""

    first: int
    last: int
    over_warm_ratio: float
    """Their latencies over those of the same arrivals played once more, when everything is learnt."""


async def sizes(
    name: str, factor: float, folder: Path, *, patience_s: float, seconds: float, most: int = SIZES[-1]
) -> list[Size]:
    """Throughput by number of machines."""
    rates: dict[int, float] = {}
    for machines in SIZES:
        if machines > most:
            break
        engines = engines_of(equal_fleet(machines), factor, warm_machines=machines)
        async with (
            system(name, engines, folder / f"size-{machines}", patience_s=patience_s) as it,
            Callers(it, patience_s=patience_s) as callers,
        ):
            samples = await callers.ask_again_and_again(endless(COMPLEX, machines), SLOTS * machines, seconds)
        rates[machines] = _rate(samples, seconds) / factor
    return [Size(machines=n, throughput_rps=rate, of_linear_ratio=rate / (n * rates[1])) for n, rate in rates.items()]


def _rate(samples: Sequence[Sample], seconds: float) -> float:
    """Whole answers a second after a warm-up."""
    begins_s = _WARM_UP_SHARE * seconds
    ends = [s.arrival_s + s.latency_s for s in samples if not s.is_failed]
    return sum(begins_s <= end <= seconds for end in ends) / (seconds - begins_s)


async def cold_start(
    name: str, factor: float, folder: Path, *, patience_s: float, seeds: Sequence[int], count: int
) -> list[Block]:
    """Latencies after a cold start over those of the same arrivals in the same system when it is warm."""
    fleet = MIXED_FLEETS[3]
    engines = engines_of(fleet, factor, warm_machines=3)
    cold: list[list[float]] = []
    warm: list[list[float]] = []
    for seed in seeds:
        requests = requests_of(SCENARIOS["mixed"], fleet, count, seed)
        async with (
            system(name, engines, folder / f"cold-{seed}", patience_s=patience_s) as it,
            Callers(it, patience_s=patience_s) as callers,
        ):
            for rows in (cold, warm):
                samples = await callers.replay(hastened(requests, factor))
                rows.append([s.latency_s for s in sorted(samples, key=lambda s: s.number)])
    return blocks(cold, warm)


def blocks(cold: Sequence[Sequence[float]], warm: Sequence[Sequence[float]]) -> list[Block]:
    """The points of the cold curve: a row for each seed, a column for each request."""
    count = len(cold[0])
    found = []
    for first in range(0, count, BLOCK):
        last = min(count, first + BLOCK)
        taken = [sum(sum(row[first:last]) for row in rows) for rows in (cold, warm)]
        found.append(Block(first=first + 1, last=last, over_warm_ratio=taken[0] / taken[1]))
    return found
