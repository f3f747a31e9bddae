"""As many machines awake as are needed: scale signals, sleep and waking, for the scorer in office."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.office.fleet_events import tell_of_fleet
from sollol_agents.scorer.office.scale_signals import ScaleSignals
from sollol_agents.scorer.office.sleep_desk import SleepDesk
from sollol_agents.scorer.office.waking import Waking
from sollol_bus.parts import Part, Spawn
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.subscription import Subscription
from sollol_schemas.scaling import ScaleEvent, ScaleVerdict, SleepEvent


class Capacity(Part):
    """What is done about the number of slots.

    Args:
        bus: The scorer's connection.
        core: What decides.
        config: How nodes are woken from here, and where signals are posted.
        spawn: Runs a coroutine as a task of the actor.
        carry_out: Sends effects, while in office.
    """

    def __init__(
        self,
        bus: Bus,
        core: SchedulerCore,
        config: ScorerConfig,
        spawn: Spawn,
        carry_out: Callable[[Iterable[Effect]], None],
    ) -> None:
        self._bus = bus
        self._core = core
        self._spawn = spawn
        self._carry_out = carry_out
        self._waking = Waking(bus, core, config, spawn)
        self._signals = ScaleSignals(bus, config)
        self._desk = SleepDesk(bus, core, spawn, carry_out)

    async def start(self) -> None:
        """Learns which nodes sleep, and begins to post signals."""
        await self._waking.recall()
        self._spawn(self._signals.run(), name="scale signals")

    async def close(self) -> None:
        """Posts no more."""
        await self._signals.close()

    def open(self) -> list[Subscription]:
        """Takes questions; for the scorer in office."""
        return self._desk.open()

    def look(self, now: float) -> None:
        """Looks at slots and at who sleeps; once a second, in office."""
        self._carry_out(self._core.sleepers.look(now))
        self._waking.look(now)

    def figures(self, now: float) -> dict[str, float]:
        """What metrics show: who sleeps, and the seconds and slots behind the signals."""
        views = [scale.view(now) for scale in self._core.sleepers.scale.models.values()]
        return {
            "sleeping_nodes": sum(node.is_asleep for node in self._core.fleet.nodes.values()),
            "short_models": sum(view.verdict is ScaleVerdict.TOO_FEW for view in views),
            "saved_s": max((view.saved_s for view in views), default=0.0),
            "spare_slots": min((view.spare_slots for view in views), default=0),
        }

    def tell(self, event: ScaleEvent | SleepEvent) -> None:
        """Tells what the core decided, and does it."""
        if isinstance(event, ScaleEvent):
            self._signals.tell(event)
        else:
            tell_of_fleet(self._bus, event)
            self._waking.on_event(event)
