"""Makes the fleet what operators want it to be: nodes kept out of service, weights, labels and prices.

An operator's intent lies in the settings bucket and outlives processes. Every scorer keeps drained nodes out from
the moment they join; the one in office tells a node that shows something else what is wanted of it, until it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_bus.errors import NotConnected
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.parts import Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ControlDrain, ControlSet
from sollol_schemas.steering import Intent, Intents
from sollol_schemas.telemetry import NodeState, Telemetry


def untold(intent: Intent, told: Telemetry) -> list[ControlDrain | ControlSet]:
    """What a node must be told, going by what it says of itself."""
    wanted: list[ControlDrain | ControlSet] = []
    if intent.is_draining and not told.is_draining:
        wanted.append(ControlDrain(is_draining=True, lets_finish=intent.lets_finish))
    labels = {name: value for name, value in intent.labels.items() if told.labels.get(name, "") != value}
    weight = intent.weight if intent.weight != told.weight else None
    price = intent.price if intent.price != told.price else None
    if labels or weight is not None or price is not None:
        wanted.append(ControlSet(weight=weight, labels=labels, price=price))
    return wanted


class OperatorsIntents:
    """Follows the intents that are kept.

    Args:
        bus: A connection on which the settings bucket exists.
        core: Whose fleet it is.
        spawn: Runs a coroutine as a task of the actor.
        carry_out: Sends effects, while in office.
    """

    def __init__(
        self, bus: Bus, core: SchedulerCore, spawn: Spawn, carry_out: Callable[[Iterable[Effect]], None]
    ) -> None:
        self._bus = bus
        self._core = core
        self._carry_out = carry_out
        self._bucket = Bucket(bus, stores.SETTINGS_BUCKET)
        spawn(self._follow(), name="intents")

    def look(self) -> None:
        """Tells nodes that show something else what is wanted of them; for the scorer in office."""
        for node_id, intent in self._core.fleet.intents.items():
            node = self._core.fleet.nodes.get(node_id)
            if node is None or node.state is NodeState.DOWN:
                continue
            try:
                for wanted in untold(intent, node.telemetry):
                    self._bus.publish(subjects.NODE_CONTROL.of(node_id), encode(wanted))
            except NotConnected:
                return

    async def _follow(self) -> None:
        async for kept in self._bucket.follow(stores.INTENTS, Intents):
            self._core.fleet.adopt_intents((kept or Intents(nodes={})).nodes)
            self._carry_out(self._core.tick(time.monotonic()))  # whoever is back in service is so from now on
