"""`sollol node-check`: holds an agent of a node, in whatever language, to the protocol of nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import note, say, show_json
from sollol_agents.cli.settings import of_commands
from sollol_agents.cli.settings.flags import with_settings
from sollol_agents.lab.conformance.bus import bus_of, played_bus
from sollol_agents.lab.conformance.check import held_to
from sollol_agents.lab.conformance.findings import Finding, Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_bus.errors import ConfigError

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
            server = await floor.enter_async_context(bus_of(nats) if nats else played_bus(folder))
            fleet = PlayedFleet(server, Pace(), node_id=node, model=model)
            await fleet.listen()
            if run:
                fleet.process = agent = _Agent(shlex.split(run), server.url, fleet.gone)
                floor.push_async_callback(agent.end)
                await agent.start()
            else:
                note(f"start the node now: SOLLOL_NATS={server.url}")
            return await _told(fleet, is_json=json_)

    with tempfile.TemporaryDirectory(prefix="sollol-node-check-") as name:
        folder = Path(name)
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


class _Agent:
    """The agent under test as a process of ours.

    Args:
        argv: What starts it.
        url: The server.
        on_end: Called whenever it has ended.
    """

    def __init__(self, argv: list[str], url: str, on_end: Callable[[], None]) -> None:
        self._argv = argv
        self._environ = os.environ | {"SOLLOL_NATS": url}
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[int] | None = None

    async def start(self) -> None:
        """Starts it, and ends the one before if that still runs.

        Raises:
            ConfigError: It cannot be started.
        """
        await self.end()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._argv, env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=2
            )
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"--run {shlex.join(self._argv)!r}: {error}") from error
        self._watching = asyncio.get_running_loop().create_task(process.wait(), name="the agent's process")
        self._watching.add_done_callback(lambda _: self._on_end())

    async def end(self) -> None:
        """Asks it to end, and waits; kills it when that takes too long."""
        process = self._process
        if process is None or self._watching is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await self._watching
