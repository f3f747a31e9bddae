"""The slots of one loaded model: who runs, who waits, and what one engine step does.

Continuous batching as in llama.cpp: each step evaluates up to `batch_tokens` of the
prompts that are not evaluated yet and decodes one token for every stream that is.
A long prompt therefore stalls the other streams of its model. Requests beyond the
slots wait first in, first out, without a bound. Every slot remembers the tokens it
last saw: a prompt goes to the slot that shares the longest beginning with it (else
to the one unused for longest) and the shared part costs nothing.

Pure: the shell asks for a `Step`, waits for its duration and reports it finished.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sollol_agents.lab.emulator.text import Piece

_LEAST_SIMILARITY: Final = 0.1


class Job:
    """One request inside a runner, with the figures it ends with.

    Attributes:
        prompt: tokens of the prompt.
        output: what will be generated; the end token is one more step when `has_end`.
        cached_tokens: prompt tokens that the slot already knew.
        prompt_s: seconds of work on the prompt.
        output_s: seconds from the first to the last token.
        slow_factor: how many times longer its steps take than they should.
        is_paused: keeps its slot but makes no progress.
        is_ended: ended, properly or not; see `is_complete`.
        is_waiting: has no slot yet.
    """

    def __init__(
        self,
        *,
        prompt: Sequence[str],
        output: Sequence[Piece],
        output_tokens: int,
        on_piece: Callable[[Piece], None],
        on_end: Callable[[], None],
    ) -> None:
        self.prompt = list(prompt)
        self.output = output
        self.output_tokens = output_tokens
        self.on_piece = on_piece
        self.on_end = on_end
        self.cached_tokens = 0
        self.evaluated_tokens = 0
        self.emitted_tokens = 0
        self.prompt_s = 0.0
        self.output_s = 0.0
        self.slow_factor = 1.0
        self.is_ended = False
        self.is_paused = False
        self.is_waiting = True

    @property
    def is_decoding(self) -> bool:
        """True once the whole prompt has been evaluated."""
        return self.evaluated_tokens >= len(self.prompt)

    @property
    def is_complete(self) -> bool:
        """True when everything was generated."""
        return self.is_decoding and self.emitted_tokens >= self.output_tokens

    @property
    def depth_tokens(self) -> int:
        """Context that a step of this job reads."""
        return self.evaluated_tokens + self.emitted_tokens

    def emit(self) -> bool:
        """Passes the next token on; returns True when it was the last."""
        if self.emitted_tokens < len(self.output):
            self.on_piece(self.output[self.emitted_tokens])
        self.emitted_tokens += 1
        return self.emitted_tokens >= self.output_tokens


class Slot:
    """A place in the batch and the tokens in its cache."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self.cache: list[str] = []
        self.used_at = float("-inf")

    def shared_tokens(self, prompt: list[str]) -> int:
        """Returns how many tokens at the start of a prompt the cache holds."""
        low, high = 0, min(len(self.cache), len(prompt))
        while low < high:  # slices compare in C: far cheaper than a loop over tokens
            middle = (low + high + 1) // 2
            if self.cache[low:middle] == prompt[low:middle]:
                low = middle
            else:
                high = middle - 1
        return low


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one engine step.

    Attributes:
        prefill: jobs whose prompt is evaluated, with the number of tokens of each.
        decode: jobs that get one token.
    """

    prefill: tuple[tuple[Job, int], ...]
    decode: tuple[Job, ...]


class Batch:
    """The slots of a runner and the queue before them.

    Args:
        slots: requests that run at a time.
        batch_tokens: prompt tokens of one step, first come, first served.
        shared_tokens: tokens by which each prompt goes on in a step beside streams; 0: whole batches as they come.
    """

    def __init__(self, *, slots: int, batch_tokens: int = 512, shared_tokens: int = 0) -> None:
        assert slots >= 1
        assert batch_tokens >= 1
        assert shared_tokens >= 0
        self._shared_tokens = shared_tokens
        self._slots = [Slot() for _ in range(slots)]
        self._batch_tokens = batch_tokens
        self._waiting: deque[Job] = deque()

    @property
    def running(self) -> int:
        """Jobs in slots."""
        return sum(slot.job is not None for slot in self._slots)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a slot."""
        return len(self._waiting)

    def submit(self, job: Job, now: float) -> None:
        """Gives a job a slot, or a place at the end of the queue."""
        self._waiting.append(job)
        self._admit(now)

    def cancel(self, job: Job, now: float) -> None:
        """Takes a job out wherever it is; its slot goes to the next one at once.

        Only a prompt that is being read is read to its end first: the engine looks up between answers, not within one.
        """
        job.is_ended = True
        if job in self._waiting:
            self._waiting.remove(job)
            return
        for slot in self._slots:
            if slot.job is job and (job.is_decoding or job.is_paused or not job.prompt_s):
                self._free(slot, now)
        self._admit(now)

    def plan(self) -> Step | None:
        """Returns the next step, or None when nothing runs."""
        room = most = self._batch_tokens
        if self._shared_tokens:
            room, most = self._shares()
        prefill: list[tuple[Job, int]] = []
        decode: list[Job] = []
        for slot in self._slots:
            job = slot.job
            if job is None or job.is_paused:
                continue
            if job.is_decoding:
                decode.append(job)
            elif room:
                tokens = min(room, most, len(job.prompt) - job.evaluated_tokens)
                prefill.append((job, tokens))
                room -= tokens
        return Step(prefill=tuple(prefill), decode=tuple(decode)) if prefill or decode else None

    def _shares(self) -> tuple[int, int]:
        """Tokens of all prompts together, and of each, in the next step of a machine that shares its time."""
        jobs = [slot.job for slot in self._slots if slot.job is not None and not slot.job.is_paused]
        prompts = sum(not job.is_decoding for job in jobs)
        each = self._shared_tokens if prompts < len(jobs) else max(1, self._batch_tokens // max(1, prompts))
        return each * prompts, each

    def complete(self, step: Step, duration_s: float, now: float) -> None:
        """Applies a finished step: passes tokens on, ends jobs and admits the next ones."""
        for job, tokens in step.prefill:
            job.evaluated_tokens += tokens
            job.prompt_s += duration_s
            if job.is_ended:
                self._leave(job, now)
            elif job.is_decoding and (job.output_tokens == 0 or job.emit()):
                self._end(job, now)
        for job in step.decode:
            if job.is_ended:
                continue
            job.output_s += duration_s
            if job.emit():
                self._end(job, now)
        self._admit(now)

    def drop_all(self) -> list[Job]:
        """Empties slots, caches and queue, as when the runner dies; returns the jobs that were there."""
        jobs = [slot.job for slot in self._slots if slot.job is not None] + list(self._waiting)
        self._waiting.clear()
        self._slots = [Slot() for _ in self._slots]
        for job in jobs:
            job.is_ended = True
        return jobs

    def _end(self, job: Job, now: float) -> None:
        job.is_ended = True
        self._vacate(job, now)
        job.on_end()

    def _leave(self, job: Job, now: float) -> None:
        """Frees the slot of a job whose client left once its prompt has been read."""
        if job.is_decoding:
            self._vacate(job, now)

    def _vacate(self, job: Job, now: float) -> None:
        for slot in self._slots:
            if slot.job is job:
                self._free(slot, now)

    def _free(self, slot: Slot, now: float) -> None:
        """Empties a slot and keeps what it evaluated in its cache."""
        job = slot.job
        assert job is not None
        slot.job = None
        slot.used_at = now
        generated = [piece.text for piece in job.output[: job.emitted_tokens]]
        slot.cache = job.prompt[: job.evaluated_tokens] + generated

    def _admit(self, now: float) -> None:
        """Gives free slots to the jobs that wait."""
        while self._waiting:
            free = [slot for slot in self._slots if slot.job is None]
            if not free:
                return
            job = self._waiting.popleft()
            slot, shared = _choose_slot(free, job.prompt)
            if not job.output_tokens:
                shared = 0  # a vector is made of all tokens, so none of them is taken from the cache
            # the last token is always evaluated: it gives the first logits
            job.cached_tokens = job.evaluated_tokens = min(shared, len(job.prompt) - 1)
            slot.job = job
            job.is_waiting = False
            slot.used_at = now


def _choose_slot(free: list[Slot], prompt: list[str]) -> tuple[Slot, int]:
    """Returns the slot whose cache is most like the prompt, else the one unused for longest."""
    shared, _, best = max(((slot.shared_tokens(prompt), -place, slot) for place, slot in enumerate(free)))
    if shared < _LEAST_SIMILARITY * len(prompt):
        best = min(free, key=lambda slot: slot.used_at)
    return best, best.shared_tokens(prompt)
