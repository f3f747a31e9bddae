"""The models in memory of an emulated node: loading, handing out, expiring.

The shell around `scheduler`: one task serves the queue of requests that need a load,
strictly in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sollol_agents.lab.emulator import scheduler, timing
from sollol_agents.lab.emulator.refusals import KILLED_WHILE_LOADING, QUEUE_FULL, RefusalError
from sollol_agents.lab.emulator.runner import SHORTEST_SLEEP_S, Runner
from sollol_agents.lab.emulator.scheduler import Loaded, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.models import ModelSpec
    from sollol_agents.lab.emulator.presets import Preset

log = logging.getLogger(__name__)

_MIB: Final = 1024 * 1024
_REMEMBERED_STARTS: Final = 1000


class RunnerDiedError(Exception):
    """The model went away while a request was using or waiting for it."""


class _Ticket:
    """A request in the queue for loads."""

    def __init__(self, wanted: Wanted, keep_alive_s: float | None, future: asyncio.Future[Runner]) -> None:
        self.wanted = wanted
        self.keep_alive_s = keep_alive_s
        self.future = future
        self.gone = asyncio.Event()


class Residency:
    """All models in memory, and the queue of requests that need one that is not.

    Attributes:
        starts: how the last runners were started, in order; a load that was given up is one of them.
        started: how many were in all.
        ctx_tokens: context of a request that names none, for a model that is not trained on less.
    """

    def __init__(
        self, config: EmulatorConfig, preset: Preset, rng: Random, spawn: Callable[..., asyncio.Task[None]]
    ) -> None:
        self.preset = preset
        self.time_scale = config.time_scale
        self.starts: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_STARTS)
        self.started = 0
        self.ctx_tokens = config.ctx_tokens or timing.default_ctx_tokens(preset)
        self._config = config
        self._rng = rng
        self._spawn = spawn
        self._runners: dict[str, Runner] = {}
        self._queue: deque[_Ticket] = deque()
        self._current: _Ticket | None = None
        self._is_loading = False
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
        self._watch_expiry(self._add(model, load, None))

    def wanted(self, model: ModelSpec, options: scheduler.RunnerOptions) -> Wanted:
        """Returns what a request for a model needs here."""
        made = scheduler.effective(options, automatic_ctx_tokens=self.ctx_tokens, trained_ctx_tokens=model.ctx_tokens)
        return Wanted(model=model, options=made, slots=scheduler.slots_of(model, self._config.parallel))

    async def acquire(self, wanted: Wanted, keep_alive_s: float | None) -> Runner:
        """Returns a runner of the model, loading it when it must; `release` it on every path.

        Cancelling the wait takes the request out of the queue, and aborts the load it caused.

        Raises:
            RefusalError: too many requests wait for a load, or the load was killed.
            RunnerDiedError: the node was restarted meanwhile.
        """
        runner = self._runners.get(wanted.model.weights)
        if runner is not None and runner.loaded.serves(wanted.options):
            return self._hand_out(runner, keep_alive_s)
        if self.waiting_for_load > self._config.max_queue:  # one more is being served
            raise RefusalError(QUEUE_FULL, 503)
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
        if loaded.in_flight == 0 and self._runners.get(loaded.model.weights) is runner:
            loaded.expires_at = self.now() + loaded.keep_alive_s
            self._watch_expiry(runner)

    def expire(self, model: ModelSpec) -> None:
        """Unloads a model as soon as it is idle; requests that come before still run on it."""
        runner = self._runners.get(model.weights)
        if runner is not None:
            runner.loaded.keep_alive_s = 0.0
            runner.loaded.expires_at = min(runner.loaded.expires_at, self.now())
            self._watch_expiry(runner)

    def kill(self, runner: Runner) -> None:
        """Ends the process of a loaded model; it is shown as loaded until a request finds that it is not."""
        runner.loaded.is_dead = True
        for job in runner.batch.drop_all():
            job.on_end()
        if runner.task is not None:
            runner.task.cancel()

    def kill_all(self) -> None:
        """Ends the processes of all models, also of one that is loading."""
        for runner in self._runners.values():
            self.kill(runner)
        ticket = self._current
        if ticket is not None and self._is_loading and not ticket.future.done():
            ticket.gone.set()
            ticket.future.set_exception(RefusalError(KILLED_WHILE_LOADING, 500))

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
                    self._grant(ticket, self._runners[found.model.weights])
                    return
                case scheduler.Load() as load:
                    await self._load(ticket, load)
                    return
                case scheduler.Unload(victim):
                    await self._evict(victim)

    async def _evict(self, victim: Loaded) -> None:
        """Unloads a victim that is idle; else marks it and waits until something changes."""
        runner = self._runners[victim.model.weights]
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
            self.preset, model, is_cached=model.weights in self._page_cache, jitter_ratio=self._rng.random()
        )
        recovery = max(0.0, self._free_at - self.now())
        log.debug("loading %s in %.2f s", model.name, seconds, extra={"action": "emulator_load"})
        self._note_start(ticket.wanted)
        self._is_loading = True
        try:
            async with asyncio.timeout(recovery + seconds / self.time_scale):
                await ticket.gone.wait()
        except TimeoutError:
            self._remember_file(model)
            self._grant(ticket, self._add(model, load, ticket.keep_alive_s))
        finally:
            self._is_loading = False

    def _note_start(self, wanted: Wanted) -> None:
        """Notes how a runner is started, as the engine's own flags say it."""
        options, slots = wanted.options, wanted.slots
        assert options.num_ctx is not None
        is_embedding = wanted.model.is_embedding
        self.started += 1
        self.starts.append(
            {
                "model": wanted.model.name,
                "c": options.num_ctx * slots,
                "np": slots,
                "b": scheduler.batch_flag(options, slots, is_embedding=is_embedding),
                "context_shift": options.shift,
            }
            | ({"embeddings": True} if is_embedding else {})
        )

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
        self._runners[model.weights] = runner
        runner.task = self._spawn(runner.run(), name=f"runner:{model.name}")
        return runner

    def _grant(self, ticket: _Ticket, runner: Runner) -> None:
        """Answers a request that waited, unless it left in this very moment."""
        if not ticket.future.done():
            ticket.future.set_result(self._hand_out(runner, ticket.keep_alive_s))
        else:
            self._watch_expiry(runner)

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
        del self._runners[runner.loaded.model.weights]
        self.kill(runner)
        recovery = timing.recovery_s(self.preset, jitter_ratio=self._rng.random())
        self._free_at = self.now() + recovery / self.time_scale
        self._changed.set()
        log.debug("unloaded %s", runner.loaded.model.name, extra={"action": "emulator_unload"})

    def _watch_expiry(self, runner: Runner) -> None:
        """Looks again at the moment when an idle model expires."""
        loaded = runner.loaded
        if loaded.in_flight or self._runners.get(loaded.model.weights) is not runner:
            return
        if loaded.is_leaving or loaded.expires_at <= self.now() + SHORTEST_SLEEP_S:  # the next question may be as soon
            self._unload(runner)
        elif loaded.expires_at < float("inf"):
            delay = loaded.expires_at - self.now() + SHORTEST_SLEEP_S
            asyncio.get_running_loop().call_later(delay, self._watch_due, runner, loaded.expires_at)

    def _watch_due(self, runner: Runner, expires_at: float) -> None:
        """Acts on a timer unless a later request moved the expiry."""
        if runner.loaded.expires_at == expires_at:
            self._watch_expiry(runner)

    def _remember_file(self, model: ModelSpec) -> None:
        """Keeps a file in the page cache, the oldest leaving while the RAM is too small."""
        self._page_cache.pop(model.weights, None)
        self._page_cache[model.weights] = model.file_bytes
        while len(self._page_cache) > 1 and sum(self._page_cache.values()) > self.preset.ram_mib * _MIB * 8 // 10:
            del self._page_cache[next(iter(self._page_cache))]

    def _default_keep_alive_s(self) -> float:
        keep = self._config.keep_alive_s
        return keep if keep >= 0 else float("inf")
