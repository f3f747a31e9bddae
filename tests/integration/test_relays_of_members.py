"""A dispatcher goes on for members of a fleet too: with their rights, and within their ceilings."""

from __future__ import annotations

from pathlib import Path

import pytest

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.members import Members
from sollol_agents.lab.testing.scripted import BODY, ScriptedNode, ScriptedScorer, quick, serve_when_it_may
from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.errors import QueueFull
from sollol_bus.jetstream.streams import provision
from sollol_bus.sdk.results import figures_of
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.transport.streaming import ReplyStream
from sollol_bus.trust.callers import named
from sollol_bus.trust.standings import StandingStore
from sollol_schemas import headers as h
from sollol_schemas import subjects
from sollol_schemas.callers import word_of
from sollol_schemas.execution import Figures
from sollol_schemas.routing import routing_header
from sollol_schemas.subjects import Role


async def heard(bus: Bus, body: bytes, **headers: str) -> tuple[list[Msg], Figures | None]:
    """What a plain caller hears of a stream with which a dispatcher goes on."""
    async with ReplyStream(bus, total_s=20.0) as stream:
        stream.send(subjects.GENERATE, body, {h.RESUME: "dispatcher", **headers})
        messages = [msg async for msg in stream]
        return messages, figures_of(stream.last)


async def test_a_member_is_told_below_its_own_inbox_under_its_own_name(tmp_path: Path) -> None:
    members = Members(tmp_path, {"alice": Role.CLIENT, "control": Role.CONTROL, "n1": Role.NODE})
    config = EmbeddedServerConfig(port=0, store_dir=str(tmp_path / "nats"), extra_config=members.server_config)
    async with EmbeddedServer(config) as server:
        control, alice, node = [
            await Bus.connect(members.bus_config(name, server.url)) for name in ("control", "alice", "n1")
        ]
        try:
            await provision(control)
            scorer = ScriptedScorer(control, ["n1"])
            node.subscribe(subjects.NODE_LEAVE.of("n1"), lambda _: None)  # the server lets it speak then
            ScriptedNode(node, "n1", serve_when_it_may)
            dispatcher = Dispatcher(DispatcherConfig(drain_timeout_s=0.3), members.bus_config("control", server.url))
            async with quick(dispatcher):
                await control.flush()
                await node.flush()
                messages, _ = await heard(alice, BODY)
            assert [msg.data for msg in messages] == [b'{"response":"a"}']
            assert [asked.caller for asked in scorer.asked] == [word_of("alice")]
        finally:
            for bus in (control, alice, node):
                await bus.close()


async def test_an_answer_that_goes_on_counts_once_for_a_ceiling(tmp_path: Path) -> None:
    async with EmulatedSystem(tmp_path, nodes=2, decode_tps=400.0) as here:
        await StandingStore(here.client.bus).change(named("laptop", requests_per_minute=1))
        scorer = next(actor for actor in here.stack.actors if actor.name == "scorer")
        await eventually(lambda: scorer.core.ceilings._roster.of("laptop").requests_per_minute == 1)  # type: ignore[attr-defined]
        shown = Members(tmp_path, {"laptop": Role.CLIENT}).creds_file("laptop")
        bus = await Bus.connect(BusConfig(url=here.stack.nats_url, creds_file=shown))
        try:
            body = encode({"model": MODEL, "prompt": "count down from 60", "stream": True})
            here.engines["n1"].inject(Fault(kind=FaultKind.RESET, path="/api/generate", after_tokens=20))
            _, figures = await heard(bus, body, **{routing_header("node_id"): "n1"})
            assert figures is not None
            assert figures.resumed == 1
            with pytest.raises(QueueFull, match="1 requests a minute"):
                await heard(bus, body)
        finally:
            await bus.close()
