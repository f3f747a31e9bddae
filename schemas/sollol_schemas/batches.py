"""Files and batches as they are kept; a batch is a file of requests that run as durable jobs."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from sollol_schemas.instants import NOT_WRITTEN, instant, take_over
from sollol_schemas.units import Bytes, Count, FormerInstant, Instant, Priority


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
    created_at: Instant = ""
    expires_at: Instant = ""
    created_at_s: FormerInstant = NOT_WRITTEN
    expires_at_s: FormerInstant = NOT_WRITTEN

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "created_at_s", "created_at")
        take_over(self, "expires_at_s", "expires_at")


class BatchProblem(msgspec.Struct, frozen=True, kw_only=True):
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
    created_at: Instant = ""
    expires_at: Instant = ""
    created_at_s: FormerInstant = NOT_WRITTEN
    expires_at_s: FormerInstant = NOT_WRITTEN
    priority: Priority = 1
    state: BatchState = BatchState.VALIDATING
    metadata: dict[str, str] = {}
    entered_at: dict[str, Instant] = {}
    """When it came into its states."""
    at_s: dict[str, FormerInstant] = {}
    """What `entered_at` is, as older versions wrote it: read, never written."""
    total: Count = 0
    completed: Count = 0
    failed: Count = 0
    output_file_id: str = ""
    error_file_id: str = ""
    problems: tuple[BatchProblem, ...] = ()
    jobs_owner: str = ""
    """Whom its jobs belong to; empty: nobody, as those of batches that were made before jobs had owners."""
    worker: str = ""
    """Instance of the gateway that works on it; it writes the record once a second."""

    def __post_init__(self) -> None:
        """Reads what older versions wrote."""
        take_over(self, "created_at_s", "created_at")
        take_over(self, "expires_at_s", "expires_at")
        if self.at_s:
            former = {state: instant(at_s) for state, at_s in self.at_s.items()}
            msgspec.structs.force_setattr(self, "entered_at", former | self.entered_at)
            msgspec.structs.force_setattr(self, "at_s", {})

    def into(self, state: BatchState, now_s: float, **changes: object) -> BatchRecord:
        """The record in another state, into which it comes at `now_s` of Unix time."""
        entered_at = {**self.entered_at, state.value: instant(now_s)}
        return msgspec.structs.replace(self, state=state, entered_at=entered_at, **changes)
