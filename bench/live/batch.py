"""Two hundred short answers wanted at once from a desk's machines, of which one holds the model; against the bound.

    python -m bench.live.batch [--ways jobs,sdk,http] [--strategies plan,least_loaded] [--runs 3] [--json] [--out FILE]

An A6000 is warm; a 4090, a 3060 and an M4 need six seconds to load. `jobs` submits all as durable jobs, `sdk` asks all
at once over the bus, `http` keeps forty chats open at a time. Every run gets a fresh system that has learnt nothing;
every actor and engine is a process. The bound is the fluid one of the simulation: no schedule can beat it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.command import Figures, parser_of, started
from bench.live.replay import Sample, all_of, replay
from bench.live.stack import LiveStack, engines_of, live_stack
from bench.live.workload import body_of
from bench.routing.bound import fluid_bound_s
from bench.routing.fleets import FLEETS
from bench.routing.scenarios import SCENARIOS, requests_of
from bench.routing.workloads import Request
from sollol_bus.sdk.jobs import make_job
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import subjects
from sollol_schemas.jobs import JobEvent, JobNews

SCENARIO = SCENARIOS["batch-async-one-warm-1-short"]
BAR = 1.06
"""Makespan over the bound, on a machine that has nothing else to do."""
_NOT_BEHIND = 1.01
_CHATS = 40
_WITHIN_S = 300.0


class BatchRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run; seconds as the caller measured them."""

    way: str
    strategy: str
    makespan_s: float
    ratio: float
    """Makespan over the bound."""
    mean_s: float
    longest_s: float
    failed: int
    by_node: dict[str, int]
    load_average: float
    """What the machine had to do in the minute before; much more than what a run itself needs spoils the figures."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of one way say about `plan`."""

    way: str
    worst_ratio: float
    """Makespan over the bound in the worst run."""
    against_least_loaded: float
    """Median makespan over that of `least_loaded`; 0 where that was not played."""
    mean_against_least_loaded: float
    """The same for means."""
    is_met: bool
    """Whether nothing failed, no run is above the bar, and neither median is more than 1 % behind `least_loaded`."""


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    parser = parser_of("bench.live.batch", __doc__)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--strategies", default="plan,least_loaded")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    return started(parser, measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> Figures:
    """Every way with every strategy, in turns."""
    count, runs = (40, 1) if options.quick else (options.requests, options.runs)
    requests = requests_of(SCENARIO, SCENARIO.fleet, count, count, options.seed)
    bound_s = fluid_bound_s(requests, FLEETS[SCENARIO.fleet], SCENARIO.warm_machines)
    found: list[BatchRun] = []
    for number in range(runs):
        for way in options.ways.split(","):
            for strategy in options.strategies.split(","):
                found.append(await _run(requests, way, strategy, bound_s, folder / f"{way}-{strategy}-{number}"))
                print(_line(found[-1]), file=sys.stderr)
    facts = {"requests": count, "bound_s": round(bound_s, 2), "bar": BAR}
    return {**facts, "verdicts": verdicts(found), "runs": found}


def verdicts(runs: Sequence[BatchRun]) -> list[Verdict]:
    """One for each way that `plan` went."""
    return [_verdict(way, runs) for way in dict.fromkeys(r.way for r in runs if r.strategy == "plan")]


def _verdict(way: str, runs: Sequence[BatchRun]) -> Verdict:
    ours = [r for r in runs if (r.way, r.strategy) == (way, "plan")]
    rivals = [r for r in runs if (r.way, r.strategy) == (way, "least_loaded")]

    def against(of: Callable[[BatchRun], float]) -> float:
        return round(statistics.median(map(of, ours)) / statistics.median(map(of, rivals)), 4) if rivals else 0.0

    worst = max(r.ratio for r in ours)
    makespan, mean = against(lambda r: r.makespan_s), against(lambda r: r.mean_s)
    return Verdict(
        way=way,
        worst_ratio=worst,
        against_least_loaded=makespan,
        mean_against_least_loaded=mean,
        is_met=worst <= BAR and max(makespan, mean) <= _NOT_BEHIND and not any(r.failed for r in ours),
    )


async def _run(requests: list[Request], way: str, strategy: str, bound_s: float, folder: Path) -> BatchRun:
    engines = engines_of(SCENARIO.fleet, warm_machines=SCENARIO.warm_machines)
    load_average = os.getloadavg()[0]
    async with live_stack(engines, strategy=strategy, folder=folder, has_gateway=way == "http") as stack:
        began = time.perf_counter()
        samples = await WAYS[way](stack, requests)
        makespan_s = time.perf_counter() - began
    return BatchRun(
        way=way,
        strategy=strategy,
        makespan_s=round(makespan_s, 3),
        ratio=round(makespan_s / bound_s, 4),
        mean_s=round(statistics.fmean(s.latency_s for s in samples), 3),
        longest_s=round(max(s.latency_s for s in samples), 3),
        failed=sum(s.is_failed for s in samples),
        by_node=dict(sorted(Counter(s.node_id for s in samples).items())),
        load_average=round(load_average, 2),
    )


async def by_jobs(stack: LiveStack, requests: list[Request]) -> list[Sample]:
    """All of them as durable jobs; each counts from the start to the event of its end."""
    bus, began = stack.client.bus, time.perf_counter()
    samples: dict[str, Sample] = {}
    is_over = asyncio.Event()

    def on_event(msg: Msg) -> None:
        event = decode(msg.data, JobEvent)
        if event.news in (JobNews.DONE, JobNews.FAILED, JobNews.DEAD):
            samples[event.job_id] = Sample(
                number=int(event.job_id.removeprefix("job-")),
                latency_s=time.perf_counter() - began,
                node_id=event.node_id,
                is_failed=event.news is not JobNews.DONE,
            )
        if len(samples) == len(requests):
            is_over.set()

    bus.subscribe(subjects.JOB_EVENT.all, on_event)
    await bus.flush()
    await stack.client.jobs.submit_many([(f"job-{r.number}", make_job(body_of(r))) for r in requests])
    await asyncio.wait_for(is_over.wait(), _WITHIN_S)
    return list(samples.values())


async def by_sdk(stack: LiveStack, requests: list[Request]) -> list[Sample]:
    """All of them at once over the bus."""
    return await replay(stack.client, requests)


async def by_http(stack: LiveStack, requests: list[Request]) -> list[Sample]:
    """Forty chats at a time through the gateway."""
    places = asyncio.Semaphore(_CHATS)
    limits = httpx.Limits(max_connections=_CHATS, max_keepalive_connections=_CHATS)
    async with httpx.AsyncClient(base_url=stack.http_url, trust_env=False, timeout=_WITHIN_S, limits=limits) as http:

        async def chat(request: Request) -> Sample:
            async with places:
                body = body_of(request)
                body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
                asked = time.perf_counter()
                answer = await http.post("/api/chat", json=body)
                return Sample(
                    number=request.number,
                    latency_s=time.perf_counter() - asked,
                    node_id=answer.headers.get("x-sollol-node", ""),
                    is_failed=answer.status_code != httpx.codes.OK,
                )

        return await all_of([lambda r=request: chat(r) for request in requests])  # type: ignore[misc]


WAYS: dict[str, Callable[[LiveStack, list[Request]], Awaitable[list[Sample]]]] = {
    "jobs": by_jobs,
    "sdk": by_sdk,
    "http": by_http,
}


def _line(run: BatchRun) -> str:
    nodes = ", ".join(f"{name} {count}" for name, count in run.by_node.items())
    figures = f"{run.makespan_s:>8.2f} s{run.ratio:>8.3f}{run.mean_s:>8.2f} s{run.longest_s:>8.2f} s{run.failed:>4}"
    return f"{run.way:<6}{run.strategy:<14}{figures}  {nodes}"


def as_text(figures: dict[str, Any]) -> str:
    """The runs, and the medians of each way and strategy."""
    runs: list[BatchRun] = figures["runs"]
    lines = [f"bound {figures['bound_s']} s", "way   strategy      makespan   ratio      mean    longest failed"]
    lines += [_line(run) for run in runs]
    for way, strategy in dict.fromkeys((r.way, r.strategy) for r in runs):
        ratios = [r.ratio for r in runs if (r.way, r.strategy) == (way, strategy)]
        lines.append(f"median of {way}, {strategy}: {statistics.median(ratios):.3f} of the bound (bar {BAR})")
    for v in figures["verdicts"]:
        said = "met" if v.is_met else "missed"
        lines.append(
            f"{v.way}: {said}; worst {v.worst_ratio:.3f} of the bound; against least_loaded, makespan "
            f"{v.against_least_loaded:.3f} and mean {v.mean_against_least_loaded:.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
