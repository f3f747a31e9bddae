"""What it costs to be ready to go on with an answer while nothing breaks: with it and without, by turns.

The processor time is this process's own, the caller's: nobody else holds anything for it. A token's is that of a long
answer over its pieces.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.overhead import measures
from bench.processes import fleet, instant_engine, running
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects

BAR: Final = 0.02
"""The part of each figure by which it may be larger."""
_SLOTS: Final = 16
_TOKENS: Final = 400


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over many requests, of which every other one is ready to go on."""
    requests, answers = (40, 4) if options.quick else (2000, 120)
    short = encode({"model": measures.MODEL, "prompt": "count 0", "options": {"num_predict": 1}, "stream": True})
    long = encode({"model": measures.MODEL, "prompt": f"count {_TOKENS}", "stream": True})
    server = EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")))
    async with server, running("engine", instant_engine(measures.MODEL), log_dir=folder) as engine:
        url = engine.address("engine")
        async with fleet(server.url, url, slots=_SLOTS, log_dir=folder), Client(server.url) as client:
            await client.generate(measures.MODEL, "count 0")
            per_request = await by_turns(client, short, requests)
            per_token = await by_turns(client, long, answers)
    return {
        "requests": requests,
        "answers": answers,
        "tokens": _TOKENS,
        "per_request": per_request,
        "per_token": {name: round(us / _TOKENS, 3) if name.endswith("_us") else us for name, us in per_token.items()},
        "bar": BAR,
    }


async def by_turns(client: Client, body: bytes, count: int) -> dict[str, float]:
    """Microseconds of one request, by the clock and of the processor, with and without; and by what they differ.

    What differs is the median over pairs that ran one right after the other, in both orders.
    """
    ready, plain = _asked(client, body, is_ready=True), _asked(client, body, is_ready=False)
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for number in range(count):
        if number % 2:
            one = await ready()
            pairs.append((one, await plain()))
        else:
            other = await plain()
            pairs.append((await ready(), other))
    found: dict[str, float] = {}
    for at, name in enumerate(("wall", "cpu")):
        found[f"{name}_ready_us"] = round(1e6 * median(one[at] for one, _ in pairs), 1)
        found[f"{name}_plain_us"] = round(1e6 * median(other[at] for _, other in pairs), 1)
        more = median(one[at] - other[at] for one, other in pairs)
        found[f"{name}_more"] = round(1e6 * more / found[f"{name}_plain_us"], 4)
    return found


def _asked(client: Client, body: bytes, *, is_ready: bool) -> Callable[[], Awaitable[tuple[float, float]]]:
    """One request, read to its end: seconds by the clock, and of this process's processor time."""

    async def ask() -> tuple[float, float]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        async with client.call(subjects.GENERATE, body, resume=is_ready) as call:
            async for _ in call:
                pass
        return time.perf_counter() - wall_s, time.process_time() - cpu_s

    return ask


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [f"{'microseconds, medians':24}{'ready':>10}{'plain':>10}{'more':>9}   (bar {figures['bar']:.0%})"]
    for name in ("per_request", "per_token"):
        row = figures[name]
        lines += [
            f"  {name} {kind:12}{row[f'{kind}_ready_us']:>10}{row[f'{kind}_plain_us']:>10}{row[f'{kind}_more']:>9.2%}"
            for kind in ("wall", "cpu")
        ]
    return "\n".join(lines)
