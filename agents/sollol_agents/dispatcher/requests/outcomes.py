"""Outcomes that no node will publish: of attempts whose node is lost, and of requests that never reached one. Pure."""

from __future__ import annotations

import msgspec

from sollol_agents.dispatcher.requests.intake import Request
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorBody, ErrorCode, Owner
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import AttemptFailed
from sollol_schemas.ids import attempt_id
from sollol_schemas.subjects import NO_NODE


def unserved(request: Request, error: ErrorBody, *, waited_s: float) -> Outcome:
    """The outcome of a request that ended without an attempt of its own to report."""
    context, routing = request.context, request.routing
    known = Decision(
        request_id=request.request_id,
        attempt_id=attempt_id(request.request_id, 0),
        job_id=context.job_id,
        node_id=NO_NODE,
        model=context.model,
        kind=request.kind,
        task_type=context.task_type,
        mode=routing.routing_mode,
        strategy="",
        priority=routing.priority,
        queue_s=waited_s,
        attempt=0,
        caller=request.caller,
    )
    status = OutcomeStatus.CANCELLED if error.code is ErrorCode.CANCELLED else OutcomeStatus.FAILED
    if error.blamed in (Owner.REQUEST, Owner.OUTPUT):
        status = OutcomeStatus.CLIENT_ERROR
    return Outcome.ended(known, status, ReportedBy.DISPATCHER, error=error)


def proven(decision: Decision, failed: AttemptFailed) -> Outcome:
    """The outcome of an attempt that was in doubt, now that another node has served what its engine refused."""
    return Outcome.ended(
        decision,
        OutcomeStatus.FAILED,
        ReportedBy.DISPATCHER,
        error=msgspec.structs.replace(failed.error, owner=Owner.ENGINE),
        evidence=failed.evidence,
    )


def presumed_lost(decision: Decision, error: ErrorBody) -> Outcome:
    """The outcome of an attempt whose node does not answer; its own report replaces this, should it come."""
    return Outcome.ended(decision, OutcomeStatus.PRESUMED_LOST, ReportedBy.DISPATCHER, error=error)
