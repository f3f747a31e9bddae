"""What operators want of nodes, kept so that it outlives every process."""

from __future__ import annotations

import msgspec

from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import stores
from sollol_schemas.control import ControlDrain, ControlSet
from sollol_schemas.steering import Intent, Intents

_NODES_MAX = 2048


def wanted(kept: Intent, asked: ControlDrain | ControlSet) -> Intent:
    """What is wanted of a node after one more request."""
    if isinstance(asked, ControlDrain):
        return msgspec.structs.replace(kept, is_draining=asked.is_draining, lets_finish=asked.lets_finish)
    weight = kept.weight if asked.weight is None else asked.weight
    price = kept.price if asked.price is None else asked.price
    return msgspec.structs.replace(kept, weight=weight, labels=kept.labels | asked.labels, price=price)


class KeptIntents:
    """The operators' intents in the settings bucket.

    Both methods raise what a `Bucket` raises.
    """

    def __init__(self, bus: Bus) -> None:
        self._settings = Bucket(bus, stores.SETTINGS_BUCKET)
        self._claims = Bucket(bus, stores.NODES_BUCKET)

    async def is_known(self, node_id: str) -> bool:
        """Whether a node of this id has ever joined."""
        return (await self._claims.get(f"node.{node_id}")).value is not None

    async def keep(self, node_id: str, asked: ControlDrain | ControlSet) -> None:
        """Keeps one more request; of other writers at the same time none is lost."""
        while True:
            entry = await self._settings.get(stores.INTENTS)
            nodes = dict((entry.decode(Intents) or Intents(nodes={})).nodes)
            after = wanted(nodes.pop(node_id, Intent()), asked)
            if after != Intent():
                nodes[node_id] = after
            while len(nodes) > _NODES_MAX:
                del nodes[next(iter(nodes))]  # what was changed longest ago
            if await self._settings.update(stores.INTENTS, encode(Intents(nodes=nodes)), entry.revision) is not None:
                return
