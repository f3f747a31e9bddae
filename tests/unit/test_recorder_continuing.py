"""What the recorder keeps of answers that went on: both attempts, how they were moved, and their tokens once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.testing.messages import decision, outcome
from sollol_agents.recorder.archive import Archive, open_archive
from sollol_agents.recorder.rows import Row, row_of
from sollol_agents.recorder.store import Store, open_store
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.callers import word_of
from sollol_schemas.continuation import Cut, CutReason
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import Figures
from sollol_schemas.queries import UsageBy

BEGAN = Figures(actual_s=3.0, ttft_s=0.5, prompt_tokens=100, output_tokens=60)
WENT_ON = Figures(actual_s=2.0, ttft_s=0.2, prompt_tokens=160, output_tokens=40, continued_tokens=60, decode_s=1.0)


def stored(subject: str, event: msgspec.Struct, at: int) -> Row:
    row = row_of(subject, encode(event), stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


def ended(number: int, node_id: str, at: int, figures: Figures | None, code: ErrorCode | None = None) -> Row:
    status = OutcomeStatus.PRESUMED_LOST if figures is None else None
    told = outcome(
        f"r-{number}",
        node_id,
        code=code,
        status=status,
        figures=figures,
        attempt=number,
        model="m",
        caller=word_of("a"),
        queue_s=1.0,
        continued_tokens=figures.continued_tokens if figures is not None else 0,
    )
    return stored(subjects.OUTCOME_EVENT.of(node_id), told, at)


def ended_of(request_id: str, at: int) -> Row:
    return stored(subjects.OUTCOME_EVENT.of("n1"), outcome(f"{request_id}-1", "n1", figures=BEGAN), at)


def cut(number: int, request_id: str = "r") -> Row:
    told = Cut(request_id=request_id, attempt_id=f"{request_id}-1", node_id="n1", reason=CutReason.PRIORITY, text="why")
    return stored(subjects.CUT_EVENT.of("n1"), told, number)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path / "recorder.sqlite3")
    yield opened
    await opened.close()


@pytest.fixture
async def archive(store: Store) -> AsyncIterator[Archive]:
    opened = await open_archive(store.path)
    yield opened
    await opened.close()


async def test_why_tells_both_attempts_and_how_the_answer_was_moved(store: Store, archive: Archive) -> None:
    made = DecisionEvent(decision=decision("r-11", "n2", attempt=11, continued_tokens=60))
    rows = [cut(3), cut(4, "another"), ended(1, "n1", 3, BEGAN, ErrorCode.MOVED), ended(11, "n2", 6, WENT_ON)]
    await store.write([stored(subjects.DECISIONS_EVENT, made, 4), *rows])
    told = await archive.why("r")
    assert [one.attempt_id for one in told.outcomes] == ["r-1", "r-11"]
    assert [(one.text, one.at) for one in told.cuts] == [("why", "1970-01-01T00:00:03.000Z")]
    assert (await archive.why("nobody's")).cuts == ()


async def test_why_tells_an_urgent_request_which_answers_gave_way_to_it(store: Store, archive: Archive) -> None:
    way = Cut(request_id="low", attempt_id="low-1", node_id="n1", reason=CutReason.PRIORITY, in_favour_of="r", text="w")
    await store.write([stored(subjects.CUT_EVENT.of("n1"), way, 3), cut(4), ended(1, "n1", 5, BEGAN)])
    told = await archive.why("r")
    assert [(one.request_id, one.at) for one in told.gave_way] == [("low", "1970-01-01T00:00:03.000Z")]
    assert [one.request_id for one in told.cuts] == ["r"]
    await store.write([ended_of("low", 6)])
    assert (await archive.why("low")).gave_way == ()


@pytest.mark.parametrize(
    ("began", "prompt", "output"), [(BEGAN, 100, 100), (None, 100, 100)], ids=["told", "lost without a word"]
)
async def test_tokens_of_an_answer_that_went_on_count_once(
    store: Store, archive: Archive, began: Figures | None, prompt: int, output: int
) -> None:
    code = ErrorCode.MOVED if began is not None else ErrorCode.NODE_LOST
    await store.write([ended(1, "n1", 3, began, code), ended(11, "n2", 6, WENT_ON)])
    (row,) = await archive.usage(0.0, by=(UsageBy.CALLER,))
    assert (row.requests, row.failed, row.prompt_tokens, row.output_tokens) == (1, 0, prompt, output)


@pytest.mark.parametrize("late_first", [True, False], ids=["late", "later"])
async def test_an_attempt_that_was_given_up_and_ended_late_counts_no_token_twice(
    store: Store, archive: Archive, late_first: bool
) -> None:
    late = Figures(actual_s=9.0, ttft_s=0.5, prompt_tokens=100, output_tokens=100)
    rows = [ended(11, "n2", 6, WENT_ON), ended(1, "n1", 9, late)]
    await store.write([ended(1, "n1", 3, None, ErrorCode.NODE_LOST)])
    await store.write(rows[::-1] if late_first else rows)
    (row,) = await archive.usage(0.0, by=(UsageBy.CALLER,))
    assert (row.requests, row.failed, row.prompt_tokens, row.output_tokens) == (1, 0, 100, 100)


@pytest.mark.parametrize("began", [BEGAN, None], ids=["told", "lost without a word"])
async def test_each_token_counts_on_the_node_whose_it_was(
    store: Store, archive: Archive, began: Figures | None
) -> None:
    code = ErrorCode.MOVED if began is not None else ErrorCode.NODE_LOST
    again = Figures(actual_s=1.0, prompt_tokens=170, output_tokens=30, continued_tokens=70)
    rows = [ended(1, "n1", 3, began, code), ended(11, "n2", 6, WENT_ON, ErrorCode.MOVED), ended(21, "n1", 7, again)]
    await store.write(rows)
    by_node = {row.node: (row.prompt_tokens, row.output_tokens) for row in await archive.usage(0.0, by=(UsageBy.NODE,))}
    assert by_node == {"n1": (100, 60 + 30), "n2": (0, 10)}
    (row,) = await archive.usage(0.0, by=())
    assert (row.prompt_tokens, row.output_tokens) == (100, 100)
    (row,) = await archive.usage(6.5, by=())
    assert (row.prompt_tokens, row.output_tokens) == (100, 100), "though the first attempts ended before"


async def test_attempts_that_each_began_count_each(store: Store, archive: Archive) -> None:
    await store.write([ended(1, "n1", 3, BEGAN, ErrorCode.ENGINE_FAILED), ended(11, "n2", 6, BEGAN)])
    (row,) = await archive.usage(0.0, by=())
    assert (row.prompt_tokens, row.output_tokens) == (200, 120)


async def test_an_attempt_that_was_moved_is_nobodys_failure_and_one_that_went_on_no_first_token(
    store: Store, archive: Archive
) -> None:
    await store.write([ended(1, "n1", 3, BEGAN, ErrorCode.MOVED), ended(11, "n2", 6, WENT_ON)])
    total = (await archive.stats(0.0, fleet=None, window_s=0.0)).total
    assert (total.requests, total.successes, total.failures, total.first_attempts) == (1, 1, 0, 1)
    assert (total.latency.count, total.first_token.count, total.output_tokens) == (1, 0, 100)


async def test_old_moves_are_forgotten_like_other_events(store: Store, archive: Archive) -> None:
    await store.write([cut(number, f"r{number}") for number in range(1, 6)])
    assert await store.prune(before=2.5, max_outcomes=9, max_decisions=9, max_events=2) == 3
    assert not (await archive.why("r3")).cuts
