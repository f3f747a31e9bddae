"""A real llama.cpp as the judge: its speeds are measured, and the simulation of a machine with them must agree.

One engine with a small model that counts down runs on this machine's processor, with four slots. It is asked
directly for its speed alone and with company, before and after each run; the simulated machine gets those figures and
nothing else.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from bench.live.figures import Row, as_text, row_of
from bench.live.machines import MODEL
from bench.live.replay import replay
from bench.live.simulated import register, simulate
from bench.live.stack import EngineCommand, live_stack
from bench.routing.fleets import MODELS, SLOTS, MachineSpec, ModelSpec
from bench.routing.workloads import Request

_SIZE = "small"
_LOADS = (0.5, 0.8)
_ALONE_TOKENS, _PROMPT_TOKENS, _SAMPLES = 200, 1200, 5


def engine() -> EngineCommand:
    """The real engine; its threads leave a core to everything else."""
    arguments = ["sollol_agents.lab.engine", "--preset", _SIZE, "--slots", str(SLOTS), "--alias", MODEL, "--port", "0"]
    return EngineCommand("real", arguments, dialect="openai", slots=SLOTS)


async def measure(folder: Path, *, count: int, seed: int) -> dict[str, Any]:
    """Simulated and live figures of one real engine, at two loads."""
    rows: list[Row] = []
    measured: list[Speeds] = []
    for load in _LOADS:
        async with live_stack([engine()], strategy="plan", folder=folder / f"load{load:g}") as stack:
            url = next(p for p in stack.processes if p.name == "real-engine").address("engine")
            before = await speeds(url, 1)
            busy_s, began = sum(p.cpu_s for p in stack.processes), time.perf_counter()
            samples = await replay(stack.client, arrivals(load, count, seed, before))
            wall_s = time.perf_counter() - began
            busy_s = sum(p.cpu_s for p in stack.processes) - busy_s
            after = await speeds(url, 501)
        fleet = register(f"real at {load:g}", [machine(between(before, after))])
        simulated = simulate(arrivals(load, count, seed, before), fleet, "plan", seed)
        rows.append(row_of(f"plan at {load:g}", simulated, samples, 1.0, wall_s=wall_s, cpu_s=busy_s))
        measured += [before, after]
    print(as_text(rows, 1.0), file=sys.stderr)
    return {
        "engine": f"llama.cpp, countdown model '{_SIZE}', {SLOTS} slots, one compute thread",
        "cores": psutil.cpu_count(),
        "speeds_before_and_after": measured,
        "requests": count,
        "rows": rows,
    }


class Speeds(NamedTuple):
    """Decode and prompt rate of one request alone, and the slow-down per co-runner."""

    decode_tps: float
    prompt_tps: float
    beta: float


def between(one: Speeds, other: Speeds) -> Speeds:
    """Speeds in the middle: the machine may have other work, and change while it is measured."""
    return Speeds(*(math.sqrt(a * b) for a, b in zip(one, other, strict=True)))


async def speeds(url: str, first: int) -> Speeds:
    """What the engine does now, by the caller's clock.

    Args:
        url: The engine.
        first: Number that the first prompt begins with; others count on, so that none finds itself in a cache.
    """
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as http:
        number = first

        async def took(prompt_tokens: int, output_tokens: int) -> float:
            nonlocal number
            number += 1
            prompt = f" {number}" + " the" * prompt_tokens + f" {output_tokens - 1}"
            began = time.perf_counter()
            body = {"model": MODEL, "prompt": prompt, "max_tokens": 2 * output_tokens, "temperature": 0}
            (await http.post("/v1/completions", json=body)).raise_for_status()
            return time.perf_counter() - began

        await took(10, 20)
        alone = sorted([await took(4, _ALONE_TOKENS) for _ in range(_SAMPLES)])[_SAMPLES // 2]
        prompts = sorted([await took(_PROMPT_TOKENS, 2) for _ in range(_SAMPLES)])[_SAMPLES // 2]
        full = await asyncio.gather(*(took(4, _ALONE_TOKENS) for _ in range(SLOTS)))
    beta = max(0.0, (sum(full) / SLOTS / alone - 1.0) / (SLOTS - 1))
    return Speeds(_ALONE_TOKENS / alone, _PROMPT_TOKENS / prompts, beta)


def machine(measured: Speeds) -> MachineSpec:
    """The simulated machine with the measured figures; its model is always in memory."""
    slow_down = measured.beta

    class Measured(MachineSpec):
        __slots__ = ()

        @property
        def beta(self) -> float:
            """As measured."""
            return slow_down

        def load_s(self, model: ModelSpec) -> float:
            """Nothing: the engine loads its model before it serves."""
            del model
            return 1e-3

    return Measured("real", "", 28.0, measured.decode_tps, measured.prompt_tps, 1.0, cores=psutil.cpu_count() or 1)


def arrivals(load: float, count: int, seed: int, engine_speeds: Speeds) -> list[Request]:
    """Independent requests of mixed lengths at a share of what the engine can sustain with full slots."""
    decode_tps, prompt_tps, beta = engine_speeds
    rng = random.Random(f"real/{seed}")
    lengths = [(rng.randint(20, 400), rng.randint(20, 300)) for _ in range(count)]
    work_s = sum(p / prompt_tps + o / decode_tps for p, o in lengths) / count
    rate = load * SLOTS / (work_s * (1.0 + beta * (SLOTS - 1)))
    at, requests = 0.0, []
    for number, (prompt, output) in enumerate(lengths):
        at += rng.expovariate(rate)
        requests.append(Request(number, at, MODELS[MODEL], "generation", prompt, output))
    return requests
