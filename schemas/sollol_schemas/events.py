"""Events: outcomes of attempts, and changes of nodes, breakers and offices. One stream keeps them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from sollol_schemas.decision import Decision
from sollol_schemas.errors import FREE_OF_CHARGE, ErrorBody, ErrorCode, Lack, Owner
from sollol_schemas.execution import AttemptDone, AttemptFailed, Evidence, Figures
from sollol_schemas.slim import slim
from sollol_schemas.telemetry import NodeState
from sollol_schemas.units import BusId, Count, Instant, Seconds, Term

FIGURES_DIGITS = 5
"""Decimals of figures, as they are told and stored."""
MESSAGE_MAX = 500
"""An outcome keeps so many characters of an error's message."""


class OutcomeStatus(StrEnum):
    """How an attempt, or a request that never reached a node, ended."""

    SUCCESS = "success"
    FAILED = "failed"  # something broke; `owner` says whose fault it is
    CANCELLED = "cancelled"  # the caller cancelled or left; charged to nobody
    CLIENT_ERROR = "client_error"  # the request was at fault; charged to nobody
    PRESUMED_LOST = "presumed_lost"  # no node answered; replaced by the node's own figures if they come


_NOBODYS: Final = frozenset(
    {
        ErrorCode.CANCELLED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.CONNECTION_LOST,
        ErrorCode.DRAINING,
        ErrorCode.MOVED,
        ErrorCode.ACTOR_STOPPED,
    }
)
"""Nobody's fault. A broken bus strikes every node at once, so it may not count against any."""


def status_of(error: ErrorBody | None) -> OutcomeStatus:
    """How an attempt that a node ended with this error counts."""
    if error is None:
        return OutcomeStatus.SUCCESS
    if error.blamed in (Owner.REQUEST, Owner.OUTPUT):
        return OutcomeStatus.CLIENT_ERROR
    return OutcomeStatus.CANCELLED if error.code in _NOBODYS else OutcomeStatus.FAILED


class ReportedBy(StrEnum):
    """Who reports an outcome."""

    NODE = "node"
    DISPATCHER = "dispatcher"
    SCORER = "scorer"


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="outcome.v1"):
    """How one attempt ended. Each attempt counts once: the node's own report replaces a presumed loss."""

    decision: Decision
    """What was decided of it; of a request that never reached a node, what is known of the request."""
    status: OutcomeStatus
    reported_by: ReportedBy = ReportedBy.NODE
    code: ErrorCode | None = None
    owner: Owner | None = None
    """Whose fault it is; without it, `status` alone says whether the node is charged."""
    lack: Lack | None = None
    """What the node has not, for which it refused."""
    http_status: Count = 0
    """The engine's own status, where it refused with one."""
    evidence: Evidence | None = None
    """What a failure proves; without it, it proves all that it says."""
    message: str = ""
    """In our own words alone: what an engine says may quote the prompt."""
    figures: Figures | None = None
    finished_at: Instant = ""
    """Told by the recorder: when the event was stored, on one clock for all nodes."""

    @classmethod
    def ended(
        cls,
        decision: Decision,
        status: OutcomeStatus,
        reported_by: ReportedBy,
        *,
        error: ErrorBody | None = None,
        evidence: Evidence | None = None,
        figures: Figures | None = None,
    ) -> Outcome:
        """The outcome of what ended with `error`, or well when there is none."""
        return cls(
            decision=decision,
            status=status,
            reported_by=reported_by,
            code=None if error is None else error.code,
            owner=None if error is None else error.blamed,
            lack=None if error is None else error.lack,
            http_status=0 if error is None else error.engine_status,
            evidence=evidence,
            message="" if error is None else error.own_words[:MESSAGE_MAX],
            figures=figures,
        )

    @classmethod
    def of_report(cls, decision: Decision, report: AttemptDone | AttemptFailed) -> Outcome:
        """The outcome of an attempt whose node reported so; who publishes it makes no difference."""
        if isinstance(report, AttemptDone):
            return cls(decision=decision, status=OutcomeStatus.SUCCESS, figures=report.figures)
        error, status = report.error, status_of(report.error)
        return cls.ended(
            decision, status, ReportedBy.NODE, error=error, evidence=report.evidence, figures=report.figures
        )

    def as_event(self, *, is_cut: bool = False) -> Outcome:
        """What is published of it: of the decision, whose digits were cut when it was made, what readers need.

        Args:
            is_cut: Whether the digits of its figures were cut already, as a node does that reports them.
        """
        figures = self.figures
        if figures is not None:
            figures = msgspec.structs.replace(figures, chunks=0) if is_cut else slim(figures, FIGURES_DIGITS, chunks=0)
        return msgspec.structs.replace(self, decision=self.decision.as_outcomes(), figures=figures)

    @property
    def is_charged(self) -> bool:
        """Whether it counts against its node: an engine's or a node's fault, and a doubtful one when it is proven."""
        if self.status not in _BROKEN or self.code in FREE_OF_CHARGE:
            return False
        match self.owner:
            case None | Owner.ENGINE | Owner.NODE:
                return True
            case Owner.UNCLEAR:
                return self.evidence is not None and self.evidence.is_confirmed
            case Owner.REQUEST | Owner.OUTPUT | Owner.PATH:
                return False

    @property
    def end(self) -> str:
        """How it ended, in a word: an answer that goes on elsewhere has not failed."""
        return "moved" if self.code is ErrorCode.MOVED else self.status.value

    @property
    def request_id(self) -> str:
        """The request that was attempted."""
        return self.decision.request_id

    @property
    def attempt_id(self) -> str:
        """The attempt that ended."""
        return self.decision.attempt_id

    @property
    def node_id(self) -> str:
        """Where it ran; `_none` for a request that never reached a node."""
        return self.decision.node_id


_BROKEN = (OutcomeStatus.FAILED, OutcomeStatus.PRESUMED_LOST)


LEFT: Final = "left"
"""The reason of a node that is down because it ended in order."""


ASLEEP: Final = "asleep"
"""The reason of a node that is down because it sleeps, and can be woken."""


class NodeEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="node.event.v1"):
    """A node changed its state."""

    node_id: BusId
    state: NodeState
    previous: NodeState | None = None
    instance: str = ""
    reason: str = ""
    at: Instant = ""

    @property
    def has_left(self) -> bool:
        """Whether it ended in order, which is no trouble."""
        return self.state is NodeState.DOWN and self.reason == LEFT

    @property
    def is_asleep(self) -> bool:
        """Whether it sleeps, which is no trouble either."""
        return self.state is NodeState.DOWN and self.reason == ASLEEP


class PreloadEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="preload.event.v1"):
    """The scorer had a node load a model before a request needed it there."""

    node_id: BusId
    model: str
    reason: str = ""
    error: str = ""
    """Why it was not loaded; empty when it was."""
    took_s: Seconds = 0.0
    at: Instant = ""


class OfficeEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="scorer.office.v1"):
    """A scorer took or left office; dispatchers ask again for everything that waits."""

    instance: BusId
    term: Term
    is_leader: bool
    reason: str = ""
    at: Instant = ""


class BreakerState(StrEnum):
    """States of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="breaker.event.v1"):
    """A circuit breaker changed its state; `model` is empty for the node's own breaker."""

    node_id: BusId
    state: BreakerState
    model: str = ""
    reason: str = ""
    at: Instant = ""
