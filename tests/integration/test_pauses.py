"""What may happen in the pause of an answer that goes on: its caller leaves, its deadline passes, its check comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import DeadlineExceeded
from sollol_schemas.errors import ErrorCode
from sollol_schemas.routing import Routing

PROMPT = "count down from 60"
WHOLE = [str(n) for n in range(59, -1, -1)]


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    models = {"model": ("m=1", "other=2", "nomic-embed-text=0.1"), "preload": ("m", "other")}
    config = GatewayConfig(port=0)
    async with EmulatedSystem(tmp_path, nodes=2, decode_tps=400.0, engine=models, gateway=config) as running:
        yield running


def breaks(system: EmulatedSystem) -> None:
    """The next answer of the first node breaks off; whoever goes on with it waits for ever."""
    system.engines["n1"].inject(Fault(kind=FaultKind.RESET, path="/api/generate", after_tokens=20))
    system.engines["n2"].inject(Fault(kind=FaultKind.HANG, path="/api/generate", times=9))


async def pauses(system: EmulatedSystem) -> None:
    """Returns when another node is to go on."""
    await eventually(lambda: len(system.outcomes) == 1)
    await eventually(lambda: system.slots_in_use() == 1)


async def nothing_runs(system: EmulatedSystem) -> None:
    """Returns when no node and no dispatcher works on anything, and nothing waits."""
    await eventually(lambda: system.slots_in_use() == 0)
    await eventually(lambda: all(not actor.in_flight() for actor in system.stack.actors))
    assert (await system.client.nodes()).queued == 0


async def test_nothing_goes_on_running_for_a_caller_that_leaves_in_the_pause(system: EmulatedSystem) -> None:
    breaks(system)

    async def read() -> None:
        async with system.client.generate_stream(MODEL, PROMPT, routing=Routing(node_id="n1")) as stream:
            async for _ in stream:
                pass

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        await pauses(system)
        reading.cancel()
    await nothing_runs(system)
    await eventually(lambda: system.outcomes[-1].code is ErrorCode.CANCELLED)


async def test_nothing_goes_on_running_for_a_client_of_the_gateway_that_leaves_in_the_pause(
    system: EmulatedSystem,
) -> None:
    breaks(system)
    asked = {"model": MODEL, "prompt": PROMPT, "node_id": "n1"}
    async with system.http.stream("POST", "/api/generate", json=asked) as reply:
        lines = reply.aiter_lines()
        assert await anext(lines)
        await pauses(system)
    await nothing_runs(system)
    await eventually(lambda: system.outcomes[-1].code is ErrorCode.CANCELLED)


async def test_a_deadline_that_passes_in_the_pause_ends_the_answer(system: EmulatedSystem) -> None:
    breaks(system)
    said: list[str] = []

    async def read() -> None:
        routing = Routing(node_id="n1", deadline_s=2.0)
        async with system.client.generate_stream(MODEL, PROMPT, routing=routing) as stream:
            async for chunk in stream:
                said.extend(chunk.text.split())

    with pytest.raises(DeadlineExceeded):
        await read()
    assert said == WHOLE[:20]
    await nothing_runs(system)
    await eventually(lambda: len(system.outcomes) == 2)
    assert system.outcomes[-1].code in (ErrorCode.DEADLINE_EXCEEDED, ErrorCode.CANCELLED), "by node or dispatcher"


@pytest.mark.parametrize(("pattern", "models"), [(r"^ ?59 .* 0\s*$", ["m", "m"]), ("never", ["m", "m", "other"])])
async def test_an_answer_that_went_on_is_checked_as_a_whole(
    system: EmulatedSystem, pattern: str, models: list[str]
) -> None:
    await system.client.set_group("both", ["m", "other"], strategy="cheap_first")
    system.engines["n1"].inject(Fault(kind=FaultKind.RESET, path="/api/generate", after_tokens=20))
    routing = Routing(node_id="n1")
    answer = await system.client.generate("both", PROMPT, check={"regex": pattern}, routing=routing)
    assert answer.text.split() == WHOLE
    await eventually(lambda: len(system.outcomes) == len(models))
    made = sorted(system.outcomes, key=lambda one: one.decision.attempt)
    assert [one.decision.model.partition(":")[0] for one in made] == models
    assert made[0].code is not None
    assert made[1].decision.continued_tokens == 20
