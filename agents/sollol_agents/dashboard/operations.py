"""What a page may ask for, by name: questions, and the operations of an administrator.

Each operation is a Struct with its arguments, checked when it is decoded, and a method that does it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, TypeAlias

import msgspec
from msgspec import Meta

from sollol_agents.fleet_view.view import FleetView
from sollol_agents.fleet_view.waits import waited_s
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import priority_of
from sollol_bus.transport.discovery import find_services
from sollol_schemas import owners
from sollol_schemas.contrasts import contrast
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.routing import PriorityOrName, Routing, RoutingMode
from sollol_schemas.units import BusId, Weight

log = logging.getLogger(__name__)

_TEXT_MAX: Final = 20_000
GATEWAY: Final = "sollol-gateway"
"""Name of the gateways' service."""
Model = Annotated[str, Meta(min_length=1, max_length=256)]
Tell: TypeAlias = Callable[[Any], None]
"""Sends an intermediate result to the page."""


class WayIn(msgspec.Struct, frozen=True):
    """How others reach this fleet."""

    nats: str
    """The bus's address as this process has it, without secrets."""
    has_members: bool
    """Whether the bus admits members alone, who join by an invitation."""


class OperationContext(msgspec.Struct, frozen=True):
    """What operations work with."""

    client: Client
    view: FleetView
    owner: str = ""
    """Whose jobs are those of the person at the page; empty: nobody's, as those of an open bus are."""
    way_in: WayIn | None = None
    """How others reach this fleet, as far as this process knows."""


class Operation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing a page may ask for."""

    needs_admin: ClassVar[bool] = True
    name: ClassVar[str] = ""

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401 encoded as it is for the page
        """Does it; the result goes to the page.

        Raises:
            SollolError: Why it cannot be done, in words for the page.
        """
        raise NotImplementedError


class ShowNode(Operation, frozen=True, kw_only=True):
    """What is known about a node beside its card."""

    needs_admin: ClassVar[bool] = False
    name: ClassVar[str] = "node"
    node_id: BusId

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return context.view.node_detail(self.node_id)


class Why(Operation, frozen=True, kw_only=True):
    """Everything recorded about a request."""

    needs_admin: ClassVar[bool] = False
    name: ClassVar[str] = "why"
    request_id: str

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        found = await context.client.why(self.request_id)
        return {
            "decisions": found.decisions,
            "outcomes": found.outcomes,
            "cuts": found.cuts,
            "gave_way": found.gave_way,
            "waited": {
                event.decision.attempt_id: waited_s(event.decision, found.outcomes) for event in found.decisions
            },
            "contrasts": {event.decision.attempt_id: _contrasts(event) for event in found.decisions},
        }


def _contrasts(event: DecisionEvent) -> dict[str, str]:
    """For each node that was not taken, but for the one that the decision's reason names: why not."""
    chosen = next((cost for cost in event.candidates if cost.node_id == event.decision.node_id), None)
    if chosen is None:
        return {}
    said = {o.node_id: contrast(chosen, [o]) for o in event.candidates if o.node_id != chosen.node_id}
    return {node_id: f"{chosen.node_id} {text}" for node_id, text in said.items() if text not in event.decision.reason}


class Connect(Operation, frozen=True, kw_only=True):
    """How programs and further machines reach this fleet."""

    needs_admin: ClassVar[bool] = False
    name: ClassVar[str] = "connect"

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        found = await find_services(context.client.bus, GATEWAY)
        urls = sorted({service.metadata["url"] for service in found if service.metadata.get("url")})
        return {"gateways": urls, "models": context.view.nodes.models(time.monotonic())[:1], **_told(context.way_in)}


def _told(way_in: WayIn | None) -> dict[str, Any]:
    return {} if way_in is None else msgspec.structs.asdict(way_in)


class ShowJob(Operation, frozen=True, kw_only=True):
    """One job with its answer. Whoever may read answers is an administrator."""

    name: ClassVar[str] = "job"
    job_id: str

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        answer = await context.client.jobs.answer(self.job_id)
        is_own = owners.owner_of(self.job_id) == context.owner
        prompt = await context.client.jobs.prompt(self.job_id) if is_own else ""
        return {"status": answer.status, "text": answer.text[:_TEXT_MAX], "prompt": prompt, "is_own": is_own}


class Drain(Operation, frozen=True, kw_only=True):
    """Takes a node out of service, or puts it back."""

    name: ClassVar[str] = "drain"
    node_id: BusId
    is_draining: bool = True

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        client = context.client
        return await (client.drain(self.node_id) if self.is_draining else client.undrain(self.node_id))


class SetWeight(Operation, frozen=True, kw_only=True):
    """Changes a node's share of the work."""

    name: ClassVar[str] = "weight"
    node_id: BusId
    weight: Weight

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return await context.client.set_node(self.node_id, weight=self.weight)


class Load(Operation, frozen=True, kw_only=True):
    """Loads a model into a node's memory, or unloads it."""

    name: ClassVar[str] = "load"
    node_id: BusId
    model: Model
    is_loaded: bool = True

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        client = context.client
        return await (client.load if self.is_loaded else client.unload)(self.node_id, self.model)


class Pull(Operation, frozen=True, kw_only=True):
    """Downloads a model to a node; tells the progress."""

    name: ClassVar[str] = "pull"
    node_id: BusId
    model: Model

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, D102
        async for step in context.client.pull(self.node_id, self.model):
            if "error" in step:
                raise BadRequest(str(step["error"]))
            tell({"status": step.get("status", ""), "done": step.get("completed"), "total": step.get("total")})
        return None


class CancelJob(Operation, frozen=True, kw_only=True):
    """Cancels a job."""

    name: ClassVar[str] = "job_cancel"
    job_id: str

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return await context.client.jobs.cancel(self.job_id)


class CancelBatch(Operation, frozen=True, kw_only=True):
    """Cancels a batch with its jobs that have not ended."""

    name: ClassVar[str] = "batch_cancel"
    batch_id: str

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return await Batches(context.client.jobs).cancel(self.batch_id)


class RetryJob(Operation, frozen=True, kw_only=True):
    """Runs a dead or failed job again."""

    name: ClassVar[str] = "job_retry"
    job_id: str

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return await context.client.jobs.retry(self.job_id)


class SetStrategy(Operation, frozen=True, kw_only=True):
    """Chooses a strategy or changes settings."""

    name: ClassVar[str] = "strategy"
    strategy: str | None = None
    settings: dict[str, float] = {}

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        return await context.client.set_strategy(self.strategy, **self.settings)


class ResetBreakers(Operation, frozen=True, kw_only=True):
    """Closes circuit breakers by force."""

    name: ClassVar[str] = "breaker_reset"
    node_id: str = ""
    model: str = ""

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, ARG002, D102
        reply = await context.client.reset_breakers(self.node_id, self.model)
        context.view.on_breakers(reply)
        return reply


class Generate(Operation, frozen=True, kw_only=True):
    """The playground: streams an answer, and tells where it is made and why."""

    name: ClassVar[str] = "generate"
    model: Model
    prompt: Annotated[str, Meta(min_length=1, max_length=200_000)]
    mode: RoutingMode = RoutingMode.FAST
    priority: PriorityOrName = 5

    async def run(self, context: OperationContext, tell: Tell) -> Any:  # noqa: ANN401, D102
        routing = Routing(routing_mode=self.mode, priority=priority_of(self.priority))
        async with context.client.generate_stream(self.model, self.prompt, routing=routing) as stream:
            tell({"request_id": stream.request_id})
            is_decided = False
            async for chunk in stream:
                if not is_decided:
                    is_decided = True
                    tell({"decision": stream.decision})
                tell({"text": chunk.text, "thinking": chunk.thinking})
            answer = stream.answer
        return {"figures": answer.figures, "decision": answer.decision, "done_reason": answer.done_reason}


OPERATIONS: Final[dict[str, type[Operation]]] = {kind.name: kind for kind in Operation.__subclasses__()}


def operation(name: str, arguments: object) -> Operation:
    """The operation that a page asks for.

    Raises:
        BadRequest: There is none of that name, or its arguments are not right.
    """
    kind = OPERATIONS.get(name)
    if kind is None:
        raise BadRequest(f"there is no operation {name[:40]!r}")
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name}: {in_plain_words(str(error))}") from error
