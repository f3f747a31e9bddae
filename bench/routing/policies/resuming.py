"""The production planner whose callers go on with answers that break off, as those of the live system do."""

from __future__ import annotations

from typing import Any

from bench.routing.engine import Job
from bench.routing.policies.planned import PlannedPolicy, planner_config
from bench.routing.simulation import World
from bench.routing.workloads import Request
from sollol_agents.scorer.core import SchedulerCore
from sollol_schemas.continuation import Continuation


class ResumingPolicy(PlannedPolicy):
    """A dispatcher that asks for the rest: the next attempt reads the prompt and what was said, and makes what is left.

    An engine that answers with an error has said nothing; such an attempt is repeated from the start.
    """

    def __init__(self, world: World, core: SchedulerCore) -> None:
        self.cut: dict[str, int] = {}
        """How often each request was moved."""
        self.resumed: dict[str, int] = {}
        """How often each request went on after a fault."""
        super().__init__(world, core)

    def _broke(self, job: Job) -> None:
        if job.tokens_made:
            request_id = f"r{job.request.number}"
            self.resumed[request_id] = self.resumed.get(request_id, 0) + 1
            self._keep_said(job)

    def _keep_said(self, job: Job) -> None:
        """What an attempt has said is not made again."""
        request = job.request
        request.said_tokens += job.tokens_made
        if request.spoke_at is None:
            request.spoke_at = job.first_token_at

    def _going_on(self, request: Request) -> dict[str, Any]:
        told: dict[str, Any] = {"is_resumable": request.task != "embedding"}
        request_id = f"r{request.number}"
        cuts = self.cut.get(request_id, 0)
        resumed = cuts + self.resumed.get(request_id, 0)
        if resumed:
            fingerprint = f"ollama:{request.model.name}"
            told["continuation"] = Continuation(
                fingerprint=fingerprint, said_tokens=request.said_tokens, resumed=resumed, cuts=cuts
            )
        return told


def plan_resume(world: World) -> ResumingPolicy:
    """The production planner with its own predictions, whose callers go on after faults."""
    return ResumingPolicy(world, SchedulerCore(planner_config(world), world.rng, 0.0))
