"""A scheduler core with a clock and nodes that answer as told, for tests of what it decides."""

# ruff: noqa: ANN401 fields of messages are passed on by name

from __future__ import annotations

import random
from typing import Any

from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import Decision, DecisionEvent, RejectionReason
from sollol_schemas.errors import ErrorBody
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRequest
from sollol_schemas.ids import request_id_of
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    Telemetry,
)

GIB = 1024**3
MODEL = "llama3:8b"


def model(name: str = MODEL, size_gb: float = 4.9, **more: Any) -> InstalledModel:
    """A model on disk."""
    return InstalledModel(name=name, size_bytes=int(size_gb * 1e9), **more)


def loaded(name: str = MODEL, size_gb: float = 5.5) -> LoadedModel:
    """A model in memory."""
    return LoadedModel(name=name, size_bytes=int(size_gb * 1e9), vram_bytes=int(size_gb * 1e9))


def gpu(name: str = "RTX 3090", total_gb: float = 24.0, free_gb: float = 18.0) -> Gpu:
    """A card."""
    return Gpu(
        index=0,
        name=name,
        memory_total_mib=total_gb * 1024,
        memory_free_mib=free_gb * 1024,
        memory_used_mib=(total_gb - free_gb) * 1024,
    )


class Fleet:
    """A core with a clock and nodes that answer as told."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        config = ScorerConfig(**({"warm_up_s": 0.0} | settings))
        self.core = SchedulerCore(config, random.Random(7), self.now)
        self.core.term = 3
        self.seqs: dict[str, int] = {}
        self.effects: list[Effect] = []
        self.told: dict[str, dict[str, Any]] = {}

    def node(self, node_id: str = "gpu1", **changes: Any) -> list[Effect]:
        """A node beats; what changes is told from now on."""
        fields: dict[str, Any] = {
            "node_id": node_id,
            "instance": f"{node_id}-a",
            "revision": 1,
            "engine": EngineInfo(kind=EngineKind.OLLAMA, url=f"http://{node_id}"),
            "slots": 1,
            "gpus": (gpu(),),
            "ram_total_mib": 64_000.0,
            "ram_available_mib": 60_000.0,
            "cpu_count": 16,
            "installed": (model(),),
            "loaded": (loaded(),),
            "uptime_s": 1000.0,
        }
        fields |= self.told.get(node_id, {})
        fields |= changes
        self.told[node_id] = {k: v for k, v in fields.items() if k != "seq"}
        if "seq" not in changes:
            fields["seq"] = self.seqs[node_id] = self.seqs.get(node_id, 0) + 1
        return self._note(self.core.on_telemetry(Telemetry(**fields), self.now))

    def load(self, node_id: str, *attempts: str, slots: int = 1, **changes: Any) -> list[Effect]:
        """A node tells what it runs."""
        self.seqs[node_id] += 1
        fields: dict[str, Any] = {
            "node_id": node_id,
            "instance": f"{node_id}-a",
            "seq": self.seqs[node_id],
            "slots": slots,
            "in_flight": tuple(InFlight(attempt_id=a, model=MODEL) for a in attempts),
        }
        return self._note(self.core.on_load(LoadUpdate(**(fields | changes)), self.now))

    def ask(
        self, request_id: str, *, priority: int = 5, prompt: int = 100, name: str = MODEL, **more: Any
    ) -> list[Effect]:
        """A dispatcher asks for a slot."""
        routing = more.pop("routing", None) or Routing(priority=priority)
        context = more.pop("context", None) or TaskContext(kind=RequestKind.CHAT, model=name, prompt_tokens=prompt)
        fields: dict[str, Any] = {
            "request_id": request_id,
            "number": 1,
            "context": context,
            "routing": routing,
            "dispatcher": "d1",
        }
        request = GrantRequest(**(fields | more))
        return self._note(self.core.enqueue(request, self.now))

    def end(
        self, attempt_id: str, node_id: str, status: OutcomeStatus = OutcomeStatus.SUCCESS, **more: Any
    ) -> list[Effect]:
        """An attempt ended."""
        decision = Decision(
            attempt_id=attempt_id,
            request_id=request_id_of(attempt_id),
            node_id=node_id,
            model=MODEL,
            instance=f"{node_id}-a",
        )
        fields: dict[str, Any] = {"decision": decision, "status": status, "reported_by": ReportedBy.NODE}
        return self._note(self.core.on_outcome(Outcome(**(fields | more)), self.now))

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        """Time passes."""
        self.now += seconds
        return self._note(self.core.tick(self.now))

    def beat_all(self, seconds: float) -> None:
        """Lets time pass while every node goes on telling the same."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for node_id, told in list(self.told.items()):
                running = self.core.fleet.nodes[node_id].attempts.values()
                in_flight = tuple(InFlight(attempt_id=a.attempt_id, model=a.wire_model) for a in running)
                self.node(**(told | {"node_id": node_id, "in_flight": in_flight}))
            self.tick()

    def _note(self, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        return effects


def granted(effects: list[Effect]) -> dict[str, Granted]:
    """The grants, by request."""
    return {e.decision.request_id: e for e in effects if isinstance(e, Granted)}


def refused(effects: list[Effect]) -> dict[str, ErrorBody]:
    """The refusals, by request."""
    return {e.request_id: e.error for e in effects if isinstance(e, GrantRefused)}


def queued(effects: list[Effect]) -> list[str]:
    """The requests that were told to wait."""
    return [e.request_id for e in effects if isinstance(e, GrantQueued)]


def reasons(effects: list[Effect]) -> dict[str, RejectionReason]:
    """Why nodes were refused in the latest decision."""
    decisions = [e for e in effects if isinstance(e, DecisionEvent)]
    return {r.node_id: r.reason for r in decisions[-1].rejections}
