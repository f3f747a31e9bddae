"""Three nats-servers of one cluster on the loopback, one of which can be cut off from the two others."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from sollol_agents.lab.link import Link
from sollol_agents.lab.testing.ports import free_port
from sollol_agents.lab.testing.servers import NatsServer
from sollol_bus.parts import Part

_NEAR: Final = ("a", "b")
_FAR: Final = "x"
_CONFIG: Final = """\
server_name: $NATS_NAME
listen: 127.0.0.1:{client}
ping_interval: "5s"
max_payload: 8388608
jetstream {{ store_dir: $NATS_STORE_DIR }}
cluster {{
  name: sollol
  listen: 127.0.0.1:{route}
  cluster_advertise: "{told}"
  routes: [{routes}]
}}
"""


class Cluster(Part):
    """Servers `a` and `b` and, on the far side of two links, `x`.

    Args:
        folder: Where their files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients = {name: free_port() for name in (*_NEAR, _FAR)}
        self._routes = {name: free_port() for name in (*_NEAR, _FAR)}
        self._links = {name: Link(f"nats://127.0.0.1:{self._routes[name]}") for name in _NEAR}
        self._parts = AsyncExitStack()

    def url(self, name: str) -> str:
        """Where clients of one server connect."""
        return f"nats://127.0.0.1:{self._clients[name]}"

    async def start(self) -> None:
        """Starts the servers; their store has a leader some seconds later."""
        for link in self._links.values():
            await self._parts.enter_async_context(link)
        for name in (*_NEAR, _FAR):
            await self._parts.enter_async_context(NatsServer(self._folder, name, self._config(name)))

    async def close(self) -> None:
        """Ends them."""
        await self._parts.aclose()

    def cut(self) -> None:
        """Parts `x` from the others."""
        for link in self._links.values():
            link.bar()

    def heal(self) -> None:
        """Lets `x` back."""
        for link in self._links.values():
            link.thaw()

    def _config(self, name: str) -> str:
        over = {near: link.url for near, link in self._links.items()}
        ways = {
            near: [f"nats://127.0.0.1:{self._routes[other]}"] for near, other in zip(_NEAR, _NEAR[::-1], strict=True)
        }
        # whoever hears of `x` by hearsay finds nobody there, and `x` finds the others by the links alone
        told = over.get(name, f"nats://127.0.0.1:{free_port()}").removeprefix("nats://")
        routes = ", ".join(ways.get(name, [*over.values()]))
        return _CONFIG.format(client=self._clients[name], route=self._routes[name], told=told, routes=routes)
