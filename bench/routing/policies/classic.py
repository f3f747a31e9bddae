"""Classic balancers: each request goes to a machine at once and queues there.

They use the same filter (the model fits) and the same retries on another machine as the planner; what they
count is exact, as a single front end would know it.
"""

from __future__ import annotations

from bench.routing.engine import Job, Machine
from bench.routing.simulation import MAX_ATTEMPTS, World
from bench.routing.workloads import Request

_DOWN_S = 5.0  # a machine that refused is left alone for so long


class Immediate:
    """Picks a machine on arrival; subclasses say which."""

    max_attempts = MAX_ATTEMPTS

    def __init__(self, world: World) -> None:
        self.world = world
        self.in_flight: dict[str, int] = {m.name: 0 for m in world.machines}
        self._refused_until: dict[str, float] = {}
        self._jobs: dict[int, tuple[Job, Machine]] = {}
        self._tried: dict[int, set[str]] = {}

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The machine for a request, among those that can serve it."""
        raise NotImplementedError

    def submit(self, request: Request) -> None:
        """Sends the request to the picked machine."""
        tried = self._tried.setdefault(request.number, set())
        fitting = [m for m in self.world.machines if m.spec.fits(request.model)]
        now = self.world.time.now
        open_ = [m for m in fitting if self._refused_until.get(m.name, 0.0) <= now and m.name not in tried]
        machine = self.pick(request, open_ or [m for m in fitting if m.name not in tried] or fitting)
        tried.add(machine.name)
        self.in_flight[machine.name] += 1
        attempt_id = f"r{request.number}-{len(tried)}"
        job = self.world.start(machine, request, attempt_id, lambda j, e: self._on_end(j, e, machine))
        self._jobs[request.number] = (job, machine)

    def on_timeout(self, request: Request) -> None:
        """Cancels the request where it runs."""
        job, machine = self._jobs.pop(request.number, (None, None))
        if job is not None and machine is not None:
            machine.cancel(job)
            self.in_flight[machine.name] -= 1

    def on_latency(self, machine: Machine, seconds: float) -> None:
        """An attempt took so long."""

    def _on_end(self, job: Job, error: str, machine: Machine) -> None:
        request = job.request
        if self._jobs.get(request.number, (None,))[0] is not job:
            return
        del self._jobs[request.number]
        self.in_flight[machine.name] -= 1
        if not error:
            self.on_latency(machine, self.world.time.now - job.accepted_at)
            self.world.answer(request, job)
            return
        if error.startswith("connection"):
            self._refused_until[machine.name] = self.world.time.now + _DOWN_S
        if len(self._tried[request.number]) >= self.max_attempts:
            self.world.answer(request, job, is_failed=True)
        else:
            self.submit(request)


class RoundRobin(Immediate):
    """Machines in turn."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._turn = 0

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The next one that can."""
        del request
        names = {m.name for m in machines}
        while True:
            machine = self.world.machines[self._turn % len(self.world.machines)]
            self._turn += 1
            if machine.name in names:
                return machine


class RoundRobinWithoutRetries(RoundRobin):
    """Machines in turn; what fails has failed."""

    max_attempts = 1


class RandomChoice(Immediate):
    """Any machine."""

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """One by chance."""
        del request
        return self.world.rng.choice(machines)


class LeastConnections(Immediate):
    """The machine with the fewest requests."""

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The least busy; ties by chance."""
        del request
        least = min(self.in_flight[m.name] for m in machines)
        return self.world.rng.choice([m for m in machines if self.in_flight[m.name] == least])


class WeightedLeastConnections(Immediate):
    """The machine with the fewest requests for its speed, which the operator is taken to know."""

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The lowest (requests + 1) / weight."""
        del request
        scored = [((self.in_flight[m.name] + 1) / m.spec.decode_tps, m) for m in machines]
        least = min(s for s, _ in scored)
        return self.world.rng.choice([m for s, m in scored if s == least])


class PowerOfTwo(Immediate):
    """The less busy of two machines drawn by chance."""

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """Of two, the one with fewer requests."""
        del request
        pair = self.world.rng.sample(machines, min(2, len(machines)))
        return min(pair, key=lambda m: self.in_flight[m.name])


class PeakEwma(Immediate):
    """The lowest product of recent latency and outstanding requests; peaks count at once."""

    _DECAY_S = 10.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._latency: dict[str, tuple[float, float]] = {}

    def on_latency(self, machine: Machine, seconds: float) -> None:
        """A peak replaces the average, less moves it."""
        known, at = self._latency.get(machine.name, (0.0, self.world.time.now))
        weight = 2.0 ** (-(self.world.time.now - at) / self._DECAY_S)
        value = seconds if seconds > known else known * weight + seconds * (1.0 - weight)
        self._latency[machine.name] = (value, self.world.time.now)

    def pick(self, request: Request, machines: list[Machine]) -> Machine:
        """The lowest latency x (requests + 1); unknown machines first."""
        del request

        def cost(machine: Machine) -> float:
            latency, _ = self._latency.get(machine.name, (0.0, 0.0))
            return latency * (self.in_flight[machine.name] + 1)

        least = min(cost(m) for m in machines)
        return self.world.rng.choice([m for m in machines if cost(m) == least])
