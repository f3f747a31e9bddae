"""`sollol top`: the fleet in this terminal, live."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import sys
from collections.abc import AsyncIterator

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.settings import of_commands
from sollol_agents.fleet_view.feed import Feed
from sollol_agents.fleet_view.questions import Questions
from sollol_agents.fleet_view.view import FleetView
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig


@of_commands.for_clients()
def top(*, bus: BusConfig, log: LogConfig) -> int:
    """Shows fleet, queue and decisions in the terminal; needs the extra `top`.

    Keys: 1, 2, 3 choose a view, arrows a row, Enter explains it; d drains a node, u undoes that, b closes its circuit
    breakers; q quits. With users on the NATS server it takes the credentials of an observer, and those of the control
    role for draining and breakers.
    """
    if importlib.util.find_spec("textual") is None:
        raise ConfigError("`sollol top` needs Textual: pip install 'sollol-bus[top]'")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError("`sollol top` needs a terminal; for scripts there is `sollol nodes --json`")
    from sollol_agents.top.app import TopApp  # noqa: PLC0415 an extra

    log_lines.set_up(log)
    # a line on stderr would tear the screen; what matters is on it
    logging.getLogger().handlers[:] = [logging.NullHandler()]

    async def main() -> int:
        async with running.connected(bus, name="sollol-top") as client:
            view = FleetView()
            async with followed(client, view):
                await TopApp(client, view).run_async()
        return 0

    return running.run(main, is_long=True)


@contextlib.asynccontextmanager
async def followed(client: Client, view: FleetView) -> AsyncIterator[None]:
    """Keeps a view current."""
    questions = Questions(client, view, shows=lambda name: name == "jobs", has_pages=lambda: True)
    Feed(client.bus, view, questions.ask_again).start()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(questions.run()), group.create_task(questions.run_jobs())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
