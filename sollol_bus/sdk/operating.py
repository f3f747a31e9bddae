"""What an operator asks of the fleet, and what anybody may watch; the client's other half."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from sollol_bus.errors import error_from
from sollol_bus.sdk.fleet_questions import Asking
from sollol_bus.sdk.group_making import group_of, only
from sollol_bus.sdk.questions import ask_many
from sollol_bus.sdk.results import Answer
from sollol_bus.sdk.routing_fields import called_here
from sollol_bus.sdk.warming import Warmed, beginning, warmed
from sollol_bus.transport.messages import decode
from sollol_bus.transport.watching import watch
from sollol_schemas import subjects
from sollol_schemas.continuation import Cut
from sollol_schemas.control import STILL_AT_IT, AdminRequest, ControlReply
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent, Outcome, PreloadEvent
from sollol_schemas.groups import (
    CloseModelBreaker,
    ForgetQuality,
    GroupsReply,
    GroupsRequest,
    GroupView,
    RemoveGroup,
    SetGroup,
)
from sollol_schemas.prices import NodePrice
from sollol_schemas.queries import ReliabilityReply, ReliabilityRequest
from sollol_schemas.routing import Routing
from sollol_schemas.scaling import ScaleEvent, ScaleReply, SleepersReply, SleepersRequest, SleepEvent
from sollol_schemas.steering import BreakerRequest, BreakersReply, StrategyEvent, StrategyReply, StrategyRequest

T = TypeVar("T")


class Operating(Asking):
    """Operators' requests and events, over the connection of whoever inherits this.

    Nodes may be called by id, host, address, `host:port`, URL or `localhost`.
    """

    @abstractmethod
    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, object]],
        *,
        routing: Routing | None = None,
        **fields: Any,  # noqa: ANN401 of Ollama's body
    ) -> Answer:
        """The whole next message of a conversation."""

    @abstractmethod
    async def route(self, model: str, prompt: str = "", *, routing: Routing | None = None) -> DecisionEvent:
        """Where a request would run now, and why; nothing is reserved."""

    # -- operations ---------------------------------------------------------------------------------------

    async def drain(self, node_id: str, *, lets_finish: bool = False) -> ControlReply:
        """Takes a node out of service; answers that can go on elsewhere do, the others finish.

        Args:
            node_id: The node.
            lets_finish: Whether all of them finish where they are.
        """
        return await self._admin("drain", AdminRequest(node_id=called_here(node_id), lets_finish=lets_finish))

    async def undrain(self, node_id: str) -> ControlReply:
        """Puts a drained node back into service."""
        return await self._admin("undrain", AdminRequest(node_id=called_here(node_id)))

    async def load(self, node_id: str, model: str, keep_alive_s: float | None = None) -> ControlReply:
        """Loads a model into a node's memory."""
        return await self._admin(
            "load", AdminRequest(node_id=called_here(node_id), model=model, keep_alive_s=keep_alive_s)
        )

    async def unload(self, node_id: str, model: str) -> ControlReply:
        """Unloads a model from a node's memory; refused while it is busy."""
        return await self._admin("unload", AdminRequest(node_id=called_here(node_id), model=model))

    async def set_node(
        self,
        node_id: str,
        *,
        weight: float | None = None,
        labels: dict[str, str] | None = None,
        price: NodePrice | None = None,
    ) -> ControlReply:
        """Changes a node's weight, labels or price; a price replaces the one before as a whole."""
        asked = AdminRequest(node_id=called_here(node_id), weight=weight, labels=labels or {}, price=price)
        return await self._admin("set", asked)

    async def warm(
        self,
        model: str,
        system: str = "",
        prompt: str = "",
        *,
        nodes: Sequence[str] = (),
        count: int = 1,
        routing: Routing | None = None,
        **fields: Any,  # noqa: ANN401 of Ollama's body
    ) -> AsyncIterator[Warmed]:
        """Computes the beginning of prompts on nodes, so that requests with it start sooner there.

        Args:
            model: The model.
            system: The system prompt, as the requests will have it.
            prompt: What their first message begins with.
            nodes: Where, by id, host, address or URL; none: on the best ones.
            count: On how many of these.
            routing: Everything else: priority, labels.
            fields: Further fields of Ollama's body, such as `keep_alive`.

        Yields:
            What became of each node, in the order in which they are done; an error stands for itself alone.

        Raises:
            BadRequest: The beginning is too short to be worth it.
            SollolError: No node could do it.
        """
        messages, chosen = beginning(system, prompt), routing or Routing()
        if not nodes:
            choice = await self.route(model, f"{system}{prompt}", routing=chosen)
            first = choice.decision.node_id
            others = [one.node_id for one in sorted(choice.candidates, key=lambda one: one.total_s)]
            nodes = [first, *(one for one in others if one != first)][: max(1, count)]

        async def ask(where: Routing) -> Answer:
            return await self.chat(model, messages, routing=where, max_tokens=1, **fields)

        async for one in warmed(ask, nodes, chosen):
            yield one

    async def strategy(self) -> StrategyReply:
        """The scorer's strategy, those that could be chosen, and the settings that may change."""
        return await self._ask(subjects.ADMIN_STRATEGY, StrategyRequest(), StrategyReply)

    async def set_strategy(self, name: str | None = None, **settings: float) -> StrategyReply:
        """Chooses a strategy or changes settings at run time; what waits, waits on."""
        asked = StrategyRequest(strategy=name, settings=settings)
        return await self._ask(subjects.ADMIN_STRATEGY, asked, StrategyReply)

    async def breakers(self) -> BreakersReply:
        """The circuit breakers that are open, on trial, or have seen failures."""
        return await self._ask(subjects.ADMIN_BREAKER, BreakerRequest(), BreakersReply)

    async def reset_breakers(self, node_id: str = "", model: str = "") -> BreakersReply:
        """Closes circuit breakers by force: all, one node's, or one model's on it."""
        asked = BreakerRequest(reset=True, node_id=called_here(node_id), model=model)
        return await self._ask(subjects.ADMIN_BREAKER, asked, BreakersReply)

    async def sleepers(self) -> SleepersReply:
        """The nodes that may sleep, and what happened to them last."""
        return await self._ask(subjects.ADMIN_SLEEPERS, SleepersRequest(), SleepersReply)

    async def sleep_node(self, node_id: str) -> SleepersReply:
        """Sends a node to sleep, if nothing runs there; returns once it has said that it goes."""
        asked = SleepersRequest(sleep=called_here(node_id))
        return await self._ask(subjects.ADMIN_SLEEPERS, asked, SleepersReply, timeout_s=10.0)

    async def wake_node(self, node_id: str) -> SleepersReply:
        """Has a node woken that sleeps; returns at once."""
        return await self._ask(subjects.ADMIN_SLEEPERS, SleepersRequest(wake=called_here(node_id)), SleepersReply)

    async def scale(self) -> ScaleReply:
        """Whether each model that was asked for lately has too few slots or too many."""
        return await self._ask(subjects.SCALE, None, ScaleReply)

    async def forget_reliability(self, node_id: str = "", model: str = "") -> ReliabilityReply:
        """Deletes recorded outcomes, and begins all counts of success anew: everybody's, one node's, one model's.

        Returns:
            What is left. Statistics and explanations of these requests are gone with them.
        """
        asked = ReliabilityRequest(node_id=called_here(node_id), model=model)
        return await self._ask(subjects.ADMIN_METRICS_RESET, asked, ReliabilityReply)

    async def pull(self, node_id: str, model: str) -> AsyncIterator[dict[str, Any]]:
        """Downloads a model to a node; gives the engine's progress objects."""
        asked = AdminRequest(node_id=called_here(node_id), model=model)
        answers = ask_many(self.bus, subjects.ADMIN_NODE.of("pull"), asked)
        async with aclosing(answers):
            async for msg in answers:
                if msg.data != STILL_AT_IT:
                    yield decode(msg.data, dict[str, Any])

    async def _admin(self, operation: str, asked: AdminRequest) -> ControlReply:
        reply = await self._ask(subjects.ADMIN_NODE.of(operation), asked, ControlReply, timeout_s=600.0)
        if reply.error is not None:
            raise error_from(reply.error)
        return reply

    # -- groups of models ---------------------------------------------------------------------------------

    async def groups(self) -> GroupsReply:
        """Every group of models, `auto` among them, with what was learnt of each model."""
        return await self._ask(subjects.SCORER_GROUPS, GroupsRequest(), GroupsReply)

    async def group(self, name: str) -> GroupView:
        """One group of models, with what was learnt of each.

        Raises:
            SollolError: There is none of this name.
        """
        return only(name, await self._ask(subjects.SCORER_GROUPS, GroupsRequest(name=name), GroupsReply))

    async def set_group(
        self,
        name: str,
        models: Sequence[str] | Mapping[str, float],
        *,
        strategy: str = "cost",
        patience_s: float = 30.0,
        candidate: str | None = None,
        share: float = 0.1,
    ) -> GroupView:
        """Makes a group of models, or replaces the one of this name; a request may then name it like a model.

        Args:
            name: What requests name.
            models: Its models; or by model its weight, 1 for one that is neither preferred nor avoided.
            strategy: How it picks: see `sollol_schemas.groups.GroupStrategy`.
            patience_s: What a bad answer costs its reader, in seconds, beside the time that it took.
            candidate: A model on trial beside the others.
            share: Which share of the group's requests the candidate gets.

        Raises:
            BadRequest: A value cannot be used.
            Conflict: A model bears this name.
        """
        group = group_of(name, models, strategy=strategy, patience_s=patience_s, candidate=candidate, share=share)
        return only(name, await self._ask(subjects.SCORER_GROUPS_SET, SetGroup(group=group), GroupsReply))

    async def remove_group(self, name: str) -> GroupsReply:
        """Removes a group; what was learnt of its models stays. Returns the groups that are left."""
        await self._ask(subjects.SCORER_GROUPS_SET, RemoveGroup(name=name), GroupsReply)
        return await self.groups()

    async def reset_group(self, name: str = "", *, model: str = "") -> GroupsReply:
        """Forgets what feedback taught of a group's models, of one model, or of every model; returns all groups."""
        await self._ask(subjects.SCORER_GROUPS_SET, ForgetQuality(name=name, model=model), GroupsReply)
        return await self.groups()

    async def close_model_breaker(self, model: str) -> GroupsReply:
        """Closes a model's circuit breaker by force, on every node too; returns all groups."""
        await self._ask(subjects.SCORER_GROUPS_SET, CloseModelBreaker(model=model), GroupsReply)
        return await self.groups()

    # -- watching -----------------------------------------------------------------------------------------

    def watch_decisions(self) -> AsyncIterator[DecisionEvent]:
        """Every routing decision from now on."""
        return watch(self.bus, subjects.ROUTING_EVENT.all, DecisionEvent)

    def watch_outcomes(self) -> AsyncIterator[Outcome]:
        """How every attempt ended, from now on; for control and observer credentials."""
        return watch(self.bus, subjects.OUTCOME_EVENT.all, Outcome)

    def watch_cuts(self) -> AsyncIterator[Cut]:
        """Every answer that a scorer moves in its middle, from now on; for control and observer credentials."""
        return watch(self.bus, subjects.CUT_EVENT.all, Cut)

    def watch_nodes(self) -> AsyncIterator[NodeEvent]:
        """Every change of a node's state from now on."""
        return watch(self.bus, subjects.NODE_EVENT.all, NodeEvent)

    def watch_preloads(self) -> AsyncIterator[PreloadEvent]:
        """Every model that the scorer had loaded ahead of need, from now on."""
        return watch(self.bus, subjects.PRELOAD_EVENT.all, PreloadEvent)

    def watch_sleepers(self) -> AsyncIterator[SleepEvent]:
        """Every node that goes to sleep, is woken, is back or did not come, from now on."""
        return watch(self.bus, subjects.SLEEP_EVENT.all, SleepEvent)

    def watch_scale(self) -> AsyncIterator[ScaleEvent]:
        """Every model that has too few slots, too many or enough again, from now on."""
        return watch(self.bus, subjects.SCALE_EVENT, ScaleEvent)

    def watch_breakers(self) -> AsyncIterator[BreakerEvent]:
        """Every change of a circuit breaker from now on."""
        return watch(self.bus, subjects.BREAKER_EVENT.all, BreakerEvent)

    def watch_offices(self) -> AsyncIterator[OfficeEvent]:
        """Which scorer took or left office, from now on; for control and observer credentials."""
        return watch(self.bus, subjects.OFFICE_EVENT.all, OfficeEvent)

    def watch_strategy(self) -> AsyncIterator[StrategyEvent]:
        """Every change of the strategy or of its settings from now on."""
        return watch(self.bus, subjects.STRATEGY_EVENT, StrategyEvent)
