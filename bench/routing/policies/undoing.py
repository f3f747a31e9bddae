"""The production planner that may undo: running answers are cut, and go on elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from bench.routing.policies.planned import planner_config
from bench.routing.policies.resuming import ResumingPolicy
from bench.routing.simulation import World
from bench.routing.workloads import Request
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_schemas.continuation import Cut
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus

_WAY_S = 0.002  # from the scorer to the node
_PAUSE_S = 0.05
"""From a cut until the caller's question for the rest is at the scorer."""


class UndoingPolicy(ResumingPolicy):
    """A dispatcher whose callers go on with answers that break off, and whose scorer moves them."""

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Starts what was granted, ends what was refused, and moves what pays to be moved."""
        super().carry_out(effects)
        for cut in self.core.undo.cuts(self.world.time.now):
            self.world.time.after(_WAY_S, lambda cut=cut: self._move(cut))  # type: ignore[misc]

    def _move(self, cut: Cut) -> None:
        job, machine = self._jobs.get(cut.attempt_id, (None, None))
        if job is None or machine is None:
            return
        machine.jobs()
        request = job.request
        self.cut[cut.request_id] = self.cut.get(cut.request_id, 0) + 1
        self._keep_said(job)
        self._stop(cut.attempt_id, job, machine, OutcomeStatus.FAILED, ErrorCode.MOVED)
        self.world.time.after(_PAUSE_S, lambda: self._come_back(request))

    def _come_back(self, request: Request) -> None:
        if request.latency_s is None:
            self._ask(f"r{request.number}")


def plan_undo(world: World) -> UndoingPolicy:
    """The production planner with its own predictions, which moves running answers."""
    return UndoingPolicy(world, SchedulerCore(planner_config(world), world.rng, 0.0))
