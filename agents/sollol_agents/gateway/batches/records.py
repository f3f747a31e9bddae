"""What is kept of files and batches, and how OpenAI's clients see it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from sollol_bus.errors import BadRequest
from sollol_schemas.units import Bytes, Count, Priority

Fields = dict[str, Any]

PURPOSE: Final = "batch"
OUTPUT_PURPOSE: Final = "batch_output"
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
WINDOW: Final = "24h"
WINDOW_S: Final = 86_400
_PAGE_MAX: Final = 10_000


class BatchState(StrEnum):
    """Where a batch is in its life; the words are OpenAI's."""

    VALIDATING = "validating"  # nobody has looked through its file yet
    FAILED = "failed"  # its file cannot be used
    IN_PROGRESS = "in_progress"  # its requests run
    FINALIZING = "finalizing"  # its answers are put together
    COMPLETED = "completed"  # its answers can be read
    EXPIRED = "expired"  # its window passed; the answers until then can be read
    CANCELLING = "cancelling"  # its requests are being cancelled
    CANCELLED = "cancelled"  # the answers until then can be read


ENDED: Final = frozenset({BatchState.FAILED, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED})


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stored file, without its content."""

    file_id: str
    owner: str
    """Id of the key that it belongs to."""
    purpose: str
    filename: str
    size_bytes: Bytes
    created_at_s: Count
    expires_at_s: Count

    def told(self) -> Fields:
        """The file as OpenAI describes one."""
        return {
            "id": self.file_id,
            "object": "file",
            "bytes": self.size_bytes,
            "created_at": self.created_at_s,
            "expires_at": self.expires_at_s,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file cannot be used as a batch."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One batch."""

    batch_id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at_s: Count
    expires_at_s: Count
    priority: Priority = 1
    state: BatchState = BatchState.VALIDATING
    metadata: dict[str, str] = {}
    at_s: dict[str, Count] = {}
    """When it came into its states."""
    total: Count = 0
    completed: Count = 0
    failed: Count = 0
    output_file_id: str = ""
    error_file_id: str = ""
    problems: tuple[Problem, ...] = ()
    worker: str = ""
    """Instance of the gateway that works on it; it writes the record once a second."""

    def told(self) -> Fields:
        """The batch as OpenAI describes one."""
        problems = {"object": "list", "data": list(self.problems)} if self.problems else None
        return {
            "id": self.batch_id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": problems,
            "input_file_id": self.input_file_id,
            "completion_window": WINDOW,
            "status": self.state,
            "output_file_id": self.output_file_id or None,
            "error_file_id": self.error_file_id or None,
            "created_at": self.created_at_s,
            "expires_at": self.expires_at_s,
            **{f"{state}_at": self.at_s.get(state) for state in BatchState if state is not BatchState.VALIDATING},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata or None,
        }

    def into(self, state: BatchState, now_s: int, **changes: object) -> BatchRecord:
        """The record in another state."""
        return msgspec.structs.replace(self, state=state, at_s={**self.at_s, state.value: now_s}, **changes)


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
        raise BadRequest(str(error)) from error
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
    ordered = sorted(records, key=lambda one: (one.created_at_s, name(one)), reverse=not is_ascending)
    names = [name(one) for one in ordered]
    start = names.index(after) + 1 if after in names else 0
    part = ordered[start : start + limit]
    return {
        "object": "list",
        "data": [one.told() for one in part],
        "first_id": name(part[0]) if part else None,
        "last_id": name(part[-1]) if part else None,
        "has_more": start + limit < len(ordered),
    }
