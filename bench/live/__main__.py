"""Plays the arrivals of `bench.routing` on the real system with emulated engines, beside the simulation.

    python -m bench.live [--quick] [--scenario complex] [--fleet F2] [--load 0.7] [--json] [--out FILE]
    python -m bench.live --closed-loop
    python -m bench.live --real-engine

Every strategy gets a fresh system that has learnt nothing. Time is compressed: engines work faster and requests
come faster, by a factor that keeps what the system adds under two percent of the mean service time; the share is
measured and printed. The simulation runs the same compressed fleet.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import psutil

from bench.command import Figures, parser_of, started
from bench.live import closed_loop, real_engine
from bench.live.figures import Row, as_text, order, row_of
from bench.live.machines import MODEL_ON_DISK
from bench.live.replay import Sample, measured, replay
from bench.live.simulated import STRATEGIES, fleet_in, simulate
from bench.live.stack import EngineCommand, LiveStack, engines_of, live_stack
from bench.live.workload import SCENARIO_NAMES, hastened, workload
from bench.routing.fleets import FLEETS, SLOTS
from bench.routing.traces import read, write
from bench.routing.workloads import Request

_OVERHEAD_GOAL = 0.006  # of the mean service time, by an idle probe; the bar for the run is 0.02
_TOKENS_PER_CORE_S = 4500.0  # what engines, nodes and the bus carry without queueing for processors
_PROBES = 30
_QUICK = {"requests": 60, "strategies": "plan,random", "seconds": 3.0}


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    return started(_parser(), _measure, _in_words)


def _in_words(figures: Figures) -> str:
    """The last lines for a reader who did not ask for JSON: rows were printed as they came."""
    return f"{figures['command']}: done"


async def _measure(folder: Path, options: argparse.Namespace) -> Figures:
    if options.quick:
        for name, value in _QUICK.items():
            setattr(options, name, value)
    if options.closed_loop:
        results = [
            await closed_loop.measure(folder / name, strategy=name, seconds=options.seconds, hold=options.hold)
            for name in options.strategies.split(",")
        ]
        for r in results:
            print(f"{r['strategy']:<18}{r['requests_per_s']:>8.1f}/s, {r['ratio']:.3f} of the ideal", file=sys.stderr)
        return {"closed_loop": results}
    if options.real_engine:
        return await real_engine.measure(folder, count=options.requests, seed=options.seed)
    return await _compare(options, folder)


async def _compare(options: argparse.Namespace, folder: Path) -> Figures:
    """Every strategy, simulated and live."""
    requests = _requests(options)
    factor, probe_ms = options.compression, 0.0
    if not factor:
        probe_ms = 1000.0 * await _probe(requests, folder / "probe")
        factor = _factor(requests, options, probe_ms / 1000.0)
    rows: list[Row] = []
    for strategy in options.strategies.split(","):
        row = await _row(strategy, requests, options, factor, folder / strategy)
        rows.append(row)
        print(as_text(rows[-1:], factor).splitlines()[2], file=sys.stderr)
    print(as_text(rows, factor), file=sys.stderr)
    return {
        "scenario": options.scenario,
        "fleet": options.fleet,
        "load": options.load,
        "requests": len(requests),
        "seed": options.seed,
        "compression": factor,
        "probed_overhead_ms": round(probe_ms, 2),
        "overhead_ratio_max": max(r.overhead_ratio for r in rows),
        "rows": rows,
        "order_simulated": order(rows, "simulated"),
        "order_live": order(rows, "live"),
    }


def _requests(options: argparse.Namespace) -> list[Request]:
    if options.trace is not None:
        return read(options.trace)
    requests = workload(options.scenario, options.fleet, options.load, options.requests, options.seed)
    if options.save_trace is not None:
        write(options.save_trace, requests)
    return requests


async def _row(strategy: str, requests: list[Request], options: argparse.Namespace, factor: float, folder: Path) -> Row:
    simulated = simulate(hastened(requests, factor), fleet_in(options.fleet, factor), strategy, options.seed)
    async with live_stack(engines_of(options.fleet, factor), strategy=strategy, folder=folder) as stack:
        busy_s, began = _cpu_s(stack), time.perf_counter()
        samples = await replay(stack.client, hastened(requests, factor))
        wall_s, busy_s = time.perf_counter() - began, _cpu_s(stack) - busy_s
    return row_of(strategy, simulated, samples, factor, wall_s=wall_s, cpu_s=busy_s)


def _cpu_s(stack: LiveStack) -> float:
    own = psutil.Process().cpu_times()
    return own.user + own.system + sum(p.cpu_s for p in stack.processes)


async def _probe(requests: list[Request], folder: Path) -> float:
    """Seconds that the system adds to a request, of one caller on an idle fleet of engines without delay."""
    instant = ["bench.live.engine", "--preset", "instant", "--model", MODEL_ON_DISK]
    engine = EngineCommand("probe", instant, slots=SLOTS)
    samples: list[Sample] = []
    async with live_stack([engine], strategy="plan", folder=folder) as stack:
        for request in requests[:_PROBES]:
            samples.append(await measured(stack.client, request, time.perf_counter()))
            await asyncio.sleep(0)
    return sorted(s.overhead_s for s in samples)[len(samples) // 2]


def _factor(requests: list[Request], options: argparse.Namespace, overhead_s: float) -> float:
    """How far time may be compressed: by the overhead it takes, and by the tokens that the processors carry."""
    simulated = simulate(hastened(requests, 1.0), options.fleet, "plan", options.seed)
    latencies = [r.latency_s for r in simulated if r.latency_s is not None]
    by_overhead = _OVERHEAD_GOAL * sum(latencies) / len(latencies) / overhead_s
    tokens_per_s = sum(r.output_tokens for r in requests) / max(r.arrival_s for r in requests)
    by_tokens = _TOKENS_PER_CORE_S * (psutil.cpu_count() or 1) / tokens_per_s
    return max(1.0, round(min(by_overhead, by_tokens), 1))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("bench.live", __doc__)
    parser.add_argument("--scenario", default="complex", choices=SCENARIO_NAMES)
    parser.add_argument("--fleet", default="F2", choices=list(FLEETS))
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--compression", type=float, default=0.0, help="of time; 0 works it out")
    parser.add_argument("--trace", type=Path, help="replay this file instead of a scenario")
    parser.add_argument("--save-trace", type=Path, help="write the scenario's requests to this file")
    parser.add_argument("--closed-loop", action="store_true", help="throughput of 12 callers instead")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the closed loop")
    parser.add_argument("--hold", type=float, help="the scorer's setting of this name, for the closed loop")
    parser.add_argument("--real-engine", action="store_true", help="a real llama.cpp with a tiny model instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
