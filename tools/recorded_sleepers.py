"""A node that sleeps and is woken, for the messages that are recorded of a running fleet."""

from __future__ import annotations

import sys

from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually


async def sleep_and_wake(system: EmulatedSystem) -> None:
    """Sends a node to sleep whose command suspends nothing, and wakes it."""
    client = system.client
    await system.node("n4", sleep_command=f"{sys.executable} -SE -c pass", wake_mac="00:00:5e:00:53:01")

    async def is_(condition: str) -> bool:
        return any(v.node_id == "n4" and v.condition == condition for v in (await client.nodes()).nodes)

    await client.sleep_node("n4")
    await eventually(is_, "asleep", complaint="n4 sleeps")
    await client.wake_node("n4")
    await eventually(is_, "up", complaint="n4 is awake")
    await client.scale()
