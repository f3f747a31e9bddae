"""Circuit breakers, one per node and one per model on it: a failing place gets no traffic until it is tried.

closed -> open after 5 failures in a row, or when half of the latest 20 attempts failed. Open -> half-open
after 30 s, or when an engine that had gone answers again. Half-open lets 2 trials run at a time and closes after 3
successes; a failure opens it again.
A trial that was cancelled gives its place back and counts for nothing.

A failure that is proven counts in full: a lost process, an engine that failed a question of its agent's own too. Any
other one might be the doing of its request, so that each body counts once, and each caller for at most half of what
opens a breaker, rounded up: nobody opens one alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from sollol_schemas.events import BreakerState
from sollol_schemas.execution import Evidence

_WINDOW = 20  # latest attempts over which the share of failures counts
_FAILURE_RATIO = 0.5
_ROW_MAX = 256  # failures in a row that are looked at
_MODELS_MAX = 512
_TRIAL_LOST = 10.0  # a trial is given up after so many times the pause before trials


class BreakerRules(NamedTuple):
    """When breakers open and close."""

    failures: int = 5
    open_s: float = 30.0
    trials: int = 2
    successes: int = 3


Failure = Evidence | None
"""What a failure proves; None proves all that it says."""


def weight(failures: Iterable[Failure], needed: int) -> int:
    """How many failures these count for, of which `needed` open a breaker."""
    count, callers = 0, dict[str, set[str]]()
    bodies = set[str]()
    for evidence in failures:
        if evidence is None or evidence.is_confirmed:
            count += 1
        elif evidence.body not in bodies:
            bodies.add(evidence.body)
            callers.setdefault(evidence.caller, set()).add(evidence.body)
    share = min(needed - 1, (needed + 1) // 2)
    return count + sum(min(share, len(asked)) for asked in callers.values())


class Breaker:
    """One circuit breaker. Every method takes `now`; asking changes nothing but the passage from open to half-open."""

    __slots__ = ("_opened_at", "_recent", "_row", "_rules", "_successes", "_trial_at", "_trials", "state")

    def __init__(self, rules: BreakerRules) -> None:
        self._rules = rules
        self.state = BreakerState.CLOSED
        self._row: deque[Failure] = deque(maxlen=_ROW_MAX)
        self._recent: deque[Failure | bool] = deque(maxlen=_WINDOW)
        """Of the latest attempts: True for a success, else what the failure proves."""
        self._opened_at = 0.0
        self._trials = 0
        self._successes = 0

    def follow(self, rules: BreakerRules) -> None:
        """Keeps other rules from now on."""
        self._rules = rules

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return len(self._row)

    @property
    def is_closed(self) -> bool:
        """Whether attempts pass freely."""
        return self.state is BreakerState.CLOSED

    def opened_for_s(self, now: float) -> float:
        """Seconds since it opened last; means nothing for a closed one."""
        return max(0.0, now - self._opened_at)

    def reopen(self, opened_at: float) -> None:
        """Takes over that a former process opened it then."""
        self._open(opened_at)

    @property
    def is_worth_telling(self) -> bool:
        """Whether it is not simply closed and without failures."""
        return self.state is not BreakerState.CLOSED or len(self._row) > 0

    def allows(self, now: float) -> bool:
        """Whether an attempt may go there now."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            return now - self._opened_at >= self._rules.open_s
        return self._trials < self._rules.trials

    def opens_in_s(self, now: float) -> float:
        """Seconds until it may be tried; 0 when it may be now."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._rules.open_s - (now - self._opened_at))

    def refresh(self, now: float) -> bool:
        """Passes from open to half-open when its time has come, and forgets trials whose end was never told.

        Returns:
            Whether attempts may be allowed now that were not before.
        """
        if self.state is BreakerState.OPEN and now - self._opened_at >= self._rules.open_s:
            self.state, self._trials, self._successes = BreakerState.HALF_OPEN, 0, 0
            return True
        if self._trials > 0 and now - self._trial_at >= _TRIAL_LOST * self._rules.open_s:
            self._trials = 0
            return True
        return False

    def try_soon(self, now: float) -> None:
        """Lets an open one be tried at once."""
        self._opened_at = min(self._opened_at, now - self._rules.open_s)

    def start(self, now: float) -> bool:
        """Notes an attempt; returns whether it is a trial."""
        self.refresh(now)
        if self.state is BreakerState.HALF_OPEN:
            self._trials += 1
            self._trial_at = now
            return True
        return False

    def cancel(self, *, is_trial: bool) -> None:
        """Gives a cancelled attempt's place back."""
        if is_trial and self._trials > 0:
            self._trials -= 1

    def count(self, *, is_success: bool, is_trial: bool, now: float, evidence: Failure = None) -> bool:
        """Counts how an attempt ended; returns whether the state changed.

        Args:
            is_success: How it ended.
            is_trial: Whether it was started as one.
            now: The current instant.
            evidence: What a failure proves.
        """
        before = self.state
        if is_trial:
            self.cancel(is_trial=True)
        self._recent.append(True if is_success else evidence)
        if is_success:
            self._row.clear()
        else:
            self._row.append(evidence)
        if self.state is BreakerState.HALF_OPEN and is_trial:
            self._judge_trial(is_success, evidence, now)
        elif self.state is BreakerState.CLOSED and not is_success and self._should_open():
            self._open(now)
        return self.state is not before

    def is_news(self, evidence: Failure) -> bool:
        """Whether a failure says more of the place than those among the latest attempts did."""
        known, needed = self._failed(), self._rules.failures
        return weight([*known, evidence], needed) > weight(known, needed)

    def _failed(self) -> list[Failure]:
        return [ended for ended in self._recent if not isinstance(ended, bool)]

    def _judge_trial(self, is_success: bool, evidence: Failure, now: float) -> None:
        if not is_success:
            if evidence is None or evidence.is_confirmed:
                self._open(now)
            return
        self._successes += 1
        if self._successes >= self._rules.successes:
            self.close()

    def _should_open(self) -> bool:
        needed = self._rules.failures
        if weight(self._row, needed) >= needed:
            return True
        half = math.ceil(_WINDOW * _FAILURE_RATIO)
        return len(self._recent) == _WINDOW and weight(self._failed(), half) >= half

    def _open(self, now: float) -> None:
        self.state, self._opened_at = BreakerState.OPEN, now
        self._trials = self._successes = 0

    def close(self) -> None:
        """Closes it and forgets what happened; nothing that ran as a trial counts as one any more."""
        self.state = BreakerState.CLOSED
        self._trials = self._successes = 0
        self._row.clear()
        self._recent.clear()


class Breakers:
    """The breakers of one node: its own (under the empty name) and one for each model that was tried."""

    __slots__ = ("_rules", "by_model")

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self._rules = rules or BreakerRules()
        self.by_model: dict[str, Breaker] = {"": Breaker(self._rules)}

    def of(self, model: str) -> Breaker:
        """The breaker of one model; a new one is closed."""
        breaker = self.by_model.get(model)
        if breaker is None:
            if len(self.by_model) > _MODELS_MAX:
                self._drop_one()
            breaker = self.by_model[model] = Breaker(self._rules)
        return breaker

    def _drop_one(self) -> None:
        """Makes room: a model without failures goes first, otherwise the one that was tried first."""
        models = [model for model in self.by_model if model]
        del self.by_model[next((m for m in models if not self.by_model[m].is_worth_telling), models[0])]

    def refusing(self, model: str, now: float) -> Breaker | None:
        """The breaker that refuses an attempt of this model now, or None."""
        own = self.by_model[""]
        if not own.allows(now):
            return own
        breaker = self.by_model.get(model)
        return breaker if breaker is not None and not breaker.allows(now) else None

    def opens_in_s(self, model: str, now: float) -> float:
        """Seconds until an attempt of this model may be tried; 0 when it may be now."""
        breaker = self.refusing(model, now)
        return breaker.opens_in_s(now) if breaker is not None else 0.0

    def try_soon(self, now: float) -> None:
        """Lets open ones be tried at once: the engine that failed has gone, and is back."""
        for breaker in self.by_model.values():
            breaker.try_soon(now)

    def start(self, model: str, now: float) -> bool:
        """Notes an attempt; returns whether either breaker takes it as a trial."""
        own = self.by_model[""].start(now)
        return self.of(model).start(now) or own

    def cancel(self, model: str, *, is_trial: bool) -> None:
        """Gives a cancelled attempt's place back."""
        for breaker in (self.by_model[""], self.of(model)):
            breaker.cancel(is_trial=is_trial)

    def count(
        self,
        model: str,
        *,
        is_success: bool,
        is_trial: bool,
        now: float,
        evidence: Failure = None,
        is_models: bool = False,
    ) -> list[str]:
        """Counts how an attempt ended; returns the names whose breaker changed its state.

        A failure that is the model's alone (`is_models`) says nothing of the node.
        """
        changed = []
        for name, breaker in (("", self.by_model[""]), (model, self.of(model))):
            if is_models and not name:
                breaker.cancel(is_trial=is_trial)
            elif breaker.count(is_success=is_success, is_trial=is_trial, now=now, evidence=evidence):
                changed.append(name)
        return changed
