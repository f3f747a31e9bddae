"""The oracle: the production planner that is told true output lengths, speeds and remaining work."""

from __future__ import annotations

from collections.abc import Iterable

from bench.routing.engine import Job, Machine
from bench.routing.fleets import BETA_OTHER_MODEL, MODELS
from bench.routing.policies.planned import PlannedPolicy, planner_config
from bench.routing.simulation import World
from bench.routing.workloads import Request
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.knowledge.lognormal import MEAN_FACTOR
from sollol_agents.scorer.knowledge.speeds import NodeSpeeds
from sollol_schemas.execution import Figures


class TrueSpeeds(NodeSpeeds):
    """Speeds as they are; nothing to learn."""

    def __init__(self, machine: Machine) -> None:
        self.version = 0
        self.beta = machine.spec.beta
        self.beta_other = BETA_OTHER_MODEL
        self._spec = machine.spec

    def decode_tps(self, model: str, size_bytes: float) -> float:
        """The true decode speed."""
        del size_bytes
        return self._spec.decode(MODELS[model])

    def prompt_tps(self, model: str, size_bytes: float) -> float:
        """The true prompt speed."""
        del size_bytes
        return self._spec.prompt(MODELS[model])

    def load_s(self, model: str, size_bytes: float) -> float:
        """The true load time."""
        del size_bytes
        return self._spec.load_s(MODELS[model])

    def set_machine(self, machine: object) -> None:
        """Nothing to set."""

    def adopt(self, told: object, canonical_of: object) -> None:
        """Nothing to adopt."""

    def learn(self, model: str, size_bytes: float, figures: Figures, pace: float) -> None:
        """Nothing to learn."""

    def has_decode_samples(self, model: str, at_least: int) -> bool:
        """The truth needs no samples."""
        del model, at_least
        return False


class OracleCore(SchedulerCore):
    """The planner told true lengths, speeds and remaining work."""

    def __init__(self, config: ScorerConfig, world: World) -> None:
        super().__init__(config, world.rng, 0.0, left_s=self._true_lefts_s)
        self.world = world
        self.truth: dict[str, Request] = {}
        self.jobs: dict[str, tuple[Job, Machine]] = {}

    def expected_output(self, waiting: Waiting) -> float:
        """The median that makes the expected length the true one."""
        return self.truth[waiting.request_id].output_tokens / MEAN_FACTOR

    def _true_lefts_s(self, attempts: Iterable[Attempt], now: float, speed_ratio: float) -> list[float]:
        return [self._true_left_s(attempt, now, speed_ratio) for attempt in attempts]

    def _true_left_s(self, attempt: Attempt, now: float, speed_ratio: float) -> float:
        job, machine = self.jobs.get(attempt.attempt_id, (None, None))
        if job is None or machine is None or job.started_at is None:
            return attempt.base_left_s(now, speed_ratio)
        return max(1e-6, machine.left_s(job))


class OraclePolicy(PlannedPolicy):
    """The dispatcher of the oracle; it shares what it knows."""

    def __init__(self, world: World, core: OracleCore) -> None:
        super().__init__(world, core)
        core.jobs = self._jobs
        for machine in world.machines:
            core.fleet.nodes[machine.name].speeds = TrueSpeeds(machine)
        self._truth = core.truth

    def submit(self, request: Request) -> None:
        """Tells the truth, then asks."""
        self._truth[f"r{request.number}"] = request
        super().submit(request)


def oracle(world: World) -> OraclePolicy:
    """The same planner with perfect knowledge."""
    return OraclePolicy(world, OracleCore(planner_config(world), world))
