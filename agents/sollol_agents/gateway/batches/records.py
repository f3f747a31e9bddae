"""What is kept of files and batches, and how OpenAI's clients see it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from sollol_bus.errors import BadRequest
from sollol_schemas.batches import BatchRecord, BatchState, FileRecord
from sollol_schemas.instants import seconds_of
from sollol_schemas.plain_words import in_plain_words

Fields = dict[str, Any]

PURPOSE: Final = "batch"
OUTPUT_PURPOSE: Final = "batch_output"
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW: Final = "24h"
WINDOW_S: Final = 86_400
_PAGE_MAX: Final = 10_000


def unix_s(at: str) -> int:
    """An instant as OpenAI's clients read it."""
    return int(seconds_of(at))


def told(record: FileRecord | BatchRecord) -> Fields:
    """A record as OpenAI describes one."""
    return _file(record) if isinstance(record, FileRecord) else _batch(record)


def _file(record: FileRecord) -> Fields:
    return {
        "id": record.file_id,
        "object": "file",
        "bytes": record.size_bytes,
        "created_at": unix_s(record.created_at),
        "expires_at": unix_s(record.expires_at),
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def _batch(record: BatchRecord) -> Fields:
    problems = {"object": "list", "data": list(record.problems)} if record.problems else None
    return {
        "id": record.batch_id,
        "object": "batch",
        "endpoint": record.endpoint,
        "errors": problems,
        "input_file_id": record.input_file_id,
        "completion_window": WINDOW,
        "status": record.state,
        "output_file_id": record.output_file_id or None,
        "error_file_id": record.error_file_id or None,
        "created_at": unix_s(record.created_at),
        "expires_at": unix_s(record.expires_at),
        **{f"{state}_at": _when(record, state) for state in BatchState if state is not BatchState.VALIDATING},
        "request_counts": {"total": record.total, "completed": record.completed, "failed": record.failed},
        "metadata": record.metadata or None,
    }


def _when(record: BatchRecord, state: BatchState) -> int | None:
    return unix_s(record.entered_at[state]) if state in record.entered_at else None


_Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sends to begin a batch; further fields of OpenAI's are not known here and refused by none."""

    input_file_id: str
    endpoint: str
    completion_window: str = WINDOW
    metadata: _Metadata | None = None


def batch_request(fields: Fields) -> BatchRequest:
    """The request to begin a batch, checked.

    Raises:
        BadRequest: A field is missing or cannot be used.
    """
    try:
        asked = msgspec.convert(fields, BatchRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(in_plain_words(str(error))) from error
    if asked.endpoint not in ENDPOINTS:
        raise BadRequest(f"endpoint must be one of {', '.join(ENDPOINTS)}, not {asked.endpoint[:80]!r}")
    if asked.completion_window != WINDOW:
        raise BadRequest(f"completion_window must be {WINDOW!r}, not {asked.completion_window[:20]!r}")
    return asked


R = TypeVar("R", FileRecord, BatchRecord)


def page_of(records: list[R], name: Callable[[R], str], *, limit: int, after: str, is_ascending: bool) -> Fields:
    """A part of a list, as OpenAI's clients page through it; the newest first unless `is_ascending`.

    Raises:
        BadRequest: The limit makes no sense.
    """
    if not 1 <= limit <= _PAGE_MAX:
        raise BadRequest(f"limit must be 1 to {_PAGE_MAX}, not {limit}")
    ordered = sorted(records, key=lambda one: (one.created_at, name(one)), reverse=not is_ascending)
    names = [name(one) for one in ordered]
    start = names.index(after) + 1 if after in names else 0
    part = ordered[start : start + limit]
    return {
        "object": "list",
        "data": [told(one) for one in part],
        "first_id": name(part[0]) if part else None,
        "last_id": name(part[-1]) if part else None,
        "has_more": start + limit < len(ordered),
    }
