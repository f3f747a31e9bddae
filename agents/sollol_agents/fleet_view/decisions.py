"""The latest decisions, each with what became of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from sollol_schemas.decision import Decision, DecisionEvent
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.subjects import NO_NODE

KEPT: Final = 3000
"""Long enough that an outcome finds its decision: a minute at 50 decisions a second."""
SHOWN: Final = 150
"""How many a page gets at once."""


class DecisionRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt, as the feed shows it."""

    id: str
    """The attempt's id."""
    request_id: str
    at: float
    """When it was decided (or ended, when the decision was not heard), in seconds since 1970."""
    mode: str
    node_id: str = ""
    model: str = ""
    priority: int = 5
    strategy: str = ""
    attempt: int = 1
    reason: str = ""
    queue_s: float = 0.0
    predicted_s: float = 0.0
    continued_tokens: int = 0
    """Of an attempt that goes on with an answer: what had been said before."""
    status: str = ""
    """Empty while it runs."""
    actual_s: float | None = None
    ttft_s: float | None = None
    output_tokens: int | None = None
    code: str = ""
    message: str = ""


class Decisions:
    """The last `KEPT` attempts, oldest first."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, tuple[int, DecisionRow]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def on_decision(self, event: DecisionEvent, at: float, version: int) -> None:
        """A request got its node."""
        row = _row(event.decision, at)
        known = self._rows.get(row.id)
        if known is not None:  # its outcome overtook it
            row = msgspec.structs.replace(row, **_ending(known[1]))
        self._put(row, version)

    def on_outcome(self, outcome: Outcome, at: float, version: int) -> bool:
        """An attempt ended; False when nothing new was told by that."""
        known = self._rows.get(outcome.attempt_id)
        row = known[1] if known is not None else _row(outcome.decision, at)
        if row.status and (row.status != OutcomeStatus.PRESUMED_LOST or outcome.reported_by is not ReportedBy.NODE):
            return False
        figures = outcome.figures
        ended = msgspec.structs.replace(
            row,
            status=outcome.end,
            actual_s=None if figures is None else round(figures.actual_s, 4),
            ttft_s=None if figures is None or figures.ttft_s is None else round(figures.ttft_s, 4),
            output_tokens=None if figures is None else figures.output_tokens,
            code=outcome.code.value if outcome.code is not None else "",
            message=outcome.message,
        )
        self._put(ended, version)
        return True

    def changes(self, since: int) -> list[DecisionRow]:
        """The rows that changed after `since`, oldest first, at most `SHOWN` of them."""
        return [row for version, row in self._rows.values() if version > since][-SHOWN:]

    def _put(self, row: DecisionRow, version: int) -> None:
        self._rows[row.id] = (version, row)
        while len(self._rows) > KEPT:
            self._rows.popitem(last=False)


def _ending(row: DecisionRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("status", "actual_s", "ttft_s", "output_tokens", "code", "message")}


def _row(decision: Decision, at: float) -> DecisionRow:
    """A row for an attempt that was decided, or whose decision was not heard, or for a request that got no node."""
    return DecisionRow(
        id=decision.attempt_id,
        request_id=decision.request_id,
        at=round(at, 2),
        mode=decision.mode.value,
        node_id="" if decision.node_id == NO_NODE else decision.node_id,
        model=decision.model,
        priority=decision.priority,
        strategy=decision.strategy,
        attempt=decision.attempt,
        reason=decision.reason,
        continued_tokens=decision.continued_tokens,
        queue_s=round(decision.queue_s, 4),
        predicted_s=round(decision.forecast.total_s, 4),
    )
