"""Two servers that lose their line to each other: what was on its way between them is said again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.servers import NatsServer
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.attempts.farewells import End, Farewells
from sollol_agents.node.attempts.leave import Leave
from sollol_agents.node.attempts.speaker import Words
from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, is_no_responders
from sollol_schemas.headers import CHUNKS


class Cluster(NamedTuple):
    """A node's connection to one server, a caller's to the other, and the line between the two."""

    node: Bus
    caller: Bus
    link: Link


def config(port: int, cluster_port: int, route: str = "") -> str:
    routes = f"routes: [{route}], no_advertise: false" if route else ""
    return (
        f'server_name: $NATS_NAME\nlisten: "127.0.0.1:{port}"\n'
        f'cluster {{ name: c, listen: "127.0.0.1:{cluster_port}", {routes} }}\n'
    )


async def connected(port: int) -> Bus:
    made: list[Bus] = []

    async def is_connected() -> bool:
        try:
            made.append(await Bus.connect(BusConfig(url=f"nats://127.0.0.1:{port}", connect_timeout_s=1.0)))
        except ConfigError:
            return False
        return True

    await eventually(is_connected)
    return made[0]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ports, routes = (free_port(), free_port()), (free_port(), free_port())
    async with AsyncExitStack() as floor:
        await floor.enter_async_context(NatsServer(tmp_path, "near", config(ports[0], routes[0])))
        link = await floor.enter_async_context(Link(f"nats://127.0.0.1:{routes[0]}"))
        await floor.enter_async_context(NatsServer(tmp_path, "far", config(ports[1], routes[1], link.url)))
        node, caller = await connected(ports[1]), await connected(ports[0])
        floor.push_async_callback(node.close)
        floor.push_async_callback(caller.close)
        yield Cluster(node, caller, link)
        link.thaw()


async def test_an_end_that_was_lost_between_two_servers_is_said_again(cluster: Cluster) -> None:
    node, caller, link = cluster
    heard: list[Msg] = []
    refused: list[Msg] = []
    inbox = caller.new_inbox()
    caller.subscribe(inbox, heard.append)
    node.subscribe("refusals", refused.append)
    await caller.flush()

    async def is_known() -> bool:
        node.publish(inbox, b"piece", reply="refusals")
        await node.flush()
        return bool(heard)

    await eventually(is_known, complaint="the servers know of each other's callers")
    async with Farewells(node) as farewells:
        node.subscribe("probe.end", lambda msg: farewells.refused("s") if is_no_responders(msg) else None)
        link.freeze()
        end = End(Leave(node, "n1", inbox, ""), (Words(b"", {CHUNKS: "1"}),), "probe", 1, "reports")
        farewells.begin("s", end, is_said=False, is_wanted=True)
        await node.flush()  # its own server has it, and proves nothing of the other
        link.cut()
        await eventually(lambda: any(not msg.data for msg in heard))
    assert node.reconnects == 0
    assert caller.reconnects == 0
