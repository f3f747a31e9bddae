"""`sollol watch`: decisions and node events as they happen, and whatever else is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands.event_lines import Event, concerns, line_of_event
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import note, say, show_json_line
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.transport.clock import wall_s
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.errors import ErrorCode


def _switch(text: str) -> Parameter:
    return Parameter(has_negative=False, show_default=False, help=text)


@of_commands.for_clients()
def watch(
    *,
    outcomes: Annotated[bool, _switch("Also how every attempt ended, and answers that were moved.")] = False,
    preloads: Annotated[bool, _switch("Also models that were loaded ahead of need.")] = False,
    breakers: Annotated[bool, _switch("Also changes of circuit breakers.")] = False,
    offices: Annotated[bool, _switch("Also which scorer took or left office.")] = False,
    strategy: Annotated[bool, _switch("Also changes of the strategy and its settings.")] = False,
    capacity: Annotated[bool, _switch("Also scale signals, and nodes that sleep and wake.")] = False,
    jobs: Annotated[bool, _switch("Also what happens to durable jobs.")] = False,
    all_: Annotated[
        bool, Parameter(name="--all", has_negative=False, show_default=False, help="Everything above.")
    ] = False,
    node: Annotated[str, Parameter(show_default=False, help="Only what concerns this node.")] = "",
    request: Annotated[str, Parameter(show_default=False, help="Only this request or job.")] = "",
    bus: BusConfig,
    log: LogConfig,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Prints every routing decision and every change of a node, until Ctrl-C.

    With `--json` each line is the event's message as it was on the bus; its `type` says what it is.
    """
    log_lines.set_up(log)
    wanted = {
        "outcomes": outcomes or all_,
        "preloads": preloads or all_,
        "breakers": breakers or all_,
        "offices": offices or all_,
        "strategy": strategy or all_,
        "capacity": capacity or all_,
        "jobs": jobs or all_,
    }

    async def show(events: AsyncIterator[Event], node_id: str) -> None:
        async for event in events:
            if not concerns(event, node_id=node_id, request_id=request):
                continue
            if json_:
                show_json_line(event)
            else:
                say(line_of_event(event, datetime.fromtimestamp(wall_s()).astimezone()))

    async def main() -> int:
        async with running.connected(bus, name="sollol-watch") as client:
            node_id = await _id_of(client, node) if node else ""
            async with asyncio.TaskGroup() as group:
                for source in _sources(client, wanted):
                    group.create_task(show(source, node_id))
                group.create_task(_say_ready(client))
        return 0

    return running.run(main, is_long=True)


async def _id_of(client: Client, name: str) -> str:
    """The id of the node that is called so; one that is not here yet is taken by its word."""
    try:
        return (await client.node(name)).node_id
    except SollolError as error:
        if error.body.code is ErrorCode.BAD_REQUEST:
            raise
        return name


def _sources(client: Client, wanted: dict[str, bool]) -> list[AsyncIterator[Event]]:
    further: dict[str, tuple[AsyncIterator[Event], ...]] = {
        "outcomes": (client.watch_outcomes(), client.watch_cuts()),
        "preloads": (client.watch_preloads(),),
        "breakers": (client.watch_breakers(),),
        "offices": (client.watch_offices(),),
        "strategy": (client.watch_strategy(),),
        "capacity": (client.watch_scale(), client.watch_sleepers()),
        "jobs": (client.jobs.watch(),),
    }
    chosen = [source for name, is_on in wanted.items() if is_on for source in further[name]]
    return [client.watch_decisions(), client.watch_nodes(), *chosen]


async def _say_ready(client: Client) -> None:
    """Says so once the server knows every subscription; a task that starts after those that subscribe."""
    await client.bus.flush()
    note("watching; Ctrl-C ends")
