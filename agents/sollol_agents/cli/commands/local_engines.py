"""The engines of this machine: each joins the fleet of `sollol up`, whenever it starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import msgspec

from sollol_agents.cli.commands.engine_places import is_listening, port_of
from sollol_agents.cli.open_doors import is_loopback
from sollol_agents.cli.output import is_terminal, say
from sollol_agents.node.config import NodeConfig, engine_url, node_id_of
from sollol_agents.node.engines.probing import Probed, probe
from sollol_agents.stack import LocalStack
from sollol_bus.errors import SollolError

log = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 2.0
_STRANGER_S: Final = 30.0
"""What answers there and is no engine is asked again only after so long."""


class LocalEngines:
    """Looks for engines on this machine for as long as the fleet runs, and starts a node beside each, once.

    A node stays when its engine goes; it tells that, and goes on when the engine is back.

    Args:
        stack: The fleet.
        config: Settings of the nodes; with a URL, its engine is the only one that is meant, here or not.
        urls: Where to look; the first engine's node has the machine's name, the others' one with their port.
        not_these: Further ports on which this program itself listens.
        look_s: Within so many seconds an engine must answer.
    """

    def __init__(
        self,
        stack: LocalStack,
        config: NodeConfig,
        urls: Collection[str] = (),
        not_these: Collection[int] = (),
        *,
        look_s: float = 2.0,
    ) -> None:
        self._look_s = look_s
        self._stack = stack
        self._config = config
        self._urls = tuple(urls)
        own = {port_of(url) for url in (stack.http_url, stack.nats_url, stack.metrics_url)}
        self._own_ports = frozenset(own | set(not_these))
        self._said: set[str] = set()
        self._pauses: dict[str, float] = {}
        self.found: dict[str, tuple[str, Probed | None]] = {}
        """The engines that joined: by their URL the node's id, and what was found there."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it looks."""
        return tuple(port for port in map(port_of, self._urls) if port not in self._own_ports)

    async def first_look(self) -> None:
        """Returns when every engine that runs at this moment has joined."""
        if self._config.url:
            await self._join(self._config.url, None)
            return
        for url in self._places():
            await self._look_at(url)

    async def run(self) -> None:
        """Looks on, every two seconds, for ever; a place where a stranger listens every half a minute."""
        while not self._config.url:
            await asyncio.sleep(_LOOK_EVERY_S)
            for url in self._places():
                pause_s = self._pauses.get(url, 0.0) - _LOOK_EVERY_S
                if pause_s > 0:
                    self._pauses[url] = pause_s
                else:
                    await self._look_at(url)

    def _places(self) -> list[str]:
        """Where an engine may be that has not joined; it is ourselves that listen at some."""
        return [url for url in self._urls if url not in self.found and port_of(url) not in self._own_ports]

    async def _look_at(self, url: str) -> None:
        self._pauses.pop(url, None)
        if not await is_listening(url):
            return
        try:
            there = await probe(NodeConfig(url=url), timeout_s=self._look_s)
            if there.kind is not None and not await self._is_fronted(url) and await self._join(url, there):
                return
        except SollolError as error:
            log.debug("the fleet cannot be asked about the local engine now: %s", error)
            return
        if there.wants_key:
            self._tell(f"what answers at {url} wants a key: sollol node --url {url} --engine-api-key KEY")
        self._pauses[url] = _STRANGER_S

    async def _is_fronted(self, url: str) -> bool:
        """Whether an agent on this machine has made it a node already."""
        async with self._stack.client() as client:
            views = (await client.nodes()).nodes
        mine = (view for view in views if view.telemetry.host == socket.gethostname() and not view.has_left)
        return any(_place(view.telemetry.engine.url) == _place(url) for view in mine)

    async def _join(self, url: str, there: Probed | None) -> bool:
        if not self._stack.takes_nodes:
            self._tell(f"the engine at {url} needs a node with credentials: `sollol node --config FILE`")
            return False
        config = self._config if there is None else self._config_for(url, there)
        if config is None:
            node_id = node_id_of(self._config)
            self._tell(
                f"the engine at {url} stays out: this machine is one member, {node_id}, and has an engine; "
                f"`sollol up` takes this one instead when SOLLOL_NODE_URL={url} is set"
            )
            return False
        try:
            node = await self._stack.add_node(config)
        except SollolError as error:
            self._tell(f"no node beside the engine at {url}: {error}")
            return False
        node_id = str(getattr(node, "node_id", node.instance))
        self.found[url] = node_id, there
        if not is_terminal():
            say(f"node {node_id}")
        return True

    def _config_for(self, url: str, there: Probed) -> NodeConfig | None:
        """Settings of the node beside an engine; None when this machine may have no further node."""
        node_id = node_id_of(self._config)
        if self._stack.is_one_member:
            if self.found:
                return None
        elif url != self._urls[0]:
            node_id = f"{node_id[:50]}-{port_of(url)}"
        assert there.kind is not None
        return msgspec.structs.replace(self._config, node_id=node_id, url=url, engine=there.kind.value)

    def _tell(self, why: str) -> None:
        """Says what keeps it out, once."""
        if why not in self._said:
            self._said.add(why)
            log.warning("%s", why, extra={"action": "local_node_skipped"})


def _place(url: str) -> str:
    """An engine's address on this machine, under whichever name it is dialled."""
    made = engine_url(url)
    host = urlsplit(made).hostname or ""
    return str(port_of(made)) if is_loopback(host) else made
