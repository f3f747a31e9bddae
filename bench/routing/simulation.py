"""One run: arrivals, machines and a policy in virtual time; latencies of every request.

A request that fails or is not answered within 300 s counts as 300 s; of a batch, none is given up. Answers are whole
(no caller streams), so that an attempt may be repeated until its answer is complete.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from bench.routing.engine import Job, Machine
from bench.routing.faults import begin_faults
from bench.routing.fleets import FLEETS, MODELS
from bench.routing.scenarios import Scenario
from bench.routing.virtual import VirtualTime
from bench.routing.workloads import Request

MAX_ATTEMPTS = 3
_OVERHEAD_S = 0.002  # bus and engine calls around every attempt


class Policy(Protocol):
    """Decides where requests go."""

    def submit(self, request: Request) -> None:
        """A request arrives."""
        ...

    def on_timeout(self, request: Request) -> None:
        """The caller gave up."""
        ...


class World:
    """What a policy may use: time, machines, and how to run a request on one."""

    def __init__(self, scenario: Scenario, fleet: str, seed: int) -> None:
        self.scenario = scenario
        self.time = VirtualTime()
        self.rng = random.Random(seed)
        self.machines = [Machine(f"{spec.kind}-{i}", spec, self.time) for i, spec in enumerate(FLEETS[fleet])]
        self.by_name = {m.name: m for m in self.machines}
        self.error_ratio: dict[str, float] = {}
        self._on_answer: Callable[[Request], None] = lambda _request: None

    def on_answer(self, callback: Callable[[Request], None]) -> None:
        """Whom to tell that a request is over."""
        self._on_answer = callback

    def start(
        self,
        machine: Machine,
        request: Request,
        attempt_id: str,
        on_end: Callable[[Job, str], None],
        *,
        keep_alive_s: float = 300.0,
    ) -> Job:
        """Sends an attempt to a machine, which is reached after half its round trip."""

        def ended(job: Job, error: str) -> None:
            if not error and self.rng.random() < self.error_ratio.get(machine.name, 0.0):
                error = "engine error"
            on_end(job, error)

        job = Job(request, attempt_id, ended, keep_alive_s=keep_alive_s)
        self.time.after(_OVERHEAD_S + machine.spec.rtt_s / 2, lambda: machine.submit(job))
        return job

    def answer(self, request: Request, job: Job | None, *, is_failed: bool = False) -> None:
        """The request is over; only the first call counts."""
        if request.latency_s is not None:
            return
        request.is_failed = is_failed
        machine = self.by_name.get(job.machine_name) if job is not None else None
        rtt_s = machine.spec.rtt_s / 2 if machine is not None else 0.0
        latency = self.time.now - request.arrival_s + rtt_s
        timeout_s = self.scenario.timeout_s
        request.latency_s = timeout_s if is_failed else min(timeout_s, latency)
        if job is not None and job.first_token_at is not None and not is_failed:
            spoke_at = job.first_token_at if request.spoke_at is None else request.spoke_at
            request.ttft_s = spoke_at - request.arrival_s + rtt_s
        request.done_at = self.time.now
        if job is not None:
            request.started_at, request.machine_name = job.started_at, job.machine_name
        self._on_answer(request)


def run(
    scenario: Scenario, fleet: str, requests: list[Request], seed: int, make_policy: Callable[[World], Policy]
) -> World:
    """Plays one scenario to its end; the requests then carry their latencies."""
    world = _made_world(scenario, fleet, seed)
    policy = make_policy(world)
    followers: dict[int, list[Request]] = {}
    for request in requests:
        if request.follows is not None:
            followers.setdefault(request.follows, []).append(request)
    unasked = deque(r for r in requests if scenario.is_closed and math.isinf(r.arrival_s))
    left = len(requests)

    def arrive(request: Request) -> None:
        request.arrival_s = world.time.now
        world.time.after(scenario.timeout_s, lambda: time_out(request))
        policy.submit(request)

    def time_out(request: Request) -> None:
        if request.latency_s is None:
            policy.on_timeout(request)
            world.answer(request, None, is_failed=True)

    def over(request: Request) -> None:
        nonlocal left
        left -= 1
        for follower in followers.get(request.number, ()):
            world.time.after(follower.think_s, lambda f=follower: arrive(f))  # type: ignore[misc]
        if unasked:
            asked = unasked.popleft()
            world.time.after(0.0, lambda: arrive(asked))

    world.on_answer(over)
    for request in requests:
        if request.follows is None and math.isfinite(request.arrival_s):
            world.time.at(request.arrival_s, lambda r=request: arrive(r))  # type: ignore[misc]
    world.time.run_while(lambda: left > 0)
    return world


def _made_world(scenario: Scenario, fleet: str, seed: int) -> World:
    """Machines with what they hold, and the schedule of their faults."""
    world = World(scenario, fleet, seed)
    for machine in world.machines[: scenario.warm_machines]:
        machine.hold(dict.fromkeys(MODELS[task.model] for task in scenario.classes))
    if scenario.has_faults:
        world.error_ratio = begin_faults(world.machines, random.Random(f"faults/{seed}"))
    return world
