"""Compares routing policies on simulated fleets in virtual time.

    python -m bench.routing --scenarios complex,models --policies plan,oracle,least_connections \
        --loads 0.5,0.85 --seeds 1,2 --requests 1500 --json

Load 1.0 is what the fleet could just sustain with perfect placement and batching. Every policy of a cell sees
the same arrivals. `--quick` runs a small selection within a minute; `--trace FILE` replays recorded requests.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.machine import describe
from bench.routing.bars import Verdict, verdicts
from bench.routing.figures import Cell, against, cell, overall
from bench.routing.fleets import FLEETS
from bench.routing.policies import POLICIES
from bench.routing.scenarios import SCENARIOS, Scenario, requests_of
from bench.routing.simulation import run
from bench.routing.traces import read
from bench.routing.workloads import Request, poisson

_QUICK = {"scenarios": "uniform,complex,models,chat", "loads": "0.7", "requests": 400, "seeds": "1"}
_TRACE = "trace"


class Job(NamedTuple):
    """One run."""

    scenario: str
    fleet: str
    load: float
    policy: str
    seed: int
    requests: int
    trace: str = ""


def play(job: Job) -> Cell:
    """Runs one policy once."""
    if job.trace:
        scenario = Scenario(_TRACE, job.fleet, (), poisson)
        requests = read(Path(job.trace), speed_up=job.load)
    else:
        scenario = SCENARIOS[job.scenario]
        requests = requests_of(scenario, job.fleet, job.load, job.requests, job.seed)
    mine: list[Request] = copy.deepcopy(requests)
    world = run(scenario, job.fleet, mine, job.seed, POLICIES[job.policy])
    loads = sum(m.loads for m in world.machines)
    return cell(
        mine,
        scenario=scenario.name,
        fleet=job.fleet,
        load=job.load,
        policy=job.policy,
        seed=job.seed,
        loads=loads,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison and prints it; the exit code says only whether it ran."""
    options = _parser().parse_args(arguments)
    if options.quick:
        for name, value in _QUICK.items():
            setattr(options, name, value)
    began = time.perf_counter()
    cells = _play_all(_jobs(options), options.processes)
    result = {
        "command": " ".join(["python -m bench.routing", *(arguments if arguments is not None else sys.argv[1:])]),
        "machine": describe(),
        "wall_s": round(time.perf_counter() - began, 1),
        "cells": _rounded(cells),
        "geomean_vs_oracle": overall(against(cells, "oracle")),
        "plan_vs": _plan_against(cells),
        "bars": verdicts(cells),
    }
    if options.out is not None:
        options.out.write_text(_line_by_line(result) + "\n")
    print(_line_by_line(result) if options.json else as_text(cells))
    return 0


def _line_by_line(result: Mapping[str, object]) -> str:
    """The result as JSON with one list element or object member per line, which keeps differences readable."""
    parts = []
    for name, value in result.items():
        plain = msgspec.to_builtins(value)
        if isinstance(plain, list):
            body = "[\n" + ",\n".join("  " + msgspec.json.encode(x).decode() for x in plain) + "\n]"
        elif isinstance(plain, dict):
            rows = (f"  {msgspec.json.encode(k).decode()}: {msgspec.json.encode(v).decode()}" for k, v in plain.items())
            body = "{\n" + ",\n".join(rows) + "\n}"
        else:
            body = msgspec.json.encode(plain).decode()
        parts.append(f"{msgspec.json.encode(name).decode()}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}"


def _rounded(cells: Sequence[Cell]) -> list[Cell]:
    """Figures to a tenth of a millisecond."""
    return [
        msgspec.convert({k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}, Cell)
        for fields in msgspec.to_builtins(list(cells))
    ]


def _plan_against(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """The mean latency of `plan` divided by that of every other policy, by scenario cell."""
    return {
        other: {name: round(r.mean, 3) for name, r in against(cells, other).get("plan", {}).items()}
        for other in dict.fromkeys(c.policy for c in cells)
        if other != "plan"
    }


def _play_all(jobs: list[Job], processes: int) -> list[Cell]:
    if processes <= 1:
        return [play(job) for job in jobs]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(play, jobs))


def _jobs(options: argparse.Namespace) -> list[Job]:
    policies = _names(options.policies, POLICIES, "policy")
    loads = [float(x) for x in options.loads.split(",")]
    seeds = [int(x) for x in options.seeds.split(",")]
    fleets = _names(options.fleets, FLEETS, "fleet") if options.fleets else []
    if options.trace:
        scenarios, trace = [_TRACE], str(options.trace)
    else:
        scenarios, trace = _names(options.scenarios, SCENARIOS, "scenario"), ""
    return [
        Job(scenario, fleet, load, policy, seed, options.requests, trace)
        for scenario in scenarios
        for fleet in (fleets or [SCENARIOS[scenario].fleet if scenario in SCENARIOS else "F1"])
        for load in loads
        for seed in seeds
        for policy in policies
    ]


def _names(text: str, known: Mapping[str, object], what: str) -> list[str]:
    names = list(known) if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown {what} '{name}'; known are {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.routing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", default="uniform,complex,models,prio,burst,chat,agent")
    parser.add_argument("--policies", default="all")
    parser.add_argument("--fleets", default="", help="instead of each scenario's own")
    parser.add_argument("--loads", default="0.3,0.5,0.7,0.85,0.95")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--requests", type=int, default=1200)
    parser.add_argument("--trace", type=Path, help="replay this file; --loads then speeds it up")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a small selection, within a minute")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    return parser


def as_text(cells: Sequence[Cell]) -> str:
    """The figures as a table."""
    columns = ["mean", "p50", "p95", "p99", "ttft", "ok", "loads"]
    lines = [f"{'scenario':<10}{'fleet':<6}{'load':>5} {'policy':<26}{'seed':>4}" + "".join(f"{c:>9}" for c in columns)]
    lines += [
        f"{c.scenario:<10}{c.fleet:<6}{c.load:>5g} {c.policy:<26}{c.seed:>4}{c.mean_s:>9.2f}{c.p50_s:>9.2f}"
        f"{c.p95_s:>9.2f}{c.p99_s:>9.2f}{c.ttft_mean_s:>9.2f}{c.success_ratio:>9.4f}{c.loads:>9}"
        for c in cells
    ]
    missed = [v for v in verdicts(cells) if not v.is_met]
    lines += ["", f"bars: {len(verdicts(cells)) - len(missed)} met, {len(missed)} missed"]
    lines += [f"  missed: {v.bar}: {v.measured:.3f} instead of {v.limit:.3f}{_reachable(v)}" for v in missed]
    for policy, ratio in overall(against(cells, "oracle")).items():
        lines.append(f"{policy:<26} geometric mean against oracle: mean {ratio.mean:.3f}, p95 {ratio.p95:.3f}")
    return "\n".join(lines)


def _reachable(verdict: Verdict) -> str:
    return f" (oracle {verdict.oracle:.3f})" if verdict.oracle is not None else ""


if __name__ == "__main__":
    sys.exit(main())
