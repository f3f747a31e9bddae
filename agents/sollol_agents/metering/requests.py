"""Counts decisions and outcomes as they happen. The number of series is bounded, whatever the fleet does."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from sollol_agents.metering.labels import OTHER, NodeLabels
from sollol_agents.metering.tallies import Count, Spread
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import Outcome

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_THINKING_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)
_RATIOS: Final = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.33, 2, 4, 10)


class RequestMeter:
    """The counters of one process; a `sollol_bus.observe.meter.Meter`.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._nodes = NodeLabels()
        self._considered = Spread(
            "sollol_scorer_decision_seconds",
            "Time that the scorer took over one question for a slot.",
            [],
            _THINKING_S,
            registry,
        )
        self._decisions = Count(
            "sollol_scorer_decisions_total",
            "Requests that got a node, by mode and strategy.",
            ["mode", "strategy"],
            registry,
        )
        self._queue = Spread(
            "sollol_scorer_queue_seconds",
            "From a request's arrival to its slot, by mode.",
            ["mode"],
            _SECONDS,
            registry,
        )
        self._attempts = Count(
            "sollol_attempts_total",
            "Attempts that ended, by the actor that reports them; node _none: requests that no node ever got.",
            ["node", "mode", "status"],
            registry,
        )
        self._failures = Count(
            "sollol_attempt_failures_total", "Attempts that failed, by code.", ["node", "code"], registry
        )
        self._seconds = Spread(
            "sollol_attempt_seconds",
            "From the node's acceptance to the last token, of attempts that succeeded.",
            ["node", "mode"],
            _SECONDS,
            registry,
        )
        self._first = Spread(
            "sollol_attempt_first_token_seconds",
            "From the node's acceptance to the first token.",
            ["node", "mode"],
            _SECONDS,
            registry,
        )
        self._tokens = Count(
            "sollol_attempt_tokens_total", "Tokens of prompts and answers.", ["node", "kind"], registry
        )
        self._error = Spread(
            "sollol_attempt_forecast_ratio",
            "Actual seconds divided by predicted seconds, of attempts that succeeded.",
            ["node"],
            _RATIOS,
            registry,
        )

    def considered(self, seconds: float) -> None:
        """The scorer took so long over one question."""
        self._considered.observe(seconds)

    def decided(self, event: DecisionEvent) -> None:
        """A request got its node."""
        made = event.decision
        self._decisions.add(made.mode.value, made.strategy)
        self._queue.observe(made.queue_s, made.mode.value)

    def ended(self, outcome: Outcome) -> None:
        """An attempt ended."""
        node, mode, status = self._nodes.of(outcome.node_id), outcome.decision.mode.value, outcome.status.value
        self._attempts.add(node, mode, status)
        if status in ("failed", "presumed_lost"):
            self._failures.add(node, outcome.code.value if outcome.code is not None else OTHER)
        figures = outcome.figures
        if figures is None:
            return
        self._tokens.add(node, "prompt", by=figures.prompt_tokens or 0)
        self._tokens.add(node, "output", by=figures.output_tokens or 0)
        if status != "success":
            return
        self._seconds.observe(figures.actual_s, node, mode)
        if figures.ttft_s is not None:
            self._first.observe(figures.ttft_s, node, mode)
        predicted_s = outcome.decision.forecast.total_s
        if predicted_s > 0:
            self._error.observe(figures.actual_s / predicted_s, node)
