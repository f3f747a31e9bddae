"""The models in memory of an emulated node: loading, handing out, expiring.

The shell around `scheduler`: one task serves the queue of requests that need a load,
strictly in order; each loaded model has one task that performs its engine steps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from sollol_agents.lab.emulator import scheduler, timing
from sollol_agents.lab.emulator.batch import Batch, Job, Step
from sollol_agents.lab.emulator.scheduler import Loaded, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.presets import Preset

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_SHORTEST_SLEEP_S: Final = 0.001  # timers are no finer; shorter steps run ahead and are made up for
_LARGEST_LAG_S: Final = 0.05
QUEUE_FULL: Final = "server busy, please try again.  maximum pending requests exceeded"


class QueueFullError(Exception):
    """As many requests as allowed wait for a load."""


class RunnerDiedError(Exception):
    """The model went away while a request was using or waiting for it."""


class Runner:
    """A loaded model, its slots, and the loop that performs its steps."""

    def __init__(self, loaded: Loaded, residency: Residency) -> None:
        self.loaded = loaded
        self.batch = Batch(
            slots=loaded.slots,
            batch_tokens=loaded.options.num_batch or 512,
            shared_tokens=timing.shared_tokens(residency.preset, loaded.model, gpu_ratio=loaded.gpu_ratio),
        )
        self.task: asyncio.Task[None] | None = None
        self._residency = residency
        self._wake = asyncio.Event()

    def submit(self, job: Job) -> None:
        """Lets a job run as soon as a slot is free."""
        self.batch.submit(job, self._residency.now())
        self._wake.set()

    def cancel(self, job: Job) -> None:
        """Ends a job at once; harmless for one that has ended."""
        if not job.is_ended:
            self.batch.cancel(job, self._residency.now())
            self._wake.set()

    def wake(self) -> None:
        """Looks for work again, after a paused job was let go."""
        self._wake.set()

    async def run(self) -> None:
        """Performs steps for ever, on a schedule that does not drift."""
        now = self._residency.now
        due = now()
        while True:
            step = self.batch.plan()
            if step is None:
                self._wake.clear()
                await self._wake.wait()
                due = now()
                continue
            duration_s = self._duration_s(step)
            due = max(due + duration_s, now() - _LARGEST_LAG_S)
            delay = due - now()
            # a sleep of zero lets arrivals and disconnects in between short steps
            await asyncio.sleep(delay if delay > _SHORTEST_SLEEP_S else 0)
            self.batch.complete(step, duration_s, now())

    def _duration_s(self, step: Step) -> float:
        """Returns the real seconds of a step; models that run at the same time share the machine."""
        slowest = max((job.slow_factor for job in step.decode), default=1.0)
        return self._work_s(step) * slowest * self._residency.busy_runners() / self._residency.time_scale

    def _work_s(self, step: Step) -> float:
        preset, loaded = self._residency.preset, self.loaded
        if preset.is_prompt_shared:
            return timing.shared_step_s(
                preset,
                loaded.model,
                gpu_ratio=loaded.gpu_ratio,
                streams=len(step.decode),
                prompt_tokens=[tokens for _, tokens in step.prefill],
            )
        seconds = timing.decode_step_s(
            preset,
            loaded.model,
            gpu_ratio=loaded.gpu_ratio,
            depths_tokens=[job.depth_tokens for job in step.decode],
        )
        for job, tokens in step.prefill:
            seconds += timing.prefill_s(
                preset, loaded.model, gpu_ratio=loaded.gpu_ratio, tokens=tokens, depth_tokens=job.evaluated_tokens
            )
        return seconds


class _Ticket:
    """A request in the queue for loads."""

    def __init__(self, wanted: Wanted, keep_alive_s: float | None, future: asyncio.Future[Runner]) -> None:
        self.wanted = wanted
        self.keep_alive_s = keep_alive_s
        self.future = future
        self.gone = asyncio.Event()


class Residency:
    """All models in memory, and the queue of requests that need one that is not."""

    def __init__(
        self, config: EmulatorConfig, preset: Preset, rng: Random, spawn: Callable[..., asyncio.Task[None]]
    ) -> None:
        self.preset = preset
        self.time_scale = config.time_scale
        self._config = config
        self._rng = rng
        self._spawn = spawn
        self._runners: dict[str, Runner] = {}
        self._queue: deque[_Ticket] = deque()
        self._current: _Ticket | None = None
        self._changed = asyncio.Event()
        self._free_at = float("-inf")
        self._page_cache: dict[str, int] = {}

    @staticmethod
    def now() -> float:
        """Returns a clock in seconds; not the loop's, which is only as fine as 1 ms on uvloop."""
        return time.monotonic()

    @property
    def waiting_for_load(self) -> int:
        """Requests in the queue for loads, with the one being served."""
        return len(self._queue) + (self._current is not None)

    def busy_runners(self) -> int:
        """Returns how many models have work; at least 1."""
        return max(1, sum(runner.batch.running > 0 for runner in self._runners.values()))

    def loaded(self) -> list[Loaded]:
        """Returns the models in memory, the one with the latest expiry first."""
        return sorted((one.loaded for one in self._runners.values()), key=lambda one: -one.expires_at)

    def runners(self) -> list[Runner]:
        """Returns the runners of all models in memory."""
        return list(self._runners.values())

    def preload(self, model: ModelSpec) -> None:
        """Puts a model into memory without delay."""
        wanted = self.wanted(model, scheduler.RunnerOptions())
        load = scheduler.place(wanted, self.loaded(), self.preset) or scheduler.place(wanted, [], self.preset)
        assert load is not None
        self._add(model, load, None)

    def wanted(self, model: ModelSpec, options: scheduler.RunnerOptions) -> Wanted:
        """Returns what a request for a model needs here."""
        return Wanted(model=model, options=options, slots=scheduler.slots_of(model, self._config.parallel))

    async def acquire(self, wanted: Wanted, keep_alive_s: float | None) -> Runner:
        """Returns a runner of the model, loading it when it must; `release` it on every path.

        Cancelling the wait takes the request out of the queue, and aborts the load it caused.

        Raises:
            QueueFullError: too many requests wait for a load.
            RunnerDiedError: the node was restarted meanwhile.
        """
        runner = self._runners.get(wanted.model.digest)
        if runner is not None and not runner.loaded.options.needs_reload(wanted.options):
            return self._hand_out(runner, keep_alive_s)
        if self.waiting_for_load > self._config.max_queue:  # one more is being served
            raise QueueFullError
        ticket = _Ticket(wanted, keep_alive_s, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._changed.set()
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._abandon(ticket)
            raise

    def release(self, runner: Runner) -> None:
        """Gives a runner back; the model's timer starts when it was the last request."""
        loaded = runner.loaded
        loaded.in_flight -= 1
        self._changed.set()
        if loaded.in_flight == 0 and self._runners.get(loaded.model.digest) is runner:
            loaded.expires_at = self.now() + loaded.keep_alive_s
            self._watch_expiry(runner)

    def expire(self, model: ModelSpec) -> None:
        """Unloads a model as soon as it is idle."""
        runner = self._runners.get(model.digest)
        if runner is not None:
            runner.loaded.keep_alive_s = 0.0
            runner.loaded.is_leaving = True
            runner.loaded.expires_at = min(runner.loaded.expires_at, self.now())
            self._watch_expiry(runner)

    def drop_all(self) -> None:
        """Forgets all models and fails all requests that wait, as a restart does."""
        for runner in list(self._runners.values()):
            self._unload(runner)
        tickets = [*self._queue, *([self._current] if self._current else [])]
        self._queue.clear()
        for ticket in tickets:
            ticket.gone.set()
            if not ticket.future.done():
                ticket.future.set_exception(RunnerDiedError())
        self._changed.set()

    async def serve_queue(self) -> None:
        """Serves the queue for loads for ever, one request at a time."""
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            self._current = self._queue.popleft()
            await self._serve(self._current)
            self._current = None

    async def _serve(self, ticket: _Ticket) -> None:
        """Brings the model of one request into memory, however long that takes."""
        while not ticket.gone.is_set():
            loaded = [runner.loaded for runner in self._runners.values()]
            match scheduler.decide(ticket.wanted, loaded, self.preset, max_loaded=self._config.max_loaded):
                case scheduler.Use(found):
                    self._grant(ticket, self._runners[found.model.digest])
                    return
                case scheduler.Load() as load:
                    await self._load(ticket, load)
                    return
                case scheduler.Unload(victim):
                    await self._evict(victim)

    async def _evict(self, victim: Loaded) -> None:
        """Unloads a victim that is idle; else marks it and waits until something changes."""
        runner = self._runners[victim.model.digest]
        if victim.in_flight == 0:
            self._unload(runner)
            return
        victim.keep_alive_s = 0.0
        victim.is_leaving = True
        self._changed.clear()
        await self._changed.wait()

    async def _load(self, ticket: _Ticket, load: scheduler.Load) -> None:
        """Waits as long as the load takes, unless the request leaves."""
        model = ticket.wanted.model
        seconds = timing.load_s(
            self.preset, model, is_cached=model.digest in self._page_cache, jitter_ratio=self._rng.random()
        )
        recovery = max(0.0, self._free_at - self.now())
        log.debug("loading %s in %.2f s", model.name, seconds, extra={"action": "emulator_load"})
        try:
            async with asyncio.timeout(recovery + seconds / self.time_scale):
                await ticket.gone.wait()
        except TimeoutError:
            self._remember_file(model)
            self._grant(ticket, self._add(model, load, ticket.keep_alive_s))

    def _add(self, model: ModelSpec, load: scheduler.Load, keep_alive_s: float | None) -> Runner:
        """Puts a model into memory."""
        keep = self._default_keep_alive_s() if keep_alive_s is None else keep_alive_s
        loaded = Loaded(
            model=model,
            options=load.options,
            slots=scheduler.slots_of(model, self._config.parallel),
            size_bytes=load.size_bytes,
            vram_bytes=load.vram_bytes,
            keep_alive_s=keep,
            expires_at=self.now() + keep,
        )
        runner = Runner(loaded, self)
        self._runners[model.digest] = runner
        runner.task = self._spawn(runner.run(), name=f"runner:{model.name}")
        self._watch_expiry(runner)
        return runner

    def _grant(self, ticket: _Ticket, runner: Runner) -> None:
        """Answers a request that waited, unless it left in this very moment."""
        if not ticket.future.done():
            ticket.future.set_result(self._hand_out(runner, ticket.keep_alive_s))

    def _hand_out(self, runner: Runner, keep_alive_s: float | None) -> Runner:
        """Counts a request in; the latest one that names a keep-alive sets the model's."""
        runner.loaded.in_flight += 1
        if keep_alive_s is not None:
            runner.loaded.keep_alive_s = keep_alive_s
        return runner

    def _abandon(self, ticket: _Ticket) -> None:
        """Takes a request out whose client has left; gives back what it was handed in that moment."""
        ticket.gone.set()
        if ticket in self._queue:
            self._queue.remove(ticket)
        if ticket.future.done() and not ticket.future.cancelled() and ticket.future.exception() is None:
            self.release(ticket.future.result())
        self._changed.set()

    def _unload(self, runner: Runner) -> None:
        """Takes a model out of memory; the next load waits until the memory is seen free."""
        del self._runners[runner.loaded.model.digest]
        for job in runner.batch.drop_all():
            job.on_end()
        if runner.task is not None:
            runner.task.cancel()
        recovery = timing.recovery_s(self.preset, jitter_ratio=self._rng.random())
        self._free_at = self.now() + recovery / self.time_scale
        self._changed.set()
        log.debug("unloaded %s", runner.loaded.model.name, extra={"action": "emulator_unload"})

    def _watch_expiry(self, runner: Runner) -> None:
        """Looks again at the moment when an idle model expires."""
        loaded = runner.loaded
        if loaded.in_flight or self._runners.get(loaded.model.digest) is not runner:
            return
        if loaded.is_leaving or loaded.expires_at <= self.now():
            self._unload(runner)
        elif loaded.expires_at < float("inf"):
            delay = loaded.expires_at - self.now() + _SHORTEST_SLEEP_S
            asyncio.get_running_loop().call_later(delay, self._watch_due, runner, loaded.expires_at)

    def _watch_due(self, runner: Runner, expires_at: float) -> None:
        """Acts on a timer unless a later request moved the expiry."""
        if runner.loaded.expires_at == expires_at:
            self._watch_expiry(runner)

    def _remember_file(self, model: ModelSpec) -> None:
        """Keeps a file in the page cache, the oldest leaving while the RAM is too small."""
        self._page_cache.pop(model.digest, None)
        self._page_cache[model.digest] = model.file_bytes
        while len(self._page_cache) > 1 and sum(self._page_cache.values()) > self.preset.ram_mib * _MIB * 8 // 10:
            del self._page_cache[next(iter(self._page_cache))]

    def _default_keep_alive_s(self) -> float:
        keep = self._config.keep_alive_s
        return keep if keep >= 0 else float("inf")
