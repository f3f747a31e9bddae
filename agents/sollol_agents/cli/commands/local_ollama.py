"""The Ollama of this machine: it joins the fleet of `sollol up`, whenever it starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Final

import msgspec

from sollol_agents.cli.output import say
from sollol_agents.node.config import OLLAMA_URL, NodeConfig
from sollol_agents.node.engines.probing import probe
from sollol_agents.stack import LocalStack
from sollol_bus.errors import SollolError

log = logging.getLogger(__name__)

_CONNECT_S: Final = 0.3
_LOOK_EVERY_S: Final = 2.0
_STRANGER_S: Final = 30.0
"""What answers there and is no Ollama is asked again only after so long."""
_PROBE_S: Final = 2.0


class LocalOllama:
    """Looks for an Ollama at its usual address until there is one, and starts a node beside it, once.

    Args:
        stack: The fleet.
        config: Settings of the node; with a URL, its engine is what is meant, here or not.
        url: Where an Ollama usually is.
    """

    def __init__(self, stack: LocalStack, config: NodeConfig, url: str = OLLAMA_URL) -> None:
        self._stack = stack
        self._config = config
        self._url = url
        self._said = ""

    async def first_look(self) -> bool:
        """Whether there is nothing to look for any more: the node runs, or no node is to run here."""
        if self._config.url:
            await self._join()
            return True
        if _port_of(self._stack.http_url) == _port_of(self._url):
            return True  # it is our own gateway that listens there
        return await is_listening(self._url) and await self._take()

    async def run(self) -> None:
        """Looks on, every two seconds, until an Ollama has joined."""
        pause_s = _LOOK_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            is_there = await is_listening(self._url)
            if is_there and await self._take():
                return
            pause_s = _STRANGER_S if is_there else _LOOK_EVERY_S

    async def _take(self) -> bool:
        """Starts a node when it is an Ollama that none fronts yet; whether that is settled."""
        found = await probe(NodeConfig(url=self._url, engine="ollama"), timeout_s=_PROBE_S)
        try:
            return found.kind is not None and not await self._is_fronted() and await self._join()
        except SollolError as error:
            log.debug("the fleet cannot be asked about the local engine now: %s", error)
            return False

    async def _is_fronted(self) -> bool:
        """Whether an agent on this machine has made it a node already."""
        async with self._stack.client() as client:
            views = (await client.nodes()).nodes
        mine = (view.telemetry for view in views if view.telemetry.host == socket.gethostname())
        return any(told.engine.url == self._url for told in mine)

    async def _join(self) -> bool:
        if not self._stack.takes_nodes:
            self._tell("the engine on this machine needs a node with credentials: `sollol node --config FILE`")
            return True
        try:
            node = await self._stack.add_node(
                self._config if self._config.url else msgspec.structs.replace(self._config, url=self._url)
            )
        except SollolError as error:
            self._tell(f"no node beside the local engine: {error}")
            return False
        say(f"node {getattr(node, 'node_id', node.instance)}")
        return True

    def _tell(self, why: str) -> None:
        """Says what keeps it out, once."""
        if why != self._said:
            self._said = why
            log.warning("%s", why, extra={"action": "local_node_skipped"})


async def is_listening(url: str = OLLAMA_URL) -> bool:
    """Whether something on this machine accepts connections at the port of `url`."""
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", _port_of(url))
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _port_of(url: str) -> int:
    port = url.rpartition(":")[2]
    return int(port) if port.isdigit() else 0
