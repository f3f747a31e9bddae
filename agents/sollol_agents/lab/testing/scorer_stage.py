"""A scheduler core with a clock and nodes that answer as told, for tests of what it decides."""

# ruff: noqa: ANN401 fields of messages are passed on by name

from __future__ import annotations

import random
from typing import Any

from sollol_agents.lab.testing.messages import (
    MODEL,
    gpu,
    grant_request,
    load_update,
    loaded,
    model,
    outcome,
    running,
    telemetry,
)
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.decision import DecisionEvent, RejectionReason
from sollol_schemas.errors import ErrorBody
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused
from sollol_schemas.telemetry import (
    InFlight,
)


class Fleet:
    """A core with a clock and nodes that answer as told."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        config = ScorerConfig(**({"warm_up_s": 0.0} | settings))
        self.core = SchedulerCore(config, random.Random(settings.get("seed", 7)), self.now)
        self.core.term = 3
        self.seqs: dict[str, int] = {}
        self.effects: list[Effect] = []
        self.told: dict[str, dict[str, Any]] = {}
        self._asked_at: dict[str, int] = {}

    def node(self, node_id: str = "gpu1", **changes: Any) -> list[Effect]:
        """A node beats; what changes is told from now on."""
        fields: dict[str, Any] = {
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
        return self.note(self.core.on_telemetry(telemetry(node_id, **fields), self.now))

    def load(self, node_id: str, *attempts: str, **changes: Any) -> list[Effect]:
        """A node tells what it runs."""
        self.seqs[node_id] += 1
        fields: dict[str, Any] = {"seq": self.seqs[node_id], "in_flight": running(*attempts)}
        fields |= {name: value for name, value in self.told[node_id].items() if name in ("instance", "slots")}
        return self.note(self.core.on_load(load_update(node_id, **(fields | changes)), self.now))

    def ask(self, request_id: str, **more: Any) -> list[Effect]:
        """A dispatcher asks for a slot; `more` as for `messages.grant_request`."""
        self._asked_at[request_id] = len(self.effects)
        return self.note(self.core.enqueue(grant_request(request_id, **more), self.now))

    def place(self, request_id: str, **more: Any) -> str:
        """Asks, and tells the node that was granted at once; empty when there is none."""
        self.ask(request_id, **more)
        return self.where(request_id)

    def where(self, request_id: str) -> str:
        """The node that was granted since it was asked for; empty when there is none."""
        since = granted(self.effects[self._asked_at[request_id] :])
        return since[request_id].decision.node_id if request_id in since else ""

    def end(self, attempt_id: str, node_id: str, status: OutcomeStatus | None = None, **more: Any) -> list[Effect]:
        """An attempt ended; `more` as for `messages.outcome`."""
        fields = {"model": MODEL, "instance": f"{node_id}-a", "status": status}
        return self.note(self.core.on_outcome(outcome(attempt_id, node_id, **(fields | more)), self.now))

    def running_on(self, node_id: str) -> int:
        """How many attempts the core counts on a node."""
        return len(self.core.fleet.nodes[node_id].attempts)

    def tick(self, seconds: float = 0.0) -> list[Effect]:
        """Time passes."""
        self.now += seconds
        return self.note(self.core.tick(self.now))

    def beat_all(self, seconds: float) -> None:
        """Lets time pass while every node goes on telling the same."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            for node_id, told in list(self.told.items()):
                held = self.core.fleet.nodes[node_id].attempts.values()
                in_flight = tuple(InFlight(attempt_id=a.attempt_id, model=a.wire_model) for a in held)
                self.node(node_id, **(told | {"in_flight": in_flight}))
            self.tick()

    def note(self, effects: list[Effect]) -> list[Effect]:
        """Keeps what the core did."""
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
