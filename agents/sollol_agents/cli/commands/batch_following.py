"""A batch at work, as whoever runs it sees it: a bar on a terminal, a line now and then elsewhere.

What is shown is the batch's progress, not the place of the next answer in order: one slow answer at the beginning
holds up the file, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import msgspec

from sollol_agents.cli.commands.batch_views import Progress, bar_line, plain_line
from sollol_agents.cli.output import note
from sollol_bus.errors import Conflict, SollolError
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.batches import Batches
from sollol_schemas.batch_progress import BatchStage, BatchTell, BatchView

_DRAW_EVERY_S: Final = 0.25
_ASK_EVERY_S: Final = 1.0
_LINE_EVERY_S: Final = 5.0
_LINE_SELDOM_S: Final = 60.0
_SHARE: Final = 10
"""Lines come more seldom the longer it takes: after a tenth of the time so far."""
_RATE_OVER_S: Final = 30.0
_RATE_LEAST_S: Final = 1.0
_LAST_ASK_S: Final = 2.0


class Display(Protocol):
    """Shows the progress."""

    def show(self, progress: Progress, now: float) -> None:
        """Shows it, if it is time."""

    def end(self, progress: Progress) -> None:
        """Shows it for the last time."""


class PlainDisplay:
    """A line now and then, and one at the end, for logs."""

    def __init__(self, now: float) -> None:
        self._began = self._told = now

    def show(self, progress: Progress, now: float) -> None:
        """A line, when the last one was not a moment ago."""
        pause_s = min(_LINE_SELDOM_S, max(_LINE_EVERY_S, (now - self._began) / _SHARE))
        if now - self._told >= pause_s and progress.ended < progress.total:
            self._told = now
            note(plain_line(progress))

    def end(self, progress: Progress) -> None:
        """The last line."""
        note(plain_line(progress))


class BarDisplay:
    """A line that is written over, for people."""

    def show(self, progress: Progress, _now: float) -> None:
        """The bar as it is now."""
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[2K{bar_line(progress, width)}")
        sys.stderr.flush()

    def end(self, progress: Progress) -> None:
        """The bar, and the line is over."""
        self.show(progress, 0.0)
        sys.stderr.write("\n")
        sys.stderr.flush()


class Following:
    """Knows how far a batch is: by what its jobs' events told here, and what a dispatcher tells who is asked.

    Args:
        batches: Asks a dispatcher.
        told: What to tell of the batch.
        written: Answers that are in the file already.
        failed: Of these, how many are errors.
        mono: A steady clock, in seconds.
    """

    def __init__(self, batches: Batches, told: BatchTell, written: int, failed: int, mono: Callable[[], float]) -> None:
        self.view: BatchView | None = None
        """As it was told last; None: nobody has answered."""
        self._batches = batches
        self._told = told
        self._written = written
        self._failed = failed
        self._mono = mono
        self._points: deque[tuple[float, int]] = deque()

    async def begin(self) -> None:
        """Tells that it is begun.

        Raises:
            Conflict: Somebody has cancelled it.
        """
        await self._tell(msgspec.structs.replace(self._told, begins=True))
        if self.view is not None and self.view.stage is BatchStage.CANCELLED:
            raise Conflict("this batch was cancelled; `sollol batch run` with --again runs its requests anew")

    async def announce(self, submitted: int) -> None:
        """Tells how many requests are handed over from now on."""
        self._told = msgspec.structs.replace(self._told, submitted=submitted)
        await self._tell(self._told)

    async def ask(self) -> None:
        """Asks how far it is."""
        await self._tell(self._told)

    async def _tell(self, told: BatchTell) -> None:
        """A batch runs as well while nobody writes down how far it is."""
        with contextlib.suppress(SollolError):
            self.view = await self._batches.tell(told)

    def progress(self, work: Batch) -> Progress:
        """How far it is now."""
        here = work.progress
        view = self.view or BatchView(batch_id=work.batch_id, stage=BatchStage.RUNNING)
        ended = min(self._told.total, max(view.ended, self._written + here.ended))
        failed = max(view.failed + view.cancelled, self._failed + here.failed)
        waiting = max(0, max(self._told.submitted, view.submitted) - ended - view.running)
        return Progress(
            total=self._told.total,
            ended=ended,
            failed=failed,
            running=min(view.running, self._told.total - ended),
            waiting=waiting,
            rate_per_s=self._rate_per_s(ended),
        )

    def _rate_per_s(self, ended: int) -> float:
        """How many end in a second, over the last half minute."""
        now = self._mono()
        self._points.append((now, ended))
        while len(self._points) > 2 and now - self._points[1][0] >= _RATE_OVER_S:
            self._points.popleft()
        first_at, first = self._points[0]
        return (ended - first) / (now - first_at) if now - first_at >= _RATE_LEAST_S else 0.0

    @contextlib.asynccontextmanager
    async def shown(self, work: Batch) -> AsyncIterator[None]:
        """Shows the progress until it is left; a batch that somebody cancels elsewhere stops here."""
        display: Display = BarDisplay() if sys.stderr.isatty() else PlainDisplay(self._mono())
        ticker = asyncio.get_running_loop().create_task(self._tick(work, display), name="shows a batch")
        try:
            yield
        finally:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ask(), _LAST_ASK_S)
            display.end(self.progress(work))

    async def _tick(self, work: Batch, display: Display) -> None:
        asked_at = self._mono()
        while True:
            await asyncio.sleep(_DRAW_EVERY_S)
            if self._mono() - asked_at >= _ASK_EVERY_S:
                await self.ask()
                asked_at = self._mono()
                if self.view is not None and self.view.stage is BatchStage.CANCELLED:
                    work.stop()
            display.show(self.progress(work), self._mono())
