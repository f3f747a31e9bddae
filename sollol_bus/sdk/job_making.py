"""What a job is made of: its body, its priority, its id, and what tells two jobs under one id apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime

import msgspec

from sollol_bus.errors import BadRequest
from sollol_bus.sdk.routing_fields import fields_of
from sollol_bus.transport.messages import encode
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.instants import instant, parse_instant
from sollol_schemas.jobs import Job
from sollol_schemas.owners import is_reference
from sollol_schemas.routing import PRIORITY_NAMES, Routing

_HASH_CHARACTERS = 32


def make_job(
    body: Mapping[str, object],
    *,
    kind: RequestKind | str | None = None,
    path: str = "",
    not_before: datetime | str | None = None,
    deadline_s: float | None = None,
    max_tries: int | None = None,
    callback_subject: str = "",
    callback_url: str = "",
    routing: Routing | None = None,
) -> Job:
    """A job to be submitted; see `sollol_schemas.jobs.Job` for the fields.

    Raises:
        BadRequest: `not_before` has no time zone.
    """
    if isinstance(not_before, datetime):
        if not_before.tzinfo is None:
            raise BadRequest("not_before needs a time zone")
        not_before = instant(not_before)
    fields = fields_of(routing) if routing is not None and kind != RequestKind.PASSTHROUGH and not path else {}
    return Job(
        body=msgspec.Raw(encode({**body, **fields})),
        kind=RequestKind(kind) if kind is not None else None,
        path=path,
        not_before=not_before or "",
        deadline_s=deadline_s,
        max_tries=max_tries,
        callback_subject=callback_subject,
        callback_url=callback_url,
    )


def delayed(job: Job, due_unix_s: float) -> Job:
    """The job, to start at this instant or at its own, if that is later."""
    own = parse_instant(job.not_before) if job.not_before else 0.0
    return job if own >= due_unix_s else msgspec.structs.replace(job, not_before=instant(due_unix_s))


def priority_of(priority: int | str) -> int:
    """A priority given as a number or a name.

    Raises:
        BadRequest: It is neither 0 to 10 nor a known name.
    """
    number = PRIORITY_NAMES.get(priority.lower(), priority) if isinstance(priority, str) else priority
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    if not isinstance(number, int) or number not in subjects.JOB_PRIORITIES:
        raise BadRequest(f"priority {priority!r} is not allowed: 0 to 10, or one of {', '.join(PRIORITY_NAMES)}")
    return number


def checked_id(job_id: str) -> str:
    """The id, if a job may have it; whoever is not its owner puts the owner and `=` in front.

    Raises:
        BadRequest: It may not.
    """
    if not is_reference(job_id):
        raise BadRequest(f"not a job id: {job_id[:80]!r}; 1 to 56 of A-Z a-z 0-9 _ - are allowed")
    return job_id


def body_hash(job: Job) -> str:
    """What tells two jobs under one id apart: a hash of all that they ask for.

    However that is written: neither the order of fields counts, nor white space between them, nor whether the kind is
    said or follows from the body.
    """
    try:
        body = msgspec.json.encode(msgspec.json.decode(job.body), order="sorted")
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeError):
        body = bytes(job.body)
    return hash_of(encode(msgspec.structs.replace(job, body=msgspec.Raw(body), kind=None)))


def hash_of(payload: bytes) -> str:
    """The same of a message that is no job."""
    return hashlib.sha256(payload).hexdigest()[:_HASH_CHARACTERS]
