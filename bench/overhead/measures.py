"""The measurements: each returns plain figures in milliseconds, per second or MiB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime

import httpx
import msgspec

from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import Bus
from sollol_schemas import subjects

MODEL = "bench"
_BODY = {"model": MODEL, "prompt": "count 0", "options": {"num_predict": 1}}


class _Stamp(msgspec.Struct):
    created_at: str
    done: bool = False


_stamp = msgspec.json.Decoder(_Stamp)


def percentiles(samples: list[float]) -> dict[str, float]:
    """p50, p99 and mean of samples in seconds, as milliseconds."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {
        "p50_ms": round(1e3 * ordered[round(0.50 * last)], 3),
        "p99_ms": round(1e3 * ordered[round(0.99 * last)], 3),
        "mean_ms": round(1e3 * sum(ordered) / len(ordered), 3),
        "n": len(ordered),
    }


async def sequential(call: Callable[[], Awaitable[object]], *, count: int, warm_up: int) -> list[float]:
    """Seconds of each call, one after another."""
    samples = []
    for number in range(warm_up + count):
        began = time.perf_counter()
        await call()
        if number >= warm_up:
            samples.append(time.perf_counter() - began)
    return samples


async def throughput(call: Callable[[], Awaitable[object]], *, callers: int, seconds: float) -> float:
    """Calls per second that `callers` closed-loop callers complete."""
    ends_at = time.perf_counter() + seconds
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < ends_at:
            await call()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - began)


def direct_call(http: httpx.AsyncClient, engine_url: str) -> Callable[[], Awaitable[object]]:
    """One streamed request straight to the engine, read to its end."""
    body = msgspec.json.encode({**_BODY, "stream": True})

    async def call() -> object:
        async with http.stream("POST", f"{engine_url}/api/generate", content=body) as reply:
            reply.raise_for_status()
            return await reply.aread()

    return call


def bus_call(client: Client) -> Callable[[], Awaitable[object]]:
    """One streamed request over the whole path, with the client as users use it."""

    async def call() -> object:
        return await client.generate(MODEL, "count 0", options={"num_predict": 1})

    return call


def plain_call(bus: Bus) -> Callable[[], Awaitable[object]]:
    """One request-reply over the whole path, as a foreign program does it."""
    body = msgspec.json.encode({**_BODY, "stream": False})

    async def call() -> object:
        return await bus.request(subjects.GENERATE, body, timeout_s=60)

    return call


async def token_delays_direct(http: httpx.AsyncClient, engine_url: str, *, streams: int, tokens: int) -> list[float]:
    """Seconds from the engine's stamp on each token to its arrival, straight from the engine."""
    delays: list[float] = []
    body = msgspec.json.encode({"model": MODEL, "prompt": f"count {tokens}", "stream": True})

    async def one() -> None:
        async with http.stream("POST", f"{engine_url}/api/generate", content=body) as reply:
            rest = b""
            async for block in reply.aiter_raw():
                arrived = time.time()
                *lines, rest = (rest + block).split(b"\n")
                delays.extend(_delay(line, arrived) for line in lines if line)

    await asyncio.gather(*(one() for _ in range(streams)))
    return delays


async def token_delays_bus(client: Client, *, streams: int, tokens: int) -> list[float]:
    """The same over the whole path, measured where the message arrives."""
    delays: list[float] = []
    body = msgspec.json.encode({"model": MODEL, "prompt": f"count {tokens}", "stream": True})

    async def one() -> None:
        async with client.call(subjects.GENERATE, body) as call:
            async for msg in call:
                delays.append(_delay(msg.data, time.time()))  # noqa: PERF401 the time is the point

    await asyncio.gather(*(one() for _ in range(streams)))
    return delays


def _delay(line: bytes, arrived: float) -> float:
    stamp = _stamp.decode(line).created_at
    return arrived - datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()
