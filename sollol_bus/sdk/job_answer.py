"""How a job ended, as its submitter sees it."""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_bus.errors import SollolError, error_from
from sollol_bus.sdk.results import NativeChunk
from sollol_bus.sdk.routing_told import escalation_told, routing_told
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.jobs import JobResult, JobState, JobStatus


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended, and its answer when it is done."""

    status: JobStatus
    result: JobResult | None
    """None while it has not ended, and once the result has expired."""

    @property
    def job_id(self) -> str:
        """Its id."""
        return self.status.job_id

    @property
    def state(self) -> JobState:
        """Where it is."""
        return self.status.state

    @property
    def body(self) -> Any:  # noqa: ANN401 whatever the engine answered
        """The engine's answer, decoded; None when there is none."""
        return None if self.result is None else msgspec.json.decode(self.result.body)

    @property
    def text(self) -> str:
        """The generated text; empty when there is none."""
        body = self.body
        if not isinstance(body, dict):
            return ""
        native = msgspec.convert(body, NativeChunk, strict=False)
        return native.response or native.message.content

    @property
    def routing(self) -> dict[str, Any]:
        """Where and why it was made; empty while that is not known."""
        result = self.result
        if result is None or result.decision is None:
            return {}
        told = routing_told(result.decision, result.figures, result.decision.request_id)
        return told | escalation_told(result.tried, result.check_failure)

    @property
    def error(self) -> SollolError | None:
        """What ended it without an answer, or why its answer cannot be had any more; None for any other job."""
        if self.state is JobState.DONE:
            return error_from(_expired(self.job_id)) if self.result is None else None
        body = self.status.error or (self.result.error if self.result is not None else None)
        return error_from(body) if body is not None else None


def _expired(job_id: str) -> ErrorBody:
    message = f"job {job_id} is done, but its result is not kept any more: results are kept for a set time and size"
    return ErrorBody(code=ErrorCode.UNKNOWN_JOB, message=message)
