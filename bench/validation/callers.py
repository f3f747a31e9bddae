"""Callers over HTTP, the same for every system: each answer is read to its last word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Self

import httpx
import msgspec

from bench.live.workload import body_of
from bench.routing.workloads import Request
from bench.validation.systems import System


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its caller saw it; seconds as measured, not stretched."""

    number: int
    arrival_s: float
    """From the beginning of the run."""
    latency_s: float
    """From the planned arrival to the complete answer; the caller's patience for a failure."""
    priority: int = 5
    node: str = ""
    is_failed: bool = False


class _Routing(msgspec.Struct):
    node_id: str = ""


class _Answer(msgspec.Struct):
    done: bool = False
    response: str = ""
    sollol: _Routing = msgspec.field(default_factory=_Routing, name="_sollol_routing")


class Callers:
    """Everybody who asks one system; use as an async context manager."""

    def __init__(self, system: System, *, patience_s: float) -> None:
        self._patience_s = patience_s
        transport = httpx.AsyncHTTPTransport(
            uds=system.socket or None, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256)
        )
        self._http = httpx.AsyncClient(
            base_url=system.url, transport=transport, timeout=httpx.Timeout(patience_s), trust_env=False
        )
        self._began = time.perf_counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def replay(self, requests: Sequence[Request]) -> list[Sample]:
        """Asks each request at its arrival; returns when all are answered or given up."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._arrive(request)) for request in requests]
        return [task.result() for task in tasks]

    async def ask_again_and_again(self, following: Callable[[], Request], callers: int, seconds: float) -> list[Sample]:
        """Every caller asks as soon as it is answered, until the time is over."""
        self._began = time.perf_counter()
        samples: list[Sample] = []

        async def caller() -> None:
            while (now := time.perf_counter() - self._began) < seconds:
                samples.append(await self.ask(following(), now))

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return samples

    async def _arrive(self, request: Request) -> Sample:
        await asyncio.sleep(max(0.0, self._began + request.arrival_s - time.perf_counter()))
        return await self.ask(request, request.arrival_s)

    async def ask(self, request: Request, arrival_s: float) -> Sample:
        """One request; whatever is not the whole answer is a failure."""
        node = await self._answered_by(request)
        latency_s = time.perf_counter() - self._began - arrival_s
        return Sample(
            number=request.number,
            arrival_s=arrival_s,
            latency_s=self._patience_s if node is None else latency_s,
            priority=request.priority,
            node=node or "",
            is_failed=node is None,
        )

    async def _answered_by(self, request: Request) -> str | None:
        try:
            async with asyncio.timeout(self._patience_s):
                reply = await self._http.post("/api/generate", content=msgspec.json.encode(body_of(request)))
            answer = msgspec.json.decode(reply.content, type=_Answer)
        except (httpx.HTTPError, TimeoutError, msgspec.DecodeError):
            return None
        if reply.status_code != httpx.codes.OK or not answer.done or not answer.response.endswith(" 0"):
            return None
        return answer.sollol.node_id or reply.headers.get("X-Upstream", "?").rpartition(", ")[2]
