"""How far a batch of jobs is: what is kept of it, what is told, and the requests about batches.

The jobs `<batch>-0`, `<batch>-1` and so on are the truth. Beside their states a little is kept that they cannot tell:
how many there will be, how many were handed over, and the sums over those at the beginning that have all ended.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.units import Count, Instant, Priority, Seconds, Tokens

BatchId = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_-]{1,64}=)?[A-Za-z0-9_-]{1,48}$(?!\n)",
        description="A batch's id; to whoever is not its owner, with the owner and `=` in front.",
    ),
]
_Place = Annotated[str, Meta(max_length=1024)]


class BatchStage(StrEnum):
    """Where a batch is in its life."""

    RUNNING = "running"  # some of its requests wait or run
    STOPPED = "stopped"  # nothing waits or runs, and requests are left that nobody has handed over
    DONE = "done"  # every request has ended, well or not
    CANCELLED = "cancelled"  # somebody cancelled it
    FAILED = "failed"  # its file cannot be used; only of batches of a gateway
    EXPIRED = "expired"  # its time passed; only of batches of a gateway


class BatchReason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why requests have no answer."""

    code: str
    message: str = ""
    """As the first of them was told it."""
    count: Count = 1


class BatchTally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums over requests that have ended."""

    done: Count = 0
    failed: Count = 0
    """Those that failed or are dead."""
    cancelled: Count = 0
    tokens: Tokens = 0
    work_s: Seconds = 0.0
    """Seconds of slots that the answers took, each from its start to its end."""
    by_node: dict[str, Count] = {}
    """Answers by the node that gave them."""
    reasons: tuple[BatchReason, ...] = ()
    """Why requests failed, the most frequent first."""


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of a batch, under `batch.<id>`."""

    batch_id: BatchId
    total: Count = 0
    submitted: Count = 0
    """Requests handed over so far, from the first on."""
    requests: _Place = ""
    """Where the requests lie, on `host`."""
    answers: _Place = ""
    """Where the answers are written, on `host`."""
    host: _Place = ""
    priority: Priority = 1
    began_at: Instant = ""
    """When somebody began to hand it over, for the last time."""
    ended_at: Instant = ""
    earlier: Count = 0
    """Requests that had ended before that."""
    is_cancelled: bool = False
    counted: Count = 0
    """Requests at the beginning that have all ended and are in the tally."""
    tally: BatchTally = msgspec.field(default_factory=BatchTally)


class BatchTell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whoever hands a batch over tells how far that is; answered by how far the batch is."""

    batch_id: BatchId
    total: Count
    submitted: Count = 0
    begins: bool = False
    """Somebody begins to hand it over, for the first time or again."""
    requests: _Place = ""
    answers: _Place = ""
    host: _Place = ""
    priority: Priority = 1


class BatchRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Names one batch."""

    batch_id: BatchId


class BatchListRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the latest batches."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="Batches at most.")] = 100


class BatchView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="batch.view.v1"):
    """How far one batch is."""

    batch_id: BatchId
    stage: BatchStage
    total: Count = 0
    submitted: Count = 0
    """Requests handed over so far; the others wait where the batch's file lies."""
    done: Count = 0
    failed: Count = 0
    cancelled: Count = 0
    running: Count = 0
    waiting: Count = 0
    """Handed over, and neither running nor ended."""
    earlier: Count = 0
    """Of those that have ended, how many had before it was begun for the last time."""
    tokens: Tokens = 0
    work_s: Seconds = 0.0
    """Seconds of slots that the answers took."""
    by_node: dict[str, Count] = {}
    reasons: tuple[BatchReason, ...] = ()
    requests: str = ""
    """Where the requests lie, on `host`; of a gateway's batch the id of its file."""
    answers: str = ""
    host: str = ""
    priority: Priority = 1
    began_at: Instant = ""
    ended_at: Instant = ""
    rate_per_s: Annotated[float, Meta(ge=0, description="Requests that ended per second since it was begun.")] = 0.0
    left_s: Seconds | None = None
    """Seconds until its end at that rate; None: it has ended, or nothing can be said yet."""
    is_of_gateway: bool = False
    """Whether a gateway works on it, for a client of OpenAI's batches."""

    @property
    def ended(self) -> int:
        """Requests that are over, whether well or not."""
        return self.done + self.failed + self.cancelled


class BatchListReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="batch.list.v1"):
    """Batches, those that were begun last first."""

    batches: tuple[BatchView, ...] = ()
