"""What is known about a job: its state, or its stored message while nobody has worked on it."""

from __future__ import annotations

from sollol_agents.dispatcher.jobs.records import is_job, prompt_in, stored_status
from sollol_agents.dispatcher.jobs.states import States
from sollol_bus.jetstream.stored import Stored, stored_message
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg
from sollol_schemas import owners, stores, subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import JobStatus


class Refused(Exception):
    """The request cannot be granted; `error` says why."""

    def __init__(self, code: ErrorCode, message: str, **details: object) -> None:
        super().__init__(message)
        self.error = ErrorBody(code=code, message=message, details=details)


class Lookup:
    """Looks jobs up.

    Args:
        bus: The connection.
        states: Their states.
    """

    def __init__(self, bus: Bus, states: States) -> None:
        self._bus = bus
        self._states = states

    async def status(self, job_id: str, *, called: str) -> JobStatus:
        """What is known about a job, which whoever asks called so.

        Raises:
            Refused: Nothing is.
        """
        known = await self.known(job_id)
        if known is None:
            raise unknown(called)
        return known

    async def known(self, job_id: str) -> JobStatus | None:
        """What is known about a job: its state, or its stored message when nobody has worked on it yet."""
        status, _ = await self._states.read(job_id)
        if status is not None:
            return status
        found = await self.find(job_id)
        if found is None:
            return None
        stream, message = found
        seq = message.seq if stream == stores.JOBS_STREAM else 0
        return stored_status(message.subject, message.data, message.headers, submitted_at=message.time, seq=seq)

    async def prompt(self, job_id: str) -> str:
        """The beginning of a job's prompt; empty once neither the job nor a letter of it is stored."""
        found = await self.find(job_id)
        if found is not None:
            return prompt_in(found[1].data)
        letter = await stored_message(self._bus, stores.LETTERS_STREAM, subject=subjects.JOB_LETTER.of(job_id))
        return "" if letter is None else prompt_in(letter.data)

    async def find(self, job_id: str) -> tuple[str, Stored] | None:
        """The job's message and the stream that has it."""
        places = (
            (stores.JOBS_STREAM, subjects.JOB_SUBMIT.of("*", job_id)),
            (stores.DELAYED_STREAM, subjects.JOB_DELAYED.of("*", job_id)),
            (stores.DELAYED_STREAM, subjects.JOB_DUE.of("*", job_id)),
        )
        for stream, subject in places:
            found = await stored_message(self._bus, stream, subject=subject)
            if found is not None and is_job(found.subject):
                return stream, found
        return None


def meant_by(msg: Msg, said: str) -> str:
    """The job that whoever asks means.

    Raises:
        Refused: It is another's, of which nothing is said.
    """
    job_id = owners.meant(owners.caller_of(msg.headers), said)
    if job_id is None:
        raise unknown(said)
    return job_id


def unknown(job_id: str) -> Refused:
    """The refusal of a question about a job that nobody knows."""
    return Refused(ErrorCode.UNKNOWN_JOB, f"no job is known under {job_id}; results are kept for a set time only")
