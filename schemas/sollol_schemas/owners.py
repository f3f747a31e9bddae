"""Whose a job is: the user who submitted it, which stands in front of the job's id in its reference.

The user `alice` says `story`; inside, and to the control role, her job is `alice=story`, so that no two users' ids
meet; `=` stands in no id. A job that nobody owns, of an open bus or of the control role, has its id as its reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sollol_schemas import subjects
from sollol_schemas.headers import CALLER
from sollol_schemas.ids import is_bus_id, is_request_id
from sollol_schemas.inboxes import JOB_CALLBACK_ROOT, client_inbox_prefix, is_callback_subject

_BETWEEN: Final = "="


def caller_of(headers: Mapping[str, str] | None) -> str:
    """Who asks; empty: nobody in particular, who sees everything."""
    return headers.get(CALLER, "") if headers else ""


def reference(owner: str, job_id: str) -> str:
    """The reference of an owner's job; of nobody's, its id."""
    return f"{owner}{_BETWEEN}{job_id}" if owner else job_id


def owner_of(ref: str) -> str:
    """Whose job this is; empty: nobody's."""
    return ref.rpartition(_BETWEEN)[0]


def id_of(ref: str) -> str:
    """The job's id as its owner says it."""
    return ref.rpartition(_BETWEEN)[2]


def is_reference(text: str) -> bool:
    """Whether a job may be referred to so: an id, or one with an owner in front."""
    owner, between, job_id = text.rpartition(_BETWEEN)
    return is_request_id(job_id) and (not between or is_bus_id(owner))


def is_mine(caller: str, ref: str) -> bool:
    """Whether a caller may see and steer a job."""
    return not caller or owner_of(ref) == caller


def meant(caller: str, said: str) -> str | None:
    """The reference of the job that a caller means; None: of one that is not the caller's."""
    ref = said if _BETWEEN in said else reference(caller, said)
    return ref if is_mine(caller, ref) else None


def told(caller: str, ref: str) -> str:
    """What a job is called to a caller: by its id alone to its owner."""
    return id_of(ref) if caller and owner_of(ref) == caller else ref


def result_subject(ref: str) -> str:
    """Where a job's result is stored, and heard by its owner."""
    owner, job_id = owner_of(ref), id_of(ref)
    return subjects.OWN_JOB_RESULT.of(owner, job_id) if owner else subjects.JOB_RESULT.of(job_id)


def event_subject(ref: str, news: str) -> str:
    """Where news of a job are told; `*` may stand for the id and for the news."""
    owner, job_id = owner_of(ref), id_of(ref)
    return subjects.OWN_JOB_EVENT.of(owner, job_id, news) if owner else subjects.JOB_EVENT.of(job_id, news)


def job_of_event(subject: str) -> str:
    """The reference of the job that an event tells of, by the event's subject."""
    before, job_id, _ = subject.rsplit(".", 2)
    owner = before.removeprefix(subjects.JOB_EVENTS_ROOT).lstrip(".")
    return reference(owner, job_id)


def may_be_called_back(owner: str, subject: str) -> bool:
    """Whether an owner's result may be delivered to a subject: its own inboxes, or below `callbacks.` its own name."""
    own = (f"{client_inbox_prefix(owner)}.", f"{JOB_CALLBACK_ROOT}{owner}.")
    is_own = not owner or subject.startswith(own) or subject == f"{JOB_CALLBACK_ROOT}{owner}"
    return is_own and is_callback_subject(subject)
