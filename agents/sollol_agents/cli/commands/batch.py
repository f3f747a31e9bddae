"""`sollol batch`: a file of requests in, a file of answers out, in the same order; resumed where it was left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Self

from cyclopts import App, Parameter

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands.batch_files import AnswerFile, Item, batch_id_of, output_line, read_items
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import is_terminal, note, seconds, show_json
from sollol_agents.cli.settings import of_commands
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.jobs import priority_of
from sollol_bus.transport.connection import BusConfig

batch = App(name="batch", help="Run a file of requests as durable jobs.")

_LINE_EVERY_S = 5.0


@batch.command
@of_commands.for_clients()
def run(
    requests: Annotated[
        Path, Parameter(help="JSON lines: a body of generate, chat or embed each, or OpenAI's format.")
    ],
    answers: Annotated[Path, Parameter(help="Where the answers go, a line for each request; resumed when it exists.")],
    *,
    bus: BusConfig,
    log: LogConfig,
    priority: Annotated[str, Parameter(help="0 to 10, or a name.")] = "batch",
    ahead: Annotated[int, Parameter(help="Requests submitted ahead of the last answer.")] = 2000,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Runs every request of a file and writes the answers in the same order.

    Stopped and started again, it goes on where it was; what was done meanwhile is not done again.
    """
    log_lines.set_up(log)
    number = priority_of(priority)
    items = read_items(requests)
    batch_id = batch_id_of(requests)

    async def main() -> int:
        with AnswerFile(answers, items) as written:
            if written.lines:
                note(f"{written.lines} of {len(items)} answers are there already")
            async with running.connected(bus) as client:
                work = Batch(client.jobs, batch_id, priority=number, ahead=max(1, ahead))
                failed = await _run(work, items, written)
        if json_:
            show_json({"batch_id": batch_id, "total": len(items), "failed": failed, "answers": str(answers)})
        return 1 if failed else 0

    return running.run(main)


async def _run(work: Batch, items: list[Item], written: AnswerFile) -> int:
    """How many requests have no answer."""
    failed = written.failed
    with progress_display(len(items)) as display:
        already = written.lines
        jobs = [(index, item.job) for index, item in enumerate(items)][already:]
        async for index, answer in work.answers(jobs):
            line, is_ok = output_line(items[index], answer)
            written.write(line)
            failed += not is_ok
            display.update(already + work.progress.ended, failed)
    return failed


class PlainDisplay:
    """A line now and then, and one at the end, for logs."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._began_mono_s = self._told_mono_s = time.monotonic()
        self._first = self._ended = self._failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended:
            self._tell(time.monotonic())

    def update(self, ended: int, failed: int) -> None:
        """Tells how far it is, when that was not told a moment ago."""
        now = time.monotonic()
        if not self._ended:
            self._first = ended - 1
        self._ended, self._failed = ended, failed
        if now - self._told_mono_s >= _LINE_EVERY_S and self._ended < self._total:
            self._tell(now)

    def _tell(self, now: float) -> None:
        self._told_mono_s = now
        rate = (self._ended - self._first) / max(1e-6, now - self._began_mono_s)
        left = f", {seconds((self._total - self._ended) / rate)} left" if rate and self._ended < self._total else ""
        note(f"{self._ended} of {self._total}, {self._failed} failed, {rate:.1f}/s{left}")


class BarDisplay:
    """A bar with rate, time left and failures, for people."""

    def __init__(self, total: int) -> None:
        # 25 ms of imports that plain output need not pay
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("batch", total=total, rate="", failed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, ended: int, failed: int) -> None:
        """Moves the bar."""
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            completed=ended,
            rate=f"{speed:.1f}/s" if speed else "",
            failed=f"[red]{failed} failed[/red]" if failed else "",
        )


def progress_display(total: int) -> PlainDisplay | BarDisplay:
    """What shows the progress here."""
    return BarDisplay(total) if is_terminal() else PlainDisplay(total)
