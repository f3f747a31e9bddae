"""Jobs stored straight in the queue by their submitter, many on their way at a time."""

from __future__ import annotations

from sollol_bus.errors import BusError, Conflict, DecodeFailed, QueueFull, SollolError
from sollol_bus.jetstream.api import JetStreamRefused, ack_of
from sollol_bus.sdk.job_making import body_hash
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, decode, encode, error_of
from sollol_bus.waiting import Window
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, MSG_ID
from sollol_schemas.jobs import Job, JobGet, JobReply
from sollol_schemas.owners import reference

AT_ONCE = 512
_PLACE_BYTES = 32 << 10
"""A job takes a place for each of these that it has: 16 MiB are on their way at a time, and acked soon."""
_ANSWER_S = 10.0


class Storing:
    """Stores jobs, up to `AT_ONCE` of them unacked.

    A job that is there already under its id is compared: the very same one is fine, another one is a conflict.

    Args:
        bus: The connection.
        owner: For whom the control role stores them; empty: for whoever is connected.
    """

    def __init__(self, bus: Bus, owner: str) -> None:
        self._bus = bus
        self._owner = owner
        self._window = Window(AT_ONCE)

    async def store(self, priority: int, job_id: str, job: Job) -> None:
        """Sends a job on its way; waits while too many are.

        Raises:
            SollolError: What went wrong with this one or an earlier one.
        """
        payload = encode(job)
        await self._window.enter(_places(payload))

        def on_ack(reply: Msg | BusError) -> None:
            self._on_ack(reply, job_id, payload)

        ref = reference(self._owner, job_id)
        headers = {MSG_ID: ref, EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}
        try:
            self._bus.ask(subjects.JOB_SUBMIT.of(priority, ref), payload, on_ack, timeout_s=_ANSWER_S, headers=headers)
        except SollolError:
            self._window.leave(places=_places(payload))
            raise

    async def finish(self) -> None:
        """Returns when all are stored.

        Raises:
            SollolError: What went wrong first; the others may be stored.
        """
        await self._window.finish()

    def _on_ack(self, reply: Msg | BusError, job_id: str, payload: bytes) -> None:
        try:
            is_there_already = not is_stored(reply)
        except SollolError as error:
            self._window.leave(error, _places(payload))
            return
        if is_there_already:
            self._compare(job_id, payload)
        else:
            self._window.leave(places=_places(payload))

    def _compare(self, job_id: str, payload: bytes) -> None:
        """Asks which job has the id; when nobody can say it passes, as a plain publish would."""

        def on_answer(reply: Msg | BusError) -> None:
            self._window.leave(_conflict(job_id, payload, reply), _places(payload))

        try:
            asked = encode(JobGet(job_id=reference(self._owner, job_id)))
            self._bus.ask(subjects.JOB_GET, asked, on_answer, timeout_s=_ANSWER_S)
        except BusError as error:
            self._window.leave(error, _places(payload))


def _places(payload: bytes) -> int:
    return 1 + len(payload) // _PLACE_BYTES


def is_stored(reply: Msg | BusError) -> bool:
    """Whether the publish of a job stored it; False when one with its id is there already.

    Raises:
        QueueFull: The queue takes no more.
        BusError: It may or may not have been stored.
    """
    try:
        return not ack_of(reply).duplicate
    except JetStreamRefused as error:
        if error.is_lost_race:
            return False
        if error.is_full:
            raise full(error) from error
        raise


def full(error: JetStreamRefused) -> QueueFull:
    """The refusal of a full queue."""
    return QueueFull(body=ErrorBody(code=ErrorCode.QUEUE_FULL, message=f"the queue of jobs is full: {error}"))


def _conflict(job_id: str, payload: bytes, reply: Msg | BusError) -> Conflict | None:
    if isinstance(reply, BusError) or error_of(reply) is not None:
        return None
    try:
        known = decode(reply.data, JobReply).status
    except DecodeFailed:
        return None
    if known.body_hash in ("", body_hash(decode(payload, Job))):
        return None
    message = f"job {job_id} exists with another body"
    return Conflict(body=ErrorBody(code=ErrorCode.CONFLICT, message=message, details={"state": known.state.value}))
