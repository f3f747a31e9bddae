"""Batches in words: the line of progress, the table, one batch, what goes on after Ctrl-C, and the summary. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from sollol_agents.cli.commands.jobs_views import age
from sollol_agents.cli.output import counted, say, seconds, show_table, tell
from sollol_agents.cli.table import width_of
from sollol_schemas.batch_progress import BatchListReply, BatchStage, BatchView

_OF_FILE: Final = re.compile(r"^([0-9a-f]{4}-)?[0-9a-f]{24}$")
_CUT: Final = 16
_BAR_MOST: Final = 30
_BAR_LEAST: Final = 8
_FULL: Final = "━"
_EMPTY: Final = "─"
_LABEL: Final = 9


class Progress(NamedTuple):
    """How far a batch is, as it is shown while it runs."""

    total: int
    ended: int
    failed: int = 0
    running: int = 0
    waiting: int = 0
    rate_per_s: float = 0.0
    """Of the last half minute; 0: not known."""

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at that rate; None: not known."""
        return (self.total - self.ended) / self.rate_per_s if self.rate_per_s else None


def short(batch_id: str) -> str:
    """A batch's id as short as commands take it: eight digits of its file's sum."""
    owner, between, name = batch_id.rpartition("=")
    return owner + between + (name[:-_CUT] if _OF_FILE.match(name) else name)


def matching(said: str, batches: Sequence[BatchView]) -> list[str]:
    """The ids of the batches that may be meant: the one that is called so, else those that begin so."""
    ids = [batch.batch_id for batch in batches]
    if said in ids:
        return [said]
    return [one for one in ids if one.startswith(said) or one.rpartition("=")[2].startswith(said)]


def about_left(left_s: float | None) -> str:
    """How long it still takes, no more exactly than it is known."""
    if left_s is None:
        return "time left not known yet"
    if left_s < 5:
        return "a few seconds left"
    if left_s < 90:
        return f"about {round(left_s / 5) * 5} s left"
    if left_s < 90 * 60:
        return f"about {round(left_s / 60)} min left"
    return f"about {left_s / 3600:.1f} h left"


def parts_of(progress: Progress) -> list[str]:
    """What there is to say beside the count, the least last."""
    is_over = progress.ended >= progress.total
    parts = [f"{progress.failed} failed"] if progress.failed else []
    parts += [] if is_over else [about_left(progress.left_s)]
    parts += [f"{progress.running} running"] if progress.running else []
    parts += [f"{progress.waiting} waiting"] if progress.waiting else []
    parts += [_rate(progress.rate_per_s)] if progress.rate_per_s else []
    return parts


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}/s" if per_s >= 0.1 else f"{per_s * 60:.1f}/min"


def plain_line(progress: Progress) -> str:
    """The progress as a line of a log."""
    return ", ".join([f"{progress.ended} of {progress.total} ended", *parts_of(progress)])


def bar_line(progress: Progress, width: int) -> str:
    """The progress as one line of a terminal, with a bar where there is room for one."""
    kept = [f"{progress.ended}/{progress.total}"]
    for part in parts_of(progress):
        if width_of("  ".join([*kept, part])) + _BAR_LEAST + 2 <= width:
            kept.append(part)
    text = "  ".join(kept)
    bar = min(_BAR_MOST, width - width_of(text) - 2)
    if bar < _BAR_LEAST:
        return text[:width]
    full = bar * progress.ended // max(1, progress.total)
    return f"{_FULL * full}{_EMPTY * (bar - full)}  {text}"


def left_behind(view: BatchView, flags: str = "") -> list[str]:
    """What goes on once nobody follows a batch, and how to follow, resume and cancel it.

    Args:
        view: How far it is.
        flags: What the commands need beside the id, with a blank in front.
    """
    name = short(view.batch_id)
    lines = [f"Batch {name}: {view.ended} of {view.total} ended, {_on_its_way(view)} without you."]
    if view.submitted < view.total:
        rest = view.total - view.submitted
        lines.append(f"{counted(rest, 'request')} stay in {view.requests or 'the file'} until you resume.")
    return [
        *lines,
        f"  follow  sollol batch status {name} --watch{flags}",
        f"  resume  sollol batch resume {name}{flags}",
        f"  cancel  sollol batch cancel {name}{flags}",
    ]


def _on_its_way(view: BatchView) -> str:
    on_its_way = view.running + view.waiting
    return f"{on_its_way} go on" if on_its_way != 1 else "1 goes on"


class Ending(NamedTuple):
    """What a run of a batch has come to."""

    view: BatchView
    answers: str
    """Where the answers are."""
    written: int
    """Answers that were in the file at the beginning."""
    earlier: int
    """Answers that this run took from results that were there before it."""
    earlier_at: str
    """When the first of those was made; empty: there is none."""
    took_s: float


def show_summary(ending: Ending) -> None:
    """What came of a batch."""
    view = ending.view
    _fact("done", f"{view.done} of {view.total}")
    _show_reasons(view)
    if view.cancelled:
        _fact("cancelled", str(view.cancelled))
    if ending.written:
        _fact("before", f"{counted(ending.written, 'answer')} were in the file already")
    if ending.earlier:
        since = f" of {age(ending.earlier_at)} ago" if ending.earlier_at else ""
        _fact("earlier", f"{counted(ending.earlier, 'answer')} taken from earlier results{since}; --again asks anew")
    tokens = f"{view.tokens:,} tokens, " if view.tokens else ""
    _fact("took", f"{seconds(ending.took_s)}, {tokens}{seconds(view.work_s)} of work on the nodes")
    _show_nodes(view)
    _fact("answers", ending.answers)


def show_batch(view: BatchView, here: str) -> None:
    """One batch, a line for each fact that there is.

    Args:
        view: How far it is.
        here: The name of this machine.
    """
    _fact("batch", view.batch_id)
    state = [f"{view.done} of {view.total} done"]
    state += [f"{count} {word}" for count, word in _counts(view) if count]
    _fact("state", f"{view.stage.value}: {', '.join(state)}")
    if view.stage is BatchStage.RUNNING:
        rate = f"{_rate(view.rate_per_s)}, " if view.rate_per_s else ""
        _fact("speed", rate + about_left(view.left_s))
    if view.began_at:
        _fact("began", f"{age(view.began_at)} ago")
    if view.earlier:
        _fact("earlier", f"{view.earlier} had ended before that")
    if view.submitted < view.total and view.stage in (BatchStage.RUNNING, BatchStage.STOPPED):
        where = "" if view.host in ("", here) else f" on {view.host}"
        rest = view.total - view.submitted
        _fact("in file", f"{rest} not handed over; `sollol batch resume {short(view.batch_id)}`{where} does that")
    if view.requests:
        _fact("requests", _place(view, view.requests))
    if view.answers:
        _fact("answers", _place(view, view.answers))
    _show_reasons(view)
    if view.tokens:
        _fact("tokens", f"{view.tokens:,}, {seconds(view.work_s)} of work on the nodes")
    _show_nodes(view)


def show_batches(reply: BatchListReply) -> None:
    """The batches as a table."""
    headings = ("BATCH", "STATE", "DONE", "FAILED", "RUNNING", "WAITING", "LEFT", "AGE", "REQUESTS")
    numbers = ("DONE", "FAILED", "RUNNING", "WAITING", "LEFT", "AGE")
    first_to_go = ("WAITING", "RUNNING", "AGE", "REQUESTS", "LEFT", "FAILED")
    empty = "no batches; `sollol batch run REQUESTS ANSWERS` runs one"
    show_table(headings, map(_row, reply.batches), numbers=numbers, first_to_go=first_to_go, empty=empty)


def _row(view: BatchView) -> tuple[str, ...]:
    return (
        short(view.batch_id),
        view.stage.value,
        f"{view.done}/{view.total}",
        str(view.failed or "-"),
        str(view.running or "-"),
        str(view.waiting or "-"),
        _rough(view.left_s),
        age(view.began_at),
        view.requests.rpartition("/")[2] or "-",
    )


def _rough(left_s: float | None) -> str:
    if left_s is None:
        return "-"
    return f"{round(left_s)} s" if left_s < 100 else seconds(left_s)


def _counts(view: BatchView) -> tuple[tuple[int, str], ...]:
    return (
        (view.failed, "failed"),
        (view.cancelled, "cancelled"),
        (view.running, "running"),
        (view.waiting, "waiting"),
    )


def _show_reasons(view: BatchView) -> None:
    for reason in view.reasons:
        _fact("failed", f"{reason.count} {reason.code}" + (f": {reason.message}" if reason.message else ""))


def _show_nodes(view: BatchView) -> None:
    if view.by_node:
        ordered = sorted(view.by_node.items(), key=lambda item: (-item[1], item[0]))
        _fact("by node", ", ".join(f"{node} {count}" for node, count in ordered))


def _place(view: BatchView, path: str) -> str:
    return f"{path} on {view.host}" if view.host else path


def _fact(name: str, text: str) -> None:
    tell(f"{name:<{_LABEL}} {text}", indent=" " * (_LABEL + 1))


def show_cancelled(view: BatchView) -> None:
    """One line about a batch that was cancelled."""
    say(
        f"batch {short(view.batch_id)} is cancelled: {view.done} done, {view.failed} failed, {view.cancelled} cancelled"
    )
