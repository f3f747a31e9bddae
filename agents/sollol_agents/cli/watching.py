"""`sollol watch`: decisions and node events as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from sollol_agents.cli import fleet, logs, running
from sollol_agents.cli.flags import with_settings
from sollol_agents.cli.logs import LogConfig
from sollol_agents.cli.output import note, say, seconds, show_json_line
from sollol_bus.connection import BusConfig
from sollol_schemas.decision import Decision
from sollol_schemas.events import NodeEvent


@with_settings(fleet.KNOWN, **fleet.CLIENT)
def watch(*, bus: BusConfig, log: LogConfig, json_: fleet.JsonFlag = False) -> int:
    """Prints every routing decision and every change of a node, until Ctrl-C."""
    logs.set_up(log)

    async def show(events: AsyncIterator[Decision] | AsyncIterator[NodeEvent]) -> None:
        async for event in events:
            if json_:
                show_json_line(event)
            else:
                say(line_of_event(event, datetime.now().astimezone()))

    async def main() -> int:
        async with running.connected(msgspec.structs.replace(bus, name="sollol-watch")) as client:
            if not json_:
                note("watching; Ctrl-C ends")
            async with asyncio.TaskGroup() as group:
                group.create_task(show(client.watch_decisions()))
                group.create_task(show(client.watch_nodes()))
        return 0

    return running.run(main)


def line_of_event(event: Decision | NodeEvent, at: datetime) -> str:
    """One event on one line."""
    clock = at.strftime("%H:%M:%S")
    if isinstance(event, NodeEvent):
        before = f" (was {event.previous.value})" if event.previous else ""
        return f"{clock} node {event.node_id} is {event.state.value}{before} {event.reason}".rstrip()
    made = event.summary
    question = "would run" if event.is_dry_run else "runs"
    return (
        f"{clock} [{made.mode}] {made.request_id} {event.model} {question} on {made.node_id}, waited "
        f"{seconds(made.queue_s)}, predicted {seconds(made.predicted_s)}: {made.reason}"
    )
