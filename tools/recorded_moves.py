"""An answer that moves, for the messages that are recorded of a running fleet."""

from __future__ import annotations

from sollol_agents.lab.testing.stack import MODEL, EmulatedSystem
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects


async def drain_in_the_middle(system: EmulatedSystem) -> None:
    """Drains a node that is answering: another one goes on with the answer."""
    client = system.client
    body = encode({"model": MODEL, "prompt": "count down from 400", "stream": True})
    async with client.call(subjects.GENERATE, body) as call:
        drained = ""
        async for _ in call:
            if not drained:
                drained = call.decisions[0].node_id
                await client.drain(drained)
    await client.undrain(drained)
