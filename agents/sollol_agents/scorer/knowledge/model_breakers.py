"""Circuit breakers of models, whatever the node: a model that fails everywhere gets no requests of its groups.

closed -> open after 5 failures in a row -> after 30 s one request at a time tries it -> closed by a success.

A failure counts when it may be the model's: it could not be loaded, or the engine broke over it. That a node is gone or
an engine does not answer says nothing of a model. Nodes and callers count as callers do for the breakers of nodes: each
for at most half of what opens a breaker, rounded up, so that neither one broken machine nor one odd prompt keeps a
model from everybody; where a single node has the model, the node's own breaker for it is what opens.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import NamedTuple

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.knowledge.breaker import BreakerRules
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerState, Outcome, OutcomeStatus

_MODELS_MAX = 512
_ROW_MAX = 64
_TRIAL_S = 10.0
"""So long one trial is waited for before another one may begin."""
_OF_MODEL = frozenset({ErrorCode.LOAD_FAILED, ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_PROTOCOL, ErrorCode.STALLED})


class _Failure(NamedTuple):
    node_id: str
    caller: str | None
    """None: proven, whoever asked."""
    body: str


class _Row:
    """The failures of one model since its last success."""

    __slots__ = ("failures", "opened_at", "tried_at")

    def __init__(self) -> None:
        self.failures: deque[_Failure] = deque(maxlen=_ROW_MAX)
        self.opened_at: float | None = None
        self.tried_at = -math.inf


class ModelBreakers:
    """The breakers of all models; bounded, models whose last failure lies furthest back go first."""

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self._rows: OrderedDict[str, _Row] = OrderedDict()

    def take(self, outcome: Outcome, now: float) -> None:
        """Takes note of how an attempt ended."""
        if outcome.status is OutcomeStatus.SUCCESS:
            if self._rows:
                self._rows.pop(canonical(outcome.decision.model), None)
        elif outcome.is_charged and outcome.code in _OF_MODEL:
            self._failed(canonical(outcome.decision.model), outcome, now)

    def _failed(self, model: str, outcome: Outcome, now: float) -> None:
        row = self._rows.setdefault(model, _Row())
        self._rows.move_to_end(model)
        if len(self._rows) > _MODELS_MAX:
            self._rows.popitem(last=False)
        evidence = outcome.evidence
        is_doubtful = evidence is not None and not evidence.is_confirmed
        failure = _Failure(
            outcome.node_id,
            evidence.caller if evidence is not None and is_doubtful else None,
            evidence.body if evidence is not None and is_doubtful else outcome.attempt_id,
        )
        if failure not in row.failures:
            row.failures.append(failure)
        if row.opened_at is not None:
            if now - row.opened_at >= self._rules.open_s:
                row.opened_at = now
        elif self._weight(row) >= self._rules.failures:
            row.opened_at = now

    def _weight(self, row: _Row) -> int:
        """What the failures count for, those of one node and of one caller at most for half of what opens."""
        needed = self._rules.failures
        share = min(needed - 1, (needed + 1) // 2)
        by_node: dict[str, int] = {}
        by_caller: dict[str | None, int] = {}
        for failure in row.failures:
            by_node[failure.node_id] = by_node.get(failure.node_id, 0) + 1
            by_caller[failure.caller] = by_caller.get(failure.caller, 0) + 1
        of_callers = sum(n if who is None else min(share, n) for who, n in by_caller.items())
        return min(of_callers, sum(min(share, n) for n in by_node.values()))

    def opens_in_s(self, model: str, now: float) -> float:
        """Seconds until a model may be tried; 0 when it may be now."""
        row = self._rows.get(model) if self._rows else None
        if row is None or row.opened_at is None:
            return 0.0
        return max(0.0, row.opened_at + self._rules.open_s - now, row.tried_at + _TRIAL_S - now)

    def tried(self, model: str, now: float) -> None:
        """A request goes to a model; where its breaker is open, it is the only one for a while."""
        row = self._rows.get(model) if self._rows else None
        if row is not None and row.opened_at is not None:
            row.tried_at = now

    def close(self, model: str = "") -> None:
        """Closes the breaker of a model by force, or all of them."""
        if model:
            self._rows.pop(model, None)
        else:
            self._rows.clear()

    def state(self, model: str, now: float) -> BreakerState:
        """How the breaker of a model stands."""
        row = self._rows.get(model)
        if row is None or row.opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now - row.opened_at < self._rules.open_s else BreakerState.HALF_OPEN

    def failures(self, model: str) -> int:
        """Failures of a model since its last success."""
        row = self._rows.get(model)
        return len(row.failures) if row is not None else 0
