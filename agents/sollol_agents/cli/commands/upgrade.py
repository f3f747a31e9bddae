"""`sollol upgrade`: in which order this fleet is restarted, and whether anybody will notice."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec

from sollol_agents.cli import exit_codes, log_lines, running
from sollol_agents.cli.commands.findings import Finding
from sollol_agents.cli.commands.upgrade_plan import Plan, Seen, StreamSeen, plan_of
from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import say, show_json, show_table, tell
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import BusError, NoResponders, NotPermitted, SollolError
from sollol_bus.jetstream.api import api
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.discovery import find_services
from sollol_bus.transport.topology import servers_around
from sollol_schemas import stores
from sollol_schemas.queries import NodeView

_OURS: Final = ("SOLLOL_", "KV_SOLLOL_", "OBJ_SOLLOL_")
_PAGE: Final = 256
_FOREIGN_STREAMS_MAX: Final = 4096


class _Page(msgspec.Struct):
    total: int = 0
    streams: list[StreamSeen] | None = None


@of_commands.for_clients()
def upgrade(
    *,
    bus: BusConfig,
    log: LogConfig,
    check: Annotated[
        bool,
        Parameter(
            has_negative=False, help="End with 1 unless everything can be restarted without a client that notices."
        ),
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Says in which order to restart the fleet, whether versions fit, and what is not safe yet; it restarts nothing.

    Run it from the version to which the fleet is upgraded, before the first restart and after each.
    """
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus, name="sollol-upgrade") as client:
            plan = plan_of(await look(client))
        if json_:
            show_json(plan)
        else:
            show_plan(plan)
        return exit_codes.FAILED if check and not plan.is_safe else exit_codes.OK

    return running.run(main)


async def look(client: Client) -> Seen:
    """What answers in the fleet now."""
    bus = client.bus
    (servers, silent), services, nodes, streams = await asyncio.gather(
        servers_around(bus), find_services(bus), _nodes(client), _streams(bus)
    )
    jobs = sum(one.state.messages for one in streams or () if one.config.name == stores.JOBS_STREAM)
    return Seen(servers=servers, silent=silent, services=services, nodes=nodes, streams=streams, jobs=jobs)


async def _nodes(client: Client) -> tuple[NodeView, ...]:
    try:
        return (await client.nodes()).nodes
    except SollolError:
        return ()  # no scorer is in office, which is found anyway


async def _streams(bus: Bus) -> list[StreamSeen] | None:
    """The streams of this software; None where they may not be looked at."""
    found: list[StreamSeen] = []
    offset, total = 0, 1
    while offset < min(total, _FOREIGN_STREAMS_MAX):
        try:
            page = msgspec.json.decode(await api(bus, "STREAM.LIST", {"offset": offset}), type=_Page)
        except NotPermitted:
            return None
        except (BusError, NoResponders):
            return found
        found += [one for one in page.streams or () if one.config.name.startswith(_OURS)]
        offset, total = offset + _PAGE, page.total
    return found


def show_plan(plan: Plan) -> None:
    """The order as a table, then what was found, then the verdict."""
    rows, before = [], ""
    for one in plan.steps:
        then, before = "" if one.then == before else one.then, one.then
        rows.append((str(one.number), one.what, one.name, one.where or "-", _spoken(one.version, one.contract), then))
    show_table(
        ("", "RESTART", "WHICH", "WHERE", "RUNS", "MEANWHILE"),
        rows,
        numbers=("",),
        first_to_go=("WHERE", "RUNS"),
        is_last_wrapped=True,
    )
    say()
    show_table(("CHECK", "STATE", "FOUND"), map(_found, plan.findings), is_last_wrapped=True)
    for finding in plan.findings:
        if finding.remedy:
            tell(f"{finding.check}: {finding.remedy}", indent="  ")
    if plan.is_safe:
        tell("yes: one at a time, in this order, nobody who asks sees an error")
    else:
        tell("not yet: somebody would notice; what to do stands above")


def _spoken(version: str, contract: int) -> str:
    return f"{version} (contract {contract})" if contract else version


def _found(finding: Finding) -> tuple[str, str, str]:
    return finding.check, finding.level.value, finding.found
