"""Energy and latency of a fleet that sleeps, beside the same fleet always on, over days in virtual time.

    python -m bench.sleepers --loads 0.1,0.15,0.3 --days 1 --seeds 1 --out bench/results/sleepers.json

Load is the busiest hour's share of what the fleet could just sustain. Both fleets see the same arrivals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import starmap
from pathlib import Path

import msgspec

from bench.machine import describe
from bench.routing.figures import quantile
from bench.routing.policies.planned import PlannedPolicy
from bench.routing.simulation import Policy, World, run
from bench.sleepers.day import DAY_S, SCENARIO, requests_of_days
from bench.sleepers.fleet import WAKE_S, MeteredReporter, Sleeping, always_on, sleeping


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What one fleet did with some days."""

    fleet: str
    load: float
    seed: int
    requests: int
    failed: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    night_p95_s: float
    """Of the requests between 22 and 6 o'clock."""
    kwh: float
    asleep_ratio: float
    wakes_per_node_day: float
    failed_wakes: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that sleeps against one that is always on."""

    load: float
    seed: int
    energy: float
    """Its change, as a share: -0.4 is two fifths less."""
    mean: float
    p95: float
    p99: float
    failed: int


def play(name: str, load: float, days: int, seed: int) -> Day:
    """Runs one fleet once."""
    made: list[PlannedPolicy] = []

    def make(world: World) -> Policy:
        made.append(_FLEETS[name](world))
        return made[0]

    requests = requests_of_days(load, days, seed)
    run(SCENARIO, SCENARIO.fleet, requests, seed, make)
    latencies = sorted(r.latency_s or 0.0 for r in requests)
    night = sorted(r.latency_s or 0.0 for r in requests if not 6.0 <= r.arrival_s % DAY_S / 3600.0 < 22.0)
    meters = [r.meter for r in made[0].reporters.values() if isinstance(r, MeteredReporter)]
    for meter in meters:
        meter.note()
    asleep_s = sum(meter.asleep_s for meter in meters)
    return Day(
        fleet=name,
        load=load,
        seed=seed,
        requests=len(requests),
        failed=sum(r.is_failed for r in requests),
        mean_s=round(sum(latencies) / len(latencies), 3),
        p50_s=round(quantile(latencies, 0.5), 3),
        p95_s=round(quantile(latencies, 0.95), 3),
        p99_s=round(quantile(latencies, 0.99), 3),
        max_s=round(latencies[-1], 3),
        night_p95_s=round(quantile(night, 0.95), 3),
        kwh=round(sum(meter.joules for meter in meters) / 3.6e6, 3),
        asleep_ratio=round(asleep_s / (len(meters) * days * DAY_S), 3),
        wakes_per_node_day=round(sum(meter.wakes for meter in meters) / len(meters) / days, 2),
        failed_wakes=made[0].failed_wakes if isinstance(made[0], Sleeping) else 0,
    )


_FLEETS: dict[str, Callable[[World], PlannedPolicy]] = {"always on": always_on, "sleeping": sleeping}


def compared(on: Day, asleep: Day) -> Comparison:
    """How the one that sleeps differs."""
    return Comparison(
        load=on.load,
        seed=on.seed,
        energy=round(asleep.kwh / on.kwh - 1.0, 3),
        mean=round(asleep.mean_s / on.mean_s - 1.0, 3),
        p95=round(asleep.p95_s / on.p95_s - 1.0, 3),
        p99=round(asleep.p99_s / on.p99_s - 1.0, 3),
        failed=asleep.failed,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Plays both fleets and prints what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="0.1,0.15,0.3")
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(argv)
    cases = [
        (name, float(load), asked.days, int(seed))
        for load in asked.loads.split(",")
        for seed in asked.seeds.split(",")
        for name in _FLEETS
    ]
    if asked.workers > 1:
        with ProcessPoolExecutor(asked.workers) as pool:
            days = list(pool.map(play, *zip(*cases, strict=True)))
    else:
        days = list(starmap(play, cases))
    comparisons = [compared(on, asleep) for on, asleep in zip(days[::2], days[1::2], strict=True)]
    for on, asleep, told in zip(days[::2], days[1::2], comparisons, strict=True):
        print(on)
        print(asleep)
        print(told)
    if asked.out is not None:
        command = f"python -m bench.sleepers --loads {asked.loads} --days {asked.days} --seeds {asked.seeds}"
        result = {
            "command": command,
            "machine": describe(),
            "wake_s": WAKE_S,
            "comparisons": comparisons,
            "days": days,
        }
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
