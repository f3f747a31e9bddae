"""Jobs of one priority begin in the order of storing, whatever the clocks of their dispatchers, and over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.children import Child
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.processes import ProcessFleet
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import make_job
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent

MODEL, NODE = "llama3.2:3b", "attic"
JOBS, WINDOW = 200, 64
FLAGS = ("--preset", "steady", "--model", f"{MODEL}=3.2", "--preload", MODEL, "--decode-tps", "1000")
FAKE_CLOCKS = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
AHEAD_S = 2


class Burst:
    """Jobs that wait for one slot, which another job holds, and the order in which they are decided."""

    def __init__(self, fleet: ProcessFleet, client: Client) -> None:
        self.client = client
        self.order: dict[int, None] = {}
        self._fleet = fleet

    async def dispatcher(self, number: int, **env: str) -> Child:
        """One dispatcher, in such an environment."""
        return await self._fleet.sollol(
            "dispatcher", "--nats", self._fleet.nats_url, name=f"dispatcher-{number}", **env
        )

    async def dispatchers(self, **second: str) -> list[Child]:
        """Two dispatchers, the second of them in such an environment."""
        return [await self.dispatcher(1), await self.dispatcher(2, **second)]

    async def store(self) -> None:
        """Stores all jobs behind one that hardly moves; returns when both windows are full."""
        blocker = make_job({"model": MODEL, "prompt": "count down from 500"})
        await self.client.jobs.submit(blocker, job_id="blocker")
        await eventually(self._is_running)
        self.client.bus.subscribe(subjects.ROUTING_EVENT.all, self._on_decision)
        job = make_job({"model": MODEL, "prompt": "count down from 1"})
        await self.client.jobs.submit_many([(f"job-{n}", job) for n in range(JOBS)])
        await eventually(self.are_windows_full, complaint="both windows are full")

    async def release(self) -> None:
        """Lets the jobs have the slot."""
        await self.client.jobs.cancel("blocker")

    async def until_decided(self, count: int) -> None:
        """Returns when so many jobs began."""
        await eventually(lambda: len(self.order) >= count, complaint=f"{count} are decided")

    async def are_windows_full(self) -> bool:
        """Whether each of two dispatchers asks for as many jobs as it takes ahead, or for all that are left."""
        return (await self.client.nodes()).queued >= min(2 * WINDOW - 1, JOBS - len(self.order))

    def assert_in_order(self) -> None:
        """No pair of jobs began the wrong way round."""
        order = list(self.order)
        wrong = sum(earlier > later for n, earlier in enumerate(order) for later in order[n + 1 :])
        assert wrong == 0, f"{wrong} pairs came the wrong way round: {order}"

    def _on_decision(self, msg: Msg) -> None:
        name = decode(msg.data, DecisionEvent).decision.job_id
        if name.startswith("job-"):
            number = int(name.removeprefix("job-"))
            self.order.pop(number, None)  # it began before, and was handed back
            self.order[number] = None

    async def _is_running(self) -> bool:
        return any(view.telemetry.in_flight for view in (await self.client.nodes()).nodes)


@pytest.fixture
async def burst(fleet: ProcessFleet, tmp_path: Path) -> AsyncIterator[Burst]:
    """A server, a scorer and a node with one slot, whose engine is slow once."""
    async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"))) as server:
        fleet.nats_url = server.url
        await fleet.actor("scorer")
        engine = await fleet.emulator(NODE, *FLAGS)
        await engine.add_fault(Fault(kind=FaultKind.SLOW, factor=400))
        await fleet.node(NODE, engine.url, "--slots", "1", is_joined=False)
        async with fleet.client() as client:
            yield Burst(fleet, client)
        for child in reversed(fleet.children):
            await child.close()


@pytest.mark.skipif(not FAKE_CLOCKS, reason="no libfaketime (Debian: apt-get install libfaketime)")
async def test_dispatchers_whose_clocks_differ_agree_on_the_order(burst: Burst) -> None:
    await burst.dispatchers(LD_PRELOAD=str(FAKE_CLOCKS[0]), FAKETIME=f"+{AHEAD_S}s", FAKETIME_DONT_FAKE_MONOTONIC="1")
    await burst.store()
    await burst.release()
    await burst.until_decided(JOBS)
    burst.assert_in_order()


async def test_jobs_keep_their_order_over_a_restart_of_both_dispatchers(burst: Burst) -> None:
    children = await burst.dispatchers()
    await burst.store()
    await burst.release()
    await burst.until_decided(JOBS // 4)
    await asyncio.gather(*(child.close() for child in children))
    await burst.dispatchers()
    await burst.until_decided(JOBS)
    burst.assert_in_order()


async def test_jobs_keep_their_order_while_dispatchers_restart_one_after_the_other(burst: Burst) -> None:
    children = await burst.dispatchers()
    await burst.store()
    await burst.release()
    await burst.until_decided(JOBS // 8)
    for number, child in enumerate(children):
        await child.close()
        await burst.dispatcher(number + 3)
    await burst.until_decided(JOBS)
    burst.assert_in_order()
