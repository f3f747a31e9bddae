"""Shows where the processor time of a request goes, by actor, and the floor made of its parts.

    python -m bench.profile [--callers 16] [--seconds 15] [--functions 12] [--json] [--quick] [--out FILE]

The system is that of `bench.overhead`: every actor a process, an emulated engine without any delay, this process the
caller. Each actor runs under a sampling profiler of its own processor time; a run without it gives the microseconds
that the shares are shares of. The floor is the same way of the same messages through processes that only pass them on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from bench.command import parser_of, started
from bench.gateway.caller import Caller
from bench.overhead import measures
from bench.processes import Process, fleet, instant_engine, running
from bench.profile import bare
from bench.profile.areas import by_area, by_function
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig

_SLOTS: Final = 128
_WRITTEN_WITHIN_S: Final = 10.0


def main() -> int:
    """Runs the profile and prints it; the exit code says only whether it ran."""
    parser = parser_of("bench.profile", __doc__)
    parser.add_argument("--callers", type=int, default=16, metavar="N", help="callers at a time (default: 16)")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="of each measurement (default: 15)")
    parser.add_argument("--functions", type=int, default=12, metavar="N", help="functions named per actor (12)")
    return started(parser, measure, as_text)


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    seconds = 1.0 if options.quick else options.seconds
    server = EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(folder / "nats")))
    async with server, running("engine", instant_engine(measures.MODEL), log_dir=folder) as engine:
        url = engine.address("engine")
        floor = await floor_of(server.url, url, folder, callers=options.callers, seconds=seconds)
        plain = await spent(server.url, url, folder, callers=options.callers, seconds=seconds)
        profiles = await sampled(server.url, url, folder, callers=options.callers, seconds=seconds)
    actors = {}
    for name, lines in profiles.items():
        us = plain["us_per_request"][name]
        actors[name] = {
            "us_per_request": us,
            "areas_us": {area: round(us * share, 1) for area, share in by_area(lines).items() if us * share >= 0.5},
            "functions_us": {
                f: round(us * share, 1) for f, share in by_function(lines, most=options.functions).items()
            },
        }
    return {"callers": options.callers, "seconds": seconds, "floor": floor, "system": plain, "actors": actors}


# -- the floor ----------------------------------------------------------------------------------------------


async def floor_of(nats_url: str, engine_url: str, folder: Path, *, callers: int, seconds: float) -> dict[str, Any]:
    """What the hops cost when nobody thinks: milliseconds at one caller, requests per second, processor time."""
    async with AsyncExitStack() as stack:
        processes = {}
        for role, more in (("scorer", ()), ("node", (engine_url,)), ("dispatcher", ())):
            command = ["bench.profile.bare", role, nats_url, *more]
            processes[role] = await stack.enter_async_context(running(f"bare-{role}", command, log_dir=folder))
        bus = await Bus.connect(BusConfig(url=nats_url, name="bench"))
        stack.push_async_callback(bus.close)
        engine = await stack.enter_async_context(Caller(engine_url))
        echo = await Bus.connect(BusConfig(url=nats_url, name="bench-echo"))
        stack.push_async_callback(echo.close)
        echo.subscribe("bench.echo", lambda msg: echo.publish(msg.reply, msg.data))
        await echo.flush()
        ways = {
            "engine": lambda: engine.post("/api/generate", bare.BODY),
            "nats_round_trip": lambda: bus.request("bench.echo", b"x" * 128),
            "bare_path": lambda: bare.ask(bus),
        }
        count = max(50, round(100 * seconds))
        found: dict[str, Any] = {
            name: measures.percentiles(await measures.sequential(call, count=count, warm_up=20))
            for name, call in ways.items()
        }
        found |= await _rate(lambda: bare.ask(bus), processes, callers=callers, seconds=seconds)
    return found


# -- the system ---------------------------------------------------------------------------------------------


async def spent(nats_url: str, engine_url: str, folder: Path, *, callers: int, seconds: float) -> dict[str, Any]:
    """Requests per second, and the processor time of each process for one, without a profiler."""
    async with (
        fleet(nats_url, engine_url, slots=_SLOTS, log_dir=folder) as processes,
        Client(BusConfig(url=nats_url, name="bench")) as client,
    ):
        call = measures.bus_call(client)
        await call()
        one = measures.percentiles(await measures.sequential(call, count=max(50, round(50 * seconds)), warm_up=20))
        return {"one_caller": one, **await _rate(call, processes, callers=callers, seconds=seconds)}


async def sampled(
    nats_url: str, engine_url: str, folder: Path, *, callers: int, seconds: float
) -> dict[str, list[str]]:
    """The sampled stacks of each actor, as lines."""

    def through(name: str) -> list[str]:
        return ["bench.profile.sampled", str(folder / f"{name}.stacks")]

    async with fleet(nats_url, engine_url, slots=_SLOTS, log_dir=folder, through=through) as processes:
        async with Client(BusConfig(url=nats_url, name="bench")) as client:
            call = measures.bus_call(client)
            await call()
            async with _sampling(processes.values()):
                await measures.throughput(call, callers=callers, seconds=seconds)
        files = {name: folder / f"{name}.stacks" for name in processes}
        await eventually(lambda: all(file.exists() for file in files.values()), within_s=_WRITTEN_WITHIN_S)
    return {name: file.read_text().splitlines() for name, file in files.items()}


@asynccontextmanager
async def _sampling(processes: Iterable[Process]) -> AsyncIterator[None]:
    for process in processes:
        os.kill(process.pid, signal.SIGUSR1)
    yield
    for process in processes:
        os.kill(process.pid, signal.SIGUSR2)


async def _rate(
    call: Callable[[], Awaitable[object]], processes: dict[str, Process], *, callers: int, seconds: float
) -> dict[str, Any]:
    """Requests per second, and microseconds of every process: the given ones, the caller's and the server's too."""
    pids = {name: process.pid for name, process in processes.items()} | {"caller": os.getpid()}
    children = psutil.Process().children(recursive=True)
    pids |= {"nats-server": next(child.pid for child in children if "nats-server" in child.name())}
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    rate = await measures.throughput(call, callers=callers, seconds=seconds)
    us = {name: round(1e6 * (_cpu_s(pid) - before[name]) / (rate * seconds)) for name, pid in pids.items()}
    return {"requests_per_s": round(rate, 1), "us_per_request": us}


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


# -- as a person reads it -----------------------------------------------------------------------------------


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines."""
    floor, system = figures["floor"], figures["system"]
    round_trip, engine = floor["nats_round_trip"]["p50_ms"], floor["engine"]["p50_ms"]
    lines = [f"{'one caller':28}{'p50 ms':>10}{'added':>10}{'round trips':>14}"]
    for name, p50 in (("bare hops", floor["bare_path"]["p50_ms"]), ("system", system["one_caller"]["p50_ms"])):
        lines.append(f"  {name:26}{p50:>10}{p50 - engine:>10.3f}{(p50 - engine) / round_trip:>14.1f}")
    lines.append(f"  {'engine':26}{engine:>10}")
    lines.append(f"  {'round trip of the bus':26}{round_trip:>10}")
    for name, found in (("bare hops", floor), ("system", system)):
        callers, rate, us = figures["callers"], found["requests_per_s"], found["us_per_request"]
        lines.append(f"{name}, {callers} callers: {rate} requests/s; processor us per request: {us}")
    for name, actor in figures["actors"].items():
        lines.append(f"{name}: {actor['us_per_request']} us")
        lines += [f"  {us:8.1f}  {area}" for area, us in actor["areas_us"].items()]
        lines.append("  innermost functions")
        lines += [f"  {us:8.1f}  {function}" for function, us in actor["functions_us"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
