"""`sollol batch`: a file of requests in, a file of answers out; followed from anywhere, resumed where it was left."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Annotated

from sollol_agents.cli import log_lines, running
from sollol_agents.cli.commands.batch_files import AnswerFile, Item, batch_id_of, output_line, read_items
from sollol_agents.cli.commands.batch_following import Following
from sollol_agents.cli.commands.batch_views import (
    Ending,
    left_behind,
    matching,
    short,
    show_batch,
    show_batches,
    show_cancelled,
    show_summary,
)
from sollol_agents.cli.commands.listings import listing
from sollol_agents.cli.declared import Commands, Parameter
from sollol_agents.cli.exit_codes import FAILED, OK
from sollol_agents.cli.log_lines import LogConfig
from sollol_agents.cli.output import clear, counted, is_terminal, note, show_json, show_json_line
from sollol_agents.cli.settings import of_commands
from sollol_bus.errors import ConfigError
from sollol_bus.sdk.batch import Batch
from sollol_bus.sdk.batches import Batches
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.jobs import priority_of
from sollol_bus.transport.connection import BusConfig
from sollol_schemas.batch_progress import BatchStage, BatchTell, BatchView

batch = Commands(name="batch", help="Run a file of requests as durable jobs, follow it, and find it again.")

_FULL_ID = 24
_LISTED = 1000
_WATCHED_EVERY_S = 2.0
_AGAIN_BYTES = 2

BatchName = Annotated[str, Parameter(help="The batch's id, or how it begins.")]
Ahead = Annotated[int, Parameter(help="Requests submitted ahead of the last answer.")]


@batch.command("run")
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
    ahead: Ahead = 2000,
    again: Annotated[
        bool, Parameter(has_negative=False, show_default=False, help="Ask anew what was answered in an earlier run.")
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Runs every request of a file and writes the answers in the same order.

    Stopped and started again, it goes on where it was; what was done meanwhile is not done again.
    """
    log_lines.set_up(log)
    number = priority_of(priority)
    items = read_items(requests)
    batch_id = batch_id_of(requests)
    if again:
        batch_id = f"{secrets.token_hex(_AGAIN_BYTES)}-{batch_id}"

    async def main() -> int:
        async with running.connected(bus) as client:
            return await Run(client, batch_id, items, requests, answers, priority=number).run(ahead, json_=json_)

    return running.run(main, is_long=True)


@batch.command("resume")
@of_commands.for_clients()
def resume(
    name: BatchName,
    requests: Annotated[Path | None, Parameter(help="The file of requests, where it lies elsewhere now.")] = None,
    answers: Annotated[Path | None, Parameter(help="The file of answers, if not that of the run before.")] = None,
    *,
    bus: BusConfig,
    log: LogConfig,
    ahead: Ahead = 2000,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Goes on with a batch: hands over what is left in its file and writes the answers."""
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            view = await _meant(client, name)
            asked, answered = _files(view, requests, answers)
            work = Run(client, view.batch_id, read_items(asked), asked, answered, priority=view.priority)
            return await work.run(ahead, json_=json_)

    return running.run(main, is_long=True)


@batch.command("list")
@of_commands.for_clients()
def list_batches(
    *,
    bus: BusConfig,
    log: LogConfig,
    limit: Annotated[int, Parameter(help="Batches to show at most.")] = 20,
    watch: of_commands.WatchFlag = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Lists the latest batches of the fleet, wherever they were started."""
    return listing(bus, log, lambda c: Batches(c.jobs).latest(limit), show_batches, json_=json_, is_watched=watch)


@batch.command("status")
@of_commands.for_clients()
def status(
    name: BatchName,
    *,
    bus: BusConfig,
    log: LogConfig,
    watch: Annotated[
        bool,
        Parameter(
            name="--watch", has_negative=False, show_default=False, help="Show it anew every 2 s until it has ended."
        ),
    ] = False,
    json_: of_commands.JsonFlag = False,
) -> int:
    """Shows how far a batch is, why requests failed, and which nodes answered."""
    log_lines.set_up(log)

    async def main() -> int:
        async with running.connected(bus) as client:
            view = await _meant(client, name)
            while True:
                _show(view, json_=json_, is_line=watch)
                if not watch or view.stage is not BatchStage.RUNNING:
                    return OK
                await asyncio.sleep(_WATCHED_EVERY_S)
                view = await Batches(client.jobs).get(view.batch_id)
                if is_terminal() and not json_:
                    clear()

    return running.run(main)


@batch.command("cancel")
@of_commands.for_clients()
def cancel(name: BatchName, *, bus: BusConfig, log: LogConfig, json_: of_commands.JsonFlag = False) -> int:
    """Cancels a batch: what waits, what runs, and what was not handed over yet."""

    async def ask(client: Client) -> BatchView:
        return await Batches(client.jobs).cancel((await _meant(client, name)).batch_id)

    return listing(bus, log, ask, show_cancelled, json_=json_)


class Run:
    """One run of a batch: hands requests over, writes answers, and shows how far it is.

    Args:
        client: Connected.
        batch_id: The batch's id.
        items: Its requests.
        requests: Where they lie.
        answers: Where the answers go.
        priority: Of every job.
    """

    def __init__(
        self, client: Client, batch_id: str, items: list[Item], requests: Path, answers: Path, *, priority: int
    ) -> None:
        self._client = client
        self._batch_id = batch_id
        self._items = items
        self._answers = answers
        self._priority = priority
        self._told = BatchTell(
            batch_id=batch_id,
            total=len(items),
            requests=str(requests.absolute()),
            answers=str(answers.absolute()),
            host=socket.gethostname(),
            priority=priority,
        )
        self._earlier: list[str] = []
        """When answers ended that were there before this run began."""

    async def run(self, ahead: int, *, json_: bool) -> int:
        """The exit code: 1 when a request has no answer."""
        began = time.monotonic()
        with AnswerFile(self._answers, self._items) as written:
            before = written.lines
            following = Following(Batches(self._client.jobs), self._told, before, written.failed, time.monotonic)
            await following.begin()
            note(f"batch {short(self._batch_id)}: {counted(len(self._items), 'request')}")
            if before:
                note(f"{before} of {len(self._items)} answers are there already")
            try:
                failed = await self._work(following, written, ahead)
            except BaseException:  # Ctrl-C too: what was handed over goes on
                for line in left_behind(self._view(following), _connection_flags(sys.argv)):
                    note(line)
                raise
        ending = Ending(
            view=self._view(following, done=len(self._items) - failed, failed=failed),
            answers=str(self._answers),
            written=before,
            earlier=len(self._earlier),
            earlier_at=min(self._earlier, default=""),
            took_s=time.monotonic() - began,
        )
        if json_:
            show_json(_told(ending, failed))
        else:
            show_summary(ending)
        return FAILED if failed else OK

    async def _work(self, following: Following, written: AnswerFile, ahead: int) -> int:
        """How many requests have no answer."""
        work = Batch(
            self._client.jobs,
            self._batch_id,
            priority=self._priority,
            ahead=max(1, ahead),
            announce=following.announce,
        )
        failed = written.failed
        began_at = following.view.began_at if following.view is not None else ""
        jobs = [(index, item.job) for index, item in enumerate(self._items)][written.lines :]
        async with following.shown(work):
            async for index, answer in work.answers(jobs):
                line, is_ok = output_line(self._items[index], answer)
                written.write(line)
                failed += not is_ok
                if answer.status.finished_at and answer.status.finished_at < began_at:
                    self._earlier.append(answer.status.finished_at)
        return failed

    def _view(self, following: Following, *, done: int = 0, failed: int = 0) -> BatchView:
        """How far it is; by what is known here where no dispatcher told anything."""
        usual = BatchView(
            batch_id=self._batch_id, stage=BatchStage.DONE, total=len(self._items), done=done, failed=failed
        )
        return following.view or usual


def _told(ending: Ending, failed: int) -> dict[str, object]:
    """A run's end for programs."""
    view = ending.view
    return {
        "batch_id": view.batch_id,
        "total": view.total,
        "done": view.total - failed,
        "failed": failed,
        "in_file_before": ending.written,
        "earlier": ending.earlier,
        "took_s": round(ending.took_s, 3),
        "work_s": round(view.work_s, 3),
        "tokens": view.tokens,
        "by_node": view.by_node,
        "reasons": view.reasons,
        "answers": ending.answers,
    }


def _show(view: BatchView, *, json_: bool, is_line: bool) -> None:
    if json_:
        (show_json_line if is_line else show_json)(view)
    else:
        show_batch(view, socket.gethostname())


async def _meant(client: Client, said: str) -> BatchView:
    """The batch that is called so, or whose id begins so.

    Raises:
        ConfigError: None is, or several are.
        SollolError: Nobody answers.
    """
    batches = Batches(client.jobs)
    if len(said.rpartition("=")[2]) >= _FULL_ID:
        return await batches.get(said)
    found = matching(said, (await batches.latest(_LISTED)).batches)
    if len(found) == 1:
        return await batches.get(found[0])
    if found:
        raise ConfigError(f"{len(found)} batches begin with {said}: {', '.join(map(short, found[:5]))}")
    raise ConfigError(f"no batch begins with {said}; `sollol batch list` shows the latest")


def _files(view: BatchView, requests: Path | None, answers: Path | None) -> tuple[Path, Path]:
    """The files of a batch that is to go on.

    Raises:
        ConfigError: It cannot go on here, or with these.
    """
    name = short(view.batch_id)
    if view.is_of_gateway:
        raise ConfigError(f"a gateway works on {name}; it goes on by itself")
    if view.stage is BatchStage.CANCELLED:
        raise ConfigError(f"{name} was cancelled; `sollol batch run` with --again runs its requests anew")
    elsewhere = f"; name the files: sollol batch resume {name} REQUESTS ANSWERS"
    if (requests is None or answers is None) and view.host != socket.gethostname():
        raise ConfigError(f"the files of {name} are on {view.host or 'another machine'}, {view.requests}{elsewhere}")
    asked, answered = requests or Path(view.requests), answers or Path(view.answers)
    try:
        is_same = view.batch_id.endswith(batch_id_of(asked))
    except OSError as error:
        raise ConfigError(f"{asked} cannot be read: {error.strerror}{elsewhere}") from error
    if not is_same:
        raise ConfigError(f"{asked} has other requests than batch {name}: it was changed, or is another file")
    return asked, answered


def _connection_flags(argv: list[str]) -> str:
    """The address of the bus as it was given on the command line; secrets are not repeated."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--nats":
            return f" --nats {following}"
        if word.startswith("--nats="):
            return f" {word}"
    return ""
