"""How soon the system serves again after something happened to it, and frees what nobody wants any more.

    python -m bench.recovery [--json] [--quick] [--out FILE]

Every part is a process, started and killed as a user would; engines are emulated. Seconds, the median of all rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil

from bench.command import parser_of, started
from sollol_agents.lab.testing.processes import Emulator, ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects

MODEL = "llama3.2:3b"
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL)
TOKEN_S = 0.2
BARS_S = {
    "ready": 1.5,
    "node_joins": 2.0,
    "server_dies": 2.0,
    "scorer_dies": 3.0,
    "cancelled": 0.1,
    "vanished": 2 * TOKEN_S,
}
Measure = Callable[[ProcessFleet], Awaitable[float]]


async def ready(fleet: ProcessFleet) -> float:
    """From the start of `sollol up` to its `ready`."""
    began = time.perf_counter()
    await fleet.up()
    return time.perf_counter() - began


async def node_joins(fleet: ProcessFleet) -> float:
    """From a node's `ready` to the first complete answer that it gave."""
    await fleet.up()
    engine = await fleet.emulator("attic", *FLAGS)
    async with fleet.client() as client:
        await fleet.node("attic", engine.url, is_joined=False)
        return await until_answered(client)


async def server_dies(fleet: ProcessFleet) -> float:
    """From `kill -9` of nats-server to the first complete answer."""
    up = await fleet.up()
    await paced(fleet)
    async with fleet.client() as client:
        await client.generate(MODEL, "count down from 2")
        children = psutil.Process(up.pid).children(recursive=True)
        os.kill(next(p.pid for p in children if p.name() == "nats-server"), signal.SIGKILL)
        return await until_answered(client)


async def scorer_dies(fleet: ProcessFleet) -> float:
    """From `kill -9` of the scorer in office to an answer that the one which stood by granted."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(fleet.folder / "nats"))) as server:
        fleet.nats_url = server.url
        scorers = [await fleet.actor("scorer", name=f"scorer-{number}") for number in (1, 2)]
        await fleet.actor("dispatcher")
        await paced(fleet)
        async with fleet.client() as client:
            await client.generate(MODEL, "count down from 2")
            leader = (await client.nodes()).scorer
            next(child for child in scorers if child.served["scorer"].endswith(leader)).kill()
            took_s = await until_answered(client)
        for child in reversed(fleet.children):
            await child.close()
        return took_s


async def cancelled(fleet: ProcessFleet) -> float:
    """From a caller's cancel to an idle engine."""
    await fleet.up()
    engine = await paced(fleet)
    async with fleet.client() as client, client.generate_stream(MODEL, "count down from 300") as stream:
        await anext(aiter(stream))
        stream.cancel()
        return await until_idle(engine)


async def vanished(fleet: ProcessFleet) -> float:
    """From the end of a plain caller's connection to an idle engine; a token comes every 200 ms."""
    await fleet.up()
    engine = await paced(fleet)
    bus = await Bus.connect(fleet.bus_config())
    chunks: list[bytes] = []
    inbox = bus.new_inbox()
    bus.subscribe(inbox, lambda msg: chunks.append(msg.data))
    body = {"model": MODEL, "prompt": "count down from 300", "stream": True}
    bus.publish(subjects.GENERATE, encode(body), reply=inbox)
    await eventually(lambda: len(chunks) >= 2)
    await bus.close()
    return await until_idle(engine)


async def paced(fleet: ProcessFleet) -> Emulator:
    """An engine that writes five tokens a second, and its node."""
    engine = await fleet.emulator("attic", *FLAGS, "--decode-tps", str(1 / TOKEN_S))
    await fleet.node("attic", engine.url)
    return engine


async def until_answered(client: Client) -> float:
    """Seconds until a short request is answered, asked again whenever it is refused."""
    began = time.perf_counter()

    async def is_answered() -> bool:
        with contextlib.suppress(SollolError):
            return bool((await client.generate(MODEL, "count down from 1")).text)
        return False

    await eventually(is_answered, within_s=60.0)
    return time.perf_counter() - began


async def until_idle(engine: Emulator) -> float:
    """Seconds until the engine runs nothing."""
    began = time.perf_counter()

    async def is_idle() -> bool:
        return await engine.in_flight() == 0

    await eventually(is_idle)
    return time.perf_counter() - began


MEASURES: dict[str, Measure] = {
    "ready": ready,
    "node_joins": node_joins,
    "server_dies": server_dies,
    "scorer_dies": scorer_dies,
    "cancelled": cancelled,
    "vanished": vanished,
}


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The median of each; a new fleet for every one of the rounds."""
    figures: dict[str, Any] = {"bars_s": BARS_S, "rounds": 1 if options.quick else 7}
    for name, run in MEASURES.items():
        seconds = []
        for number in range(figures["rounds"]):
            place = folder / f"{name}-{number}"
            place.mkdir()
            async with ProcessFleet(place) as fleet:
                seconds.append(await run(fleet))
        figures[name] = {"median_s": round(statistics.median(seconds), 3), "worst_s": round(max(seconds), 3)}
    return figures


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    head = f"{'seconds':14}{'median':>9}{'worst':>9}{'aim':>9}"
    rows = (
        f"{name:14}{figures[name]['median_s']:>9}{figures[name]['worst_s']:>9}{bar:>9}"
        for name, bar in figures["bars_s"].items()
    )
    return "\n".join((head, *rows))


if __name__ == "__main__":
    sys.exit(started(parser_of("bench.recovery", __doc__), measure, as_text))
