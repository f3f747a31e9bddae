"""Plays arrivals against a live system, and measures each request where its caller is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence

import msgspec

from bench.live.workload import body_of
from bench.routing.scenarios import TIMEOUT_S
from bench.routing.workloads import Request
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.messages import Msg, encode, error_of
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.decision import Decision

_NS = 1e9


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request, as its caller and the engine saw it; seconds as measured, not stretched."""

    number: int
    latency_s: float
    """From the planned arrival to the complete answer; the time-out for a failure."""
    node_id: str = ""
    queue_s: float = 0.0
    service_s: float = 0.0
    """The engine's own total, load included."""
    is_failed: bool = False

    @property
    def overhead_s(self) -> float:
        """What neither the queue nor the engine took."""
        return max(0.0, self.latency_s - self.queue_s - self.service_s)


class _Reply(msgspec.Struct):
    total_duration: float = 0.0


async def replay(client: Client, requests: Sequence[Request]) -> list[Sample]:
    """Sends every request at its arrival, and returns when all are answered."""
    began = time.perf_counter()

    async def arrive(request: Request) -> Sample:
        due = began + request.arrival_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return await measured(client, request, due)

    return await all_of([lambda r=request: arrive(r) for request in requests])  # type: ignore[misc]


async def all_of(calls: Sequence[Callable[[], Coroutine[None, None, Sample]]]) -> list[Sample]:
    """The results of calls that run side by side."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call()) for call in calls]
    return [task.result() for task in tasks]


async def measured(client: Client, request: Request, due: float) -> Sample:
    """One request by a plain NATS caller that wants one reply."""
    try:
        reply = await client.bus.request(subjects.GENERATE, encode(body_of(request)), timeout_s=TIMEOUT_S)
    except SollolError:
        return Sample(number=request.number, latency_s=TIMEOUT_S, is_failed=True)
    latency_s = time.perf_counter() - due
    if error_of(reply) is not None:
        return Sample(number=request.number, latency_s=TIMEOUT_S, is_failed=True)
    return _sample(request, reply, latency_s)


def _sample(request: Request, reply: Msg, latency_s: float) -> Sample:
    decision = msgspec.json.decode((reply.headers or {}).get(h.DECISION, "{}"), type=Decision)
    service_s = msgspec.json.decode(reply.data, type=_Reply).total_duration / _NS
    return Sample(
        number=request.number,
        latency_s=latency_s,
        node_id=decision.node_id,
        queue_s=decision.queue_s,
        service_s=service_s,
    )
