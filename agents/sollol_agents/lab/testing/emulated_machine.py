"""One emulated node and a client of it, and the requests of which its tests are made."""

# ruff: noqa: ANN401 settings and fields are passed on by name

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig

MODELS: Final = ("countdown", "small:3b=3.2", "large:32b=32.8", "nomic-embed-text=0.137")
GENERATE: Final = {"model": "countdown", "prompt": "count 30"}


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[tuple[EmulatedNode, httpx.AsyncClient]]:
    """A node that runs, twenty times as fast as the real one, and its client."""
    config = msgspec.convert({"preset": "steady", "model": MODELS, "time_scale": 20.0} | settings, EmulatorConfig)
    async with EmulatedNode(config) as node, httpx.AsyncClient(base_url=node.url, timeout=20) as client:
        yield node, client


async def loaded_names(client: httpx.AsyncClient) -> list[str]:
    """The models in memory."""
    return [model["name"] for model in (await client.get("/api/ps")).json()["models"]]


async def generate(client: httpx.AsyncClient, model: str, prompt: str = "count 2", **more: Any) -> httpx.Response:
    """The whole answer to a prompt."""
    return await client.post("/api/generate", json={"model": model, "prompt": prompt, "stream": False} | more)


@asynccontextmanager
async def streaming(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream of which the first has come and which goes on for long."""
    body = {"model": "countdown", "prompt": "count 999"}
    async with client.stream("POST", "/api/generate", json=body) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        yield lines


async def read_into(seen: list[str], lines: AsyncIterator[str]) -> None:
    """Keeps every line, also when the stream breaks."""
    async for line in lines:
        seen.append(line)  # noqa: PERF401 - what came before a failure counts
