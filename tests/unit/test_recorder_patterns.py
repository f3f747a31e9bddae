"""Where the latest attempts went, by category of their work, and what nodes did hour by hour; from the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.lab.testing.messages import outcome
from sollol_agents.recorder.archive import Archive, open_archive
from sollol_agents.recorder.rows import Row, row_of
from sollol_agents.recorder.store import Store, open_store
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures


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


async def test_where_work_of_each_category_went_and_when_is_told(store: Store, archive: Archive) -> None:
    def row(number: int, *, at: int, node_id: str = "n1", code: ErrorCode | None = None, **words: Any) -> Row:
        figures = Figures(actual_s=2.0) if code is None else None
        ended = outcome(f"r{number}-1", node_id, code=code, figures=figures, model="m", **words)
        made = row_of(subjects.OUTCOME_EVENT.of(node_id), encode(ended), stored_at_ns=at * 10**9, stream_seq=number)
        assert made is not None
        return made

    day = 86_400
    await store.write(
        [
            row(1, at=day, task_type="generation", coding_category="debugging"),
            row(2, at=day + 10, task_type="generation", coding_category="debugging"),
            row(3, at=day + 20, task_type="analysis", code=ErrorCode.ENGINE_FAILED),
            row(4, at=2 * day, node_id="n2", task_type="analysis"),
            row(5, at=2 * day, node_id=subjects.NO_NODE, code=ErrorCode.DEADLINE_EXCEEDED),
        ]
    )
    told = sorted(await archive.patterns(0.0))
    assert [(r.category, r.node_id, r.requests, r.successes, r.seconds) for r in told] == [
        ("analysis", "n1", 1, 0, 0.0),
        ("analysis", "n2", 1, 1, 2.0),
        ("debugging", "n1", 2, 2, 4.0),
    ]
    assert [r.node_id for r in await archive.patterns(1.5 * day)] == ["n2"]
    hours = await archive.hours(2.0 * day)
    assert [(r.node_id, r.hour, r.requests, r.failures, r.mean_s) for r in hours] == [
        ("n2", 48, 1, 0, 2.0),
        ("n1", 24, 3, 1, 2.0),
    ]
    assert [r.node_id for r in await archive.hours(2.0 * day + 1)] == ["n2", "n1"]
    assert [r.node_id for r in await archive.hours(2.0 * day + 30)] == ["n2"]
