"""Nodes in this process, held to the protocol of nodes as `sollol node-check` does it, but faster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from sollol_agents.lab.conformance.bus import PlayedBus
from sollol_agents.lab.conformance.check import RULES, held_to
from sollol_agents.lab.conformance.findings import Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule

_ENDS_WITHIN_S: Final = 2.0
QUICK: Final = Pace(
    join_s=10.0,
    answer_s=1.5,
    quiet_s=0.06,
    beat_s=1.5,
    go_s=0.1,
    deadline_s=0.1,
    unkept_s=0.5,
    claim_s=1.0,
    long=60,
    last=10,
)


class Life(Protocol):
    """A node, from its first word to its last."""

    async def live(self) -> None:
        """Joins, and works until it ends."""

    async def leave(self) -> None:
        """Asks it to end."""


class Living:
    """A node as a process would be: it lives, and can be started again.

    Args:
        make: The node of a numbered life.
    """

    def __init__(self, make: Callable[[int], Life]) -> None:
        self._make = make
        self._lives = 0
        self._node: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] = lambda: None
        """Called whenever a life has ended."""

    async def start(self) -> None:
        """Begins the next life."""
        self._lives += 1
        self._node = self._make(self._lives)
        self._task = asyncio.get_running_loop().create_task(self._node.live())
        self._task.add_done_callback(lambda _: self.on_end())

    async def end(self) -> None:
        """Asks it to end, and returns when it has."""
        assert self._task is not None
        assert self._node is not None
        leaving = asyncio.get_running_loop().create_task(self._node.leave())
        await asyncio.wait({leaving, self._task}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        await asyncio.wait({self._task}, timeout=_ENDS_WITHIN_S)

    async def kill(self) -> None:
        """Ends it without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def seen(
    server: PlayedBus, process: Living, rules: tuple[Rule, ...] = RULES, pace: Pace = QUICK
) -> dict[str, tuple[Kept, str]]:
    """What is seen of each rule."""
    fleet = PlayedFleet(server, pace, process=process)
    process.on_end = fleet.gone
    await fleet.listen()
    await process.start()
    try:
        return {one.rule: (one.kept, one.seen) async for one in held_to(fleet, rules)}
    finally:
        await process.kill()


def unkept(found: dict[str, tuple[Kept, str]]) -> dict[str, str]:
    """What was seen of rules that are not kept, or were not tried."""
    return {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK}
