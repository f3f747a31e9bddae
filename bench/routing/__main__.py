"""Compares routing policies on simulated fleets in virtual time.

    python -m bench.routing --scenarios complex,models --policies plan,oracle,least_connections \
        --loads 0.5,0.85 --seeds 1,2 --requests 1500 --json

Load 1.0 is what the fleet could just sustain with perfect placement and batching; of closed scenarios it is a number
of clients, of `batch` and `cold_lengths` a number of requests. A name stands for all scenarios that begin with it and
a hyphen. Every policy of a cell sees the same arrivals. `--quick` runs a small selection within a minute, and
`--trace FILE` replays recorded requests.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.machine import describe
from bench.routing.bars import Verdict, verdicts
from bench.routing.batch import batch_figures
from bench.routing.figures import Cell, against, cell, overall
from bench.routing.fleets import FLEETS
from bench.routing.policies import BATCH_POLICIES, POLICIES
from bench.routing.scenarios import SCENARIOS, Scenario, named, requests_of
from bench.routing.simulation import run
from bench.routing.traces import read
from bench.routing.workloads import poisson

_QUICK = {"scenarios": "uniform,complex,models,chat", "loads": "0.7", "requests": 400, "seeds": "1"}
_TRACE = "trace"


class Run(NamedTuple):
    """One run."""

    scenario: str
    fleet: str
    load: float
    policy: str
    seed: int
    requests: int
    trace: str = ""


def play(asked: Run) -> Cell:
    """Runs one policy once."""
    if asked.trace:
        scenario = Scenario(_TRACE, asked.fleet, (), poisson)
        requests = read(Path(asked.trace), speed_up=asked.load)
    else:
        scenario = SCENARIOS[asked.scenario]
        requests = requests_of(scenario, asked.fleet, asked.load, asked.requests, asked.seed)
    world = run(scenario, asked.fleet, requests, asked.seed, POLICIES[asked.policy])
    return cell(
        requests,
        scenario=scenario.name,
        fleet=asked.fleet,
        load=asked.load,
        policy=asked.policy,
        seed=asked.seed,
        loads=sum(m.loads for m in world.machines),
        batch=batch_figures(requests, world.machines, scenario.warm_machines) if scenario.is_batch else None,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison and prints it; the exit code says only whether it ran."""
    options = _parser().parse_args(arguments)
    if options.quick:
        for name, value in _QUICK.items():
            setattr(options, name, value)
    began = time.perf_counter()
    cells = _play_all(_runs(options), options.processes)
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


def _play_all(runs: list[Run], processes: int) -> list[Cell]:
    if processes <= 1:
        return [play(asked) for asked in runs]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(play, runs))


def _runs(options: argparse.Namespace) -> list[Run]:
    if options.trace:
        return _runs_of(Scenario(_TRACE, "F1", (), poisson, loads=(1.0,)), options)
    try:
        names = named(options.scenarios)
    except LookupError as error:
        raise SystemExit(error.args[0]) from error
    return [asked for name in names for asked in _runs_of(SCENARIOS[name], options)]


def _runs_of(scenario: Scenario, options: argparse.Namespace) -> list[Run]:
    trace = str(options.trace) if options.trace else ""
    fleets = _names(options.fleets, FLEETS, "fleet") if options.fleets else [scenario.fleet]
    loads = [float(x) for x in options.loads.split(",")] if options.loads else scenario.loads
    policies = _names(options.policies, POLICIES, "policy")
    if options.policies == "all":
        policies = [p for p in policies if p in BATCH_POLICIES or (not scenario.is_batch and p != "list")]
    return [
        Run(scenario.name, fleet, load, policy, seed, options.requests, trace)
        for fleet in fleets
        for load in loads
        for seed in [int(x) for x in options.seeds.split(",")]
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
    parser.add_argument("--loads", default="", help="instead of each scenario's own")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--requests", type=int, default=1200)
    parser.add_argument("--trace", type=Path, help="replay this file; --loads then speeds it up")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a small selection, within a minute")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    return parser


def as_text(cells: Sequence[Cell]) -> str:
    """The figures as tables, and what they say of the bars."""
    lines = [*_table([c for c in cells if c.batch is None]), *_table([c for c in cells if c.batch is not None])]
    missed = [v for v in verdicts(cells) if not v.is_met]
    lines += ["", f"bars: {len(verdicts(cells)) - len(missed)} met, {len(missed)} missed"]
    lines += [f"  missed: {v.bar}: {v.measured:.3f} instead of {v.limit:.3f}{_reachable(v)}" for v in missed]
    for policy, ratio in overall(against(cells, "oracle")).items():
        lines.append(f"{policy:<26} geometric mean against oracle: mean {ratio.mean:.3f}, p95 {ratio.p95:.3f}")
    return "\n".join(lines)


def _table(cells: Sequence[Cell]) -> list[str]:
    """One line for each cell, all of them of batches or none."""
    if not cells:
        return []
    rows = [_columns(c) for c in cells]
    width = max(len(c.scenario) for c in cells) + 2
    head = f"{'scenario':<{width}}{'fleet':<6}{'load':>5} {'policy':<26}{'seed':>4}"
    return [head + "".join(f"{name:>10}" for name in rows[0])] + [
        f"{c.scenario:<{width}}{c.fleet:<6}{c.load:>5g} {c.policy:<26}{c.seed:>4}"
        + "".join(f"{value:>10.{2 if isinstance(value, float) else 0}f}" for value in row.values())
        for c, row in zip(cells, rows, strict=True)
    ]


def _columns(c: Cell) -> dict[str, float]:
    if c.batch is None:
        tail = {"p95": c.p95_s, "p99": c.p99_s, "ttft": c.ttft_mean_s, "ok": c.success_ratio, "loads": c.loads}
        return {"mean": c.mean_s, "p50": c.p50_s} | tail
    b = c.batch
    lengths = {"makespan": b.makespan_s, "bound": b.bound_s, "mean": c.mean_s}
    return lengths | {"wait/med": b.wait_ratio, "idle": b.idle_slot_s, "ok": c.success_ratio, "loads": c.loads}


def _reachable(verdict: Verdict) -> str:
    return f" (oracle {verdict.oracle:.3f})" if verdict.oracle is not None else ""


if __name__ == "__main__":
    sys.exit(main())
