"""Outcomes that no node will publish: of attempts whose node is lost, and of requests that never reached one. Pure."""

from __future__ import annotations

from sollol_agents.dispatcher.requests.intake import Request
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.grant import Granted
from sollol_schemas.subjects import NO_NODE

_MESSAGE_MAX = 500
_STATUS = {
    ErrorCode.CANCELLED: OutcomeStatus.CANCELLED,
    ErrorCode.BAD_REQUEST: OutcomeStatus.CLIENT_ERROR,
    ErrorCode.UNKNOWN_MODEL: OutcomeStatus.CLIENT_ERROR,
    ErrorCode.REQUEST_TOO_LARGE: OutcomeStatus.CLIENT_ERROR,
}


def unserved(request: Request, error: ErrorBody, *, waited_s: float, finished_at: str) -> Outcome:
    """The outcome of a request that ended without an attempt of its own to report."""
    return Outcome(
        attempt_id=f"{request.request_id}-0",
        request_id=request.request_id,
        node_id=NO_NODE,
        status=_STATUS.get(error.code, OutcomeStatus.FAILED),
        reported_by=ReportedBy.DISPATCHER,
        model=request.context.model,
        kind=request.kind,
        code=error.code,
        message=error.message[:_MESSAGE_MAX],
        attempt=0,
        mode=request.routing.routing_mode,
        priority=request.routing.priority,
        task_type=request.context.task_type,
        queue_s=waited_s,
        finished_at=finished_at,
    )


def presumed_lost(request: Request, granted: Granted, error: ErrorBody, *, finished_at: str) -> Outcome:
    """The outcome of an attempt whose node does not answer; its own report replaces this, should it come."""
    summary = granted.summary
    return Outcome(
        attempt_id=summary.attempt_id,
        request_id=request.request_id,
        node_id=summary.node_id,
        status=OutcomeStatus.PRESUMED_LOST,
        reported_by=ReportedBy.DISPATCHER,
        model=request.context.model,
        kind=request.kind,
        code=error.code,
        message=error.message[:_MESSAGE_MAX],
        instance=granted.instance,
        attempt=summary.attempt,
        mode=summary.mode,
        strategy=summary.strategy,
        priority=request.routing.priority,
        task_type=request.context.task_type,
        predicted_s=summary.predicted_s,
        queue_s=summary.queue_s,
        finished_at=finished_at,
    )
