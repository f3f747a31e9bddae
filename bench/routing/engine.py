"""One simulated machine with an engine like Ollama's.

Each loaded model serves a few sequences at a time and queues the rest, first in, first out. Requests for a
model that is not in memory wait in one queue for loads: the head loads when there is room, or when its
victims (idle ones by keep-alive, then name) have no work left; new requests for a victim are still let in
meanwhile. Running sequences share the machine: each runs at `1 / (1 + sum of betas of the others)`.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bench.routing.fleets import BETA_OTHER_MODEL, MODELS_PER_DEVICE, MachineSpec, ModelSpec
from bench.routing.virtual import Timer, VirtualTime
from bench.routing.workloads import Request

_EXTRA_PREFIXES = 4
_KEEP_ALIVE_S, _RESIDENT_S = 300.0, 1800.0


@dataclass(slots=True, eq=False)
class Job:
    """One attempt at a request on one machine; base seconds of work are what it would take alone."""

    request: Request
    attempt_id: str
    on_end: Callable[[Job, str], None]
    """Called with an empty text when it is complete, else with what went wrong."""
    keep_alive_s: float = _KEEP_ALIVE_S
    machine_name: str = ""
    prefill_left_s: float = 0.0
    decode_left_s: float = 0.0
    decode_s: float = 0.0
    cached_tokens: int = 0
    accepted_at: float = 0.0
    started_at: float | None = None
    first_token_at: float | None = None
    load_s: float = 0.0
    company_s: float = 0.0
    said_tokens: int = 0
    """What attempts before have said of the answer: read as prompt, and not made again."""

    @property
    def left_s(self) -> float:
        """Base seconds of work left."""
        return self.prefill_left_s + self.decode_left_s

    @property
    def tokens_made(self) -> int:
        """Output tokens of this attempt so far."""
        if self.decode_s <= 0 or self.first_token_at is None:
            return 0
        return int((self.request.output_tokens - self.said_tokens) * (1.0 - self.decode_left_s / self.decode_s))


@dataclass(slots=True)
class InMemory:
    """A model in memory."""

    model: ModelSpec
    keep_alive_s: float = _KEEP_ALIVE_S
    used_at: float = 0.0
    running: list[Job] = field(default_factory=list)
    queue: deque[Job] = field(default_factory=deque)
    prefixes: OrderedDict[str, frozenset[str]] = field(default_factory=OrderedDict)

    @property
    def is_busy(self) -> bool:
        """Whether it has work."""
        return bool(self.running or self.queue)


class Machine:
    """A simulated node; `on_change` is called whenever what it runs or holds changes."""

    def __init__(self, name: str, spec: MachineSpec, time: VirtualTime) -> None:
        self.name = name
        self.spec = spec
        self.time = time
        self.memory: dict[str, InMemory] = {}
        self.pending: deque[Job] = deque()
        self.loading: ModelSpec | None = None
        self.load_ends_at = 0.0
        self.load_spans: list[tuple[float, float]] = []
        """When each load began and should end."""
        self.speed = 1.0
        """Below 1 in a slow phase; 0 while it hangs."""
        self.is_up = True
        self.on_change: Callable[[], None] = lambda: None
        self._advanced_at = 0.0
        self._timer: Timer | None = None
        self._load_timer: Timer | None = None

    def hold(self, models: Iterable[ModelSpec]) -> None:
        """Has models in memory from the start, for as long as models in steady demand stay."""
        for model in models:
            self.memory[model.name] = InMemory(model, _RESIDENT_S)

    @property
    def loads(self) -> int:
        """Loads so far."""
        return len(self.load_spans)

    # -- what the outside asks ----------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Takes a job: it runs, queues, or waits for a load."""
        job.accepted_at = self.time.now
        job.machine_name = self.name
        if not self.is_up:
            job.on_end(job, "connection refused")
            return
        self._forget_expired()
        place = self.memory.get(job.request.model.name)
        if place is not None:
            place.queue.append(job)
        else:
            self.pending.append(job)
        self._go_on()

    def cancel(self, job: Job) -> None:
        """Forgets a job, wherever it is."""
        self._advance()
        if job in self.pending:
            self.pending.remove(job)
        for place in self.memory.values():
            if job in place.running:
                place.running.remove(job)
            elif job in place.queue:
                place.queue.remove(job)
        self._go_on()

    def jobs(self) -> list[Job]:
        """Everything that runs, queues or waits."""
        self._advance()
        placed = [j for p in self.memory.values() for j in (*p.running, *p.queue)]
        return [*placed, *self.pending]

    def running(self) -> list[Job]:
        """Everything that runs."""
        return [j for p in self.memory.values() for j in p.running]

    def left_s(self, job: Job) -> float:
        """Base seconds of work that a job still needs."""
        self._advance()
        return job.left_s

    def set_speed(self, speed: float) -> None:
        """Begins or ends a slow phase or a stall."""
        self._advance()
        self.speed = speed
        self._go_on()

    def crash(self) -> None:
        """Loses everything; refuses connections until `revive`."""
        self._advance()
        lost = self.jobs()
        self.memory.clear()
        self.pending.clear()
        self.loading, self.is_up = None, False
        if self._load_timer is not None:
            self._load_timer.cancel()
        for job in lost:
            job.on_end(job, "connection reset")
        self._go_on()

    def revive(self) -> None:
        """Is there again, with nothing in memory."""
        self.is_up = True
        self.on_change()

    # -- the engine ---------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        self._advance()
        self._start_load()
        for place in self.memory.values():
            while place.queue and len(place.running) < place.model.slots:
                self._start(place, place.queue.popleft())
        self._schedule()
        self.on_change()

    def _start(self, place: InMemory, job: Job) -> None:
        request, spec = job.request, self.spec
        place.used_at = self.time.now
        place.keep_alive_s = job.keep_alive_s
        job.cached_tokens = _hit_tokens(place, request)
        job.said_tokens = request.said_tokens
        fresh = max(1, request.prompt_tokens + job.said_tokens - job.cached_tokens)
        job.prefill_left_s = fresh / spec.prompt(place.model)
        job.decode_s = job.decode_left_s = (request.output_tokens - job.said_tokens) / spec.decode(place.model)
        job.started_at = self.time.now
        place.running.append(job)

    def _finish(self, place: InMemory, job: Job) -> None:
        place.running.remove(job)
        place.used_at = self.time.now
        if job.first_token_at is None:
            job.first_token_at = self.time.now
        if job.request.prefix_hashes:
            key = job.request.session or job.request.prefix_hashes[-1]
            place.prefixes[key] = frozenset(job.request.prefix_hashes)
            place.prefixes.move_to_end(key)
            while len(place.prefixes) > place.model.slots + _EXTRA_PREFIXES:
                place.prefixes.popitem(last=False)

    def _start_load(self) -> None:
        """Loads for the head of the pending queue, once its victims are idle."""
        while self.pending and self.loading is None:
            job = self.pending[0]
            place = self.memory.get(job.request.model.name)
            if place is not None:
                place.queue.append(self.pending.popleft())
                continue
            victims = self._victims(job.request.model)
            if any(self.memory[v].is_busy for v in victims):
                return
            for victim in victims:
                del self.memory[victim]
            self.loading = job.request.model
            duration = self.spec.load_s(job.request.model)
            job.load_s = duration
            self.load_ends_at = self.time.now + duration
            self.load_spans.append((self.time.now, self.load_ends_at))
            self._load_timer = self.time.after(duration, self._end_load)

    def _end_load(self) -> None:
        model = self.loading
        if model is None:
            return
        if self.speed <= 0:
            self._load_timer = self.time.after(1.0, self._end_load)
            return
        self.loading = None
        self.memory[model.name] = InMemory(model, used_at=self.time.now)
        self._go_on()

    def _victims(self, model: ModelSpec) -> list[str]:
        room = self.spec.memory_gb - sum(p.model.memory_gb for p in self.memory.values())
        count = len(self.memory)
        order = sorted(self.memory.values(), key=lambda p: (p.is_busy, p.keep_alive_s, p.model.name))
        victims = []
        for place in order:
            if room >= model.memory_gb and count < MODELS_PER_DEVICE:
                break
            victims.append(place.model.name)
            room += place.model.memory_gb
            count -= 1
        return victims

    def _forget_expired(self) -> None:
        now = self.time.now
        for name, place in list(self.memory.items()):
            if not place.is_busy and now - place.used_at > place.keep_alive_s:
                del self.memory[name]

    # -- the passing of time ------------------------------------------------------------------------------

    def _rate(self, job: Job, counts: dict[str, int], total: int) -> float:
        same = counts[job.request.model.name] - 1
        others = total - 1 - same
        return self.speed / (1.0 + self.spec.beta * same + BETA_OTHER_MODEL * others)

    def _advance(self) -> None:
        now = self.time.now
        passed = now - self._advanced_at
        self._advanced_at = now
        if passed <= 0:
            return
        counts = {name: len(p.running) for name, p in self.memory.items()}
        total = sum(counts.values())
        for place in self.memory.values():
            for job in place.running:
                done = passed * self._rate(job, counts, total)
                job.company_s += passed * (total - 1)
                if job.prefill_left_s > 0:
                    if done < job.prefill_left_s - 1e-12:
                        job.prefill_left_s -= done
                        continue
                    job.first_token_at = now - passed * (done - job.prefill_left_s) / max(done, 1e-12)
                    done -= job.prefill_left_s
                    job.prefill_left_s = 0.0
                job.decode_left_s = max(0.0, job.decode_left_s - done)

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts = {name: len(p.running) for name, p in self.memory.items()}
        total = sum(counts.values())
        soonest = math.inf
        for place in self.memory.values():
            for job in place.running:
                rate = self._rate(job, counts, total)
                if rate > 0:
                    soonest = min(soonest, job.left_s / rate)
        if math.isfinite(soonest):
            self._timer = self.time.after(soonest, self._complete)

    def _complete(self) -> None:
        self._advance()
        done = []
        for place in self.memory.values():
            for job in [j for j in place.running if j.left_s <= 1e-9]:
                self._finish(place, job)
                done.append(job)
        self._go_on()
        for job in done:
            job.on_end(job, "")


def _hit_tokens(place: InMemory, request: Request) -> int:
    best = 0
    for known in place.prefixes.values():
        for tokens, name in zip(reversed(request.prefix_tokens), reversed(request.prefix_hashes), strict=True):
            if name in known:
                best = max(best, tokens)
                break
    return min(best, request.prompt_tokens - 1)
