"""Throughput of callers that ask again as soon as they are answered, against what the slots could do at best.

Three machines answer in 100, 200 and 400 ms however many of their four slots are busy; twelve callers can keep
all twelve slots busy, and the best possible throughput is 4/0.1 + 4/0.2 + 4/0.4 = 70 requests a second.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.live.stack import EngineCommand, live_stack
from sollol_bus.sdk.client import Client
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects

SERVICE_S = {"fast": 0.1, "middle": 0.2, "slow": 0.4}
SLOTS, CALLERS = 4, 12
_MODEL = "countdown:latest"
_TOKENS = 10
_PROMPT_S = 0.002  # eight tokens at the preset's 4,000 a second; it ends with the first token of the answer
_WARM_UP_S = 3.0


def ideal_per_s() -> float:
    """Requests per second when no slot is ever idle."""
    return sum(SLOTS / seconds for seconds in SERVICE_S.values())


def engines() -> list[EngineCommand]:
    """The three machines."""
    common = ["bench.live.engine", "--preset", "steady", "--model", f"{_MODEL}=1", "--preload", _MODEL]
    speeds = {name: (_TOKENS - 1) / (seconds - _PROMPT_S) for name, seconds in SERVICE_S.items()}
    return [
        EngineCommand(name, [*common, "--name", name, "--parallel", str(SLOTS), "--decode-tps", f"{tps:g}"])
        for name, tps in speeds.items()
    ]


async def measure(folder: Path, *, strategy: str, seconds: float, hold: float | None = None) -> dict[str, Any]:
    """Throughput after a warm-up, and its share of the ideal one.

    Args:
        folder: For the files of the processes.
        strategy: The scorer's strategy.
        seconds: How long is measured.
        hold: The scorer's setting of this name, when not its default.
    """
    async with live_stack(engines(), strategy=strategy, folder=folder) as stack:
        if hold is not None:
            await stack.client.set_strategy(None, hold=hold)
        done: list[tuple[float, float]] = []
        began = time.perf_counter()
        deadline = began + _WARM_UP_S + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(_caller(stack.client, deadline, done))
        counted = [(at, took) for at, took in done if began + _WARM_UP_S <= at <= deadline]
        rate = len(counted) / seconds
        return {
            "strategy": strategy if hold is None else f"{strategy}, hold {hold:g}",
            "requests_per_s": round(rate, 2),
            "ideal_per_s": ideal_per_s(),
            "ratio": round(rate / ideal_per_s(), 4),
            "mean_s": round(sum(took for _, took in counted) / max(1, len(counted)), 4),
        }


async def _caller(client: Client, deadline: float, done: list[tuple[float, float]]) -> None:
    body = encode({"model": _MODEL, "prompt": f"count {_TOKENS - 1}", "stream": False})
    while (asked := time.perf_counter()) < deadline:
        await client.bus.request(subjects.GENERATE, body, timeout_s=60.0)
        now = time.perf_counter()
        done.append((now, now - asked))
