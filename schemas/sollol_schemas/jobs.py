"""Durable jobs: what is submitted, what is told about a job, its result, and the requests about jobs.

A job is a request that is stored before anybody works on it. Its id is the caller's or made for it; submitting the
same job twice makes one job.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody
from sollol_schemas.escalation import Tried
from sollol_schemas.execution import Figures
from sollol_schemas.routing import DeadlineSeconds, PriorityOrName
from sollol_schemas.units import DATE_TIME, Bytes, Count, Instant, Priority, Seconds, Tokens

JobId = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_-]{1,64}=)?[A-Za-z0-9_-]{1,56}$(?!\n)",
        description="A job's id; to whoever is not its owner, with the owner and `=` in front.",
    ),
]
Url = Annotated[str, Meta(max_length=2048)]
SubjectText = Annotated[str, Meta(max_length=256)]


def no_body() -> msgspec.Raw:
    """The body of a result that has none."""
    return msgspec.Raw(b"null")


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"  # stored: new, not due yet, or waiting for another try
    RUNNING = "running"  # on a node
    DONE = "done"  # its result is stored
    FAILED = "failed"  # it can never succeed as it is; not tried again by itself
    CANCELLED = "cancelled"  # somebody cancelled it
    DEAD = "dead"  # every permitted try failed; a dead letter is kept


TERMINAL: frozenset[JobState] = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.DEAD})


class JobNews(StrEnum):
    """What a job's event tells; the last token of its subject."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"
    RETRYING = "retrying"  # a try failed; it waits for the next one
    CONFLICT = "conflict"  # another body came under the same id, and was dropped


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One job as it is submitted; the subject names its priority and id."""

    body: msgspec.Raw
    """The body of `generate`, `chat`, `embed` or of another engine path, with routing fields if any."""
    kind: RequestKind | None = None
    """What the body is; left out, it follows from `messages`, `input` or `prompt` in it."""
    path: Annotated[str, Meta(max_length=512, description="The engine's path, for `passthrough`.")] = ""
    not_before: Annotated[
        str,
        Meta(description="Instant before which it does not start, RFC 3339 in any zone.", extra_json_schema=DATE_TIME),
    ] = ""
    deadline_s: Annotated[
        DeadlineSeconds | None, Meta(description="Seconds from when it is due until it fails instead of starting.")
    ] = None
    max_tries: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, Meta(description="Tries before it is dead; None: the setting.")
    ] = None
    callback_subject: Annotated[SubjectText, Meta(description="Subject that gets the result.")] = ""
    callback_url: Annotated[Url, Meta(description="Address that gets the result by POST, on a permitted host.")] = ""


class EnqueueRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Submit a job by request, checked before it is stored."""

    job: Job
    job_id: JobId | None = None
    """None: one is made."""
    priority: PriorityOrName | None = None
    """None: the body's own, else 5."""
    delay_s: Annotated[float, Meta(ge=0, le=1e9, description="Seconds from now before which it does not start.")] = 0.0


class EnqueueReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.enqueued.v1"):
    """The job is stored."""

    job_id: JobId
    state: JobState = JobState.QUEUED
    is_duplicate: bool = False
    """The very same job was known already; nothing was stored now."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.status.v1"):
    """Everything known about a job but its body and result; what the state bucket holds under `job.<id>`."""

    job_id: JobId
    state: JobState
    priority: Priority = 5
    kind: RequestKind | None = None
    model: str = ""
    submitted_at: Instant = ""
    not_before: Instant = ""
    started_at: Instant = ""
    finished_at: Instant = ""
    tries: Count = 0
    """Tries that failed, or the one that succeeded included."""
    losses: Count = 0
    """Tries that ended because a process died or a connection broke."""
    doubts: Count = 0
    """How often the fleet did not know its model, in a row."""
    run: Count = 1
    """1, and one more for each time it was run again by request."""
    tokens: Tokens = 0
    """Progress: chunks of output so far, about one token each."""
    resumed: Count = 0
    """How often the answer of its last try broke off and went on."""
    node_id: str = ""
    worker: str = msgspec.field(default="", name="owner")
    """Instance of the dispatcher that works on it; whose it is stands in its id."""
    error: ErrorBody | None = None
    """Why it ended without a result, or why its last try failed."""
    body_hash: str = ""
    stream_seq: Count = 0
    """Number of its message in the stream of jobs."""
    result_seq: Count = 0
    """Number of its result in the stream of results; 0: none yet."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.result.v1"):
    """How a job ended. One is stored for each job and never a second for the same run."""

    job_id: JobId
    user: str = ""
    """Whose job it is; empty: nobody's."""
    state: JobState
    run: Count = 1
    kind: RequestKind | None = None
    model: str = ""
    body: msgspec.Raw = msgspec.field(default_factory=no_body)
    """The engine's answer as one JSON value; null when it failed, or lies in the object store."""
    object_name: str = ""
    """Name of the answer in the object store of results, when it is too large for this message."""
    body_bytes: Bytes = 0
    error: ErrorBody | None = None
    decision: Decision | None = None
    figures: Figures | None = None
    tried: tuple[Tried, ...] = ()
    """Models of its group whose answers failed its check before."""
    check_failure: str = ""
    """Why this answer fails the check too, when no model was left; empty: it passed, or was not checked."""
    tries: Count = 0
    total_s: Seconds = 0.0
    """From when it was due until it ended."""
    finished_at: Instant = ""


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.event.v1"):
    """Something happened to a job."""

    job_id: JobId
    user: str = ""
    """Whose job it is; empty: nobody's."""
    news: JobNews
    state: JobState
    priority: Priority = 5
    model: str = ""
    tries: Count = 0
    node_id: str = ""
    error: ErrorBody | None = None
    at: Instant = ""


class JobGet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask about one job."""

    job_id: JobId
    with_result: bool = False
    """Also its answer, in further messages after the first, up to an empty one."""
    with_prompt: bool = False
    """Also the beginning of its prompt, while the job is stored."""


class JobReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.reply.v1"):
    """What is known about one job; `result` has no body: that follows in further messages."""

    status: JobStatus
    result: JobResult | None = None
    prompt: str = ""
    """At most 2,000 characters; empty when it was not asked for, or is not kept any more."""


class JobListRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for the latest jobs."""

    states: tuple[JobState, ...] = ()
    """Empty: any."""
    limit: Annotated[int, Meta(ge=1, le=1000, description="Jobs at most.")] = 100


class JobListReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.list.v1"):
    """Jobs, the latest first, and how many wait."""

    jobs: tuple[JobStatus, ...] = ()
    waiting: dict[str, Count] = {}
    """Stored messages by priority, those that are being worked on included."""
    delayed: Count = 0
    dead: Count = 0


class JobRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Names one job."""

    job_id: JobId


class JobPurgeRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Forget jobs that have ended, with their results."""

    states: tuple[JobState, ...] = ()
    """Which; empty: all that have ended."""
    job_id: JobId | None = None
    """Only this one."""


class JobPurgeReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.purged.v1"):
    """How many jobs were forgotten."""

    purged: Count = 0


class JobsReturned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="jobs.returned.v1"):
    """Jobs of one priority that were given back to the queue."""

    count: Count


class JobCallback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job.callback.v1"):
    """A result that is to be delivered; kept until it was, or was given up."""

    job_id: JobId
    result: JobResult
    callback_subject: SubjectText = ""
    callback_url: Url = ""
