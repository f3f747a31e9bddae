"""Validates the real system as such systems are usually validated, against a real nginx before the same engines.

    python -m bench.validation [--quick] [--only mixed,curves] [--machines 3,6] [--json] [--out FILE]

Plays uniform, mixed, priority, faults and burst on three and on six emulated machines, then throughput by number of
machines and the first requests after a cold start. Time is compressed. Every system and every run starts fresh; nginx
is Debian's package, and its rows are left out, by name, where it is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.command import Figures, parser_of, started
from bench.live.simulated import STRATEGIES
from bench.live.stack import engines_of
from bench.live.workload import hastened
from bench.routing.fleets import FLEETS
from bench.routing.scenarios import TIMEOUT_S
from bench.routing.workloads import Request
from bench.validation import claims, curves, faults
from bench.validation.callers import Callers
from bench.validation.figures import Row, as_text, row_of
from bench.validation.scenarios import SCENARIOS, Scenario, requests_of
from bench.validation.systems import NGINX, has_nginx, system

_OURS = claims.OURS
_CURVES = "curves"
_COMPARED_WITH_ALL = "mixed"
"""The scenario in which nginx's other way and all own strategies take part."""
_QUICK = {"requests": 20, "machines": "3", "seconds": 4.0, "most": 2, "cold_seeds": 1}
_HORIZON_S = 20_000.0


def main() -> int:
    """Runs the validation and prints its figures; the exit code says only whether it ran."""
    return started(_parser(), _measure, _in_words)


async def _measure(folder: Path, options: argparse.Namespace) -> Figures:
    if options.quick:
        for name, value in _QUICK.items():
            setattr(options, name, value)
    only = options.only.split(",") if options.only else [*SCENARIOS, _CURVES]
    unknown = [name for name in only if name not in (*SCENARIOS, _CURVES)]
    if unknown:
        raise SystemExit(f"--only: {unknown[0]!r} is none of {', '.join([*SCENARIOS, _CURVES])}")
    skipped = (
        [] if has_nginx() else ["nginx is not installed (Debian: apt-get install nginx-light): its rows are missing"]
    )
    rows: list[Row] = []
    for name in only:
        if name != _CURVES:
            for machines in (int(text) for text in options.machines.split(",")):
                rows += [
                    await _row(SCENARIOS[name], machines, who, options, folder)
                    for who in _systems(name, options.systems)
                ]
    sizes, cold = await _curves(options, folder) if _CURVES in only else ([], [])
    return {
        "requests": options.requests,
        "seed": options.seed,
        "skipped": skipped,
        "rows": rows,
        "sizes": sizes,
        "cold_start": cold,
        "claims": claims.claims_of(rows, sizes, cold),
    }


def _systems(scenario: str, only: str) -> Iterator[str]:
    """Who takes part in a scenario, as far as asked for."""
    everybody = [*(NGINX if has_nginx() else ()), *STRATEGIES]
    wanted = only.split(",") if only else everybody if scenario == _COMPARED_WITH_ALL else [claims.RIVAL, _OURS]
    return (name for name in everybody if name in wanted)


async def _row(scenario: Scenario, machines: int, name: str, options: argparse.Namespace, folder: Path) -> Row:
    """One system in one scenario, fresh."""
    fleet, factor = scenario.fleets[machines], options.compression or scenario.compression
    requests = requests_of(scenario, fleet, options.requests, options.seed)
    patience_s = TIMEOUT_S / factor
    engines = engines_of(fleet, factor, warm_machines=machines)
    place = folder / f"{scenario.name}-{machines}-{name.replace(' ', '-')}"
    async with (
        system(name, engines, place, patience_s=patience_s) as it,
        Callers(it, patience_s=patience_s) as callers,
    ):
        if scenario.has_faults:
            plan = faults.schedule(machines, _horizon_s(requests), factor, options.seed)
            await faults.begin(it.engine_urls, plan)
        samples = await callers.replay(hastened(requests, factor))
    nodes = len(FLEETS[fleet])
    row = row_of(samples, factor, scenario=scenario.name, machines=machines, system=name, nodes=nodes)
    print(as_text([row]).splitlines()[1], file=sys.stderr)
    return row


def _horizon_s(requests: list[Request]) -> float:
    return min(_HORIZON_S, requests[-1].arrival_s + TIMEOUT_S)


async def _curves(options: argparse.Namespace, folder: Path) -> tuple[list[curves.Size], list[curves.Block]]:
    factor = options.compression or SCENARIOS["mixed"].compression
    sizes = await curves.sizes(
        _OURS,
        options.size_compression,
        folder,
        patience_s=TIMEOUT_S / options.size_compression,
        seconds=options.seconds,
        most=options.most,
    )
    seeds = range(1, 1 + options.cold_seeds)
    cold = await curves.cold_start(
        _OURS, factor, folder, patience_s=TIMEOUT_S / factor, seeds=seeds, count=min(60, options.requests)
    )
    return sizes, cold


def _in_words(figures: Figures) -> str:
    rows = msgspec.convert(figures["rows"], list[Row])
    parts = [as_text(rows), *figures["skipped"], claims.as_text(msgspec.convert(figures["claims"], list[claims.Claim]))]
    return "\n\n".join(part for part in parts if part)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("bench.validation", __doc__)
    parser.add_argument("--only", default="", help=f"of {', '.join([*SCENARIOS, _CURVES])}; with commas")
    parser.add_argument("--machines", default="3,6", help="three machines, six, or both")
    parser.add_argument("--systems", default="", help="those alone; with commas")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compression", type=float, default=0.0, help="of time; 0 takes each scenario's own")
    parser.add_argument("--size-compression", type=float, default=2.0, help="of time, where up to 16 machines run")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each number of machines is kept busy")
    parser.add_argument("--most", type=int, default=16, help="machines of the curve")
    parser.add_argument("--cold-seeds", type=int, default=5, help="cold starts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
