"""A whole system in this process for tests, with emulated engines behind a real nats-server.

async with EmulatedSystem(tmp_path, slots=4) as system:
job_id = await system.client.generate_async(MODEL, "count down from 3")
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.gateway.actor import Gateway
from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.http_server import USUAL_LIMITS, ClientLimits
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.stack import LocalStack
from sollol_bus.actor import Actor
from sollol_bus.parts import Part
from sollol_bus.sdk.client import Client
from sollol_bus.transport.connection import BusConfig
from sollol_bus.transport.messages import Msg, decoded
from sollol_schemas import subjects
from sollol_schemas.events import Outcome
from sollol_schemas.inboxes import CLIENT_INBOX_PREFIX
from sollol_schemas.jobs import JobEvent, JobNews
from sollol_schemas.telemetry import NodeState

MODEL: Final = "m:latest"
"""The model that every engine has loaded, if no other is named; so is `nomic-embed-text`; `other` lies on its disk."""
QUICK_WARM_UP_S: Final = 0.3
"""Enough for nodes of this process to show themselves; what is refused for want of a node waits three times as long."""


class EmulatedSystem(Part):
    """A stack with one node or more, a client of it, a gateway where one is wanted, and what was told meanwhile.

    Args:
        folder: Where it keeps its files.
        nodes: How many nodes, `n1` and so on, each before an engine of its own.
        slots: Of each node.
        decode_tps: Tokens per second of each engine.
        engine: Settings of each engine that differ from those of a test.
        gateway: Settings of an HTTP gateway; None: no gateway.
        limits: What clients of the gateway may do; with others than the usual ones it stands beside the stack.
        scorer: Settings of the scorer.
        pace: How long the dispatcher waits for what.
        stack: What else the stack takes: `metrics`, `tracer`.
        dispatcher: Settings of the dispatcher that differ from those of a test.
    """

    client: Client
    stack: LocalStack
    gateway: Gateway
    http: httpx.AsyncClient
    """A client of the gateway."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        slots: int = 4,
        decode_tps: float = 2000.0,
        engine: Mapping[str, object] | None = None,
        gateway: GatewayConfig | None = None,
        limits: ClientLimits = USUAL_LIMITS,
        scorer: ScorerConfig | None = None,
        pace: Pace | None = None,
        stack: Mapping[str, Any] | None = None,
        **dispatcher: object,
    ) -> None:
        self.engines: dict[str, EmulatedNode] = {}
        """By the id of the node before each."""
        self.news: list[JobEvent] = []
        """Every event of a job, as this client heard them."""
        self.outcomes: list[Outcome] = []
        """Every outcome, as this client heard them."""
        self._folder = folder
        self._nodes = nodes
        self._slots = slots
        self._engine = {
            "model": ("m=1", "other=1", "nomic-embed-text=0.1"),
            "preload": ("m", "nomic-embed-text"),
            "decode_tps": decode_tps,
            "prefill_tps": 50_000.0,
            **(engine or {}),
        }
        self._gateway = gateway
        self._limits = limits
        self._stack = {"scorer": scorer or ScorerConfig(warm_up_s=QUICK_WARM_UP_S), **(stack or {})}
        self._dispatcher = msgspec.convert({"drain_timeout_s": 2.0, **dispatcher}, DispatcherConfig)
        self._pace = pace or Pace(job_retry_first_s=0.1)
        self._floor = AsyncExitStack()
        self._engine_floor = AsyncExitStack()

    async def start(self) -> None:
        """Starts the engines and what speaks to them."""
        try:
            await self._start()
        except BaseException:
            await self._floor.aclose()
            raise

    async def close(self) -> None:
        """Stops everything, the last thing first."""
        await self._floor.aclose()

    async def _start(self) -> None:
        is_beside = self._limits is not USUAL_LIMITS
        self.stack = LocalStack(
            store_dir=self._folder / "store",
            dispatcher=self._dispatcher,
            gateway=None if is_beside else self._gateway,
            before_start=self._set_pace,
            **self._stack,
        )
        await self._floor.enter_async_context(self._engine_floor)  # outlives the stack, which finishes what they run
        for number in range(1, self._nodes + 1):
            await self._begin_engine(f"n{number}", {})
        await self._floor.enter_async_context(self.stack)
        self.client = await self._floor.enter_async_context(self.stack.client())
        self.client.bus.subscribe(subjects.JOB_EVENTS, self._on_news)
        self.client.bus.subscribe(subjects.OUTCOME_EVENT.all, self._on_outcome)
        for node_id in self.engines:
            await self._begin_node(node_id, {})
        if self._gateway is not None:
            await self._begin_http(self._gateway, is_beside=is_beside)

    async def _begin_http(self, config: GatewayConfig, *, is_beside: bool) -> None:
        if is_beside:
            self.gateway = await self._floor.enter_async_context(self.beside(config, self._limits))
        else:
            self.gateway = next(actor for actor in self.stack.actors if isinstance(actor, Gateway))
        http = httpx.AsyncClient(base_url=self.gateway.url, timeout=30, trust_env=False)
        self.http = await self._floor.enter_async_context(http)
        if self.engines:
            await eventually(self._is_ready, complaint="the gateway is ready")

    def _on_news(self, msg: Msg) -> None:
        news = decoded(msg, JobEvent)
        if news is not None:
            self.news.append(news)

    def _on_outcome(self, msg: Msg) -> None:
        outcome = decoded(msg, Outcome)
        if outcome is not None:
            self.outcomes.append(outcome)

    def _set_pace(self, actor: Actor[Any]) -> None:
        if isinstance(actor, Dispatcher):
            actor.pace = self._pace

    async def _begin_engine(self, node_id: str, settings: Mapping[str, object]) -> EmulatedNode:
        config = msgspec.convert({"parallel": self._slots, **self._engine, **settings}, EmulatorConfig)
        engine = self.engines[node_id] = await self._engine_floor.enter_async_context(EmulatedNode(config))
        return engine

    async def _begin_node(self, node_id: str, settings: Mapping[str, object]) -> None:
        own = {"node_id": node_id, "engine": "ollama", "slots": self._slots, "drain_timeout_s": 5.0, **settings}
        await self.stack.add_engine(self.engines[node_id].url, **own)
        await eventually(self._is_up, node_id, complaint=f"{node_id} is up")

    async def _is_up(self, node_id: str) -> bool:
        views = (await self.client.nodes()).nodes
        return any(view.node_id == node_id and view.state is NodeState.UP for view in views)

    async def _is_ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200

    # -- what a test does with it ---------------------------------------------------------------------------

    async def node(
        self, node_id: str, *, engine: Mapping[str, object] | None = None, **settings: object
    ) -> EmulatedNode:
        """One more node, which the scorer knows as up when this returns; its engine.

        Args:
            node_id: Its id.
            engine: Settings of its engine that differ from those of all.
            settings: Settings of the node that differ from those of a test.
        """
        made = await self._begin_engine(node_id, engine or {})
        await self._begin_node(node_id, settings)
        return made

    def beside(self, config: GatewayConfig, limits: ClientLimits = USUAL_LIMITS) -> Gateway:
        """A further gateway on the same bus, not running yet."""
        bus = BusConfig(url=self.stack.nats_url, name="gateway-2", inbox_prefix=CLIENT_INBOX_PREFIX)
        return Gateway(config, bus, limits)

    def slots_in_use(self) -> int:
        """How many attempts run on all nodes."""
        return sum(len(actor.in_flight()) for actor in self.stack.actors if actor.name == "node")

    def outcomes_of(self, request_id: str) -> list[Outcome]:
        """How the attempts of one request ended, by their number."""
        ended = (outcome for outcome in self.outcomes if outcome.decision.request_id == request_id)
        return sorted(ended, key=lambda outcome: outcome.decision.attempt)

    def news_of(self, job_id: str) -> list[JobNews]:
        """What happened to one job, in order."""
        return [event.news for event in self.news if event.job_id == job_id]

    def began(self) -> list[str]:
        """The jobs in the order in which they began to run."""
        return [event.job_id for event in self.news if event.news is JobNews.RUNNING]

    def fault(self, kind: FaultKind, **fields: object) -> None:
        """Arms a fault of every engine."""
        for engine in self.engines.values():
            engine.inject(msgspec.convert({"kind": kind, **fields}, Fault))

    def clear_faults(self) -> None:
        """Removes every fault."""
        for engine in self.engines.values():
            engine.clear_faults()

    async def count(self, number: int, **fields: object) -> str:
        """Submits a job that counts down; returns its id."""
        return await self.client.generate_async(MODEL, f"count down from {number}", **fields)  # type: ignore[arg-type]
