"""The system under test: a NATS server, every actor and every engine as a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench.live.machines import MODEL, MODEL_ON_DISK
from bench.processes import Process, running
from bench.routing.fleets import FLEETS, SLOTS
from sollol_bus.sdk.client import Client
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.telemetry import NodeState

_JOIN_WITHIN_S = 60.0
_POLL_S = 0.05


class EngineCommand(NamedTuple):
    """An engine process, and how the node beside it is told to speak to it."""

    node_id: str
    arguments: list[str]
    dialect: str = "ollama"
    slots: int = 4


class LiveStack(NamedTuple):
    """What a run may use."""

    client: Client
    processes: list[Process]
    http_url: str = ""
    """Where the gateway listens, when there is one."""


def engines_of(fleet: str, factor: float = 1.0, *, warm_machines: int = 0) -> list[EngineCommand]:
    """An emulated engine for every machine of a fleet, in compressed time; the first of them hold the model already."""
    commands = []
    for number, spec in enumerate(FLEETS[fleet]):
        arguments = ["bench.live.engine", "--preset", spec.kind, "--name", spec.kind, "--model", MODEL_ON_DISK]
        arguments += ["--parallel", str(SLOTS), "--time-scale", f"{factor:g}", "--seed", str(number + 1)]
        arguments += ["--preload", MODEL] if number < warm_machines else []
        commands.append(EngineCommand(f"{spec.kind}-{number}", arguments, slots=SLOTS))
    return commands


@asynccontextmanager
async def live_stack(
    engines: Sequence[EngineCommand], *, strategy: str, folder: Path, has_gateway: bool = False
) -> AsyncIterator[LiveStack]:
    """A fresh system that has learnt nothing yet; every node has joined when the block begins."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with AsyncExitStack() as floor:
        config = EmbeddedServerConfig(port=0, store_dir=str(folder / "nats"))
        server = await floor.enter_async_context(EmbeddedServer(config))
        commands = {
            "scorer": ["scorer", "--strategy", strategy],
            "recorder": ["recorder", "--database", str(folder / "bench.sqlite3")],
            "dispatcher": ["dispatcher"],
        }
        if has_gateway:
            commands["gateway"] = ["gateway", "--port", "0"]
        control = [_actor(floor, name, command, server.url, folder) for name, command in commands.items()]
        nodes = [_engine_and_node(floor, engine, server.url, folder) for engine in engines]
        started = await asyncio.gather(*control, *nodes)
        client = await floor.enter_async_context(Client(BusConfig(url=server.url, name="bench")))
        await _joined(client, {e.node_id for e in engines})
        processes = [p for group in started for p in group]
        http_url = next((p.address("http") for p in processes if p.name == "gateway"), "")
        yield LiveStack(client, processes, http_url)


async def _actor(floor: AsyncExitStack, name: str, command: list[str], nats_url: str, folder: Path) -> list[Process]:
    arguments = ["sollol_agents.cli", *command, "--nats", nats_url, "--log-level", "warning"]
    return [await floor.enter_async_context(running(name, arguments, log_dir=folder))]


async def _engine_and_node(floor: AsyncExitStack, engine: EngineCommand, nats_url: str, folder: Path) -> list[Process]:
    name = f"{engine.node_id}-engine"
    process = await floor.enter_async_context(running(name, engine.arguments, log_dir=folder))
    command = ["node", "--id", engine.node_id, "--engine", engine.dialect, "--url", process.address("engine")]
    command += ["--slots", str(engine.slots)]
    return [process, *await _actor(floor, engine.node_id, command, nats_url, folder)]


async def _joined(client: Client, node_ids: set[str]) -> None:
    async with asyncio.timeout(_JOIN_WITHIN_S):
        while True:
            views = (await client.nodes()).nodes
            if node_ids <= {v.node_id for v in views if v.state is NodeState.UP and v.telemetry.installed}:
                return
            await asyncio.sleep(_POLL_S)
