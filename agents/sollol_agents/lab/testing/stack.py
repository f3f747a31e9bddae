"""A whole system in this process for tests, with emulated engines behind a real nats-server.

async with EmulatedSystem(tmp_path, slots=4) as system:
job_id = await system.client.generate_async(MODEL, "count down from 3")
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from sollol_agents.dispatcher.actor import Dispatcher
from sollol_agents.dispatcher.config import DispatcherConfig
from sollol_agents.dispatcher.pace import Pace
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig, Fault, FaultKind
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.config import NodeConfig
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.stack import LocalStack
from sollol_bus.actor import Actor
from sollol_bus.sdk.client import Client
from sollol_bus.transport.messages import decode
from sollol_schemas import subjects
from sollol_schemas.jobs import JobEvent, JobNews
from sollol_schemas.telemetry import NodeState

MODEL: Final = "m:latest"
"""The model that every engine has loaded; so is `nomic-embed-text`; `other` lies on its disk."""


class EmulatedSystem:
    """A stack with one node or more, a client of it, and what happened to its jobs.

    Args:
        folder: Where it keeps its files.
        nodes: How many nodes, `n1` and so on, each before an engine of its own.
        slots: Of each node.
        decode_tps: Tokens per second of each engine.
        scorer: Settings of the scorer.
        pace: How long the dispatcher waits for what.
        dispatcher: Settings of the dispatcher that differ from those of a test.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 1,
        slots: int = 4,
        decode_tps: float = 2000.0,
        scorer: ScorerConfig | None = None,
        pace: Pace | None = None,
        **dispatcher: object,
    ) -> None:
        self.engines: list[EmulatedNode] = []
        self.news: list[JobEvent] = []
        """Every event of a job, as this client heard them."""
        self._folder = folder
        self._nodes = nodes
        self._slots = slots
        self._engine = EmulatorConfig(
            model=("m=1", "other=1", "nomic-embed-text=0.1"),
            preload=("m", "nomic-embed-text"),
            parallel=slots,
            decode_tps=decode_tps,
            prefill_tps=50_000,
        )
        self._scorer = scorer
        self._dispatcher = msgspec.convert({"drain_timeout_s": 2.0, **dispatcher}, DispatcherConfig)
        self._pace = pace or Pace(job_retry_first_s=0.1)
        self._floor = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._floor.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._floor.aclose()

    async def _start(self) -> None:
        nodes = []
        for number in range(1, self._nodes + 1):
            engine = await self._floor.enter_async_context(EmulatedNode(self._engine))
            self.engines.append(engine)
            nodes.append(NodeConfig(node_id=f"n{number}", url=engine.url, engine="ollama", slots=self._slots))
        self.stack = LocalStack(
            store_dir=self._folder / "store",
            dispatcher=self._dispatcher,
            scorer=self._scorer,
            nodes=tuple(nodes),
            before_start=self._set_pace,
        )
        await self._floor.enter_async_context(self.stack)
        self.client: Client = await self._floor.enter_async_context(self.stack.client())
        await self.client.generate(MODEL, "count down from 1")
        await eventually(self._all_are_up, complaint="every node is up")
        self.client.bus.subscribe(subjects.JOB_EVENT.all, lambda m: self.news.append(decode(m.data, JobEvent)))

    def _set_pace(self, actor: Actor[Any]) -> None:
        if isinstance(actor, Dispatcher):
            actor.pace = self._pace

    async def _all_are_up(self) -> bool:
        views = (await self.client.nodes()).nodes
        return sum(view.state is NodeState.UP for view in views) == self._nodes

    def news_of(self, job_id: str) -> list[JobNews]:
        """What happened to one job, in order."""
        return [event.news for event in self.news if event.job_id == job_id]

    def began(self) -> list[str]:
        """The jobs in the order in which they began to run."""
        return [event.job_id for event in self.news if event.news is JobNews.RUNNING]

    async def fault(self, kind: FaultKind, **fields: object) -> None:
        """Arms a fault of every engine."""
        content = msgspec.json.encode(msgspec.convert({"kind": kind, **fields}, Fault))
        for engine in self.engines:
            async with httpx.AsyncClient(base_url=engine.url, trust_env=False) as http:
                (await http.post("/emulator/faults", content=content)).raise_for_status()

    async def clear_faults(self) -> None:
        """Removes every fault."""
        for engine in self.engines:
            async with httpx.AsyncClient(base_url=engine.url, trust_env=False) as http:
                (await http.delete("/emulator/faults")).raise_for_status()

    async def count(self, number: int, **fields: object) -> str:
        """Submits a job that counts down; returns its id."""
        return await self.client.generate_async(MODEL, f"count down from {number}", **fields)  # type: ignore[arg-type]
