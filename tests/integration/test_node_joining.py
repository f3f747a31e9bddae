"""Chunks that nobody reads one by one: the node says what comes close together in one message."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.node_stage import MODEL, Stage, staged
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import decode, error_of
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.control import AttemptState, ControlAttempt
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import AttemptAccepted, AttemptDone, AttemptFirstToken, Figures


def words(stage: Stage) -> list[str]:
    """What every message says of a chat, without errors and the end."""
    said = [msg.data.split(b"\n") for msg in stage.dispatcher.heard if msg.data and error_of(msg) is None]
    return ["".join(json.loads(line)["message"]["content"] for line in lines) for lines in said]


def held_to_count(stage: Stage) -> Figures:
    """The figures of a stream whose messages are numbered and counted."""
    *chunks, last = stage.dispatcher.heard
    assert [msg.reply.rpartition(".")[2] for msg in chunks] == [str(n) for n in range(1, len(chunks) + 1)]
    assert last.reply.endswith(".end")
    assert int((last.headers or {})[h.CHUNKS]) == len(chunks) + bool(last.data)
    return decode((last.headers or {})[h.FIGURES].encode(), Figures)


def only_attempt(stage: Stage) -> str:
    """The id of the attempt that was reported."""
    (attempt_id,) = {one.attempt_id for one in stage.dispatcher.reports}
    return attempt_id


async def test_a_slow_answer_comes_in_few_messages_with_figures_of_its_tokens(
    nats_server: EmbeddedServer, bus: Bus
) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=100.0) as stage:
        stage.chat("count 60", is_joined=True)
        await eventually(lambda: bool(stage.dispatcher.ends()) and bool(stage.outcomes))
        said = words(stage)
        assert "".join(said).split() == [str(n) for n in range(59, -1, -1)]
        assert len(said) < 15
        figures = held_to_count(stage)
        assert (figures.output_tokens, figures.chunks) == (61, len(said))
        assert figures.ttft_s is not None
        (first,) = [one for one in stage.dispatcher.reports if isinstance(one, AttemptFirstToken)]
        assert first.ttft_s == pytest.approx(figures.ttft_s, abs=1e-4)


async def test_a_quick_answer_is_one_message_with_all_that_is_to_be_said(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, preset="instant") as stage:
        stage.chat("count 12", is_joined=True)
        await eventually(lambda: bool(stage.dispatcher.ends()))
        (said,) = words(stage)
        assert said.split() == [str(n) for n in range(11, -1, -1)]
        figures, (only,) = held_to_count(stage), stage.dispatcher.heard
        assert (figures.output_tokens, figures.chunks) == (13, 1)
        assert decode((only.headers or {})[h.DECISION].encode(), Decision).node_id == "n1"
        assert [type(one) for one in stage.dispatcher.reports] == [AttemptAccepted, AttemptDone]
        told = await stage.control(ControlAttempt(attempt_id=only_attempt(stage)))
        assert (told.attempt_state, told.chunks) == (AttemptState.ENDED_SPOKEN, 1)
        await eventually(lambda: len(stage.dispatcher.heard) == 2)
        assert stage.dispatcher.heard[1].data == only.data, "who asks may have missed it"


async def test_what_is_held_leaves_while_the_engine_is_silent(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus) as stage:
        stage.engine.inject(Fault(kind=FaultKind.STALL, after_tokens=4))
        attempt = stage.chat("count 12", is_joined=True)
        await eventually(lambda: "".join(words(stage)).split() == ["11", "10", "9", "8"])
        assert not stage.dispatcher.ends()
        stage.dispatcher.give_up(attempt)
        await eventually(lambda: bool(stage.dispatcher.ends()))
        held_to_count(stage)


@pytest.mark.parametrize("more", [{}, {"is_joined": True}], ids=["by-chunks", "joined"])
async def test_all_that_the_engine_said_before_it_failed_is_said(stage: Stage, more: dict[str, Any]) -> None:
    stage.engine.inject(Fault(kind=FaultKind.ERROR_LINE, after_tokens=4))
    stage.chat("count 12", **more)
    await eventually(lambda: bool(stage.outcomes))
    assert "".join(words(stage)).split() == ["11", "10", "9", "8"]
    error = error_of(stage.dispatcher.heard[-2])
    assert error is not None
    assert error.code is ErrorCode.ENGINE_FAILED
    held_to_count(stage)


async def test_what_is_held_of_an_attempt_that_is_taken_back_is_said(nats_server: EmbeddedServer, bus: Bus) -> None:
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=100.0) as stage:
        attempt = stage.chat("count 900", is_joined=True)
        await eventually(lambda: len(stage.dispatcher.heard) > 1)
        stage.dispatcher.give_up(attempt, "moved")
        await eventually(lambda: bool(stage.dispatcher.ends()))
        said = "".join(words(stage)).split()
        assert said == [str(n) for n in range(899, 899 - len(said), -1)]
        assert held_to_count(stage).output_tokens == len(said)


@pytest.mark.parametrize("said", [None, ContinueFrom()], ids=["begins", "begins-anew"])
async def test_events_come_byte_for_byte_in_fewer_messages(
    nats_server: EmbeddedServer, bus: Bus, said: ContinueFrom | None
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "count 40"}], "stream": True}
    told: list[bytes] = []
    numbers: list[int] = []
    async with staged(nats_server, bus, time_scale=1.0, decode_tps=100.0) as stage:
        for is_joined in (False, True):
            stage.dispatcher.heard.clear()
            stage.dispatcher.send(
                stage.node.instance,
                body,
                kind=RequestKind.PASSTHROUGH,
                path="/v1/chat/completions",
                said=said,
                is_joined=is_joined,
            )
            await eventually(lambda: any(msg.reply.endswith(".end") for msg in stage.dispatcher.heard))
            held_to_count(stage)
            raw = b"".join(msg.data for msg in stage.dispatcher.heard)
            told.append(re.sub(rb'"(id|created)":[^,]*', rb'"\1":0', raw))
            numbers.append(len(stage.dispatcher.heard))
    assert told[0] == told[1]
    assert told[0].endswith(b"data: [DONE]\n\n")
    assert numbers[1] < numbers[0] / 2
