"""Measures durable jobs: how fast they are stored and completed, and what a backlog costs.

    python -m bench.jobs [--json] [--quick] [--out FILE]

The engine is the emulated one without any delay; every actor is a process; the submitter is this process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench.command import parser_of, started
from bench.processes import Process, actor, control, instant_engine, node, running
from sollol_bus.errors import BusError
from sollol_bus.jetstream.api import api, publish_acked
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.jobs import Job

BARS = {
    "submitted_per_s": 5000.0,
    "completed_per_s": 1500.0,
    "restart_with_backlog_s": 5.0,
    "dispatcher_restart_with_backlog_s": 5.0,
    "rss_growth_mib": 0.0,
}
MODEL = "bench:latest"
SLOTS = 64
PROMPT = "count down from 1 " + "x" * 480


class _State(msgspec.Struct):
    messages: int = 0


class _Info(msgspec.Struct):
    state: _State


def main() -> int:
    """Runs the benchmark and prints its figures; the exit code says only whether it ran."""
    return started(parser_of("bench.jobs", __doc__), measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    count, backlog, drain_s = (300, 1000, 2.0) if options.quick else (5000, 100_000, 20.0)
    figures: dict[str, Any] = {}
    config = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(config))
        actors = await stack.enter_async_context(control(server.url, log_dir=folder))
        command = instant_engine(MODEL, "--parallel", str(SLOTS))
        url = (await stack.enter_async_context(running("engine", command, log_dir=folder))).address("engine")
        client = await stack.enter_async_context(Client(BusConfig(url=server.url, name="bench")))
        job = make_job({"model": MODEL, "prompt": PROMPT})
        async with node(server.url, url, slots=SLOTS, log_dir=folder) as alone:
            await _until_answering(client)
            await _complete(client, job, min(count, 500))  # the fleet learns, the buffers grow to their size
            figures |= await _complete(client, job, count)
            figures["idle_rss_mib"] = _rss(actors | {"node": alone})
        figures |= await _grow(client, job, backlog)
        figures["backlog_rss_mib"] = _rss(actors)
        figures["rss_growth_mib"] = max(
            figures["backlog_rss_mib"][name] - figures["idle_rss_mib"][name] for name in ("dispatcher", "scorer")
        )
        figures |= await _submit_one_by_one(client, job, 50 if options.quick else 1000)
        figures["restart_with_backlog_s"] = await _restart(client, server, job)
        await actors["dispatcher"].kill()
        began = time.perf_counter()
        await stack.enter_async_context(actor(["dispatcher"], server.url, folder))
        await client.jobs.submit(job)
        figures["dispatcher_restart_with_backlog_s"] = time.perf_counter() - began
        async with node(server.url, url, slots=SLOTS, log_dir=folder):
            figures |= await _drain(client, drain_s)
    figures["bars"] = BARS
    return figures


async def _until_answering(client: Client) -> None:
    job_id = await client.generate_async(MODEL, PROMPT)
    await client.wait_for_task(job_id, timeout_s=60)


async def _complete(client: Client, job: Job, count: int) -> dict[str, Any]:
    """Stores jobs pipelined and waits until all are done."""
    began = time.perf_counter()
    await client.jobs.submit_many([job] * count)
    stored_s = time.perf_counter() - began
    while await _waiting(client):  # noqa: ASYNC110 the stream sends no signal
        await asyncio.sleep(0.02)
    return {
        "jobs": count,
        "submitted_per_s": count / stored_s,
        "completed_per_s": count / (time.perf_counter() - began),
    }


async def _grow(client: Client, job: Job, count: int) -> dict[str, Any]:
    """Stores a backlog that nobody works on."""
    began = time.perf_counter()
    await client.jobs.submit_many([job] * count)
    return {"backlog_jobs": count, "backlog_submitted_per_s": count / (time.perf_counter() - began)}


async def _submit_one_by_one(client: Client, job: Job, count: int) -> dict[str, Any]:
    """Latency of a single publish, and of a submission by request, beside the backlog."""
    payload = encode(job)
    took = []
    for number in range(count):
        began = time.perf_counter()
        headers = {"Nats-Msg-Id": f"single-{number}"}
        await publish_acked(client.bus, subjects.JOB_SUBMIT.of(5, f"single-{number}"), payload, headers=headers)
        took.append(time.perf_counter() - began)
    asked = []
    for _ in range(count // 2):
        began = time.perf_counter()
        await client.jobs.submit(job)
        asked.append(time.perf_counter() - began)
    return {
        "publish_ms": {"p50": _quantile(took, 0.5) * 1e3, "p99": _quantile(took, 0.99) * 1e3},
        "enqueue_ms": {"p50": _quantile(asked, 0.5) * 1e3, "p99": _quantile(asked, 0.99) * 1e3},
    }


async def _restart(client: Client, server: EmbeddedServer, job: Job) -> float:
    """Seconds from kill -9 of nats-server until it stores the next job, with the whole backlog on its disk."""
    payload = encode(job)
    before = await _waiting(client)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    began = time.perf_counter()
    while True:
        try:
            await publish_acked(client.bus, subjects.JOB_SUBMIT.of(5, "after-restart"), payload, timeout_s=1.0)
        except BusError:
            await asyncio.sleep(0.01)
        else:
            break
    took_s = time.perf_counter() - began
    after = await _waiting(client)
    if after < before:
        raise RuntimeError(f"{before - after} jobs were lost in the restart")
    return took_s


async def _drain(client: Client, seconds: float) -> dict[str, Any]:
    """How fast the backlog shrinks once a node is back."""
    start = await _waiting(client)
    while await _waiting(client) == start:  # noqa: ASYNC110 the stream sends no signal
        await asyncio.sleep(0.02)
    before, began = await _waiting(client), time.perf_counter()
    await asyncio.sleep(seconds)
    return {"drained_per_s": (before - await _waiting(client)) / (time.perf_counter() - began)}


async def _waiting(client: Client) -> int:
    return decode(await api(client.bus, f"STREAM.INFO.{stores.JOBS_STREAM}"), _Info).state.messages


def _rss(processes: dict[str, Process]) -> dict[str, float]:
    return {name: round(process.rss_mib, 1) for name, process in processes.items()}


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines for people."""
    f = figures
    lines = [
        f"submitted, pipelined by one client   {f['submitted_per_s']:9.0f} /s",
        f"completed on instant engines         {f['completed_per_s']:9.0f} /s   ({f['jobs']} jobs)",
        f"backlog submitted                    {f['backlog_submitted_per_s']:9.0f} /s   ({f['backlog_jobs']} jobs)",
        f"publish beside the backlog, p50/p99  {f['publish_ms']['p50']:.2f} / {f['publish_ms']['p99']:.2f} ms",
        f"enqueue beside the backlog, p50/p99  {f['enqueue_ms']['p50']:.2f} / {f['enqueue_ms']['p99']:.2f} ms",
        f"growth of memory with the backlog    {f['rss_growth_mib']:9.1f} MiB   {f['backlog_rss_mib']}",
        f"kill -9 of the server to next store  {f['restart_with_backlog_s']:9.2f} s",
        f"kill -9 of the dispatcher to next job {f['dispatcher_restart_with_backlog_s']:7.2f} s",
        f"backlog drained                      {f['drained_per_s']:9.0f} /s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
