"""The recorder's SQLite database, write side: one transaction per batch, and a file that may vanish or be locked.

A batch is either in the database for good (WAL, flushed to disk) or not at all, so its events may be acked to the
bus when `write` returns, and writing one twice changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiosqlite

from sollol_agents.recorder.rows import COLUMNS, Row, Table
from sollol_agents.recorder.schema import MIGRATIONS
from sollol_bus.errors import ConfigError

log = logging.getLogger(__name__)

_BUSY_MS = 2000
_PRUNE_CHUNK = 1000  # about 50 ms on a small disk
_FREE_PAGES = 2000
_LOG_PAGES = 8000  # 32 MiB: keys are random, so that a page is written to the file once for several lines,
_CACHE_KIB = 32_000  # and many pages are wanted again and again; without both, a line takes a third more time

_CHANGES = ", ".join(
    f"{name} = excluded.{name}" for name in COLUMNS[Table.OUTCOMES] if name not in ("attempt_id", "node_id")
)


def _insert(table: Table, how: str = "INSERT OR IGNORE") -> str:
    names = COLUMNS[table]
    return f"{how} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


_WRITE: Final = {
    Table.OUTCOMES: (
        f"{_insert(Table.OUTCOMES, 'INSERT')} ON CONFLICT (attempt_id, node_id) DO UPDATE SET {_CHANGES} "
        "WHERE (excluded.rank, excluded.recorded_at) >= (outcomes.rank, outcomes.recorded_at)"
    ),
    Table.DECISIONS: _insert(Table.DECISIONS),
    Table.FEEDBACK: _insert(Table.FEEDBACK),
    Table.RESETS: "UPDATE feedback SET is_forgotten = 1 WHERE stored_at_ns <= ? AND ? IN ('', model)",
    Table.ACTS: _insert(Table.ACTS),
    Table.CUTS: _insert(Table.CUTS),
    Table.EVENTS: _insert(Table.EVENTS),
}
_FORGET = "DELETE FROM outcomes WHERE (:node_id IN ('', node_id)) AND (:model IN ('', model))"
_NEWEST = (
    "SELECT max(coalesce((SELECT max(recorded_at) FROM outcomes), 0), "
    "coalesce((SELECT max(stored_at_ns) FROM decisions), 0) / 1e9, "
    "coalesce((SELECT max(stored_at_ns) FROM events), 0) / 1e9)"
)
_KEEP_LINE = "INSERT OR REPLACE INTO meta VALUES ('line', :value)"


class _Pruning(NamedTuple):
    """How old lines of one table are found and deleted; instants in the unit of the table."""

    newest_surplus: str
    delete_until: str
    ticks_per_s: float


_PRUNE_OUTCOMES = _Pruning(
    "SELECT recorded_at FROM outcomes ORDER BY recorded_at DESC LIMIT 1 OFFSET ?",
    "DELETE FROM outcomes WHERE (attempt_id, node_id) IN "
    "(SELECT attempt_id, node_id FROM outcomes WHERE recorded_at <= ? ORDER BY recorded_at LIMIT ?)",
    1,
)
_PRUNE_DECISIONS = _Pruning(
    "SELECT stored_at_ns FROM decisions ORDER BY stored_at_ns DESC LIMIT 1 OFFSET ?",
    "DELETE FROM decisions WHERE (stored_at_ns, stream_seq) IN "
    "(SELECT stored_at_ns, stream_seq FROM decisions WHERE stored_at_ns <= ? ORDER BY stored_at_ns LIMIT ?)",
    1e9,
)
_PRUNE_EVENTS = _Pruning(
    "SELECT stored_at_ns FROM events ORDER BY stored_at_ns DESC LIMIT 1 OFFSET ?",
    "DELETE FROM events WHERE (stored_at_ns, stream_seq) IN "
    "(SELECT stored_at_ns, stream_seq FROM events WHERE stored_at_ns <= ? ORDER BY stored_at_ns LIMIT ?)",
    1e9,
)
_PRUNE_CUTS = _Pruning(
    "SELECT stored_at_ns FROM cuts ORDER BY stored_at_ns DESC LIMIT 1 OFFSET ?",
    "DELETE FROM cuts WHERE (stored_at_ns, stream_seq) IN "
    "(SELECT stored_at_ns, stream_seq FROM cuts WHERE stored_at_ns <= ? ORDER BY stored_at_ns LIMIT ?)",
    1e9,
)
_PRUNE_ACTS = _Pruning(
    "SELECT stored_at_ns FROM acts ORDER BY stored_at_ns DESC LIMIT 1 OFFSET ?",
    "DELETE FROM acts WHERE (stored_at_ns, stream_seq) IN "
    "(SELECT stored_at_ns, stream_seq FROM acts WHERE stored_at_ns <= ? ORDER BY stored_at_ns LIMIT ?)",
    1e9,
)
_PRUNE_FEEDBACK = _Pruning(
    "SELECT stored_at_ns FROM feedback ORDER BY stored_at_ns DESC LIMIT 1 OFFSET ?",
    "DELETE FROM feedback WHERE (stored_at_ns, stream_seq) IN "
    "(SELECT stored_at_ns, stream_seq FROM feedback WHERE stored_at_ns <= ? ORDER BY stored_at_ns LIMIT ?)",
    1e9,
)
_PRUNE_COMMENTS = (
    "DELETE FROM feedback_comments WHERE given_at + 60 < "
    "coalesce((SELECT min(stored_at_ns) / 1e9 FROM feedback), :before)"
)
_MAX_FEEDBACK = 100_000
_MAX_ACTS = 100_000  # however old: operators do little


class StoreReplaced(Exception):
    """The database file was deleted or exchanged while it was open."""


class StoreBroken(Exception):
    """The file is not a database, or a damaged one."""


class Store:
    """An open database; make one with `open_store`."""

    def __init__(
        self, path: Path, connection: aiosqlite.Connection, identity: tuple[int, int] | None, name: str
    ) -> None:
        self.path = path
        self.name = name
        """A random name of this database, by which its consumer of the stream goes."""
        self._connection = connection
        self._identity = identity
        self._lock = asyncio.Lock()

    async def write(self, rows: Sequence[Row]) -> None:
        """Returns once every row is safely on disk.

        Raises:
            StoreReplaced: The file is no longer the one that was opened.
            StoreBroken: The file is damaged.
            sqlite3.OperationalError: The database is locked or the disk is full; nothing was written, try again.
        """
        if await asyncio.to_thread(_identity_of, self.path) != self._identity:
            raise StoreReplaced(f"{self.path} was deleted or exchanged")
        try:
            await self.transact(*_statements(rows))
        except sqlite3.DatabaseError as error:
            if _is_damage(error):
                raise StoreBroken(f"{self.path}: {error}") from error
            raise

    async def forget(self, node_id: str = "", model: str = "") -> None:
        """Deletes outcomes: of one node, of one model, of one model on one node, or all of them."""
        await self.transact((_FORGET, [{"node_id": node_id, "model": model}]))

    async def prune(self, *, before: float, max_outcomes: int, max_decisions: int, max_events: int) -> int:
        """Deletes what is older than `before` (seconds of Unix time) or too much; returns the lines deleted.

        Goes in small transactions, so that a batch in between waits for one of them at most.
        """
        deleted = await self._prune_table(_PRUNE_OUTCOMES, before, max_outcomes)
        deleted += await self._prune_table(_PRUNE_DECISIONS, before, max_decisions)
        deleted += await self._prune_table(_PRUNE_EVENTS, before, max_events)
        deleted += await self._prune_table(_PRUNE_CUTS, before, max_events)
        deleted += await self._prune_table(_PRUNE_ACTS, 0.0, _MAX_ACTS)
        deleted += await self._prune_table(_PRUNE_FEEDBACK, before, _MAX_FEEDBACK)
        await self.transact((_PRUNE_COMMENTS, [{"before": before}]))
        if deleted:
            await self._connection.execute_fetchall(f"PRAGMA incremental_vacuum({_FREE_PAGES})")
        return deleted

    async def newest(self) -> float:
        """When the latest record was stored, in seconds of Unix time; 0 when there is none."""
        return float(await _scalar(self._connection, _NEWEST))

    async def line(self) -> float | None:
        """Up to when time was believed to have gone, in seconds of Unix time; None in a new database."""
        rows = list(await self._connection.execute_fetchall("SELECT value FROM meta WHERE key = 'line'"))
        return float(rows[0][0]) if rows else None

    async def keep_line(self, at_unix_s: float) -> None:
        """Keeps the line over a restart."""
        await self.transact((_KEEP_LINE, [{"value": repr(at_unix_s)}]))

    async def close(self) -> None:
        """Closes the file; safe to call twice."""
        await self._connection.close()

    async def _prune_table(self, pruning: _Pruning, before: float, limit: int) -> int:
        until = before * pruning.ticks_per_s
        for (newest_surplus,) in await self._connection.execute_fetchall(pruning.newest_surplus, (limit,)):
            until = max(until, newest_surplus)
        deleted = 0
        while True:
            async with self._lock, self._connection.execute(pruning.delete_until, (until, _PRUNE_CHUNK)) as cursor:
                deleted += cursor.rowcount
            if cursor.rowcount < _PRUNE_CHUNK:
                return deleted

    async def transact(self, *statements: tuple[str, Iterable[dict[str, Any] | Sequence[Any]]]) -> None:
        """Carries out statements, each once for every row given with it: all of them or none."""
        async with self._lock:
            await self._connection.execute("BEGIN IMMEDIATE")
            try:
                for sql, rows in statements:
                    await self._connection.executemany(sql, rows)
                await self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    await self._connection.execute("ROLLBACK")
                raise


def _statements(rows: Sequence[Row]) -> list[tuple[str, list[Sequence[Any]]]]:
    """How rows are written: a statement for each table that has some, because each is a turn of another thread."""
    by_table: dict[Table, list[Sequence[Any]]] = {}
    for row in rows:
        by_table.setdefault(row.table, []).append(row.values)
    return [(sql, by_table[table]) for table, sql in _WRITE.items() if table in by_table]


async def open_store(path: Path) -> Store:
    """The database at `path`, made or brought up to date; a damaged one is set aside and begun anew.

    Raises:
        ConfigError: The path cannot be used, or a newer version of this software wrote the database.
        sqlite3.OperationalError: The database is locked; try again.
    """
    try:
        await asyncio.to_thread(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        try:
            return await _open(path)
        except StoreBroken as error:
            aside = await asyncio.to_thread(set_aside, path)
            log.error(  # noqa: TRY400 the trace says nothing about why the file is damaged
                "the database is damaged and was moved to %s; a new one is begun: %s",
                aside,
                error,
                extra={"action": "recorder_database_damaged"},
            )
            return await _open(path)
    except OSError as error:
        raise ConfigError(f"database={str(path)!r} cannot be used: {error.strerror or error}") from error


def _make_private(path: Path) -> None:
    """The database's file, made where it is missing: who asked for which model is for its owner to read alone."""
    if str(path) != ":memory:":
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if os.name == "posix":
            path.chmod(0o600)


async def _open(path: Path) -> Store:
    await asyncio.to_thread(_make_private, path)
    try:
        connection = await connect(path)
    except sqlite3.OperationalError as error:
        if "unable to open" in str(error):
            raise ConfigError(f"database={str(path)!r} cannot be opened: {error}") from error
        raise
    try:
        sizes = (f"wal_autocheckpoint = {_LOG_PAGES}", f"cache_size = -{_CACHE_KIB}")
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = FULL", *sizes):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        await _migrate(connection, path)
        name = await _scalar(connection, "SELECT value FROM meta WHERE key = 'name'")
        identity = await asyncio.to_thread(_identity_of, path)
    except BaseException as error:
        await connection.close()
        if isinstance(error, sqlite3.DatabaseError) and _is_damage(error):
            raise StoreBroken(str(error)) from error
        raise
    return Store(path, connection, identity, str(name))


async def connect(path: Path) -> aiosqlite.Connection:
    """A connection without implicit transactions that waits a little for locks."""
    connection = await aiosqlite.connect(path, isolation_level=None)
    await connection.execute_fetchall(f"PRAGMA busy_timeout = {_BUSY_MS}")
    return connection


async def _migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Brings the tables to this software's version, each step in a transaction."""
    version = int(await _scalar(connection, "PRAGMA user_version"))
    if version > len(MIGRATIONS):
        raise ConfigError(f"database={str(path)!r} was written by a newer version ({version}); update this one")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        await connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
        log.info("the database is at version %d", number, extra={"action": "recorder_migrated"})


async def _scalar(connection: aiosqlite.Connection, sql: str) -> Any:  # noqa: ANN401 whatever SQLite holds
    async with connection.execute(sql) as cursor:
        row = await cursor.fetchone()
    assert row is not None
    return row[0]


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is at fault: SQLite raises the bare class for that alone."""
    return type(error) is sqlite3.DatabaseError


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Which file lies at the path."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def set_aside(path: Path) -> Path:
    """Renames a damaged, closed database, removes the log that belongs to it, and tells the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
