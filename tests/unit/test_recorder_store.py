"""The recorder's database: what is written, what replaces what, and what happens to the file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sollol_agents.lab.testing.messages import decision, outcome
from sollol_agents.recorder.archive import Archive, open_archive
from sollol_agents.recorder.rows import Row, row_of
from sollol_agents.recorder.schema import MIGRATIONS
from sollol_agents.recorder.store import Store, StoreReplaced, open_store
from sollol_bus.errors import ConfigError
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import NodeEvent, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import NodeState


def outcome_row(
    attempt_id: str,
    *,
    at: int = 1,
    node_id: str = "n1",
    model: str = "m",
    status: OutcomeStatus = OutcomeStatus.SUCCESS,
    by: ReportedBy = ReportedBy.NODE,
    actual_s: float = 1.0,
) -> Row:
    figures = Figures(actual_s=actual_s) if status is OutcomeStatus.SUCCESS else None
    ended = outcome(attempt_id, node_id, status=status, by=by, figures=figures, model=model, predicted_s=1.0)
    row = row_of(subjects.OUTCOME_EVENT.of(node_id), encode(ended), stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


async def test_the_history_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "recorder.sqlite3"
    store = await open_store(path)
    try:
        await store.write([outcome_row("a-1")])
        files = await asyncio.to_thread(lambda: [*path.parent.iterdir(), path.parent])
        assert len(files) > 1
        assert [file.name for file in files if file.stat().st_mode & 0o077] == []
    finally:
        await store.close()


def decision_row(request_id: str, at: int) -> Row:
    data = encode(DecisionEvent(decision=decision(f"{request_id}-1", model="m")))
    row = row_of(subjects.DECISIONS_EVENT, data, stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


def node_row(state: NodeState, at: int) -> Row:
    data = encode(NodeEvent(node_id="n1", state=state))
    row = row_of(subjects.NODE_EVENT.of("n1", state), data, stored_at_ns=at * 10**9, stream_seq=at)
    assert row is not None
    return row


NOW = 1.8e9
LOST = {"status": OutcomeStatus.PRESUMED_LOST, "by": ReportedBy.DISPATCHER}


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


async def statuses(archive: Archive, request_id: str = "r") -> list[OutcomeStatus]:
    return [o.status for o in (await archive.why(request_id)).outcomes]


async def test_the_nodes_report_replaces_a_presumed_loss(store: Store, archive: Archive) -> None:
    await store.write([outcome_row("r-1", at=1, **LOST)])  # type: ignore[arg-type]
    assert await statuses(archive) == [OutcomeStatus.PRESUMED_LOST]
    await store.write([outcome_row("r-1", at=2)])
    assert await statuses(archive) == [OutcomeStatus.SUCCESS]


async def test_a_presumed_loss_never_replaces_the_nodes_report(store: Store, archive: Archive) -> None:
    await store.write([outcome_row("r-1", at=1), outcome_row("r-1", at=2, **LOST)])  # type: ignore[arg-type]
    assert await statuses(archive) == [OutcomeStatus.SUCCESS]
    total = (await archive.stats(0, fleet=None, window_s=0)).total
    assert (total.requests, total.failures) == (1, 0)


async def test_writing_everything_twice_changes_nothing(store: Store, archive: Archive) -> None:
    rows = [outcome_row("r-1", at=1), decision_row("r", 2), node_row(NodeState.UP, 3)]
    await store.write(rows)
    once = (await archive.why("r"), await archive.recent(10))
    await store.write(rows)
    assert (await archive.why("r"), await archive.recent(10)) == once
    assert len(once[0].decisions) == len(once[0].outcomes) == len(once[1].node_events) == 1


async def test_statistics_are_those_of_the_window(store: Store, archive: Archive) -> None:
    await store.write([outcome_row(f"r{n}-1", at=n, actual_s=float(n)) for n in range(1, 11)])
    recent = (await archive.stats(6, fleet=None, window_s=5)).total
    assert recent.requests == 5
    assert recent.latency.mean_s == 8.0
    assert (await archive.stats(0, fleet=None, window_s=0)).by_node["n1"].requests == 10


async def test_a_request_that_took_two_attempts_is_one_request(store: Store, archive: Archive) -> None:
    for number, node_id, status in ((1, "n1", OutcomeStatus.FAILED), (2, "n2", OutcomeStatus.SUCCESS)):
        figures = Figures(actual_s=2.0, ttft_s=0.5) if status is OutcomeStatus.SUCCESS else None
        code = None if figures else ErrorCode.STALLED
        ended = outcome(f"r-{number}", node_id, status=status, code=code, figures=figures, attempt=number, queue_s=0.25)
        row = row_of(subjects.OUTCOME_EVENT.of(node_id), encode(ended), stored_at_ns=number * 10**9, stream_seq=number)
        assert row is not None
        await store.write([row])
    stats = await archive.stats(0, fleet=None, window_s=0)
    assert (stats.total.first_attempts, stats.total.requests) == (1, 2)
    assert {name: group.first_attempts for name, group in stats.by_node.items()} == {"n1": 1, "n2": 0}
    assert (stats.total.first_token.count, stats.total.first_token.p50_s) == (1, 0.75)


async def test_a_database_of_the_first_version_learns_which_attempt_each_was(tmp_path: Path) -> None:
    path = tmp_path / "recorder.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(MIGRATIONS[0])
        old = [name for _, name, *_ in connection.execute("PRAGMA table_info(outcomes)")]
        for attempt_id in ("r-1", "r-2", "q-1"):
            row = outcome_row(attempt_id).columns
            values = {name: row[name] for name in old}
            marks = ", ".join(f":{name}" for name in old)
            connection.execute(f"INSERT INTO outcomes ({', '.join(old)}) VALUES ({marks})", values)
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    await (await open_store(path)).close()
    archive = await open_archive(path)
    total = (await archive.stats(0, fleet=None, window_s=0)).total
    await archive.close()
    assert (total.first_attempts, total.requests) == (2, 3)


async def test_a_node_hides_no_outcome_of_another_by_speaking_of_its_attempt(store: Store, archive: Archive) -> None:
    await store.write([decision_row("r", 1)])
    true = outcome_row("r-1", at=2, status=OutcomeStatus.FAILED)
    forged = outcome_row("r-1", at=3, node_id="n2", model="")
    for order in ((true, forged), (forged, true)):
        await store.write(order)
        told = (await archive.why("r")).outcomes
        assert [(one.node_id, one.status) for one in told] == [
            ("n1", OutcomeStatus.FAILED),
            ("n2", OutcomeStatus.SUCCESS),
        ]
        assert told[1].decision.model == "", "what was decided of the attempt of n1 explains nothing of another's"
    assert await store.prune(before=2.5, max_outcomes=10, max_decisions=10, max_events=10) == 2
    assert [one.node_id for one in (await archive.why("r")).outcomes] == ["n2"]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_database_of_an_older_version_keeps_its_outcomes_one_for_each_node(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "recorder.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for script in MIGRATIONS[:version]:
            connection.executescript(script)
        row = outcome_row("r-1").columns
        names = [name for _, name, *_ in connection.execute("PRAGMA table_info(outcomes)")]
        values = {name: row[name] for name in names}
        marks = ", ".join(f":{name}" for name in names)
        connection.execute(f"INSERT INTO outcomes ({', '.join(names)}) VALUES ({marks})", values)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    made = await open_store(path)
    await made.write([outcome_row("r-1"), outcome_row("r-1", at=2, node_id="n2")])
    await made.close()
    archive = await open_archive(path)
    told = (await archive.why("r")).outcomes
    await archive.close()
    assert [one.node_id for one in told] == ["n1", "n2"]
    fresh = await open_store(tmp_path / "fresh.sqlite3")
    await fresh.close()
    assert schema_of(path) == schema_of(tmp_path / "fresh.sqlite3")


def schema_of(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql <> '' ORDER BY name")]


async def test_reliability_is_told_per_node_and_per_model_with_the_last_hundred_times(
    store: Store, archive: Archive
) -> None:
    rows = [outcome_row(f"a{n}-1", at=n, model="a", actual_s=float(n)) for n in range(1, 121)]
    rows += [outcome_row(f"b{n}-1", at=200 + n, model="b", status=OutcomeStatus.FAILED) for n in range(3)]
    rows += [outcome_row("c-1", at=300, node_id="n2", model="a")]
    rows += [outcome_row("d-1", at=301, node_id=subjects.NO_NODE, model="a", status=OutcomeStatus.CLIENT_ERROR)]
    await store.write(rows)
    entries = {(e.node_id, e.model): e for e in (await archive.reliability(now=NOW)).entries}
    assert set(entries) == {("n1", ""), ("n1", "a"), ("n1", "b"), ("n2", ""), ("n2", "a")}
    assert entries["n1", "a"].recent_s == tuple(float(n) for n in range(21, 121))
    assert entries["n1", ""].attempts == 123
    assert entries["n1", "b"].success_ratio == 0.0
    assert entries["n1", ""].last_seen_at == "1970-01-01T00:03:22.000Z"
    only = await archive.reliability("n2", "a", now=NOW)
    assert [(e.node_id, e.model) for e in only.entries] == [("n2", "a")]


async def test_forgetting_takes_what_was_named(store: Store, archive: Archive) -> None:
    await store.write(
        [
            outcome_row("a-1", at=1, model="a"),
            outcome_row("b-1", at=2, model="b"),
            outcome_row("c-1", at=3, node_id="n2", model="a"),
        ]
    )
    await store.forget("n1", "a")
    assert [e.model for e in (await archive.reliability("n1", now=NOW)).entries] == ["", "b"]
    await store.forget(model="a")
    assert (await archive.reliability("n2", now=NOW)).entries == ()
    await store.forget()
    assert (await archive.reliability(now=NOW)).entries == ()


async def test_recent_comes_newest_first(store: Store, archive: Archive) -> None:
    await store.write([outcome_row(f"r{n}-1", at=n) for n in range(5)])
    await store.write([node_row(NodeState.UP, 1), node_row(NodeState.DOWN, 2)])
    recent = await archive.recent(3)
    assert [o.request_id for o in recent.outcomes] == ["r4", "r3", "r2"]
    assert [e.state for e in recent.node_events] == [NodeState.DOWN, NodeState.UP]


async def test_pruning_goes_by_age_and_by_number(store: Store, archive: Archive) -> None:
    await store.write([outcome_row(f"r{n}-1", at=n) for n in range(1, 21)])
    await store.write([decision_row(f"r{n}", n) for n in range(1, 21)])
    deleted = await store.prune(before=5.5, max_outcomes=100, max_decisions=4, max_events=4)
    assert deleted == 5 + 16
    assert (await archive.stats(0, fleet=None, window_s=0)).total.requests == 15
    assert not (await archive.why("r16")).decisions
    assert (await archive.why("r17")).decisions
    assert await store.prune(before=5.5, max_outcomes=100, max_decisions=4, max_events=4) == 0


async def test_pruning_many_lines_takes_several_small_transactions(store: Store, archive: Archive) -> None:
    await store.write([outcome_row(f"r{n}-1", at=n) for n in range(1, 2501)])
    assert await store.prune(before=0, max_outcomes=10, max_decisions=1, max_events=1) == 2490
    assert (await archive.stats(0, fleet=None, window_s=0)).total.requests == 10


async def test_a_page_takes_several_lines_before_it_is_written_to_the_file(store: Store) -> None:
    before = store.path.stat().st_size
    for at in range(1, 9):
        await store.write([outcome_row(f"{hashlib.sha1(b'%d' % n).hexdigest()}-{at}") for n in range(300)])
    log = store.path.with_name(store.path.name + "-wal")
    assert log.stat().st_size > 1000 * 4096  # more than SQLite lets a log grow by itself
    assert store.path.stat().st_size == before


async def test_a_database_keeps_its_name_and_its_lines_over_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "recorder.sqlite3"
    first = await open_store(path)
    await first.write([outcome_row("r-1")])
    await first.close()
    second = await open_store(path)
    archive = await open_archive(path)
    assert second.name == first.name
    assert await statuses(archive) == [OutcomeStatus.SUCCESS]
    await archive.close()
    await second.close()


async def test_a_deleted_file_is_noticed_before_anything_is_written_into_the_void(store: Store) -> None:
    store.path.unlink()
    with pytest.raises(StoreReplaced, match="deleted"):
        await store.write([outcome_row("r-1")])


async def test_an_exchanged_file_is_noticed(store: Store) -> None:
    store.path.rename(store.path.with_suffix(".old"))
    other = await open_store(store.path)
    with pytest.raises(StoreReplaced):
        await store.write([outcome_row("r-1")])
    await other.close()


async def test_a_locked_database_writes_nothing_and_works_when_it_is_free(store: Store, archive: Archive) -> None:
    blocker = sqlite3.connect(store.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    await store._connection.execute_fetchall("PRAGMA busy_timeout = 50")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await store.write([outcome_row("r-1")])
    assert (await archive.recent(1)).outcomes == ()
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.write([outcome_row("r-1")])
    assert await statuses(archive) == [OutcomeStatus.SUCCESS]


async def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "recorder.sqlite3"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    store = await open_store(path)
    await store.write([outcome_row("r-1")])
    await store.close()
    assert (tmp_path / "recorder.sqlite3.damaged-1").exists()
    assert any("damaged" in record.message for record in caplog.records)


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "recorder.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        await open_store(path)


async def test_a_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="database="):
        await open_store(tmp_path / "file" / "recorder.sqlite3")
    with pytest.raises(ConfigError, match="database="):
        await open_store(tmp_path)


async def test_a_node_is_listed_with_its_presence_whatever_it_did(store: Store, archive: Archive) -> None:
    await store.write([node_row(NodeState.UP, 100), node_row(NodeState.DOWN, 200), node_row(NodeState.UP, 300)])
    (entry,) = (await archive.reliability(now=NOW)).entries
    assert (entry.node_id, entry.model, entry.attempts) == ("n1", "", 0)
    assert entry.up_for_s is not None
    assert entry.up_for_s > 1_000_000
    assert entry.uptime_ratio is not None
    assert 0.9 < entry.uptime_ratio < 1.0
    assert (await archive.reliability("n2", now=NOW)).entries == ()
    await store.write([outcome_row("r1-1", at=310)])
    assert [e.uptime_ratio is None for e in (await archive.reliability("n1", now=NOW)).entries] == [False, True]


async def test_the_latest_of_each_model_are_told_without_the_busy_ones_crowding_out_the_rest(
    store: Store, archive: Archive
) -> None:
    rows = [outcome_row(f"busy{n}-1", at=100 + n) for n in range(60)]
    rows += [outcome_row("rare-1", at=1, node_id="n2", model="seldom")]
    rows += [
        outcome_row("bad-1", at=90, status=OutcomeStatus.FAILED),
        outcome_row("gone-1", at=500, status=OutcomeStatus.CANCELLED),
    ]
    await store.write(rows)
    told = [o.attempt_id for o in (await archive.recent(100, per_model=5)).outcomes]
    assert told == ["busy59-1", "busy58-1", "busy57-1", "busy56-1", "busy55-1", "rare-1"]
    told = [o.attempt_id for o in (await archive.recent(200, per_model=100)).outcomes]
    assert len(told) == 62
    assert "bad-1" in told
    assert len((await archive.recent(4, per_model=100)).outcomes) == 3, "the limit is shared evenly"
