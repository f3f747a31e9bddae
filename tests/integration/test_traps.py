"""Traps that routers of LLM requests are known to fall into, on the whole stack with emulated engines.

The numbers are those of the list in `docs/scheduling.md`; the traps that the scorer's core alone can show are in
`tests/unit/test_traps.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.lab.emulator import EmulatedNode, Fault, FaultKind
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.sdk.results import AnswerStream
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.routing import Routing

MODEL = "countdown:latest"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    engine = {"model": ("countdown=1",), "preload": (MODEL,), "time_scale": 20.0, "decode_tps": 0, "prefill_tps": 0}
    async with EmulatedSystem(tmp_path, nodes=0, engine=engine, scorer=ScorerConfig(seed=1)) as made:
        yield made


async def join(fleet: EmulatedSystem, node_id: str, *, slots: int = 4, **engine: object) -> EmulatedNode:
    """One more node, which cuts an engine off that is silent for a second."""
    return await fleet.node(node_id, engine=engine, slots=slots, gap_floor_s=1.0, first_token_floor_s=1.0)


async def read(stream: AnswerStream, heard: list[str] | None = None) -> None:
    async with stream:
        async for chunk in stream:
            if heard is not None:
                heard.append(chunk.text)


async def test_trap_7_callers_that_leave_at_any_moment_leak_no_slot(fleet: EmulatedSystem) -> None:
    engine = await join(fleet, "a", slots=2, time_scale=5.0, parallel=2)

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
        return (await fleet.client.nodes()).in_flight == 0

    await eventually(is_empty)
    answers = await asyncio.gather(*(fleet.client.generate(MODEL, "count 3") for _ in range(4)))
    assert [a.text.split() for a in answers] == [["2", "1", "0"]] * 4


async def test_trap_8_a_caller_that_left_and_a_cut_stream_are_no_successes(fleet: EmulatedSystem) -> None:
    engine = await join(fleet, "a", time_scale=2.0)
    async with fleet.client.generate_stream(MODEL, "count 300") as left:
        await anext(aiter(left))
    await eventually(lambda: bool(fleet.outcomes_of(left.request_id)))
    assert fleet.outcomes_of(left.request_id)[0].status is OutcomeStatus.CANCELLED
    engine.inject(Fault(kind=FaultKind.END_EARLY, after_tokens=5))
    cut = fleet.client.generate_stream(MODEL, "count 50", resume=False)
    with pytest.raises(SollolError) as caught:
        await read(cut)
    assert caught.value.body.code is ErrorCode.ENGINE_PROTOCOL
    await eventually(lambda: bool(fleet.outcomes_of(cut.request_id)))
    assert fleet.outcomes_of(cut.request_id)[0].status is OutcomeStatus.FAILED

    async def is_counted() -> bool:
        entries = (await fleet.client.reliability("a", MODEL)).entries
        return [(e.attempts, e.failures) for e in entries] == [(1, 1)]

    await eventually(is_counted)


async def test_trap_10_a_callers_num_ctx_and_keep_alive_load_nothing_anew(fleet: EmulatedSystem) -> None:
    engine = await join(fleet, "a")
    await fleet.client.generate(MODEL, "count 2")
    runner = engine._residency.runners()[0]
    options = {"num_ctx": 8192, "num_batch": 64, "temperature": 0.5}
    answer = await fleet.client.generate(MODEL, "count 2", options=options, keep_alive=0)
    assert answer.text.split() == ["1", "0"]
    assert answer.figures is not None
    assert answer.figures.left_out == ("options.num_ctx", "options.num_batch", "keep_alive")
    await fleet.client.generate(MODEL, "count 2")
    assert engine._residency.runners() == [runner]


async def test_trap_10_under_error_the_caller_is_told_which_option_would_load_anew(fleet: EmulatedSystem) -> None:
    await fleet.node("a", runner_options="error")
    with pytest.raises(BadRequest, match=r"options\.num_ctx") as caught:
        await fleet.client.generate(MODEL, "count 2", options={"num_ctx": 8192})
    assert caught.value.body.code is ErrorCode.UNSUPPORTED_FIELD
    assert (await fleet.client.generate(MODEL, "count 2")).text.split() == ["1", "0"]


async def test_trap_11_a_node_offers_no_more_slots_than_its_engine_runs_unless_told(fleet: EmulatedSystem) -> None:
    engine = await join(fleet, "a", slots=0, parallel=1)
    answers = await asyncio.gather(*(fleet.client.generate(MODEL, "count 9") for _ in range(6)))
    assert all(a.figures is not None and a.figures.co_runners < 0.01 for a in answers)
    assert engine.state()["models"][0]["waiting"] == 0
    assert (await fleet.client.nodes()).nodes[0].telemetry.slots == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind=FaultKind.RESET),
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
    fleet: EmulatedSystem, fault: Fault
) -> None:
    engine = await join(fleet, "broken")
    await join(fleet, "sound")
    engine.inject(fault)
    wanted = Routing(node_id="broken")
    answer = await fleet.client.generate(MODEL, "count 5", routing=wanted)
    assert answer.text.split() == ["4", "3", "2", "1", "0"]
    assert answer.decision is not None
    assert (answer.decision.node_id, answer.decision.attempt) == ("sound", 2)


@pytest.mark.parametrize(
    "kind", [FaultKind.RESET, FaultKind.TRUNCATE, FaultKind.STALL, FaultKind.ERROR_LINE], ids=lambda kind: kind.value
)
async def test_trap_20_a_stream_that_breaks_later_goes_on_and_never_starts_over(
    fleet: EmulatedSystem, kind: FaultKind
) -> None:
    engine = await join(fleet, "broken")
    await join(fleet, "sound")
    engine.inject(Fault(kind=kind, after_tokens=4))
    heard: list[str] = []
    stream = fleet.client.generate_stream(MODEL, "count 30", routing=Routing(node_id="broken"))
    await read(stream, heard)
    assert "".join(heard).split() == [str(number) for number in range(29, -1, -1)]
    assert stream.answer.routing["nodes"] == ["broken", "sound"]


@pytest.mark.parametrize(
    "kind", [FaultKind.RESET, FaultKind.TRUNCATE, FaultKind.STALL, FaultKind.ERROR_LINE], ids=lambda kind: kind.value
)
async def test_trap_20_a_stream_that_is_not_to_go_on_ends_with_an_error_and_never_starts_over(
    fleet: EmulatedSystem, kind: FaultKind
) -> None:
    engine = await join(fleet, "broken")
    await join(fleet, "sound")
    engine.inject(Fault(kind=kind, after_tokens=4))
    heard: list[str] = []
    stream = fleet.client.generate_stream(MODEL, "count 30", routing=Routing(node_id="broken"), resume=False)
    with pytest.raises(SollolError):
        await read(stream, heard)
    assert "".join(heard).split() == ["29", "28", "27", "26"][: len(heard)]
    assert heard
