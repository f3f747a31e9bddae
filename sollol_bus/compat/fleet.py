"""The fleet that a program asks: one of its own, or one that it is a client of. Everything here runs on one loop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from sollol_bus.compat import results
from sollol_bus.compat.config import SOLLOLConfig
from sollol_bus.compat.priorities import as_priority, split, without_stream
from sollol_bus.compat.reliability import NodeReliabilityTracker
from sollol_bus.compat.resources import meets_floor, node_rows
from sollol_bus.compat.results import Result
from sollol_bus.errors import BadRequest, SollolError
from sollol_bus.parts import Part
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.job_answer import JobAnswer
from sollol_bus.sdk.results import AnswerStream
from sollol_bus.sdk.spread import spread
from sollol_bus.sdk.surroundings import bus_config_here, is_fleet_named
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.decision import Decision
from sollol_schemas.queries import NodesReply
from sollol_schemas.routing import Routing, RoutingMode

if TYPE_CHECKING:
    from sollol_bus.compat.own_fleet import OwnFleet

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_EVERY_S: Final = 1.0
_LOOK_HERE_S: Final = 0.5
_SEEN_EVERY_S: Final = 0.02
_SEEN_WITHIN_S: Final = 5.0
_AT_ONCE: Final = 64


class Fleet(Part):
    """Requests in the documents' words, and the nodes as they were a second ago at most.

    Made where files may be read: what this machine is set up for is looked up here.

    Args:
        config: Which fleet.
        has_gateway: Whether a fleet of its own serves HTTP too.

    Raises:
        ConfigError: The settings file of this machine cannot be used.
    """

    def __init__(self, config: SOLLOLConfig, *, has_gateway: bool) -> None:
        self.config = config
        self.reliability = NodeReliabilityTracker()
        self.own: OwnFleet | None = None
        """The fleet that was started for this program; None while it is a client of another one."""
        self.nodes = NodesReply(nodes=())
        """The nodes, as they were when they were looked at last."""
        self._has_gateway = has_gateway
        is_open = not config.nats and not config.hosts and is_fleet_named(os.environ)
        self._set_up = bus_config_here(config.app_name) if is_open else None
        """The fleet that this machine is set up for, where the program names none."""
        self._client: Client | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """The connection.

        Raises:
            RuntimeError: There is none.
        """
        if self._client is None:
            raise RuntimeError("the fleet is closed")
        return self._client

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects to the fleet that is meant, or starts one.

        Raises:
            SollolError: It is not there, or something cannot start.
        """
        if self.config.log_level:
            for name in ("sollol_bus", "sollol_agents"):
                logging.getLogger(name).setLevel(self.config.log_level.upper())
        try:
            self._client = await self._opened()
            await self._see_nodes()
        except BaseException:
            await self.close()
            raise
        # This task belongs to this object: `close` cancels and awaits it.
        self._looking = asyncio.get_running_loop().create_task(self._look_on(), name="looks at the nodes")

    async def close(self) -> None:
        """Leaves the fleet, and ends what was started for it."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        client, self._client = self._client, None
        own, self.own = self.own, None
        try:
            if client is not None:
                await client.close()
        finally:
            if own is not None:
                await own.close()

    async def _opened(self) -> Client:
        config = self.config
        if config.nats and config.hosts:
            raise BadRequest("nats and hosts: give one; `sollol node --url` brings an engine into a fleet that runs")
        if config.nats:
            patience_s = min(BusConfig().connect_timeout_s, config.discovery_timeout)
            return await _connected(BusConfig(url=config.nats, name=config.app_name, connect_timeout_s=patience_s))
        if not config.hosts:
            if self._set_up is not None:
                return await _connected(self._set_up)
            if config.discovery_enabled and (client := await self._fleet_of_this_machine()) is not None:
                return client
        from sollol_bus.compat.own_fleet import OwnFleet  # noqa: PLC0415 clients of a fleet need no actors

        own = OwnFleet(config, has_gateway=self._has_gateway)
        await own.start()
        self.own = own
        client = own.client()
        await client.start()
        return client

    async def _fleet_of_this_machine(self) -> Client | None:
        """A client of what `sollol up` runs here; None where nothing does."""
        client = Client(BusConfig(name=self.config.app_name, connect_timeout_s=_LOOK_HERE_S))
        try:
            await client.start()
            await client.nodes()
        except SollolError as error:
            log.debug("no fleet on this machine: %s", error)
            await client.close()
            return None
        return client

    async def _see_nodes(self) -> None:
        """Returns when the scorer knows of every node that was started here."""
        started = {getattr(actor, "node_id", "") for actor in self.own.stack.actors} - {""} if self.own else set()
        deadline = time.monotonic() + _SEEN_WITHIN_S
        while True:
            await self.look()
            known = {view.node_id for view in self.nodes.nodes}
            if started <= known or time.monotonic() > deadline:
                return
            await asyncio.sleep(_SEEN_EVERY_S)

    # -- looking ------------------------------------------------------------------------------------------

    async def look(self) -> NodesReply:
        """The nodes now."""
        self.nodes = await self.client.nodes()
        return self.nodes

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.look()
            except SollolError as error:
                log.debug("the nodes cannot be looked at now: %s", error)

    def url_of(self, node_id: str) -> str:
        """Where a node's engine listens, as far as it is told."""
        return next((view.telemetry.engine.url for view in self.nodes.nodes if view.node_id == node_id), "")

    def hosts(self) -> list[str]:
        """The engines' addresses."""
        return [row["url"] or row["host"] for row in node_rows(self.nodes)]

    # -- asking -------------------------------------------------------------------------------------------

    async def generate(self, model: str, prompt: str, said: Mapping[str, object]) -> Result:
        """The whole answer to a prompt."""
        routing, fields = self._split(said)
        stream = self.client.generate_stream(model, prompt, routing=routing, **without_stream(fields))
        answer = await self._counted(stream.whole, lambda: stream.decision)
        return results.of_answer(answer, routing, is_chat=False, node_url=self._url(answer))

    async def chat(self, model: str, messages: Sequence[Mapping[str, object]], said: Mapping[str, object]) -> Result:
        """The whole next message of a conversation."""
        routing, fields = self._split(said)
        stream = self.client.chat_stream(model, messages, routing=routing, **without_stream(fields))
        answer = await self._counted(stream.whole, lambda: stream.decision)
        return results.of_answer(answer, routing, is_chat=True, node_url=self._url(answer))

    async def embed(self, model: str, texts: str | Sequence[str], said: Mapping[str, object]) -> Result:
        """One vector per text."""
        routing, fields = self._split(said)
        asked = partial(self.client.embed, model, texts, routing=routing, **without_stream(fields))
        made = await self._counted(asked)
        return results.of_embeddings(made, routing, self._url(made))

    def stream(
        self, model: str, asked: str | Sequence[Mapping[str, object]], said: Mapping[str, object]
    ) -> AnswerStream:
        """An answer as it streams in: to a prompt, or to a conversation."""
        routing, fields = self._split(said)
        fields.pop("stream", None)
        if isinstance(asked, str):
            return self.client.generate_stream(model, asked, routing=routing, **fields)
        return self.client.chat_stream(model, asked, routing=routing, **fields)

    async def submit(
        self, model: str, prompt: str, said: Mapping[str, object], on_done: Callable[[JobAnswer], None] | None
    ) -> str:
        """The id of a durable job."""
        rest = dict(said)
        priority = as_priority(rest.pop("priority", None))
        job_id = rest.pop("job_id", None) or rest.pop("task_id", None)
        routing, fields = self._split({"routing_mode": RoutingMode.ASYNC, **rest})
        return await self.client.generate_async(
            model,
            prompt,
            job_id=None if job_id is None else str(job_id),
            priority=priority,
            on_done=on_done,
            routing=routing,
            **without_stream(fields),
        )

    async def wait(self, job_id: str, timeout_s: float | None) -> Result:
        """How a job ended, once it has.

        Raises:
            SollolError: What ended it without an answer.
        """
        return self.of_job(await self.client.wait_for_task(job_id, timeout_s=timeout_s))

    def of_job(self, answer: JobAnswer) -> Result:
        """A job's end as a result."""
        decision = answer.result.decision if answer.result is not None else None
        return results.of_job(answer, self.url_of(decision.node_id) if decision is not None else "")

    def told(self, tell: Sequence[Callable[[Result], None]]) -> Callable[[JobAnswer], None] | None:
        """Who hears how a job ended; None where nobody wants to."""
        if not tell:
            return None

        def on_done(answer: JobAnswer) -> None:
            for one in tell:
                one(self.of_job(answer))

        return on_done

    async def distribute(
        self, task: Mapping[str, object], models: Sequence[str] | str | None, said: Mapping[str, object]
    ) -> list[Result]:
        """An answer to each prompt of a task, each made on its best node; see `SOLLOLIntegration.distribute_task`."""
        pairs, options = paired(task, models)
        makers = (partial(self.generate, model, prompt, {**options, **said}) for model, prompt in pairs)
        made = await spread(makers, at_once=_AT_ONCE)
        return [
            Result({**one, "success": True}) if isinstance(one, Result) else results.of_failure(one, model)
            for one, (model, _) in zip(made, pairs, strict=True)
        ]

    def _split(self, said: Mapping[str, object]) -> tuple[Routing, dict[str, object]]:
        routing, fields = split(said)
        if "routing_mode" not in said and "mode" not in said:
            routing = msgspec.structs.replace(routing, routing_mode=self.config.default_routing_mode)
        if meets_floor(self.nodes, routing.min_success_rate):
            routing = msgspec.structs.replace(routing, min_success_rate=None)
        return routing, fields

    def _url(self, made: Any) -> str:  # noqa: ANN401 an answer or embeddings
        return self.url_of(made.decision.node_id) if made.decision is not None else ""

    async def _counted(
        self, asked: Callable[[], Awaitable[T]], decided: Callable[[], Decision | None] = lambda: None
    ) -> T:
        """What was asked for; how it went stands in the program's own book, where it is known which node it was."""
        began = time.monotonic()
        try:
            made = await asked()
        except SollolError as error:
            decision = decided()
            node_id = decision.node_id if decision is not None else error.details.get("node_id")
            if isinstance(node_id, str):
                self._count(node_id, began, error.body.code.value)
            raise
        decision = getattr(made, "decision", None)
        if decision is not None:
            self._count(decision.node_id, began)
        return made

    def _count(self, node_id: str, began_mono_s: float, error_type: str | None = None) -> None:
        took_s = time.monotonic() - began_mono_s
        self.reliability.record_request(node_id, error_type is None, took_s, error_type)


async def _connected(config: BusConfig) -> Client:
    client = Client(config)
    await client.start()
    return client


def paired(
    task: Mapping[str, object], models: Sequence[str] | str | None
) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """The (model, prompt) pairs of a task, and what else it says. Pure.

    Raises:
        BadRequest: It has no prompts, or as many models as do not go with them.
    """
    rest = dict(task)
    said = rest.pop("prompts", None)
    one = rest.pop("prompt", None)
    prompts = [said] if isinstance(said, str) else list(said) if isinstance(said, Sequence) else [one]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadRequest("task needs prompts: {'prompts': ['first', 'second']}")
    named = models if models is not None else rest.pop("models", None) or rest.pop("model", None)
    rest.pop("models", None)
    rest.pop("model", None)
    names = [named] if isinstance(named, str) else list(named) if isinstance(named, Sequence) else []
    if len(names) == 1:
        names *= len(prompts)
    if len(prompts) == 1:
        prompts *= len(names)
    if not names or len(names) != len(prompts):
        raise BadRequest(f"{len(prompts)} prompts and {len(names)} models: give one model, or one for each prompt")
    return list(zip([str(name) for name in names], [str(prompt) for prompt in prompts], strict=True)), rest
