"""What broken messages do to the system: 10,000 of them, the same for the same seed, on every subject.

    python -m bench.frames [--count 10000] [--seed 1] [--quick] [--json] [--out FILE]

Every actor is a process. While the frames go out each actor is pinged every 50 ms; afterwards a request and a job must
be answered as ever, and no queue may hold a message that comes again and again. It ends with 1 when one of that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from bench.command import parser_of, started
from sollol_agents.lab.testing.frames import CANARY, Sender, frames
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_bus.errors import SollolError
from sollol_bus.jetstream.api import api
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.discovery import find_services

MODEL: Final = "m"
SETTLED_WITHIN_S: Final = 60.0
DEAF_S: Final = 1.0
ROUNDS: Final = 5
_ROLES: Final = ("scorer", "dispatcher", "recorder")
_EVERY_S: Final = 0.05


class Hearing:
    """How long each actor was deaf at most, and how often it did not answer at all."""

    def __init__(self, bus: Bus) -> None:
        self.longest_s: dict[str, float] = {}
        self._bus = bus

    async def listen(self, subjects: dict[str, str]) -> None:
        """Pings everybody until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, subject in subjects.items():
                group.create_task(self._ping(name, subject), name=name)

    async def _ping(self, name: str, subject: str) -> None:
        heard_at = time.monotonic()
        while True:
            try:
                await self._bus.request(subject, timeout_s=10.0)
            except SollolError:
                pass
            else:
                now = time.monotonic()
                self.longest_s[name] = max(self.longest_s.get(name, 0.0), now - heard_at - _EVERY_S)
                heard_at = now
            await asyncio.sleep(_EVERY_S)
            self.longest_s[name] = max(self.longest_s.get(name, 0.0), time.monotonic() - heard_at - _EVERY_S)


class _Consumer(msgspec.Struct):
    name: str = ""
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_pending: int = 0


class _Consumers(msgspec.Struct):
    consumers: list[_Consumer] | None = None


class _Streams(msgspec.Struct):
    streams: list[str] | None = None


async def unsettled(bus: Bus) -> dict[str, dict[str, int]]:
    """The consumers that still have something on their hands, with what."""
    found = {}
    for stream in msgspec.json.decode(await api(bus, "STREAM.NAMES"), type=_Streams).streams or []:
        told = msgspec.json.decode(await api(bus, f"CONSUMER.LIST.{stream}"), type=_Consumers).consumers or []
        for one in told:
            open_ = one.num_ack_pending + one.num_pending
            if open_:
                found[f"{stream}/{one.name}"] = {"open": open_, "again": one.num_redelivered}
    return found


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    count = 500 if options.quick else options.count
    async with AsyncExitStack() as floor:
        store = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
        server = await floor.enter_async_context(EmbeddedServer(store))
        fleet = await floor.enter_async_context(ProcessFleet(folder, server.url))
        for role in _ROLES:
            flags = ("--database", str(folder / "r.sqlite3")) if role == "recorder" else ()
            await fleet.actor(role, *flags)
        await fleet.sollol("gateway", "--nats", server.url, "--port", "0", name="gateway")
        engine = await fleet.emulator("n1", "--preset", "instant", "--model", f"{MODEL}=1", "--preload", MODEL)
        await fleet.node("n1", engine.url)
        bus = await Bus.connect(fleet.bus_config("bench"))
        floor.push_async_callback(bus.close)
        return await _storm(fleet, bus, options.seed, count)


async def _storm(fleet: ProcessFleet, bus: Bus, seed: int, count: int) -> dict[str, Any]:
    found = await find_services(bus, within_s=1.0)
    hearing = Hearing(bus)
    pings = {s.name: f"$SRV.PING.{s.name}.{s.id}" for s in found}
    listening = asyncio.create_task(hearing.listen(pings))
    sender = Sender(fleet.nats_url)
    rss = [_rss(fleet)]
    began = time.monotonic()
    for number, frame in enumerate(frames(seed, count), 1):
        await sender.send(frame)
        if number % max(1, count // ROUNDS) == 0:
            rss.append(_rss(fleet))
    took_s = time.monotonic() - began
    answered = await _answers(fleet)
    left = await _settle(bus)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await sender.close()
    logs = _logs(fleet)
    figures = {
        "seed": seed,
        "frames": count,
        "seconds": round(took_s, 1),
        "refused_by_the_server": sender.cut,
        "deaf_at_most_s": {name: round(s, 3) for name, s in sorted(hearing.longest_s.items())},
        "ended": [c.name for c in fleet.children if c.exit_code is not None],
        "answered": answered,
        "unsettled": left,
        "rss_mib": {name: [round(r[name], 1) for r in rss] for name in rss[0]},
        "logs": logs,
    }
    is_well = (
        not figures["ended"] and not left and all(answered.values()) and not any(v["quotes"] for v in logs.values())
    )
    return {"passed": is_well and max(hearing.longest_s.values()) < DEAF_S, **figures}


async def _answers(fleet: ProcessFleet) -> dict[str, bool]:
    """Whether a request and a job are answered as ever."""
    async with fleet.client() as client:
        told = {}
        try:
            await client.undrain("n1")  # some frames are requests of operators as they should be
            await fleet.joined("n1")
            told["request"] = bool((await client.generate(MODEL, "hello")).text)
            job_id = await client.generate_async(MODEL, "hello")
            told["job"] = bool((await client.wait_for_task(job_id, timeout_s=SETTLED_WITHIN_S)).text)
        except SollolError as error:
            told[str(error)] = False
        return told


async def _settle(bus: Bus) -> dict[str, dict[str, int]]:
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while (left := await unsettled(bus)) and time.monotonic() < deadline:  # noqa: ASYNC110 the server tells nobody
        await asyncio.sleep(1.0)
    return left


def _rss(fleet: ProcessFleet) -> dict[str, float]:
    alive = [c for c in fleet.children if c.exit_code is None]
    return {c.name: psutil.Process(c.pid).memory_info().rss / 2**20 for c in alive}


def _logs(fleet: ProcessFleet) -> dict[str, dict[str, Any]]:
    """Of each process: its lines, the longest of them in bytes, tracebacks, and whether one quotes a body."""
    told = {}
    for path in sorted(fleet.folder.glob("*.log")):
        lines = path.read_bytes().splitlines()
        told[path.stem] = {
            "lines": len(lines),
            "longest_bytes": max(map(len, lines), default=0),
            "tracebacks": sum(b"Traceback" in line for line in lines),
            "quotes": sum(CANARY.encode() in line for line in lines),
        }
    return told


def main() -> int:
    """Runs it; 1 when something did not hold."""
    parser = parser_of("bench.frames", __doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many frames")
    parser.add_argument("--seed", type=int, default=1, help="which frames")
    passed: list[bool] = []

    async def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
        figures = await measure(folder, options)
        passed.append(figures["passed"])
        return figures

    started(parser, measured)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
