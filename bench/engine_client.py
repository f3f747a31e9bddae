"""The node's own HTTP client against httpx, on short requests and on token streams.

    python -m bench.engine_client

Measures the processor time of the client alone, in this process; the engine is an emulated node in another one.
`httpx with aiohttp` takes part when `httpx-aiohttp` is installed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

import httpx
import uvloop

from bench.machine import describe
from sollol_agents.node.engines.http.client import EngineHttp

BODY = json.dumps({"model": "countdown", "messages": [{"role": "user", "content": "count 1"}]}).encode()


class Client(Protocol):
    """Streams the answer to a POST."""

    def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The body's bytes as they come."""

    async def aclose(self) -> None:
        """Closes its connections."""


class Httpx:
    """httpx with any transport."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport) -> None:
        self._client = httpx.AsyncClient(base_url=url, transport=transport, timeout=600, trust_env=False)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    async def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The body's bytes as they come."""
        async with self._client.stream("POST", path, content=body) as response:
            async for data in response.aiter_raw():
                yield data


class Pool:
    """The node's own client."""

    def __init__(self, url: str) -> None:
        self._http = EngineHttp(url)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The body's bytes as they come."""
        async with self._http.open("POST", path, body) as answer:
            async for data in answer:
                yield data


def clients(url: str) -> Iterator[tuple[str, Client]]:
    """Every client that can be measured here."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    yield "httpx", Httpx(url, httpx.AsyncHTTPTransport(limits=limits))
    try:
        module = importlib.import_module("httpx_aiohttp")
    except ImportError:
        pass
    else:
        yield "httpx with aiohttp", Httpx(url, module.AiohttpTransport(limits=limits))
    yield "own pool", Pool(url)


@contextmanager
def engine(*flags: str) -> Iterator[str]:
    """The URL of an emulated node."""
    argv = [
        sys.executable,
        "-m",
        "sollol_agents.lab.emulator",
        "--model",
        "countdown=1",
        "--preload",
        "countdown",
        *flags,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()


async def one(client: Client, body: bytes) -> int:
    """One answer, which must be whole; returns its lines."""
    answer = b"".join([data async for data in client.stream("/api/chat", body)])
    if b'"done":true' not in answer:
        raise ValueError(f"not a whole answer: {answer[-200:]!r}")
    return answer.count(b"\n")


def cpu_s() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def short(client: Client, count: int = 1500) -> dict[str, float]:
    """Short requests one after another, then sixteen at a time."""
    for _ in range(50):
        await one(client, BODY)
    times, before = [], cpu_s()
    for _ in range(count):
        began = time.perf_counter()
        await one(client, BODY)
        times.append(time.perf_counter() - began)
    alone_s = (cpu_s() - before) / count

    async def worker() -> None:
        for _ in range(count // 16):
            await one(client, BODY)

    began = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(16)])
    elapsed_s = time.perf_counter() - began
    return {
        "p50_ms": statistics.median(times) * 1e3,
        "cpu_us_a_request": alone_s * 1e6,
        "requests_a_second_at_16": (count // 16) * 16 / elapsed_s,
    }


async def streams(client: Client, count: int = 50, tokens: int = 120) -> dict[str, float]:
    """Many streams of forty tokens a second at a time."""
    text = {"model": "countdown", "messages": [{"role": "user", "content": f"count {tokens}"}]}
    before = cpu_s()
    lines = await asyncio.gather(*[one(client, json.dumps(text).encode()) for _ in range(count)])
    return {"cpu_us_a_token": (cpu_s() - before) / sum(lines) * 1e6}


async def measure() -> dict[str, object]:
    """Every figure of every client."""
    results: dict[str, dict[str, float]] = {}
    with engine("--preset", "instant") as url:
        for name, client in clients(url):
            results[name] = await short(client)
            await client.aclose()
    with engine("--preset", "steady", "--decode-tps", "40", "--parallel", "64") as url:
        for name, client in clients(url):
            results[name] |= await streams(client)
            await client.aclose()
    rounded = {name: {key: round(value, 2) for key, value in row.items()} for name, row in results.items()}
    return {"machine": describe(), "clients": rounded}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure()), indent=2))
