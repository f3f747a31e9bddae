"""`sollol node-check`: holds an agent of a node, in whatever language, to the protocol of nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Final

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import note, say, show_json
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.lab.conformance.check import held_to
from sollol_agents.lab.conformance.findings import Finding, Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_bus.errors import ConfigError
from sollol_bus.server.server import EmbeddedServer, EmbeddedServerConfig
from sollol_bus.transport.connection import Bus, BusConfig

_ENDS_WITHIN_S: Final = 40.0


@with_settings(of_commands.KNOWN, log=of_commands.QUIET_LOG)
def node_check(
    *,
    log: LogConfig,
    run: Annotated[str, Parameter(help="Start the agent with this command; it finds the server in SOLLOL_NATS.")] = "",
    nats: Annotated[str, Parameter(help="A server on which nobody plays a fleet; without it, one is started.")] = "",
    node: Annotated[str, Parameter(help="The node's id; without it, the first that joins.")] = "",
    model: Annotated[str, Parameter(help="What is asked of; without it, the first model that talks.")] = "",
    json_: of_commands.JsonFlag = False,
) -> int:
    """Plays a fleet towards one node, and tells rule by rule whether it keeps the protocol of nodes.

    Ends with 1 when a rule is broken, and with 3 when no node joins.
    """
    log_lines.set_up(log)

    async def main() -> int:
        async with contextlib.AsyncExitStack() as floor:
            url = nats or await floor.enter_async_context(_server())
            bus = await Bus.connect(BusConfig(url=url, name="sollol-node-check"))
            floor.push_async_callback(bus.close)
            fleet = PlayedFleet(bus, Pace(), node_id=node, model=model)
            await fleet.listen()
            if run:
                agent = await floor.enter_async_context(_started(run, url, fleet.gone))
                fleet.stop = agent.end
            else:
                note(f"start the node now: SOLLOL_NATS={url}")
            return await _told(fleet, is_json=json_)

    return running.run(main)


async def _told(fleet: PlayedFleet, *, is_json: bool) -> int:
    findings: list[Finding] = []
    async for one in held_to(fleet):
        findings.append(one)
        if not is_json:
            say(f"{one.kept.value:<10} {one.rule:<16} {one.says}" + (f"\n{'':<27} {one.seen}" if one.seen else ""))
    if is_json:
        show_json(findings)
    else:
        say(", ".join(f"{sum(one.kept is kept for one in findings)} {kept.value}" for kept in Kept))
    if not fleet.beats:
        note("no node joined")
        return exit_codes.NO_ANSWER
    return exit_codes.FAILED if any(one.kept is Kept.FAILED for one in findings) else exit_codes.OK


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="sollol-node-check-") as folder:
        async with EmbeddedServer(EmbeddedServerConfig(port=0, store_dir=folder)) as server:
            yield server.url


class _Agent(msgspec.Struct):
    """The agent under test as a process of ours."""

    process: asyncio.subprocess.Process

    async def end(self) -> None:
        """Asks it to end, and waits; kills it when that takes too long."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@contextlib.asynccontextmanager
async def _started(command: str, url: str, on_end: Callable[[], None]) -> AsyncIterator[_Agent]:
    argv = shlex.split(command)
    environ = os.environ | {"SOLLOL_NATS": url}
    try:
        process = await asyncio.create_subprocess_exec(*argv, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=2)
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"--run {command!r}: {error}") from error
    agent = _Agent(process)
    watching = asyncio.get_running_loop().create_task(process.wait(), name="the agent's process")
    watching.add_done_callback(lambda _: on_end())
    try:
        yield agent
    finally:
        await agent.end()
        await watching
