"""What is written about a job: its first state, and its result. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sollol_agents.dispatcher.jobs.intake import Accepted, job_in
from sollol_bus.errors import DecodeFailed
from sollol_bus.jetstream.pull import Delivery
from sollol_bus.sdk.job_making import body_hash, hash_of
from sollol_bus.transport.messages import decode, encode
from sollol_schemas import headers as h
from sollol_schemas import owners
from sollol_schemas.instants import instant, retold
from sollol_schemas.jobs import Job, JobResult, JobState, JobStatus
from sollol_schemas.subjects import JOB_PRIORITIES

_RUNS_MAX = 1_000_000
_PROMPT_TOLD: Final = 2000
_PRIORITIES = frozenset(map(str, JOB_PRIORITIES))


def fresh_status(delivery: Delivery, accepted: Accepted | None, *, worker: str) -> JobStatus:
    """The state of a job that nobody has worked on yet; a malformed one has no kind and no model."""
    stored = stored_status(
        delivery.subject,
        delivery.data,
        delivery.headers,
        submitted_at=instant(delivery.stored_at_ns / 1e9),
        seq=delivery.stream_seq,
        job=None if accepted is None else accepted.job,
    )
    known = (None, "") if accepted is None else (accepted.kind, accepted.model)
    return msgspec.structs.replace(stored, kind=known[0], model=known[1], worker=worker)


def is_job(subject: str) -> bool:
    """Whether a subject ends in a priority and a job's reference; streams of an older version take others too."""
    priority, job_id = subject.split(".")[-2:]
    return priority in _PRIORITIES and owners.is_reference(job_id)


def stored_status(
    subject: str, data: bytes, headers: Mapping[str, str], *, submitted_at: str, seq: int = 0, job: Job | None = None
) -> JobStatus:
    """The state of a job whose stored message is all that is known of it; `job`: the one in it, if it was read."""
    priority, job_id = subject.split(".")[-2:]
    not_before, told = _told(data) if job is None else (job.not_before, body_hash(job))
    return JobStatus(
        job_id=job_id,
        state=JobState.QUEUED,
        priority=int(priority),
        submitted_at=retold(submitted_at),
        not_before=retold(headers.get(h.SCHEDULE, "").removeprefix("@at ") or not_before),
        run=run_of(headers),
        body_hash=told,
        stream_seq=seq,
    )


class _Said(msgspec.Struct):
    content: Any = ""


class _Asked(msgspec.Struct):
    """Where the bodies of the dialects have what a person wrote."""

    prompt: Any = ""
    messages: list[_Said] = []
    input: Any = ""


def prompt_in(data: bytes) -> str:
    """The beginning of the prompt in a stored job; of a conversation, of what was said last. Empty without any."""
    try:
        asked = decode(job_in(data).body, _Asked)
    except DecodeFailed:
        return ""
    said = asked.messages[-1].content if asked.messages else asked.prompt or asked.input
    return (said if isinstance(said, str) else encode(said).decode() if said else "")[:_PROMPT_TOLD]


def _told(data: bytes) -> tuple[str, str]:
    """When a job may start at the earliest, as far as it says so, and the hash of what it asks for."""
    try:
        job = job_in(data)
    except DecodeFailed:
        return "", hash_of(data)
    return job.not_before, body_hash(job)


def result_of(status: JobStatus, *, total_s: float = 0.0) -> JobResult:
    """The result of a job that ended as its state says, without an answer yet."""
    return JobResult(
        job_id=status.job_id,
        user=owners.owner_of(status.job_id),
        state=status.state,
        run=status.run,
        kind=status.kind,
        model=status.model,
        error=status.error,
        tries=status.tries,
        total_s=total_s,
        finished_at=status.finished_at,
    )


def told(caller: str, status: JobStatus) -> JobStatus:
    """The state as it is told to a caller: of its own job with the id alone."""
    return msgspec.structs.replace(status, job_id=owners.told(caller, status.job_id))


def as_told(result: JobResult) -> JobResult:
    """The result as it is stored and delivered: with the job's id alone."""
    return msgspec.structs.replace(result, job_id=owners.id_of(result.job_id))


def run_of(headers: Mapping[str, str]) -> int:
    """Which run of the job a message asks for: 1, unless it was run again by request."""
    text = headers.get(h.JOB_RUN, "1")
    return int(text) if text.isdigit() and 1 <= int(text) <= _RUNS_MAX else 1
