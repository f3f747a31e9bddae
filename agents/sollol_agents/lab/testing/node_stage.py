"""A node on a real bus before an emulated engine; the test plays the dispatcher and the caller."""

# ruff: noqa: ANN401 settings and fields are passed on by name

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.dispatcher import PlayedDispatcher
from sollol_agents.lab.testing.keeping import kept_by
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import subjects
from sollol_schemas.control import ControlReply
from sollol_schemas.events import Outcome
from sollol_schemas.telemetry import LoadUpdate, Telemetry

MODEL: Final = "countdown:latest"
EMBEDDER: Final = "nomic-embed-text"
NODE: Final = "n1"


class Stage:
    """Everything one test needs, and what the node told meanwhile."""

    def __init__(self, bus: Bus, node: NodeMonitor, engine: EmulatedNode, server: EmbeddedServer) -> None:
        self.bus = bus
        self.dispatcher = PlayedDispatcher(bus, NODE)
        self.node = node
        self.engine = engine
        self.server = server
        self.outcomes: list[Outcome] = []
        self.telemetry: list[Telemetry] = []
        self.loads: list[LoadUpdate] = []
        bus.subscribe(subjects.OUTCOME_EVENT.all, lambda msg: self.outcomes.append(decode(msg.data, Outcome)))
        bus.subscribe(subjects.TELEMETRY.all, lambda msg: self.telemetry.append(decode(msg.data, Telemetry)))
        bus.subscribe(subjects.LOAD.all, lambda msg: self.loads.append(decode(msg.data, LoadUpdate)))

    def chat(self, text: str = "count 12", **more: Any) -> str:
        """Sends a chat and returns the id of its attempt; further fields are those of the exec."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        return self.dispatcher.send(self.node.instance, body | more.pop("body", {}), **more)

    async def control(self, request: Any) -> ControlReply:
        """What the node answers to a command."""
        msg = await self.bus.request(subjects.NODE_CONTROL.of(NODE), encode(request))
        return decode(msg.data, ControlReply)


@asynccontextmanager
async def staged(
    server: EmbeddedServer, bus: Bus, *, url: str = "", node: dict[str, Any] | None = None, **engine: Any
) -> AsyncIterator[Stage]:
    """A stage whose node runs.

    Args:
        server: Where everybody meets.
        bus: The test's own connection.
        url: Where the node connects; empty: to the server.
        node: Settings of the node that differ from those of a test.
        engine: Those of the engine.
    """
    settings = {
        "preset": "steady",
        "time_scale": 20.0,
        "model": ("countdown=1", EMBEDDER),
        "preload": (MODEL,),
        "parallel": 8,
    }
    config = msgspec.convert(settings | engine, EmulatorConfig)
    await provision(bus)
    async with EmulatedNode(config) as emulated, kept_by(bus):
        own = {"node_id": NODE, "engine": "ollama", "url": emulated.url, "slots": 4, "drain_timeout_s": 5.0}
        node_config = msgspec.convert(own | (node or {}), NodeConfig)
        async with NodeMonitor(node_config, BusConfig(url=url or server.url)) as monitor:
            stage = Stage(bus, monitor, emulated, server)
            await bus.flush()
            yield stage
