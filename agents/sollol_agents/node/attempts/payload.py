"""What an exec message carries: a body, and behind it what was said of the answer already. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sollol_agents.node.engines.base import EngineRequest
from sollol_schemas import headers as h
from sollol_schemas.continuation import ContinueFrom, InvalidContinuation, unpacked
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.execution import Exec
from sollol_schemas.telemetry import Movable


class Payload(NamedTuple):
    """One payload, taken apart."""

    body: bytes
    continued: ContinueFrom | None = None
    """None: nothing was said yet, and the answer begins."""
    refused: ErrorBody | None = None
    """Why it cannot be read."""


def payload_of(exec_: Exec, data: bytes) -> Payload:
    """The body of an attempt, and what it goes on with."""
    if exec_.body_bytes is None:
        return Payload(data)
    try:
        body, said = unpacked(data, {h.CONTINUE: str(exec_.body_bytes)})
    except InvalidContinuation as error:
        return Payload(data, refused=ErrorBody(code=ErrorCode.BAD_REQUEST, message=str(error)))
    return Payload(body, None if said is None or said.is_blank else said)


def movable_of(exec_: Exec, continued: ContinueFrom | None, age_s: float) -> Movable | None:
    """What a scorer that takes office is told of an attempt that may be moved; None: this one may not."""
    if not exec_.is_resumable or exec_.is_bound:
        return None
    return Movable(
        priority=exec_.decision.priority,
        deadline_s=round(max(0.0, exec_.deadline_s - age_s), 1),
        cuts=continued.cuts if continued is not None else 0,
    )


def requested(exec_: Exec, payload: Payload) -> EngineRequest:
    """What the engine is asked for."""
    decision = exec_.decision
    return EngineRequest(
        kind=decision.kind,
        model=decision.model,
        body=payload.body,
        path=exec_.path,
        keep_alive_s=exec_.keep_alive_s,
        continued=payload.continued,
    )
