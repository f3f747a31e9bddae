"""What the recorder tells of whose requests: explanations for a team, and what everybody has used."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.lab.testing.messages import decision, outcome
from sollol_agents.recorder.archive import Archive, open_archive
from sollol_agents.recorder.rows import Row, row_of
from sollol_agents.recorder.schema import MIGRATIONS
from sollol_agents.recorder.store import Store, open_store
from sollol_agents.recorder.usage import UsageRow, usage_of
from sollol_bus.transport.messages import encode
from sollol_bus.trust.callers import Roster
from sollol_schemas import subjects
from sollol_schemas.callers import Standing, Standings, word_of
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.execution import Figures
from sollol_schemas.queries import UsageBy

ROSTER = Roster(
    Standings(
        callers={
            "a": Standing(team="t"),
            "b": Standing(team="t"),
            "key-1": Standing(title="scripts"),
            "eye": Standing(sees_all=True),
        }
    )
)


def ended(attempt_id: str, caller: str, *, at: int, code: ErrorCode | None = None, **more: Any) -> Row:
    figures = Figures(actual_s=2.0, prompt_tokens=10, output_tokens=5, decode_s=1.0)
    told = outcome(attempt_id, "n1", code=code, figures=figures, caller=word_of(caller), model="m", **more)
    row = row_of(subjects.OUTCOME_EVENT.of("n1"), encode(told), stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


def decided(request_id: str, caller: str, *, at: int) -> Row:
    made = DecisionEvent(decision=decision(f"{request_id}-1", model="m", caller=word_of(caller), reason="because"))
    row = row_of(subjects.DECISIONS_EVENT, encode(made), stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


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


async def test_a_team_is_told_of_its_own_requests_alone(store: Store, archive: Archive) -> None:
    rows = [ended(f"of-{name}-1", name, at=10 + n) for n, name in enumerate(("a", "b", "key-1", ""))]
    await store.write([*rows, decided("of-a", "a", at=5), decided("of-key-1", "key-1", at=6)])

    async def recent_of(name: str) -> list[str]:
        told = await archive.recent(10, callers=ROSTER.seen_by(name))
        return [one.request_id for one in told.outcomes]

    assert await recent_of("a") == await recent_of("b") == ["of-b", "of-a"]
    assert await recent_of("key-1") == ["of-key-1"]
    assert await recent_of("stranger") == []
    assert len(await recent_of("eye")) == len(await recent_of("")) == 4
    own = await archive.why("of-a", callers=ROSTER.seen_by("b"))
    assert (len(own.decisions), len(own.outcomes)) == (1, 1)
    others = await archive.why("of-key-1", callers=ROSTER.seen_by("b"))
    assert (others.decisions, others.outcomes) == ((), ())
    told = await archive.recent(10, callers=ROSTER.seen_by("a"))
    assert [one.decision.reason for one in told.outcomes] == ["", "because"]


async def test_attempts_of_a_request_and_tries_of_a_job_are_used_up_once(store: Store, archive: Archive) -> None:
    lost = ErrorCode.NODE_LOST
    await store.write(
        [
            ended("r-1", "a", at=1, code=lost),
            ended("r-2", "a", at=2),
            ended("t1-1", "a", at=3, code=lost, job_id="j"),
            ended("t2-1", "a", at=4, code=lost, job_id="j"),
            ended("c-1", "a", at=5, code=ErrorCode.CANCELLED),
        ]
    )
    (row,) = await archive.usage(0.0, by=(UsageBy.CALLER,))
    assert row == UsageRow(word_of("a"), "", "", 3, 1, 50, 25, 10.0)
    assert await archive.usage(0.0, by=(), callers=("nobody",)) == []
    (late,) = await archive.usage(4.0, by=(UsageBy.MODEL, UsageBy.DAY))
    assert (late.model, late.day, late.requests) == ("m", "1970-01-01", 2)


def test_words_become_names_and_callers_become_teams() -> None:
    rows = [UsageRow(word_of(name), "m", "", 1, 0, 10, 5, 2.0) for name in ("a", "b", "key-1", "stranger")]
    rows.append(UsageRow("", "m", "", 7, 0, 0, 0, 0.0))
    by_team = {one.team: one.requests for one in usage_of(rows, ROSTER, (UsageBy.TEAM,))}
    assert by_team == {"t": 2, "key-1": 1, word_of("stranger"): 1, "": 7}
    by_caller = {(one.team, one.caller, one.title) for one in usage_of(rows, ROSTER, (UsageBy.CALLER,))}
    assert ("key-1", "key-1", "scripts") in by_caller
    assert len(by_caller) == 5
    (everything,) = usage_of(rows, ROSTER, ())
    assert (everything.requests, everything.prompt_tokens, everything.slot_s) == (11, 40, 8.0)


async def test_a_database_of_an_older_version_keeps_its_lines_for_operators(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as old:
        old.executescript(MIGRATIONS[0])
        row = ended("r-1", "a", at=1).columns
        names = [name for _, name, *_ in old.execute("PRAGMA table_info(outcomes)")]
        marks = ", ".join(f":{name}" for name in names)
        old.execute(f"INSERT INTO outcomes ({', '.join(names)}) VALUES ({marks})", row)
        old.execute("PRAGMA user_version = 1")
    old.close()
    store = await open_store(path)
    archive = await open_archive(path)
    try:
        assert len((await archive.recent(10)).outcomes) == 1
        assert (await archive.recent(10, callers=ROSTER.seen_by("a"))).outcomes == ()
        (used,) = await archive.usage(0.0, by=(UsageBy.CALLER,))
        assert (used.caller, used.requests, used.output_tokens) == ("", 1, 5)
        assert await archive.expenses(0.0, by=()) == []
        (entry,) = usage_of([used], ROSTER, ())
        assert (entry.expenses, entry.unpriced_s, entry.unmetered_s) == ({}, entry.slot_s, entry.slot_s)
    finally:
        await archive.close()
        await store.close()


def spent(attempt_id: str, node: str, figures: Figures, *, at: int) -> Row:
    told = outcome(attempt_id, node, figures=figures, caller=word_of("a"), model=f"m{at % 2}")
    row = row_of(subjects.OUTCOME_EVENT.of(node), encode(told), stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


async def test_what_requests_cost_is_added_up_by_currency_and_what_nobody_knows_is_told(
    store: Store, archive: Archive
) -> None:
    await store.write(
        [
            spent("r-1", "n1", Figures(actual_s=2.0, energy_j=100.0, expense=0.25, currency="EUR"), at=1),
            spent("r-2", "n2", Figures(actual_s=3.0, energy_j=50.0, expense=2.0, currency="GOLD"), at=2),
            spent("s-1", "n1", Figures(actual_s=1.0, expense=0.000001, currency="EUR"), at=3),
            spent("t-1", "n1", Figures(actual_s=4.0), at=4),
        ]
    )

    async def told(*by: UsageBy) -> dict[tuple[str, str], tuple[int, dict[str, float], float, float, float]]:
        rows, costs = await archive.usage(0.0, by=by), await archive.expenses(0.0, by=by)
        return {
            (one.node, one.model): (one.requests, one.expenses, one.energy_j, one.unpriced_s, one.unmetered_s)
            for one in usage_of(rows, ROSTER, by, costs)
        }

    assert await told() == {("", ""): (3, {"EUR": 0.250001, "GOLD": 2.0}, 150.0, 4.0, 5.0)}
    assert await told(UsageBy.NODE) == {
        ("n1", ""): (3, {"EUR": 0.250001}, 100.0, 4.0, 5.0),
        ("n2", ""): (1, {"GOLD": 2.0}, 50.0, 0.0, 0.0),
    }
    assert await told(UsageBy.MODEL) == {
        ("", "m1"): (2, {"EUR": 0.250001, "GOLD": 2.0}, 150.0, 0.0, 1.0),
        ("", "m0"): (1, {}, 0.0, 4.0, 4.0),
    }
    assert await archive.expenses(0.0, by=(), callers=("nobody",)) == []
    assert await archive.expenses(4.0, by=()) == [], "nothing is known of it, and nobody looks further"
