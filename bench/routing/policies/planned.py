"""The production planner on simulated machines, and a dispatcher that asks it and runs what it grants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from bench.routing.engine import Job, Machine
from bench.routing.fleets import MODELS
from bench.routing.policies.delivery import JobWindow, Way
from bench.routing.policies.reporter import Reporter
from bench.routing.simulation import MAX_ATTEMPTS, World
from bench.routing.workloads import Request
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.office.preload import Preloader
from sollol_schemas.context import ComplexityClass, RequestKind, TaskContext
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Birth, Granted, GrantRefused, GrantRequest
from sollol_schemas.routing import Routing

_TICK_S = 0.25
_LOOK_S = 1.0
_STALL_S = 30.0  # without a token for so long, a dispatcher gives an attempt up
_FIRST_TOKEN_SLACK_S = 5.0
_BATCH_LIMIT = 10_000


class PlannedPolicy:
    """A dispatcher for all requests, in front of the production core."""

    reporter: ClassVar[type[Reporter]] = Reporter
    """Who speaks for each machine."""

    def __init__(self, world: World, core: SchedulerCore) -> None:
        self.world = world
        self.core = core
        self._requests: dict[str, Request] = {}
        self._excluded: dict[str, tuple[str, ...]] = {}
        self._numbers: dict[str, int] = {}
        self._jobs: dict[str, tuple[Job, Machine]] = {}
        self.reporters = {m.name: self.reporter(m, core, self.carry_out) for m in world.machines}
        self._preloader = Preloader()
        self.preloads = 0
        """Loads that no request waited for."""
        scenario = world.scenario
        self._way = Way(world.time) if scenario.is_batch else None
        self._window = JobWindow(world.time, scenario.job_window, self._ask) if scenario.job_window else None
        self._tick()
        self._look()

    def _tick(self) -> None:
        self.world.time.after(_TICK_S, self._tick)
        self.carry_out(self.core.tick(self.world.time.now))

    def _look(self) -> None:
        """Has idle machines load what will be needed, as the scorer in office does once a second."""
        self.world.time.after(_LOOK_S, self._look)
        for wanted in self._preloader.decide(self.core, self.world.time.now):
            self.preloads += 1
            empty = Request(
                number=-1,
                arrival_s=self.world.time.now,
                model=MODELS[wanted.model],
                task="load",
                prompt_tokens=1,
                output_tokens=0,
            )
            job = Job(empty, f"load-{self.preloads}", _ignored, keep_alive_s=wanted.keep_alive_s)
            self.world.by_name[wanted.node_id].submit(job)

    def submit(self, request: Request) -> None:
        """Asks the core for a slot, or stores the request as a job."""
        request_id = f"r{request.number}"
        self._requests[request_id] = request
        if self._window is None:
            self._ask(request_id)
        else:
            self._window.store(request_id, request.priority)

    def _ask(self, request_id: str) -> None:
        request = self._requests[request_id]
        number = self._numbers[request_id] = self._numbers.get(request_id, 0) + 1
        scenario, waited_s = self.world.scenario, self.world.time.now - request.arrival_s
        ask = GrantRequest(
            request_id=request_id,
            number=number,
            context=_context(request, job_id=request_id if self._window is not None else ""),
            routing=Routing(routing_mode=scenario.mode, priority=request.priority, session_id=request.session),
            birth=Birth(at_s=request.arrival_s, clock="arrivals", number=request.number + 1),
            waited_s=waited_s,
            behind=self._window.behind(request.priority) if self._window is not None else 0,
            deadline_s=max(0.1, scenario.timeout_s - waited_s),
            excluded=self._excluded.get(request_id, ()),
            **self._going_on(request),
        )
        if self._way is None:
            self._enqueue(ask)
        else:
            self._way.deliver(lambda: self._enqueue(ask))

    def _going_on(self, request: Request) -> dict[str, Any]:
        """What a question says of answers that go on."""
        del request
        return {}

    def _enqueue(self, ask: GrantRequest) -> None:
        self.carry_out(self.core.enqueue(ask, self.world.time.now))

    def on_timeout(self, request: Request) -> None:
        """Gives the request up."""
        request_id = f"r{request.number}"
        self.carry_out(self.core.release(request_id, self.world.time.now))
        for attempt_id, (job, machine) in list(self._jobs.items()):
            if job.request is request:
                self._stop(attempt_id, job, machine, OutcomeStatus.CANCELLED, ErrorCode.CANCELLED)

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Starts what was granted and ends what was refused."""
        for effect in effects:
            if isinstance(effect, Granted):
                self._start(effect)
            elif isinstance(effect, GrantRefused):
                self.world.answer(self._requests[effect.request_id], None, is_failed=True)

    def _start(self, granted: Granted) -> None:
        decision = granted.decision
        machine = self.world.by_name[decision.node_id]
        request = self._requests[decision.request_id]
        keep_alive_s = granted.keep_alive_s if granted.keep_alive_s is not None else 300.0

        def ended(job: Job, error: str) -> None:
            self._on_end(job, error, machine, granted)

        job = self.world.start(machine, request, decision.attempt_id, ended, keep_alive_s=keep_alive_s)
        self._jobs[decision.attempt_id] = (job, machine)
        self.reporters[machine.name].jobs[decision.attempt_id] = job
        if self._window is not None:
            self._window.began(request.priority)
        if self.world.error_ratio:
            limit_s = decision.forecast.first_token_s + 1.5 * decision.forecast.load_s + _FIRST_TOKEN_SLACK_S
            self.world.time.after(limit_s, lambda: self._watch(decision.attempt_id, -1.0))

    def _watch(self, attempt_id: str, made: float) -> None:
        """Gives up an attempt that makes no progress."""
        job, machine = self._jobs.get(attempt_id, (None, None))
        if job is None or machine is None:
            return
        machine.jobs()
        now_made = float(job.tokens_made) if job.first_token_at is not None else -1.0
        if now_made <= made:
            self._broke(job)
            self._stop(attempt_id, job, machine, OutcomeStatus.FAILED, ErrorCode.STALLED)
            self._retry(job.request, machine.name)
            return
        self.world.time.after(_STALL_S, lambda: self._watch(attempt_id, now_made))

    def _stop(self, attempt_id: str, job: Job, machine: Machine, status: OutcomeStatus, code: ErrorCode) -> None:
        self._jobs.pop(attempt_id, None)
        self.reporters[machine.name].jobs.pop(attempt_id, None)
        machine.cancel(job)
        self._report(job, machine, status, code)

    def _on_end(self, job: Job, error: str, machine: Machine, granted: Granted) -> None:
        if self._jobs.pop(job.attempt_id, None) is None:
            return
        self.reporters[machine.name].jobs.pop(job.attempt_id, None)
        if error:
            if job.left_s > 0.0:
                self._broke(job)
            self._report(job, machine, OutcomeStatus.FAILED, ErrorCode.ENGINE_FAILED)
            self._retry(job.request, machine.name)
            return
        self.world.answer(job.request, job)
        figures = _figures(job, self.world.time.now)
        predicted_s = granted.decision.forecast.total_s
        self._report(job, machine, OutcomeStatus.SUCCESS, figures=figures, predicted_s=predicted_s)

    def _broke(self, job: Job) -> None:
        """An attempt broke off in its middle; answers are whole, so what it said is lost."""

    def _retry(self, request: Request, failed: str) -> None:
        request_id = f"r{request.number}"
        if len(self._excluded.get(request_id, ())) + 1 >= MAX_ATTEMPTS:
            self.world.answer(request, None, is_failed=True)
            return
        self._excluded[request_id] = (*self._excluded.get(request_id, ()), failed)
        self._ask(request_id)

    def _report(
        self,
        job: Job,
        machine: Machine,
        status: OutcomeStatus,
        code: ErrorCode | None = None,
        *,
        figures: Figures | None = None,
        predicted_s: float = 0.0,
    ) -> None:
        outcome = Outcome(
            decision=Decision(
                attempt_id=job.attempt_id,
                request_id=f"r{job.request.number}",
                node_id=machine.name,
                model=job.request.model.name,
                instance=machine.name,
                task_type=job.request.task,
                forecast=Forecast(total_s=predicted_s),
            ),
            status=status,
            reported_by=ReportedBy.NODE,
            code=code,
            figures=figures,
        )
        self.carry_out(self.core.on_outcome(outcome, self.world.time.now))


def _ignored(_job: Job, _error: str) -> None:
    """Nobody waits for the end of a load."""


def _context(request: Request, *, job_id: str) -> TaskContext:
    return TaskContext(
        kind=RequestKind.EMBED if request.task == "embedding" else RequestKind.CHAT,
        model=request.model.name,
        task_type=request.task,
        complexity_class=ComplexityClass.COMPLEX if request.prompt_tokens >= 2000 else ComplexityClass.SIMPLE,
        prompt_tokens=request.prompt_tokens,
        prefix_hashes=request.prefix_hashes,
        prefix_tokens=request.prefix_tokens,
        job_id=job_id,
    )


def _figures(job: Job, now: float) -> Figures:
    began = job.started_at if job.started_at is not None else job.accepted_at
    first = job.first_token_at if job.first_token_at is not None else now
    ran_s = max(1e-9, now - began)
    return Figures(
        actual_s=now - job.accepted_at,
        ttft_s=first - job.accepted_at,
        load_s=job.load_s,
        prompt_tokens=job.request.prompt_tokens + job.said_tokens,
        cached_tokens=job.cached_tokens,
        output_tokens=job.request.output_tokens - job.said_tokens,
        continued_tokens=job.said_tokens,
        prompt_s=max(0.0, first - began),
        decode_s=max(0.0, now - first),
        co_runners=job.company_s / ran_s,
    )


def plan(world: World) -> PlannedPolicy:
    """The production planner with its own predictions."""
    return PlannedPolicy(world, SchedulerCore(planner_config(world), world.rng, 0.0))


def least_loaded(world: World) -> PlannedPolicy:
    """The production scorer with its simplest strategy."""
    return PlannedPolicy(world, SchedulerCore(planner_config(world, "least_loaded"), world.rng, 0.0))


def planner_config(world: World, strategy: str = "plan") -> ScorerConfig:
    """The scorer's settings in simulations: nodes are known from the start, and no batch is too long for a level."""
    queue_limit = _BATCH_LIMIT if world.scenario.is_batch else ScorerConfig().queue_limit
    return ScorerConfig(strategy=strategy, warm_up_s=0.0, resident_keep_alive_s=1800.0, queue_limit=queue_limit)
