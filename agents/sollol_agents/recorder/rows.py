"""What one event of the bus becomes in the database."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from sollol_agents.requests.names import canonical
from sollol_schemas import subjects
from sollol_schemas.acts import Act
from sollol_schemas.continuation import Cut
from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.errors import Owner
from sollol_schemas.events import BreakerEvent, NodeEvent, OfficeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.feedback import FeedbackEvent
from sollol_schemas.steering import ResetEvent, ResetKind
from sollol_schemas.subjects import last_token


class Verdict(StrEnum):
    """What an outcome counts as."""

    SUCCESS = "success"
    FAILURE = "failure"  # charged to the node, presumed losses included
    CANCELLED = "cancelled"
    CLIENT_ERROR = "client_error"  # the request's fault, or not proven to be anybody else's
    REFUSED = "refused"  # busy, draining, stale term, a fault of our own: counts as nothing


class Rank(IntEnum):
    """How good a report is; a better one replaces a worse one, never the reverse."""

    PRESUMED = 0
    REPORTED = 1
    BY_NODE = 2


class Table(StrEnum):
    """Where a line belongs."""

    OUTCOMES = "outcomes"
    DECISIONS = "decisions"
    EVENTS = "events"
    CUTS = "cuts"
    ACTS = "acts"
    FEEDBACK = "feedback"
    RESETS = "resets"  # no lines: those of others are marked


_STORED: Final = ("stored_at_ns", "stream_seq")
"""Which message it was."""
COLUMNS: Final = {
    Table.OUTCOMES: (
        "attempt_id",
        "rank",
        "recorded_at",
        "request_id",
        "job_id",
        "node_id",
        "model",
        "mode",
        "verdict",
        "code",
        "latency_s",
        "actual_s",
        "predicted_s",
        "output_tokens",
        "decode_s",
        "number",
        "first_token_s",
        "body",
        "caller",
        "prompt_tokens",
        "slot_s",
        "energy_j",
        "expense",
        "currency",
        "category",
        "continued_tokens",
    ),
    Table.DECISIONS: (*_STORED, "request_id", "job_id", "body", "caller"),
    Table.EVENTS: (*_STORED, "kind", "node_id", "body"),
    Table.CUTS: (*_STORED, "request_id", "body", "in_favour_of"),
    Table.ACTS: (*_STORED, "body"),
    Table.FEEDBACK: (*_STORED, "request_id", "model", "body"),
    Table.RESETS: ("stored_at_ns", "model"),
}
"""What a line of each table holds, in the order of its values."""


class Row(NamedTuple):
    """One line for the database: plain values, which need no look at what they are, in the order of `COLUMNS`."""

    table: Table
    values: tuple[str | bytes | float | None, ...]

    @property
    def columns(self) -> dict[str, Any]:
        """The values by name."""
        return dict(zip(COLUMNS[self.table], self.values, strict=True))


_outcomes = msgspec.json.Decoder(Outcome)
_acts = msgspec.json.Decoder(Act)
_feedback = msgspec.json.Decoder(FeedbackEvent)
_resets = msgspec.json.Decoder(ResetEvent)
_cuts = msgspec.json.Decoder(Cut)
_decisions = msgspec.json.Decoder(DecisionEvent)


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_TOGETHER_MAX: Final = 1024
"""Decisions in one message; scorers put some 100 there at most. Each that cannot be read costs a line in the log."""


class _Bodies(msgspec.Struct, tag="decisions.v1"):
    """`Decisions`, each as it came."""

    decisions: Annotated[list[msgspec.Raw], Meta(max_length=_TOGETHER_MAX)]


_bodies = msgspec.json.Decoder(_Bodies)
_Event = NodeEvent | BreakerEvent | OfficeEvent
_events: dict[str, msgspec.json.Decoder[Any]] = {
    "node": msgspec.json.Decoder(NodeEvent),
    "breaker": msgspec.json.Decoder(BreakerEvent),
    "scorer": msgspec.json.Decoder(OfficeEvent),
}


def verdict_of(outcome: Outcome) -> Verdict:
    """What an outcome counts as."""
    match outcome.status:
        case OutcomeStatus.SUCCESS:
            return Verdict.SUCCESS
        case OutcomeStatus.CANCELLED:
            return Verdict.CANCELLED
        case OutcomeStatus.CLIENT_ERROR:
            return Verdict.CLIENT_ERROR
        case OutcomeStatus.FAILED | OutcomeStatus.PRESUMED_LOST if outcome.is_charged:
            return Verdict.FAILURE
        case OutcomeStatus.FAILED | OutcomeStatus.PRESUMED_LOST:
            return Verdict.CLIENT_ERROR if outcome.owner is Owner.UNCLEAR else Verdict.REFUSED


def rank_of(outcome: Outcome) -> Rank:
    """How good a report is."""
    if outcome.status is OutcomeStatus.PRESUMED_LOST:
        return Rank.PRESUMED
    return Rank.BY_NODE if outcome.reported_by is ReportedBy.NODE else Rank.REPORTED


def rows_of(subject: str, data: bytes, *, stored_at_ns: int, stream_seq: int) -> tuple[list[Row], list[Exception]]:
    """The lines for one message, and what is wrong with events in it that cannot be read."""
    if subject == subjects.DECISIONS_EVENT:
        return _decision_rows(data, stored_at_ns, stream_seq)
    try:
        row = row_of(subject, data, stored_at_ns=stored_at_ns, stream_seq=stream_seq)
    except _UNREADABLE as error:
        return [], [error]
    return [] if row is None else [row], []


def _decision_rows(data: bytes, stored_at_ns: int, stream_seq: int) -> tuple[list[Row], list[Exception]]:
    rows: list[Row] = []
    faults: list[Exception] = []
    try:
        bodies = _bodies.decode(data).decisions
    except _UNREADABLE as error:
        return [], [error]
    for place, body in enumerate(bodies):
        try:
            # a nanosecond apart: the instant is a part of what tells lines apart
            rows.append(_decision_row(bytes(body), stored_at_ns + place, stream_seq))
        except _UNREADABLE as error:
            faults.append(error)
    return rows, faults


def _decision_row(body: bytes, stored_at_ns: int, stream_seq: int) -> Row:
    made = _decisions.decode(body).decision
    return Row(Table.DECISIONS, (stored_at_ns, stream_seq, made.request_id, made.job_id, body, made.caller))


def row_of(subject: str, data: bytes, *, stored_at_ns: int, stream_seq: int) -> Row | None:  # noqa: PLR0911 a row for each kind
    """The line for one event, by the area its subject names; None for an area that is not recorded.

    Raises:
        msgspec.DecodeError, RecursionError, UnicodeDecodeError: The body does not follow its contract.
    """
    area = subject.split(".")[3]
    if area == "outcome":
        outcome = _outcomes.decode(data)
        if outcome.node_id != last_token(subject):
            raise msgspec.ValidationError(f"it speaks for {outcome.node_id}")
        return _outcome_row(outcome, data, stored_at_ns / 1e9)
    if area == "decisions":
        return _decision_row(data, stored_at_ns, stream_seq)
    if area == "cut":
        cut = _cuts.decode(data)
        return Row(Table.CUTS, (stored_at_ns, stream_seq, cut.request_id, data, cut.in_favour_of))
    if area == "audit":
        _acts.decode(data)
        return Row(Table.ACTS, (stored_at_ns, stream_seq, data))
    if area == "feedback":
        told = _feedback.decode(data)
        return Row(Table.FEEDBACK, (stored_at_ns, stream_seq, told.request_id, canonical(told.model), data))
    if area == "reset":
        return _reset_row(_resets.decode(data), stored_at_ns)
    if area in _events:
        event: _Event = _events[area].decode(data)
        node_id = "" if isinstance(event, OfficeEvent) else event.node_id
        return Row(Table.EVENTS, (stored_at_ns, stream_seq, area, node_id, data))
    return None


def _reset_row(reset: ResetEvent, stored_at_ns: int) -> Row | None:
    """What is forgotten of feedback; other resets change nothing here."""
    model = canonical(reset.model) if reset.model else ""
    row = Row(Table.RESETS, (stored_at_ns, model))
    return row if reset.kind is ResetKind.QUALITY else None


def _outcome_row(outcome: Outcome, body: bytes, recorded_at: float) -> Row:
    decision, figures = outcome.decision, outcome.figures or Figures()
    verdict = verdict_of(outcome)
    is_timed = verdict is Verdict.SUCCESS and outcome.figures is not None
    return Row(
        Table.OUTCOMES,
        (
            decision.attempt_id,
            int(rank_of(outcome)),
            recorded_at,
            decision.request_id,
            decision.job_id,
            decision.node_id,
            decision.model,
            decision.mode.value,
            verdict.value,
            "" if outcome.code is None else outcome.code.value,
            decision.queue_s + figures.actual_s if is_timed else None,
            figures.actual_s if is_timed else None,
            decision.forecast.total_s if is_timed else None,
            figures.output_tokens or 0,
            figures.decode_s or 0.0,
            decision.attempt,
            _first_token_s(decision, figures) if is_timed else None,
            body,
            decision.caller,
            figures.prompt_tokens or 0,
            figures.actual_s,
            figures.energy_j,
            figures.expense,
            figures.currency,
            decision.category,
            figures.continued_tokens or decision.continued_tokens,
        ),
    )


def _first_token_s(decision: Decision, figures: Figures) -> float | None:
    """From the request's arrival to its first token; that of an answer that went on had come before."""
    if figures.ttft_s is None or figures.continued_tokens or decision.continued_tokens:
        return None
    return decision.queue_s + figures.ttft_s
