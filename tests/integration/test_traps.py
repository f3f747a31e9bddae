"""Traps that routers of LLM requests are known to fall into, on the whole stack with emulated engines.

The numbers are those of the list in `docs/scheduling.md`; the traps that the scorer's core alone can show are in
`tests/unit/test_traps.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.stack import LocalStack
from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import AnswerStream
from sollol_bus.transport.messages import decode
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.routing import Routing

MODEL = "countdown:latest"


class Fleet:
    """A stack with emulated nodes, a client, and every outcome that is told."""

    def __init__(self, stack: LocalStack, client: Client, floor: AsyncExitStack) -> None:
        self.stack, self.client, self._floor = stack, client, floor
        self.engines: dict[str, EmulatedNode] = {}
        self.outcomes: list[Outcome] = []
        client.bus.subscribe(subjects.OUTCOME_EVENT.all, lambda msg: self.outcomes.append(decode(msg.data, Outcome)))

    async def is_up(self, node_id: str) -> bool:
        return node_id in {v.node_id for v in (await self.client.nodes()).nodes}

    async def read(self, stream: AnswerStream, heard: list[str] | None = None) -> None:
        async with stream:
            async for chunk in stream:
                if heard is not None:
                    heard.append(chunk.text)

    async def node(self, node_id: str, *, engine: dict[str, Any] | None = None, **settings: Any) -> EmulatedNode:
        """One more node, which the scorer knows as up when this returns."""
        machine = {"preset": "steady", "time_scale": 20.0, "model": ("countdown=1",), "preload": (MODEL,)}
        config = msgspec.convert(machine | {"parallel": 4} | (engine or {}), EmulatorConfig)
        emulated = self.engines[node_id] = await self._floor.enter_async_context(EmulatedNode(config))
        own = {"node_id": node_id, "engine": "ollama", "url": emulated.url, "slots": 4, "gap_floor_s": 1.0}
        await self.stack.add_node(msgspec.convert(own | {"first_token_floor_s": 1.0} | settings, NodeConfig))
        await eventually(lambda: self.is_up(node_id))
        return emulated

    async def in_flight(self) -> int:
        return (await self.client.nodes()).in_flight

    def of(self, request_id: str) -> list[Outcome]:
        return sorted((o for o in self.outcomes if o.request_id == request_id), key=lambda o: o.attempt_id)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    scorer = ScorerConfig(seed=1)
    async with AsyncExitStack() as floor:
        stack = await floor.enter_async_context(LocalStack(store_dir=tmp_path, scorer=scorer))
        client = await floor.enter_async_context(stack.client())
        yield Fleet(stack, client, floor)


async def test_trap_7_callers_that_leave_at_any_moment_leak_no_slot(fleet: Fleet) -> None:
    engine = await fleet.node("a", slots=2, engine={"time_scale": 5.0, "parallel": 2})

    async def leave_after(chunks: int) -> None:
        async with fleet.client.generate_stream(MODEL, "count 200") as stream:
            seen = 0
            async for _ in stream:
                seen += 1
                if seen > chunks:
                    break

    async with asyncio.TaskGroup() as group:
        for i in range(12):
            group.create_task(leave_after(i % 4))
    for _ in range(4):
        task = asyncio.get_running_loop().create_task(fleet.client.generate(MODEL, "count 200"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: engine.in_flight == 0)

    async def is_empty() -> bool:
        return await fleet.in_flight() == 0

    await eventually(is_empty)
    answers = await asyncio.gather(*(fleet.client.generate(MODEL, "count 3") for _ in range(4)))
    assert [a.text.split() for a in answers] == [["2", "1", "0"]] * 4


async def test_trap_8_a_caller_that_left_and_a_cut_stream_are_no_successes(fleet: Fleet) -> None:
    engine = await fleet.node("a", engine={"time_scale": 2.0})
    async with fleet.client.generate_stream(MODEL, "count 300") as left:
        await anext(aiter(left))
    await eventually(lambda: bool(fleet.of(left.request_id)))
    assert fleet.of(left.request_id)[0].status is OutcomeStatus.CANCELLED
    engine.inject(Fault(kind=FaultKind.END_EARLY, after_tokens=5))
    cut = fleet.client.generate_stream(MODEL, "count 50")
    with pytest.raises(SollolError) as caught:
        await fleet.read(cut)
    assert caught.value.body.code is ErrorCode.ENGINE_PROTOCOL
    await eventually(lambda: bool(fleet.of(cut.request_id)))
    assert fleet.of(cut.request_id)[0].status is OutcomeStatus.FAILED

    async def is_counted() -> bool:
        entries = (await fleet.client.reliability("a", MODEL)).entries
        return [(e.attempts, e.failures) for e in entries] == [(1, 1)]

    await eventually(is_counted)


async def test_trap_10_a_callers_num_ctx_and_keep_alive_load_nothing_anew(fleet: Fleet) -> None:
    engine = await fleet.node("a")
    await fleet.client.generate(MODEL, "count 2")
    runner = engine._residency.runners()[0]
    options = {"num_ctx": 8192, "num_batch": 64, "temperature": 0.5}
    answer = await fleet.client.generate(MODEL, "count 2", options=options, keep_alive=0)
    assert answer.text.split() == ["1", "0"]
    assert answer.figures is not None
    assert answer.figures.left_out == ("options.num_ctx", "options.num_batch", "keep_alive")
    await fleet.client.generate(MODEL, "count 2")
    assert engine._residency.runners() == [runner]


async def test_trap_10_under_error_the_caller_is_told_which_option_would_load_anew(fleet: Fleet) -> None:
    await fleet.node("a", runner_options="error")
    with pytest.raises(BadRequest, match=r"options\.num_ctx") as caught:
        await fleet.client.generate(MODEL, "count 2", options={"num_ctx": 8192})
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD
    assert (await fleet.client.generate(MODEL, "count 2")).text.split() == ["1", "0"]


async def test_trap_11_a_node_offers_no_more_slots_than_its_engine_runs_unless_told(fleet: Fleet) -> None:
    engine = await fleet.node("a", slots=0, engine={"parallel": 1})
    answers = await asyncio.gather(*(fleet.client.generate(MODEL, "count 9") for _ in range(6)))
    assert all(a.figures is not None and a.figures.slot_wait_s < 0.1 for a in answers)
    assert engine.state()["models"][0]["waiting"] == 0
    assert (await fleet.client.nodes()).nodes[0].telemetry.slots == 1


@pytest.mark.parametrize(
    "fault",
    [
        # twice, because a connection that was kept open may rightly be tried once more
        Fault(kind=FaultKind.RESET, times=2),
        Fault(kind=FaultKind.TRUNCATE),
        Fault(kind=FaultKind.END_EARLY),
        Fault(kind=FaultKind.HANG),
        Fault(kind=FaultKind.STALL),
        Fault(kind=FaultKind.WRONG_CONTENT),
        Fault(kind=FaultKind.ERROR_LINE),
        Fault(kind=FaultKind.OUT_OF_MEMORY),
    ],
    ids=lambda fault: fault.kind.value,
)
async def test_trap_20_a_stream_that_breaks_before_its_first_token_is_answered_by_another_node(
    fleet: Fleet, fault: Fault
) -> None:
    engine = await fleet.node("broken")
    await fleet.node("sound")
    engine.inject(fault)
    wanted = Routing(node_id="broken")
    answer = await fleet.client.generate(MODEL, "count 5", routing=wanted)
    assert answer.text.split() == ["4", "3", "2", "1", "0"]
    assert answer.decision is not None
    assert (answer.decision.node_id, answer.decision.attempt) == ("sound", 2)


@pytest.mark.parametrize(
    "kind", [FaultKind.RESET, FaultKind.TRUNCATE, FaultKind.STALL, FaultKind.ERROR_LINE], ids=lambda kind: kind.value
)
async def test_trap_20_a_stream_that_breaks_later_ends_with_an_error_and_never_starts_over(
    fleet: Fleet, kind: FaultKind
) -> None:
    engine = await fleet.node("broken")
    await fleet.node("sound")
    engine.inject(Fault(kind=kind, after_tokens=4))
    heard: list[str] = []
    stream = fleet.client.generate_stream(MODEL, "count 30", routing=Routing(node_id="broken"))
    with pytest.raises(SollolError):
        await fleet.read(stream, heard)
    assert "".join(heard).split() == ["29", "28", "27", "26"][: len(heard)]
    assert heard
