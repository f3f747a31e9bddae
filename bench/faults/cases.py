"""The faults, and one case: a fault while callers call, until it is undone and its effects are seen."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.faults.judge import Span, judge
from bench.faults.load import Load, results_written
from bench.faults.stage import STAGES, Stage

AWAY_S = 1.0
"""What was killed comes back after so long."""
OPEN_S = 8.0
"""What is open then has so long to end."""
RESULTS_S = 60.0
_ORDER = ("scorer", "dispatcher", "gateway", "recorder", "node")
"""In which actors are upgraded; of two scorers the one that stands by goes first."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done during a case."""

    streams: int = 20
    jobs: int = 200
    warm_s: float = 3.0
    """Callers call for so long before the fault, so that everything is under way."""
    watch_s: float = 10.0
    """And for so long after it was undone."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One fault."""

    stage: str
    fault: str
    target: str = ""
    """An actor's name, `office` for the scorer that holds it, `leader` for the server that leads, `nodes` for all."""
    hold_s: float = 0.0
    step: str = ""
    """How far a clock jumps, such as `+1h`."""

    @property
    def name(self) -> str:
        """One token that tells it from every other."""
        parts = (self.stage, self.fault, self.target, f"{self.hold_s:g}s" if self.hold_s else "", self.step)
        return "_".join(part for part in parts if part).replace("+", "plus").replace("-", "_").replace("~", "_")


async def play(stage_name: str, waiting: list[Case], size: Size, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Does the cases that wait on one stage and takes them away, until none is left or the stage does not heal."""
    async with STAGES[stage_name](folder) as stage:
        await stage.healthy()
        is_healed = True
        while waiting and is_healed:
            figures = await run_case(stage, waiting.pop(0), size)
            is_healed = figures["is_healed"]
            yield figures


async def run_case(stage: Stage, case: Case, size: Size) -> dict[str, Any]:
    """Does one fault while callers call; the figures, of which `is_healed` says whether another may follow."""
    before = await results_written(stage.nats_url)
    target = await _resolve(stage, case.target)
    spread_s = size.warm_s + case.hold_s + size.watch_s / 2
    load = Load(stage.places, case.name, streams=size.streams, jobs=size.jobs, spread_s=spread_s)
    try:
        async with asyncio.TaskGroup() as group:
            await load.start(group)
            await asyncio.sleep(size.warm_s)
            began_s = time.monotonic()
            await FAULTS[case.fault](stage, case, target)
            undone_s = time.monotonic()
            await asyncio.sleep(size.watch_s)
            asked_until_s = time.monotonic()
            await load.finish(OPEN_S)
            ended_s = time.monotonic()
        outcome = await load.results(before, RESULTS_S)
    finally:
        await load.close()
    is_healed = await stage.healthy()
    span = Span(began_s=began_s, undone_s=undone_s, asked_until_s=asked_until_s, ended_s=ended_s)
    figures = judge(load.samples, outcome, await stage.finished(case.name), span)
    seen = {"case": case.name, "target": target, "fault_s": round(undone_s - began_s, 1), "is_healed": is_healed}
    return seen | figures


async def _resolve(stage: Stage, target: str) -> str:
    match target:
        case "office":
            return await stage.scorer_in_office()
        case "leader":
            return await stage.leader()
        case _:
            return target


def _send(stage: Stage, target: str, number: signal.Signals) -> None:
    (stage.servers[target] if target in stage.servers else stage.child(target)).signal(number)


async def stop(stage: Stage, case: Case, target: str) -> None:
    """A process does not run for a while, and then goes on as though nothing had been."""
    targets = [name for name in stage.actors if name.startswith("node-")] if target == "nodes" else [target]
    for name in targets:
        _send(stage, name, signal.SIGSTOP)
    try:
        await asyncio.sleep(case.hold_s)
    finally:
        for name in targets:
            _send(stage, name, signal.SIGCONT)


async def kill(stage: Stage, _case: Case, target: str) -> None:
    """A process dies, and is started again a moment later."""
    _send(stage, target, signal.SIGKILL)
    await asyncio.sleep(AWAY_S)
    await _start(stage, target)


async def cut(stage: Stage, case: Case, target: str) -> None:
    """A link breaks, for both ends to see, and cannot be made again for a while."""
    links = [link for ends, link in stage.links.items() if set(ends) == set(target.split("~"))]
    for link in links:
        link.bar()
    await asyncio.sleep(case.hold_s)
    for link in links:
        link.thaw()


async def partition(stage: Stage, case: Case, target: str) -> None:
    """Nothing comes through between one server and all others, and nobody is told."""
    links = [link for ends, link in stage.links.items() if target in ends]
    for link in links:
        link.freeze()
    await asyncio.sleep(case.hold_s)
    for link in links:
        link.thaw()


async def clock(stage: Stage, case: Case, target: str) -> None:
    """The clock of an actor jumps, and back again."""
    file = stage.clocks[target]
    await asyncio.to_thread(file.write_text, f"{case.step}\n")
    await asyncio.sleep(case.hold_s)
    await asyncio.to_thread(file.write_text, "+0s\n")


async def restart(stage: Stage, _case: Case, _target: str) -> None:
    """Every actor is restarted, one at a time, in the order of an upgrade."""
    holder = await stage.scorer_in_office()
    names = sorted(stage.actors, key=lambda name: (_ORDER.index(name.partition("-")[0]), name == holder, name))
    for name in names:
        await stage.child(name).close(timeout_s=40.0)
        await stage.revive(name)


async def restart_servers(stage: Stage, _case: Case, _target: str) -> None:
    """Every server is restarted, one at a time, the next once the system is well again."""
    for name, server in stage.servers.items():
        await server.close()
        await _start(stage, name)
        await stage.healthy()


async def _start(stage: Stage, target: str) -> None:
    if target in stage.servers:
        await stage.servers[target].wait()
        await stage.servers[target].start()
    else:
        await stage.child(target).wait()
        await stage.revive(target)


FAULTS: dict[str, Callable[[Stage, Case, str], Awaitable[None]]] = {
    "stop": stop,
    "kill": kill,
    "cut": cut,
    "partition": partition,
    "clock": clock,
    "restart": restart,
    "restart_servers": restart_servers,
}


def every_case() -> list[Case]:
    """All cases, those of one stage together."""
    everybody = ("leader", "office", "dispatcher-1", "node-attic", "gateway-1", "recorder-1")
    three = [  # first, while clients are spread over all servers: what dies loses its clients to the others
        Case(stage="three", fault="cut", target="nats-1~nats-2", hold_s=10.0),
        Case(stage="three", fault="partition", target="leader", hold_s=15.0),
    ]
    three += [Case(stage="three", fault="stop", target=t, hold_s=s) for t in everybody[:5] for s in (8.0, 15.0, 30.0)]
    three += [Case(stage="three", fault="stop", target="nodes", hold_s=4.0)]
    three += [Case(stage="three", fault="kill", target=t) for t in everybody]
    three += [
        Case(stage="three", fault="restart"),
        Case(stage="three", fault="restart_servers"),
    ]
    sites = [Case(stage="sites", fault="stop", target=t, hold_s=s) for t in ("hub", "leaf") for s in (8.0, 15.0, 30.0)]
    sites += [Case(stage="sites", fault="kill", target=t) for t in ("hub", "leaf", "scorer-hub", "dispatcher-leaf")]
    sites += [
        Case(stage="sites", fault="cut", target="leaf~hub", hold_s=60.0),
        Case(stage="sites", fault="partition", target="leaf", hold_s=30.0),
        Case(stage="sites", fault="restart"),
    ]
    stepped = ("scorer-1", "scorer-2", "dispatcher-1", "node-attic", "recorder-1")
    clocks = [
        Case(stage="clocks", fault="clock", target=t, hold_s=8.0, step=s) for t in stepped for s in ("+1h", "-1h")
    ]
    return three + sites + clocks


FEW = (
    Case(stage="three", fault="stop", target="office", hold_s=4.0),
    Case(stage="three", fault="kill", target="leader"),
    Case(stage="sites", fault="cut", target="leaf~hub", hold_s=4.0),
)
"""One of each kind, short."""
SMALL = Size(streams=10, jobs=100, warm_s=1.5, watch_s=5.5)
