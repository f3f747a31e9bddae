"""A list scheduler that sees everything that waits, with true lengths, speeds and remaining work.

Each request, in the order of arrival, is planned where it ends earliest beside what runs and what was planned before
it (Graham's list scheduling, on unrelated machines); only what may start now starts, and the rest is planned anew when
something changes. A machine without the model takes part from the end of a load on, and the first request that ends
earliest there has it loaded. The scheduler shares nothing with the production planner, and it is no optimum: its order
is that of arrival, and it does not weigh what one choice takes from the others, except for mixing models.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.routing.engine import Job, Machine
from bench.routing.fleets import BETA_OTHER_MODEL, MODELS_PER_DEVICE, SLOTS, ModelSpec
from bench.routing.simulation import World
from bench.routing.workloads import Request

_KEEP_ALIVE_S = 1800.0
_LOAD = "load"


class ListScheduler:
    """The dispatcher of the list scheduler."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._waiting: dict[int, Request] = {}
        self._sent: dict[str, dict[str, Job]] = {m.name: {} for m in world.machines}
        self._is_due = False

    def submit(self, request: Request) -> None:
        """Puts the request at the end of the list."""
        self._waiting[request.number] = request
        self._plan_soon()

    def on_timeout(self, request: Request) -> None:
        """Takes it from the list, or from its machine."""
        self._waiting.pop(request.number, None)
        for name, jobs in self._sent.items():
            job = jobs.pop(f"r{request.number}", None)
            if job is not None:
                self.world.by_name[name].cancel(job)
        self._plan_soon()

    def _plan_soon(self) -> None:
        """Plans once for everything that happens in this instant."""
        if not self._is_due:
            self._is_due = True
            self.world.time.after(0.0, self._plan)

    def _plan(self) -> None:
        self._is_due = False
        behind = len(self._waiting)
        is_crowded = behind > SLOTS * len(self.world.machines)
        futures = [
            Future(m, self._sent[m.name].values(), self.world.time.now, is_crowded=is_crowded)
            for m in self.world.machines
            if m.is_up
        ]
        for request in list(self._waiting.values()):
            if not any(f.is_open for f in futures):
                return
            behind -= 1
            is_crowded = behind > SLOTS * len(futures)
            fitting = [f for f in futures if f.has_place(request.model)]
            if fitting:
                self._place(request, min(fitting, key=lambda f: f.cost_s(request, is_crowded=is_crowded)), is_crowded)

    def _place(self, request: Request, best: Future, is_crowded: bool) -> None:
        """Plans the request there, and does what can be done about it now."""
        is_new = best.commit(request, is_crowded=is_crowded)
        if is_new:
            empty = Request(-1, self.world.time.now, request.model, _LOAD, 1, 0)
            self._send(best.machine, empty, f"{_LOAD}-{request.model.name}")
        elif best.last_start <= self.world.time.now:
            del self._waiting[request.number]
            self._send(best.machine, request, f"r{request.number}")

    def _send(self, machine: Machine, request: Request, name: str) -> None:
        sent = self._sent[machine.name]

        def ended(job: Job, error: str) -> None:
            if sent.get(name) is job:
                del sent[name]
                if request.task != _LOAD:
                    self.world.answer(request, job, is_failed=bool(error))
            self._plan_soon()

        sent[name] = self.world.start(machine, request, name, ended, keep_alive_s=_KEEP_ALIVE_S)


class Future:
    """What a machine will do: when each of its slots comes free, beside which models, and what it will hold when.

    Args:
        machine: The machine.
        sent: What was sent there and has not ended.
        now: The instant.
        is_crowded: Whether slots that come free will be taken at once, so that everything runs in full company.
    """

    def __init__(self, machine: Machine, sent: Iterable[Job], now: float, *, is_crowded: bool) -> None:
        self.machine = machine
        self.last_start = now
        self._now = now
        self._ready = dict.fromkeys(machine.memory, now)
        self._held = [place.model for place in machine.memory.values()]
        self._load_ends_at = now
        machine.jobs()  # brings what is left up to date
        jobs = [job for job in sent if job.request.task != _LOAD]
        for job in sent:
            if job.request.task == _LOAD and job.request.model.name not in self._ready:
                self._expect(job.request.model, max(now, machine.load_ends_at) if machine.loading else None)
        self._slots = [(now, "")] * (SLOTS - len(jobs))
        company = [(now, job.request.model.name) for job in jobs]
        for n, job in enumerate(jobs):
            left_s = job.left_s if job.started_at is not None else _work_s(machine, job.request)
            others = company[:n] + company[n + 1 :]
            slowness, _ = self._slowness(job.request.model, others, SLOTS - 1 if is_crowded else len(others))
            self._slots.append((now + left_s * slowness, job.request.model.name))

    @property
    def is_open(self) -> bool:
        """Whether something could start, or begin to load, now."""
        return min(self._slots)[0] <= self._now and (
            self._load_ends_at <= self._now or any(at <= self._now for at in self._ready.values())
        )

    def has_place(self, model: ModelSpec) -> bool:
        """Whether the model is there, or fits beside what is."""
        if model.name in self._ready:
            return True
        used_gb = sum(m.memory_gb for m in self._held)
        return used_gb + model.memory_gb <= self.machine.spec.memory_gb and len(self._held) < MODELS_PER_DEVICE

    def cost_s(self, request: Request, *, is_crowded: bool) -> float:
        """When the request would end, and how much longer others take because it mixes models."""
        _, end, mixing_s = self._outlook(request, is_crowded)
        return end + mixing_s

    def commit(self, request: Request, *, is_crowded: bool) -> bool:
        """Plans the request; returns whether its model must begin to load for that now."""
        start, end, _ = self._outlook(request, is_crowded)
        self._slots.remove(min(self._slots))
        self._slots.append((end, request.model.name))
        self.last_start = start
        if request.model.name in self._ready:
            return False
        is_first = self._load_ends_at <= self._now
        self._expect(request.model)
        return is_first

    def _expect(self, model: ModelSpec, ready_at: float | None = None) -> None:
        """Takes note of a load that ends then, or, when nothing is said, follows those that are known."""
        if ready_at is None:
            ready_at = max(self._now, self._load_ends_at) + self.machine.spec.load_s(model)
        self._ready[model.name] = self._load_ends_at = ready_at
        self._held.append(model)

    def _outlook(self, request: Request, is_crowded: bool) -> tuple[float, float, float]:
        """When the request would start and end, and what the others lose because it is of another model."""
        model = request.model
        mine = min(self._slots)
        ready_at = self._ready.get(model.name)
        if ready_at is None:
            ready_at = max(self._now, self._load_ends_at) + self.machine.spec.load_s(model)
        start = max(mine[0], ready_at, self._now)
        others = list(self._slots)
        others.remove(mine)
        if not is_crowded:
            others = [(until, name) for until, name in others if until > start]
        slowness, mixed = self._slowness(model, others, SLOTS - 1 if is_crowded else len(others))
        work_s = _work_s(self.machine, request)
        return start, start + work_s * slowness, work_s * mixed

    def _slowness(self, model: ModelSpec, others: list[tuple[float, str]], company: int) -> tuple[float, float]:
        """Seconds for a second of work alone, and the part of it that comes from other models."""
        strangers = sum(1 for _, name in others if name not in ("", model.name))
        beta = self.machine.spec.beta
        mixed = (BETA_OTHER_MODEL - beta) * strangers
        return 1.0 + beta * company + mixed, mixed


def _work_s(machine: Machine, request: Request) -> float:
    """Seconds of work of a request alone."""
    spec, model = machine.spec, request.model
    return request.prompt_tokens / spec.prompt(model) + request.output_tokens / spec.decode(model)
