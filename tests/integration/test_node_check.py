"""What holds agents to the protocol of nodes: ours keeps it, and one that breaks a rule is found by that rule alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sollol_agents.lab.conformance.check import held_to
from sollol_agents.lab.conformance.findings import Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.played_node import PlayedNode
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig

QUICK = Pace(join_s=3.0, answer_s=0.6, quiet_s=0.06, beat_s=1.0, long=60)


async def seen(fleet: PlayedFleet) -> dict[str, tuple[Kept, str]]:
    return {one.rule: (one.kept, one.seen) async for one in held_to(fleet)}


async def seen_of(node: PlayedNode, bus: Bus) -> dict[str, str]:
    """The rules that a node does not keep, with what was seen."""
    fleet = PlayedFleet(bus, QUICK)
    await fleet.listen()
    living = asyncio.get_running_loop().create_task(node.live())
    try:
        found = await seen(fleet)
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
    return {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK and rule != "leave"}


@pytest.fixture
async def nodes_bus(nats_server: EmbeddedServer) -> Any:
    connected = await Bus.connect(BusConfig(url=nats_server.url, inbox_prefix="_INBOX_node.double"))
    yield connected
    await connected.close()


async def test_our_own_node_keeps_every_rule(nats_server: EmbeddedServer, bus: Bus) -> None:
    config = EmulatorConfig(
        time_scale=10.0, model=("countdown=1", "nomic-embed-text"), preload=("countdown:latest",), parallel=4
    )
    async with EmulatedNode(config) as engine:
        settings = NodeConfig(node_id="ours", engine="ollama", url=engine.url, slots=2)
        monitor = NodeMonitor(settings, BusConfig(url=nats_server.url))
        pace = Pace(quiet_s=0.1, long=150)
        fleet = PlayedFleet(bus, pace, stop=monitor.close)
        await fleet.listen()
        async with monitor:
            found = await seen(fleet)
    assert {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK} == {}


async def test_a_node_written_after_the_document_keeps_every_rule(nodes_bus: Bus, bus: Bus) -> None:
    assert await seen_of(PlayedNode(nodes_bus), bus) == {}
