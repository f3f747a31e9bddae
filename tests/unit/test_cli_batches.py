"""Batches in words: the bar, the lines of a log, and what is said when nobody follows one any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sollol_agents.cli.commands.batch_following import PlainDisplay
from sollol_agents.cli.commands.batch_views import (
    Progress,
    about_left,
    bar_line,
    left_behind,
    matching,
    plain_line,
    short,
)
from sollol_agents.cli.table import width_of
from sollol_schemas.batch_progress import BatchStage, BatchView

SUM = "3f2a91bc0d4e5f60718293a4"
HALF = Progress(total=200, ended=100, failed=4, running=8, waiting=92, rate_per_s=4.1)
VIEW = BatchView(
    batch_id=SUM, stage=BatchStage.RUNNING, total=200, submitted=180, done=96, failed=4, running=8, waiting=72
)


def test_the_line_of_a_batch_at_every_width_is_as_it_was_kept(assert_kept: Callable[[str, str], None]) -> None:
    stages = (
        Progress(total=200, ended=0, waiting=200),
        HALF,
        HALF._replace(rate_per_s=0.01),
        Progress(total=200, ended=200, failed=4, rate_per_s=4.1),
    )
    bars = [bar_line(progress, width) for width in (20, 60, 80, 120) for progress in stages]
    assert_kept("batch_lines", "\n".join([*bars, *map(plain_line, stages), *left_behind(VIEW, " --nats nats://den")]))


@pytest.mark.parametrize("width", range(8, 200, 7))
def test_the_bar_is_never_wider_than_the_terminal(width: int) -> None:
    assert width_of(bar_line(HALF, width)) <= width


@pytest.mark.parametrize(
    ("left_s", "words"),
    [(None, "not known"), (2, "a few seconds"), (31, "about 30 s"), (200, "about 3 min"), (9000, "about 2.5 h")],
    ids=str,
)
def test_the_time_left_is_told_no_more_exactly_than_it_is_known(left_s: float | None, words: str) -> None:
    assert words in about_left(left_s)


def test_a_log_has_a_line_every_few_seconds_ever_more_seldom_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = PlainDisplay(0.0)
    for second in range(300):
        display.show(HALF, float(second))
    display.end(HALF._replace(ended=200))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("100 of 200 ended, 4 failed, about 25 s left")
    assert lines[-1].startswith("200 of 200 ended, 4 failed")
    assert 15 < len(lines) < 40


def test_a_batch_is_meant_by_the_beginning_of_its_id() -> None:
    again = BatchView(batch_id=f"a7b2-{SUM}", stage=BatchStage.DONE)
    hers = BatchView(batch_id=f"alice={SUM}", stage=BatchStage.DONE)
    assert (short(SUM), short(again.batch_id), short(hers.batch_id)) == ("3f2a91bc", "a7b2-3f2a91bc", "alice=3f2a91bc")
    assert matching(short(SUM), [VIEW, again]) == [SUM]
    assert matching(short(again.batch_id), [VIEW, again]) == [again.batch_id]
    assert matching("3f2a", [VIEW, hers]) == [SUM, hers.batch_id]
    assert matching(SUM, [VIEW, hers]) == [SUM]
