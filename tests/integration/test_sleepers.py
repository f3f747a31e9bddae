"""A machine whose power is a flag: its sleep command clears it and stops its agent, its wake command undoes that."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from sollol_agents.lab.testing.stack import MODEL, QUICK_WARM_UP_S, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import SollolError
from sollol_bus.transport.messages import Msg, decode
from sollol_schemas import subjects
from sollol_schemas.queries import NodeView
from sollol_schemas.scaling import SleepEvent, SleepNews

POWER = """
import os, signal, sys
what, folder = sys.argv[1:]
flag, agent = folder + "/on", int(open(folder + "/agent").read())
if what == "off":
    os.unlink(flag)
    os.kill(agent, signal.SIGSTOP)
else:
    open(flag, "w").close()
    os.kill(agent, signal.SIGCONT)
"""


class Machine:
    """An emulated machine: an engine that stays, and an agent that stands still while the power is off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flag = folder / "on"
        self.agent: asyncio.subprocess.Process | None = None
        script = folder / "power.py"
        script.write_text(POWER)
        self.off, self.on = (f"{sys.executable} -SE {script} {what} {folder}" for what in ("off", "on"))

    async def start(self, url: str, nats: str) -> None:
        """Starts its agent."""
        self.flag.touch()
        asked = ("node", "--id", "desk", "--url", url, "--engine", "ollama", "--nats", nats, "--slots", "2")
        rules = ("--sleep-command", self.off, "--sleep-after-idle-s", "0", "--min-awake-s", "0")
        self.agent = await asyncio.create_subprocess_exec(sys.executable, "-m", "sollol_agents.cli", *asked, *rules)
        (self.folder / "agent").write_text(str(self.agent.pid))

    async def stop(self) -> None:
        """Ends its agent, however it stands."""
        assert self.agent is not None
        with suppress(ProcessLookupError):
            os.kill(self.agent.pid, signal.SIGCONT)
            self.agent.kill()
        await self.agent.wait()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[tuple[EmulatedSystem, Machine]]:
    machine = Machine(tmp_path)
    scorer = ScorerConfig(warm_up_s=QUICK_WARM_UP_S, wake_commands={"desk": machine.on}, wake_packets=False)
    async with EmulatedSystem(tmp_path, nodes=1, scorer=scorer) as system:
        engine = await system._begin_engine("desk", {"model": ("m=1", "rare=1"), "preload": ()})
        await machine.start(engine.url, system.stack.nats_url)
        try:
            yield system, machine
        finally:
            await machine.stop()


async def test_a_machine_sleeps_and_is_woken_by_the_request_that_needs_it(
    fleet: tuple[EmulatedSystem, Machine],
) -> None:
    system, machine = fleet
    news: list[SleepEvent] = []

    def on_event(msg: Msg) -> None:
        news.append(decode(msg.data, SleepEvent))

    async def desk() -> NodeView | None:
        return next((v for v in (await system.client.nodes()).nodes if v.node_id == "desk"), None)

    async def is_(condition: str) -> bool:
        view = await desk()
        return view is not None and view.condition == condition

    async def is_busy() -> bool:
        view = await desk()
        return view is not None and view.in_flight > 0

    system.client.bus.subscribe(subjects.SLEEP_EVENT.all, on_event)
    await eventually(is_, "up", complaint="desk is up")
    running = asyncio.create_task(system.client.generate("rare", "count down from 400"))  # noqa: TID251
    await eventually(is_busy, complaint="it works")
    with pytest.raises(SollolError, match="it is busy"):
        await system.client.sleep_node("desk")
    await running
    await system.client.sleep_node("desk")
    await eventually(lambda: not machine.flag.exists(), complaint="the power is off")
    assert await is_("asleep")
    assert (await system.client.generate(MODEL, "count down from 2")).decision is not None
    assert not machine.flag.exists(), "nobody needed it"
    answer = await system.client.generate("rare", "count down from 3")
    assert answer.decision is not None
    assert answer.decision.node_id == "desk"
    assert machine.flag.exists()
    assert [event.news for event in news] == [SleepNews.ASLEEP, SleepNews.WAKING, SleepNews.AWAKE]
    assert news[-1].wake_s < news[0].wake_s, "its wake time is learnt"
