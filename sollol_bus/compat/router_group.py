"""A task router's group of models in a fleet: set when it must be, asked for models, told of results.

The fleet learns from feedback in order and once, a fraction of a second after it was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from sollol_bus.compat.fleet import Fleet
from sollol_bus.compat.house import House, is_on_a_loop
from sollol_bus.compat.router_ledger import RoutingStrategy
from sollol_bus.errors import NoEligibleNode
from sollol_bus.sdk.questions import ask_actor
from sollol_schemas import subjects
from sollol_schemas.events import BreakerState
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest
from sollol_schemas.routing import Routing

LEARNED: Final = frozenset({RoutingStrategy.PERFORMANCE, RoutingStrategy.AFFINITY, RoutingStrategy.HYBRID})
"""What the fleet decides by what it learnt from everybody; the others count turns and tasks of this program."""
_LATEST: Final = ":latest"


class RouterGroup:
    """The group, and what is on its way to the fleet.

    Args:
        house: Where the fleet is.
        name: The group's.
    """

    def __init__(self, house: House, name: str) -> None:
        self.name = name
        self.house = house
        self._kept: tuple[tuple[str, ...], RoutingStrategy] | None = None
        """Models and strategy of the group as it was set last."""

    # -- from any thread ----------------------------------------------------------------------------------

    def tell(self, feedback: FeedbackRequest) -> None:
        """Sends feedback."""
        self._do(lambda fleet: _told(fleet, feedback))

    def close_breaker(self, model: str) -> None:
        """Closes the fleet's breaker of a model."""
        self._do(lambda fleet: _done(fleet.client.close_model_breaker(model)))

    def forget(self) -> None:
        """Forgets what feedback taught of the group's models."""
        if self._kept is not None:
            self._do(lambda fleet: _done(fleet.client.reset_group(self.name)))

    def remove(self) -> None:
        """Removes the group."""
        if self._kept is not None and self.house.is_open:
            self._kept = None
            self._do(lambda fleet: _done(fleet.client.remove_group(self.name)))

    def _do(self, make: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        """Does something in the fleet: waits for it in a plain function, and before the next choice otherwise."""
        if is_on_a_loop():
            self.house.begin(make)
        else:
            self.house.run(make)

    # -- on the fleet's loop ------------------------------------------------------------------------------

    async def keep(self, fleet: Fleet, models: Sequence[str], strategy: RoutingStrategy) -> None:
        """Sets the group, unless it is so already."""
        wanted = (tuple(models), strategy)
        if wanted != self._kept:
            await fleet.client.set_group(self.name, models, strategy=strategy.value)
            self._kept = wanted

    async def able(self, fleet: Fleet, models: Sequence[str]) -> list[str]:
        """Those of the models that a node has and that are well.

        Raises:
            NoEligibleNode: None is.
        """
        view = await fleet.client.group(self.name)
        well = {_plain(one.model) for one in view.members if one.nodes and one.breaker is not BreakerState.OPEN}
        found = [model for model in models if _plain(model) in well]
        if not found:
            raise NoEligibleNode(f"no node has any of {', '.join(models)}; `sollol models` lists what there is")
        return found

    async def learned(self, fleet: Fleet, prompt: str, category: str, models: Sequence[str]) -> str:
        """The model that the fleet would give the prompt to now."""
        event = await fleet.client.route(self.name, prompt, routing=Routing(task_type=category))
        chosen = _plain(event.decision.model)
        return next((model for model in models if _plain(model) == chosen), event.decision.model)


async def _told(fleet: Fleet, feedback: FeedbackRequest) -> None:
    await ask_actor(fleet.client.bus, subjects.FEEDBACK, feedback, FeedbackReply)


async def _done(work: Coroutine[Any, Any, object]) -> None:
    await work


def _plain(model: str) -> str:
    return model.removesuffix(_LATEST)
