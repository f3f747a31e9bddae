"""Answers that were moved in their middle, as the recorder keeps them."""

from __future__ import annotations

from collections.abc import Collection

import aiosqlite
import msgspec

from sollol_schemas.continuation import Cut
from sollol_schemas.instants import instant

_cuts = msgspec.json.Decoder(Cut)


async def cuts_of(connection: aiosqlite.Connection, request_ids: Collection[str], *, limit: int) -> tuple[Cut, ...]:
    """How answers to requests were moved, oldest first, each with the instant at which the bus stored it."""
    return await _found(connection, "request_id", request_ids, limit)


async def cuts_for(connection: aiosqlite.Connection, request_ids: Collection[str], *, limit: int) -> tuple[Cut, ...]:
    """How answers to others were moved so that these requests got their slots; see `cuts_of`."""
    return await _found(connection, "in_favour_of != '' AND in_favour_of", request_ids, limit)


async def _found(
    connection: aiosqlite.Connection, column: str, request_ids: Collection[str], limit: int
) -> tuple[Cut, ...]:
    ids = msgspec.json.encode(sorted(request_ids)).decode()
    rows = await connection.execute_fetchall(
        f"SELECT stored_at_ns, body FROM cuts WHERE {column} IN (SELECT value FROM json_each(?)) "  # noqa: S608 ours
        "ORDER BY stored_at_ns, stream_seq LIMIT ?",
        (ids, limit),
    )
    return tuple(msgspec.structs.replace(_cuts.decode(body), at=instant(at / 1e9)) for at, body in rows)
