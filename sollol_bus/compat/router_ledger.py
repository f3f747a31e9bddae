"""What a task router counts of its models, and how it picks one. Pure: time and chance are passed in.

Affinity is points by category, +1 for a success and -2 for a failure, never below 0. Performance is 0.7 of the share of
successes and 0.3 of 1 / (1 + mean seconds). Hybrid is half of each, affinity as a share of the most points. A model
that was never tried counts as perfect and instant, so that it is tried. The breaker is the fleet's own: open after 5
failures in a row or 10 of the latest 20, tried after 30 s, closed after 3 successes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final

import msgspec

from sollol_agents.scorer.knowledge.breaker import Breaker, BreakerRules
from sollol_schemas.events import BreakerState

_MODELS_MAX: Final = 256
_SUCCESS_SHARE, _LATENCY_SHARE = 0.7, 0.3
_EXPLORATION_SHARE: Final = 0.1


class RoutingStrategy(StrEnum):
    """How a model is picked among those that are well."""

    ROUND_ROBIN = "round_robin"  # each in turn
    LEAST_LOADED = "least_loaded"  # fewest tasks that were given to it and not reported yet
    RANDOM = "random"  # by chance
    PERFORMANCE = "performance"  # success and latency
    AFFINITY = "affinity"  # what succeeded at this category
    HYBRID = "hybrid"  # affinity and performance


class TaskCategory(StrEnum):
    """What a prompt asks for."""

    CODING = "coding"
    REFACTORING = "refactoring"
    TESTING = "testing"
    DOCUMENTATION = "documentation"
    DEBUGGING = "debugging"
    CODE_REVIEW = "code_review"
    UNKNOWN = "unknown"


class CircuitBreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When a model is left out, and when it comes back."""

    failure_threshold: int = 5
    """Failures in a row."""
    success_threshold: int = 3
    """Successes that bring it back for good."""
    timeout: float | timedelta = 30.0
    """Until it is tried again; a number is seconds."""
    half_open_requests: int = 2
    """Tasks at a time while it is tried."""

    def as_rules(self) -> BreakerRules:
        """The same, as the breaker takes it."""
        return BreakerRules(
            failures=self.failure_threshold,
            open_s=self.timeout.total_seconds() if isinstance(self.timeout, timedelta) else self.timeout,
            trials=self.half_open_requests,
            successes=self.success_threshold,
        )


class Tally:
    """What is known of one model."""

    __slots__ = ("breaker", "failed", "last_used_unix_s", "latency_s", "pending", "points", "row", "succeeded")

    def __init__(self, rules: BreakerRules) -> None:
        self.breaker = Breaker(rules)
        self.succeeded = 0
        self.failed = 0
        self.latency_s = 0.0
        """Mean seconds of all its tasks."""
        self.row = 0
        """Successes since the last failure."""
        self.pending = 0
        self.last_used_unix_s: float | None = None
        self.points: dict[str, float] = {}

    @property
    def total(self) -> int:
        """Tasks reported."""
        return self.succeeded + self.failed

    @property
    def success_rate(self) -> float:
        """Share of tasks that succeeded, 0 to 1; 1 before the first."""
        return self.succeeded / self.total if self.total else 1.0

    @property
    def performance(self) -> float:
        """0 to 1."""
        return _SUCCESS_SHARE * self.success_rate + _LATENCY_SHARE / (1.0 + self.latency_s)

    def count(self, *, is_success: bool, latency_s: float, category: str, now: float) -> None:
        """Counts one task."""
        self.pending = max(0, self.pending - 1)
        self.latency_s += (latency_s - self.latency_s) / (self.total + 1)
        points = self.points.get(category, 0.0)
        if is_success:
            self.succeeded += 1
            self.row += 1
            self.points[category] = points + 1.0
        else:
            self.failed += 1
            self.row = 0
            self.points[category] = max(0.0, points - 2.0)
        self.breaker.refresh(now)
        self.breaker.count(is_success=is_success, is_trial=self.breaker.state is BreakerState.HALF_OPEN, now=now)


class Ledger:
    """The models by name, in the order in which they came.

    Args:
        breaker: When a model is left out.
        rng: Source of chance.
    """

    def __init__(self, breaker: CircuitBreakerConfig, rng: random.Random) -> None:
        self._rules = breaker.as_rules()
        self._rng = rng
        self._turn = 0
        self.tallies: dict[str, Tally] = {}

    def follow(self, breaker: CircuitBreakerConfig) -> None:
        """Has every breaker keep other rules from now on; what was counted stays."""
        self._rules = breaker.as_rules()
        for tally in self.tallies.values():
            tally.breaker.follow(self._rules)

    def add(self, model: str) -> bool:
        """Whether the model is new, and there is room for it."""
        if model in self.tallies or len(self.tallies) >= _MODELS_MAX:
            return False
        self.tallies[model] = Tally(self._rules)
        return True

    def healthy(self, now: float) -> list[str]:
        """The models that may be given a task."""
        for tally in self.tallies.values():
            tally.breaker.refresh(now)
        return [model for model, tally in self.tallies.items() if tally.breaker.allows(now)]

    def choose(self, strategy: RoutingStrategy, category: str, models: Sequence[str]) -> str:
        """The one of these models that gets a task of this category; there must be some."""
        match strategy:
            case RoutingStrategy.ROUND_ROBIN:
                self._turn += 1
                return models[(self._turn - 1) % len(models)]
            case RoutingStrategy.RANDOM:
                return self._rng.choice(models)
            case RoutingStrategy.LEAST_LOADED:
                return self._best(models, lambda tally: -tally.pending)
            case RoutingStrategy.PERFORMANCE:
                return self._best(models, lambda tally: tally.performance)
            case RoutingStrategy.AFFINITY:
                return self._best(models, lambda tally: tally.points.get(category, 0.0))
            case RoutingStrategy.HYBRID:
                return self._hybrid(category, models)

    def give(self, model: str, now: float, unix_s: float) -> None:
        """Notes that a model got a task."""
        tally = self.tallies[model]
        tally.breaker.start(now)
        tally.pending += 1
        tally.last_used_unix_s = unix_s

    def reset(self) -> None:
        """Forgets everything but the names."""
        self.tallies = {model: Tally(self._rules) for model in self.tallies}

    def _hybrid(self, category: str, models: Sequence[str]) -> str:
        if self._rng.random() < _EXPLORATION_SHARE:
            return self._rng.choice(models)
        most = max(self.tallies[model].points.get(category, 0.0) for model in models) or 1.0
        return self._best(models, lambda t: 0.5 * t.points.get(category, 0.0) / most + 0.5 * t.performance)

    def _best(self, models: Sequence[str], score: Callable[[Tally], float]) -> str:
        """The model with the highest score; one of several by chance."""
        scored = [(score(self.tallies[model]), model) for model in models]
        top = max(value for value, _ in scored)
        return self._rng.choice([model for value, model in scored if value == top])
