"""A node on a real bus goes on with answers of others, and notices when its own are lost with their engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.lab.testing.node_stage import EMBEDDER, MODEL, NODE, Stage, staged
from sollol_agents.lab.testing.scripted_engine import OLLAMA, ScriptedEngine, chunk, head
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_schemas import headers as h
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import AttemptDone

COLD: Final = {"options": {"temperature": 0}}
SAID: Final = ContinueFrom(text="11 10 9 8", pieces=4)
REST: Final = " 7 6 5 4 3 2 1 0"
V1: Final = "/v1/chat/completions"


@pytest.fixture
async def stage(nats_server: EmbeddedServer, bus: Bus) -> AsyncIterator[Stage]:
    async with staged(nats_server, bus) as made:
        yield made


async def ended(stage: Stage) -> list[dict[str, Any]]:
    """The objects that a caller got, once its stream is over."""
    await eventually(lambda: bool(stage.dispatcher.ends()) and "end" in stage.dispatcher.order)
    return [json.loads(msg.data) for msg in stage.dispatcher.heard if msg.data]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_rest_of_an_answer_comes_with_counts_of_the_whole(stage: Stage, *, stream: bool) -> None:
    stage.chat(said=SAID, stream=stream, body=COLD)
    await eventually(lambda: bool(stage.dispatcher.ends()) and bool(stage.dispatcher.heard))
    assert stage.dispatcher.text() == REST
    last = json.loads([msg.data for msg in stage.dispatcher.heard if msg.data][-1])
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 8, 13)
    (done,) = stage.dispatcher.ends()
    assert isinstance(done, AttemptDone)
    figures = done.figures
    assert (figures.prompt_tokens, figures.continued_tokens, figures.output_tokens) == (12, 4, 9)


def passing(stage: Stage, text: str = "count 12", **more: Any) -> str:
    body = {"model": MODEL, "stream": True, "temperature": 0, "messages": [{"role": "user", "content": text}]}
    return stage.dispatcher.send(stage.node.instance, body, kind=RequestKind.PASSTHROUGH, path=V1, **more)


async def test_the_rest_of_a_passed_through_answer_comes_as_native_objects(stage: Stage) -> None:
    passing(stage, said=SAID)
    lines = await ended(stage)
    assert (stage.dispatcher.heard[0].headers or {})[h.CONTENT_TYPE] == "application/x-ndjson"
    assert "".join(line["response"] for line in lines) == REST
    assert lines[-1]["done"]


async def test_an_answer_that_said_nothing_yet_begins_anew_in_its_own_dialect(stage: Stage) -> None:
    passing(stage, said=ContinueFrom())
    await eventually(lambda: bool(stage.dispatcher.ends()) and "end" in stage.dispatcher.order)
    assert b"".join(msg.data for msg in stage.dispatcher.heard).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("fields", "said", "why"),
    [
        ({"format": "json"}, SAID, "constrained"),
        (COLD, ContinueFrom(text="xylophone", pieces=3), "does not begin as the model begins"),
    ],
)
async def test_a_refusal_to_go_on_gives_its_reason_and_blames_nobody(
    stage: Stage, fields: dict[str, Any], said: ContinueFrom, why: str
) -> None:
    stage.chat(body=fields, said=said)
    await eventually(lambda: bool(stage.dispatcher.failures()))
    (failure,) = stage.dispatcher.failures()
    assert failure.error.code is ErrorCode.NOT_CONTINUED
    assert why in failure.error.message
    assert failure.evidence is None
    assert not stage.dispatcher.heard


async def test_what_was_said_but_cannot_be_read_is_refused(stage: Stage) -> None:
    stage.chat(body_bytes=1_000_000)
    await eventually(lambda: bool(stage.dispatcher.failures()))
    assert stage.dispatcher.failures()[0].error.code is ErrorCode.BAD_REQUEST


async def test_nodes_tell_which_answers_they_would_go_on_with(stage: Stage) -> None:
    told = {one.name: one.fingerprint for one in stage.node.telemetry().installed}
    assert told[MODEL].startswith("ollama:")
    assert told[f"{EMBEDDER}:latest"] == ""


async def test_the_nameless_last_chunk_of_a_dead_runner_reaches_nobody(stage: Stage) -> None:
    passing(stage, "count 900")
    await eventually(lambda: len(stage.dispatcher.heard) > 3)
    stage.engine.inject(Fault(kind=FaultKind.KILL_RUNNERS))
    await eventually(lambda: bool(stage.dispatcher.failures()))
    (failure,) = stage.dispatcher.failures()
    assert failure.error.code is ErrorCode.ENGINE_PROTOCOL
    assert all(b'"model":""' not in msg.data for msg in stage.dispatcher.heard)


async def test_an_engine_that_ends_but_keeps_its_streams_open_is_noticed(nats_server: EmbeddedServer, bus: Bus) -> None:
    async def speak(_: str, writer: asyncio.StreamWriter) -> None:
        line = b'{"message":{"role":"assistant","content":"x"},"done":false}\n'
        writer.write(head(None, "application/x-ndjson") + chunk(line))
        await asyncio.Event().wait()

    await provision(bus)
    async with ScriptedEngine(OLLAMA | {"/api/chat": speak}) as engine, kept_by(bus):
        config = NodeConfig(node_id=NODE, engine="ollama", url=engine.url, heartbeat_s=0.3, drain_timeout_s=0.2)
        async with NodeMonitor(config, BusConfig(url=nats_server.url)) as node:
            dispatcher = PlayedDispatcher(bus, NODE)
            dispatcher.send(node.instance, {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            await eventually(lambda: bool(dispatcher.heard))
            engine.refuse()
            await eventually(lambda: bool(dispatcher.failures()))
            assert dispatcher.failures()[0].error.code is ErrorCode.ENGINE_UNAVAILABLE
