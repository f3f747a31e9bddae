"""One loaded model of an emulated node, and the task that performs its engine steps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from sollol_agents.lab.emulator import scheduler, timing
from sollol_agents.lab.emulator.batch import Batch, Job, Step

if TYPE_CHECKING:
    from sollol_agents.lab.emulator.presets import Preset
    from sollol_agents.lab.emulator.scheduler import Loaded

SHORTEST_SLEEP_S: Final = 0.001  # timers are no finer; shorter steps run ahead and are made up for
_LARGEST_LAG_S: Final = 0.05


class Machine(Protocol):
    """What a runner shares with the others of its machine."""

    preset: Preset
    time_scale: float

    def now(self) -> float:
        """Returns a clock in seconds."""

    def busy_runners(self) -> int:
        """Returns how many models have work; at least 1."""


class Runner:
    """A loaded model, its slots, and the loop that performs its steps."""

    def __init__(self, loaded: Loaded, machine: Machine) -> None:
        self.loaded = loaded
        self.batch = Batch(
            slots=loaded.slots,
            batch_tokens=loaded.options.num_batch or scheduler.BATCH_TOKENS,
            shared_tokens=timing.shared_tokens(machine.preset, loaded.model, gpu_ratio=loaded.gpu_ratio),
        )
        self.task: asyncio.Task[None] | None = None
        self._machine = machine
        self._wake = asyncio.Event()

    def submit(self, job: Job) -> None:
        """Lets a job run as soon as a slot is free."""
        self.batch.submit(job, self._machine.now())
        self._wake.set()

    def cancel(self, job: Job) -> None:
        """Ends a job at once; harmless for one that has ended."""
        if not job.is_ended:
            self.batch.cancel(job, self._machine.now())
            self._wake.set()

    def wake(self) -> None:
        """Looks for work again, after a paused job was let go."""
        self._wake.set()

    async def run(self) -> None:
        """Performs steps for ever, on a schedule that does not drift."""
        now = self._machine.now
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
            await asyncio.sleep(delay if delay > SHORTEST_SLEEP_S else 0)
            self.batch.complete(step, duration_s, now())

    def _duration_s(self, step: Step) -> float:
        """Returns the real seconds of a step; models that run at the same time share the machine."""
        slowest = max((job.slow_factor for job in step.decode), default=1.0)
        return self._work_s(step) * slowest * self._machine.busy_runners() / self._machine.time_scale

    def _work_s(self, step: Step) -> float:
        preset, loaded = self._machine.preset, self.loaded
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
