"""A fleet of real processes for tests: of this software, and of programs that use it.

    async with ProcessFleet(tmp_path) as fleet:
        await fleet.up()
        engine = await fleet.emulator("attic", "--model", "llama3.2:3b=3.2")
        node = await fleet.node("attic", engine.url)
        async with fleet.client() as client:
            ...
        node.child.kill()

Processes are started as a user starts them, ended by their ids alone, and none outlives the block or the program.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx
import msgspec

from sollol_agents.children import Child
from sollol_agents.lab.emulator import Fault
from sollol_agents.lab.testing import warm_start
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.lab.testing.warm_start import WarmChild
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.telemetry import NodeState

_CLI: Final = "sollol_agents.cli"
_COMMAND_S: Final = 120.0
_READY_WITHIN_S: Final = 100.0
"""Machines that test are busy."""


class Emulator:
    """An emulated engine as a process, with its faults and its state."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.url = child.served["engine"]
        """Base address of its HTTP interface."""
        self._http = httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=10.0)

    async def add_fault(self, fault: Fault) -> None:
        """Arms a fault."""
        (await self._http.post("/emulator/faults", content=msgspec.json.encode(fault))).raise_for_status()

    async def clear_faults(self) -> None:
        """Removes every fault that has not struck yet."""
        (await self._http.delete("/emulator/faults")).raise_for_status()

    async def state(self) -> dict[str, Any]:
        """The machine's state."""
        reply = await self._http.get("/emulator/state")
        return msgspec.json.decode(reply.raise_for_status().content, type=dict[str, Any])

    async def in_flight(self) -> int:
        """How many inference requests it is busy with, waiting ones included."""
        return int((await self.state())["in_flight"])

    async def holds(self, wanted: int) -> bool:
        """Whether it is busy with so many."""
        return await self.in_flight() == wanted

    async def aclose(self) -> None:
        """Closes the connection to it."""
        await self._http.aclose()


class ProcessFleet:
    """Processes that make up one system.

    Args:
        folder: Where they keep their files and logs.
        nats_url: A server that runs already; otherwise `up` brings one.
    """

    def __init__(self, folder: Path, nats_url: str = "") -> None:
        self.nats_url = nats_url
        self.children: list[Child] = []
        """Everything that was started, in order."""
        self.folder = folder
        """Files and logs of the processes."""
        self.starts_anew = False
        """Whether each starts as a user's does, in all its length, even where there is a nursery."""
        self._floor = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._floor.aclose()

    async def up(self, *flags: str, **environ: str) -> Child:
        """`sollol up` on a free port."""
        ports = ("--nats-port", "0", "--http-port", "0", "--dashboard-port", "0")
        where = () if "--store-dir" in flags else ("--store-dir", str(self.folder / "store"))
        argv = (*ports, *where, "--no-local-node", *flags)
        child = await self.sollol("up", *argv, **environ)
        self.nats_url = child.served["nats"]
        return child

    async def sollol(self, command: str, *flags: str, name: str = "", **environ: str) -> Child:
        """One `sollol` command that says `ready`."""
        return await self.start(name or command, _CLI, command, *flags, **environ)

    async def actor(self, role: str, *flags: str, name: str = "") -> Child:
        """`sollol scorer`, `dispatcher` or `recorder` on this fleet's server."""
        return await self.sollol(role, "--nats", self.nats_url, *flags, name=name)

    async def emulator(self, name: str, *flags: str, module: str = "sollol_agents.lab.emulator") -> Emulator:
        """An emulated engine; it says nothing of itself to the fleet until a node fronts it."""
        child = await self.start(f"{name}-engine", module, "--name", name, *flags)
        emulator = Emulator(child)
        self._floor.push_async_callback(emulator.aclose)
        return emulator

    async def node(self, node_id: str, url: str, *flags: str, engine: str = "ollama", is_joined: bool = True) -> Child:
        """`sollol node` beside an engine; by default waits until the scorer counts on it."""
        where = ("--nats", self.nats_url, "--id", node_id, "--engine", engine, "--url", url)
        child = await self.sollol("node", *where, *flags, name=node_id)
        if is_joined:
            await self.joined(node_id)
        return child

    async def joined(self, *node_ids: str) -> None:
        """Returns when the scorer knows these nodes as up."""
        async with self.client() as client:

            async def are_up() -> bool:
                try:
                    views = (await client.nodes()).nodes
                except SollolError:
                    return False  # no scorer is in office just now
                return set(node_ids) <= {v.node_id for v in views if v.state is NodeState.UP}

            await eventually(are_up, complaint=f"{node_ids} are up")

    async def start(self, name: str, *argv: str, **environ: str) -> Child:
        """Any module of Python that says `ready`."""
        log_file = self.folder / f"{name}.log"
        child = (Child if self.starts_anew else WarmChild)(
            name,
            *argv,
            start_timeout_s=_READY_WITHIN_S,
            log_file=log_file,
            environ=clean_environ() | environ,
        )
        await self._floor.enter_async_context(child)
        self.children.append(child)
        return child

    def client(self) -> Client:
        """A client of this fleet, to be entered."""
        return Client(self.bus_config("test-client"))

    def bus_config(self, name: str = "test") -> BusConfig:
        """The settings of a plain connection to this fleet."""
        return BusConfig(url=self.nats_url, name=name)


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 whatever the command printed
        """What it printed, decoded."""
        return msgspec.json.decode(self.out)


async def sollol(nats_url: str, *argv: str, stdin: bytes = b"", **environ: str) -> Done:
    """Runs one `sollol` command to its end, within two minutes.

    Args:
        nats_url: The fleet's server; empty: none is named.
        *argv: The command and its arguments.
        stdin: What it reads.
        **environ: Further environment.
    """
    own = {"SOLLOL_NATS": nats_url} if nats_url else {}
    async with asyncio.timeout(_COMMAND_S):
        ended = await warm_start.run((_CLI, *argv), clean_environ() | own | environ, stdin)
    if ended is not None:
        code, said, noted = ended
        return Done(code, said.decode(), noted.decode())
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _CLI, *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=clean_environ() | own | environ
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), _COMMAND_S)
    return Done(await process.wait(), out.decode(), err.decode())


def clean_environ() -> dict[str, str]:
    """Our environment without settings of this software, which would reach into every test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SOLLOL_")}
