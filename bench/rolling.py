"""A rolling upgrade under load: every actor, every node and each of three NATS servers is restarted, one after another.

    python -m bench.rolling [--json] [--quick] [--out FILE] [--rounds N]

Two of each control actor, two gateways on one port and three nodes before emulated engines, on a cluster of three
servers; everything is a process. All the time fifty callers read long answers over HTTP and the SDK, and check each to
its last word; others ask short questions (lists, figures, jobs), each of which is to be answered. The order is that of
`sollol upgrade`, whose own check says when the next restart may come.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.askers import Askers
from bench.command import parser_of, started
from bench.restarts import MODEL, NODES, Load, Restart, Stage, run
from sollol_agents.cli.commands.findings import Level
from sollol_agents.cli.commands.upgrade import look
from sollol_agents.cli.commands.upgrade_plan import Plan, plan_of
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.servers import NatsServer, deployed, routes_of
from sollol_agents.lab.testing.waiting import eventually

DEPLOY: Final = Path(__file__).parents[1] / "deploy"
SERVERS: Final = ("nats-1", "nats-2", "nats-3")
CONTROL: Final = tuple(f"{role}-{n}" for role in ("scorer", "recorder", "dispatcher", "gateway") for n in (1, 2))
ORDER: Final = (*SERVERS, *NODES, *CONTROL)
LOAD: Final = Load(streams=50, short=0, stream_words=150, ways=("sdk", "http"))
_ENDS_WITHIN_S: Final = 30.0
_SETTLES_WITHIN_S: Final = 60.0
_ASKED_WITHIN_S: Final = 60.0


class Cluster(Stage):
    """Processes on a cluster of three servers, each of which may be restarted."""

    bus_flags = ("--nats-stream-replicas", "3")

    def __init__(self, folder: Path, *, actors: Sequence[str] = (*NODES, *CONTROL), **more: Any) -> None:  # noqa: ANN401 what `Stage` takes
        super().__init__(folder, actors=actors, **more)
        self._servers: dict[str, NatsServer] = {}
        self._clients = {name: free_port() for name in SERVERS}
        self.waits: list[float] = []
        """Seconds after each restart until the fleet says that the next one is safe."""

    async def serve(self) -> str:
        """Starts the three servers."""
        routes = {name: free_port() for name in SERVERS}
        ways = routes_of([f"nats://127.0.0.1:{port}" for port in routes.values()], "of-the-bench")
        for name in SERVERS:
            listens = {"port: 4222": self._clients[name], "port: 6222": routes[name]}
            server = NatsServer(self._folder, name, await deployed(DEPLOY, "nats-cluster.conf", listens), ways)
            self._servers[name] = await self._floor.enter_async_context(server)
        return ",".join(f"nats://127.0.0.1:{port}" for port in self._clients.values())

    async def restart(self, restart: Restart, rng: random.Random) -> str:
        """Ends a server or an actor in order, and starts it again; what went wrong, or nothing."""
        server = self._servers.get(restart.actor)
        if server is None:
            return await super().restart(restart, rng)
        server.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(server.wait(), _ENDS_WITHIN_S)
        except TimeoutError:
            return f"{restart} did not end"
        await server.start()
        return ""

    async def settle(self) -> None:
        """Returns when `sollol upgrade --check` would say yes."""
        began = time.monotonic()
        missing = ""

        async def is_safe() -> bool:
            nonlocal missing
            plan = await self.plan()
            problems = [one.found for one in plan.findings if one.level is Level.PROBLEM]
            missing = "; ".join(problems)
            return plan.is_safe and self._is_whole(plan)

        try:
            await eventually(is_safe, within_s=_SETTLES_WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"the next restart is not safe: {missing or 'somebody is missing'}") from error
        self.waits.append(time.monotonic() - began)

    async def plan(self) -> Plan:
        """What `sollol upgrade` says now."""
        async with self.fleet.client() as client:
            return plan_of(await look(client))

    def _is_whole(self, plan: Plan) -> bool:
        """Whether everybody is there: one that is missing is no fault where two are."""
        return len(plan.steps) == len(SERVERS) + len(self._actors)


async def upgraded(stage: Cluster, order: Sequence[str], rng: random.Random, load: Load) -> dict[str, Any]:
    """Restarts everybody in this order under load; what the callers noticed, as a row."""
    stage.waits.clear()
    began = time.monotonic()
    async with stage.fleet.client() as client, asyncio.TaskGroup() as group:
        askers = Askers(client, stage.url, MODEL)
        asking = [group.create_task(work()) for work in askers.works()]
        row = await run(stage, [(Restart(name),) for name in order], rng, load)
        askers.stop()
        _, hung = await asyncio.wait(asking, timeout=_ASKED_WITHIN_S)
        for task in hung:
            task.cancel()
    asked = askers.asked
    return row | {
        "restarts": len(order),
        "asked": asked.answered,
        "asked_s": round(asked.longest_s, 2),
        "longest": asked.longest,
        "errors": row["errors"] + sum(asked.errors.values()),
        "hangs": row["hangs"] + len(hung),
        "what": row["what"] | dict(asked.errors),
        "took_s": round(time.monotonic() - began, 1),
        "settle_s": round(max(stage.waits), 2),
    }


async def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row for each round, all on one stage."""
    rounds: dict[str, Any] = {}
    async with Cluster(folder, slots=30, decode_tps=20) as stage:
        for number in range(1, 2 if options.quick else options.rounds + 1):
            rounds[str(number)] = await upgraded(stage, ORDER, random.Random(number), LOAD)
            print(as_text({"rounds": {str(number): rounds[str(number)]}}), file=sys.stderr, flush=True)
    return {"order": ORDER, "streams": LOAD.streams, "rounds": rounds}


_COLUMNS: Final = (
    *("restarts", "answered", "asked", "errors", "cut", "hangs", "lost", "doubled"),
    *("gap_p99_s", "gap_s", "wait_s", "asked_s", "settle_s"),
)


def as_text(figures: dict[str, Any]) -> str:
    """The figures as lines that a person reads."""
    lines = [f"{'round':5}" + "".join(f"{name:>10}" for name in _COLUMNS)]
    for number, row in figures["rounds"].items():
        lines.append(f"{number:5}" + "".join(f"{row[name]:>10}" for name in _COLUMNS))
        lines += [f"      {count} x {what}" for what, count in row["what"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = parser_of("bench.rolling", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is restarted")
    sys.exit(started(parser, measure, as_text))
