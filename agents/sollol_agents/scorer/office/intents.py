"""Makes the fleet what operators want it to be: nodes kept out of service, weights, labels and prices.

An operator's intent lies in the settings bucket and outlives processes. Every scorer keeps drained nodes out from
the moment they join; the one in office tells a node that shows something else what is wanted of it, until it does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

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

log = logging.getLogger(__name__)


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
        self._drained: set[str] = set()
        """Nodes told to drain since intents were read last: that may have been over already."""
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
                    if isinstance(wanted, ControlDrain):
                        self._drained.add(node_id)
            except NotConnected:
                return

    def adopt(self, intents: dict[str, Intent]) -> None:
        """Takes over what operators want, as it was read just now."""
        self._core.fleet.adopt_intents(intents)
        self._take_back(intents)
        self._carry_out(self._core.tick(time.monotonic()))  # whoever is back in service is so from now on

    async def _follow(self) -> None:
        async for kept in self._bucket.follow(stores.INTENTS, Intents):
            self.adopt((kept or Intents(nodes={})).nodes)

    def _take_back(self, intents: Mapping[str, Intent]) -> None:
        """Lets nodes in again that were told to drain when an operator had just let them in."""
        drained, self._drained = self._drained, set()
        for node_id in sorted(drained):
            if not intents.get(node_id, Intent()).is_draining:
                try:
                    self._bus.publish(subjects.NODE_CONTROL.of(node_id), encode(ControlDrain(is_draining=False)))
                except NotConnected:
                    log.warning(
                        "%s drains although nobody wants it: undrain it", node_id, extra={"action": "still_drained"}
                    )
