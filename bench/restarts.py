"""What callers notice while every actor is restarted with SIGTERM, in any order, alone and in pairs.

    python -m bench.restarts [--json] [--quick] [--out FILE] [--seeds N] [--first-seed N]

Every actor is a process, two of each control actor and three nodes before emulated engines. All the time some callers
read long answers and others wait for short ones, over the SDK, plain NATS and HTTP. Each seed is an order: every actor
once, some of them two at once, some with a second SIGTERM shortly after the first. `cut` counts
begun answers that a gateway or node ended with an error because it was hurried. Whatever else is no answer counts as an
error, but for a connection that is refused and a refusal that asks to come back, after which the caller asks again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from bench.callers import WAYS, Callers, spread
from bench.command import parser_of, started
from sollol_agents.children import Child
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus

MODEL: Final = "llama3.2:3b"
FLAGS: Final = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
NODES: Final = ("attic", "desk", "shed")
ACTORS: Final = (*(f"{role}-{n}" for role in ("gateway", "dispatcher", "scorer", "recorder") for n in (1, 2)), *NODES)
_HANG_S: Final = 5.0
_ENDS_WITHIN_S: Final = 45.0


class Restart(msgspec.Struct, frozen=True):
    """One actor's restart."""

    actor: str
    is_hurried: bool = False
    """Whether a second SIGTERM follows the first."""

    def __str__(self) -> str:
        return self.actor + ("!" if self.is_hurried else "")


Step = tuple[Restart, ...]
"""What is restarted at the same time."""


def order_of(seed: int, actors: Sequence[str] = ACTORS) -> list[Step]:
    """Every actor once, in an order that the seed makes: about every third step with a second one, as many hurried."""
    rng = random.Random(seed)
    left = [Restart(name, rng.random() < 1 / 3) for name in rng.sample(actors, len(actors))]
    steps: list[Step] = []
    while left:
        count = 2 if rng.random() < 1 / 3 else 1
        steps.append(tuple(left[:count]))
        left = left[count:]
    return steps


class Stage:
    """Processes on one server that are restarted under load; use as an async context manager.

    Args:
        folder: Where they keep their files.
        actors: What there is of `ACTORS`.
        slots: Of each node.
        decode_tps: Words per second of each engine.
    """

    bus_flags: tuple[str, ...] = ()
    """Further flags of every actor."""

    def __init__(self, folder: Path, *, actors: Sequence[str] = ACTORS, slots: int = 10, decode_tps: int = 25) -> None:
        self._folder = folder
        self._actors = actors
        self._slots = slots
        self._decode_tps = decode_tps
        self._floor = AsyncExitStack()
        self._children: dict[str, Child] = {}
        self._engines: dict[str, str] = {}
        self._port = free_port()
        self._starts = 0

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            await self._floor.aclose()
            raise
        return self

    async def _begin(self) -> None:
        self.fleet = await self._floor.enter_async_context(ProcessFleet(self._folder, await self.serve()))
        flags = (*FLAGS, "--parallel", str(self._slots), "--decode-tps", str(self._decode_tps))
        for node in [name for name in self._actors if name in NODES]:
            self._engines[node] = (await self.fleet.emulator(node, *flags)).url
        await asyncio.gather(*(self.start(name) for name in self._actors))

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*(child.close() for child in self._children.values()))
        await self._floor.aclose()

    async def serve(self) -> str:
        """Starts what carries the bus; returns its addresses."""
        server = EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(self._folder / "nats")))
        await self._floor.enter_async_context(server)
        return server.url

    async def settle(self) -> None:
        """Returns when the next step may come: at once, as whoever does not look decides."""

    @property
    def url(self) -> str:
        """Where the gateways serve, on one port."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self, name: str) -> None:
        """Starts an actor, again or for the first time."""
        self._starts += 1
        role, title = name.partition("-")[0], f"{name}.{self._starts}"
        if name in self._engines:
            own = ("--id", name, "--engine", "ollama", "--url", self._engines[name], "--slots", str(self._slots))
            child = await self.fleet.actor("node", *own, *self.bus_flags, name=title)
            await self.fleet.joined(name)
        else:
            database = ("--database", str(self._folder / "recorder.sqlite3"))
            flags = {"recorder": database, "gateway": ("--port", str(self._port), "--reuse-port")}
            child = await self.fleet.actor(role, *flags.get(role, ()), *self.bus_flags, name=title)
        self._children[name] = child

    async def restart(self, restart: Restart, rng: random.Random) -> str:
        """Ends an actor as a service manager does, and starts another in its place; what went wrong, or nothing."""
        child, wrong = self._children[restart.actor], ""
        child.signal(signal.SIGTERM)
        if restart.is_hurried:
            await asyncio.sleep(rng.uniform(0.05, 0.5))
            child.signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(child.wait(), _ENDS_WITHIN_S)
            wrong = f"{restart} ended with {code}" if code else ""
        except TimeoutError:
            wrong = f"{restart} did not end"
            child.kill()
        await self.start(restart.actor)
        return wrong


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks all the time."""

    streams: int = 20
    """Callers that read long answers."""
    short: int = 120
    """Callers that wait for short ones."""
    stream_words: int = 80
    short_words: int = 4
    ways: Sequence[str] = WAYS


async def run(stage: Stage, steps: Sequence[Step], rng: random.Random, load: Load) -> dict[str, Any]:
    """Restarts what the steps say under load; what the callers noticed, as a row."""
    async with AsyncExitStack() as floor:
        bus = await Bus.connect(stage.fleet.bus_config("caller"))
        floor.push_async_callback(bus.close)
        callers = Callers(bus, stage.url, MODEL, rng)
        group = await floor.enter_async_context(asyncio.TaskGroup())
        work = [group.create_task(callers.work(way, load.stream_words)) for way in spread(load.streams, load.ways)]
        work += [group.create_task(callers.work(way, load.short_words)) for way in spread(load.short, load.ways)]
        await eventually(lambda: callers.begun >= load.streams and callers.open == len(work), within_s=60.0)
        wrong: list[str] = []
        for step in steps:
            await stage.settle()
            wrong += [one for one in await asyncio.gather(*(stage.restart(one, rng) for one in step)) if one]
        await stage.settle()
        callers.stop()
        hung = await _hung(callers, work)
        for task in work:
            task.cancel()
    tally = callers.tally
    return {
        "answered": tally.answered,
        "come_back": tally.told_to_come_back,
        "cut": tally.cut,
        "errors": sum(tally.errors.values()) + len(wrong),
        "hangs": hung,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "gap_s": round(tally.gap_s, 2),
        "wait_s": round(tally.wait_s, 2),
        "waited": tally.waited,
        "gapped": tally.gapped,
        "gap_p99_s": round(percentile(callers.gaps, 0.99), 2),
        "what": dict(tally.errors) | dict.fromkeys(wrong, 1),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The value that such a share of all does not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def _hung(callers: Callers, work: Sequence[asyncio.Task[None]]) -> int:
    """Requests that get no word for 5 s although nothing is restarted any more."""
    last, heard = time.monotonic(), callers.words
    while callers.open and time.monotonic() - last < _HANG_S:
        await asyncio.wait(work, timeout=0.25)
        if callers.words != heard:
            last, heard = time.monotonic(), callers.words
    return callers.open


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row for each seed, all on one stage."""
    orders: dict[str, Any] = {}
    seeds = range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds))
    async with Stage(folder) as stage:
        for seed in seeds:
            steps = order_of(seed)
            row = await run(stage, steps, random.Random(seed), Load())
            orders[str(seed)] = {"order": " ".join("+".join(map(str, step)) for step in steps)} | row
            print(as_text({"orders": {str(seed): orders[str(seed)]}}), file=sys.stderr, flush=True)
    return {"orders": orders}


_COLUMNS: Final = ("answered", "come_back", "cut", "errors", "hangs", "lost", "doubled", "gap_s", "wait_s")


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [f"{'seed':5}" + "".join(f"{name:>10}" for name in _COLUMNS) + "  order"]
    for seed, row in figures["orders"].items():
        lines.append(f"{seed:5}" + "".join(f"{row[name]:>10}" for name in _COLUMNS) + f"  {row['order']}")
        lines += [f"      {count} x {what}" for what, count in row["what"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = parser_of("bench.restarts", __doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many orders")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them")
    sys.exit(started(parser, measure, as_text))
