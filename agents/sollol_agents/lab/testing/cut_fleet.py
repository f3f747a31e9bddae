"""A gateway and two nodes before one engine, whose connections are cut in the middle of its answers.

async with CutFleet(tmp_path, "ollama", engine_url) as fleet:
    raw = await fleet.ask("/v1/chat/completions", {"messages": messages}, 3, 5)
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.scissors import Scissors
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_bus.parts import Part
from sollol_schemas.telemetry import NodeState

COUNTDOWN: Final = "countdown"
"""The model that is asked."""
_NODES: Final = ("n0", "n1")


class CutFleet(Part):
    """The fleet, in this process.

    Args:
        folder: Where it keeps its files.
        kind: What the engine speaks: `ollama` or `openai`.
        engine_url: Where it listens.
        gateway: Settings of the gateway; its port is any that is free.
    """

    system: EmulatedSystem

    def __init__(self, folder: Path, kind: str, engine_url: str, **gateway: Any) -> None:  # noqa: ANN401 settings
        self._folder = folder
        self._kind = kind
        self._engine_url = engine_url
        self._gateway = GatewayConfig(port=0, **gateway)
        self._floor = AsyncExitStack()
        self.cuts: list[int] = []
        """Of how many pieces the next answers of the engine are to consist, one after the other."""

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return self.system.gateway.url

    async def start(self) -> None:
        """Returns when both nodes are up."""
        enter = self._floor.enter_async_context
        lines = [await enter(Scissors(self._engine_url, self.cuts)) for _ in _NODES]
        self.system = await enter(EmulatedSystem(self._folder, nodes=0, gateway=self._gateway))
        for node_id, line in zip(_NODES, lines, strict=True):
            await self.system.stack.add_engine(line.url, node_id=node_id, engine=self._kind, slots=4)
        await eventually(self._are_up, complaint="both nodes are up")

    async def close(self) -> None:
        """Stops everything."""
        await self._floor.aclose()

    async def ask(self, path: str, body: dict[str, Any], *cuts: int) -> bytes:
        """What the gateway answers while the engine's connections are cut.

        Args:
            path: One that streams.
            body: Without model, stream and temperature.
            cuts: After how many pieces of the answer, and then of each rest, the connection ends.
        """
        self.cuts[:] = cuts
        asked = {"model": COUNTDOWN, "stream": True, "temperature": 0} | body
        reply = await self.system.http.post(path, json=asked)
        assert reply.status_code == 200, reply.text
        assert not self.cuts, f"the answer was over before it was cut after {self.cuts} pieces"
        return reply.content

    async def _are_up(self) -> bool:
        views = (await self.system.client.nodes()).nodes
        return sum(view.state is NodeState.UP for view in views) == len(_NODES)
