"""Reports how attempts ended, and sees to it that each outcome is stored.

The report is the outcome too: the dispatcher of the attempt knows the decision and publishes the event, which JetStream
acknowledges to the node. Where nobody hears the report, or no acknowledgement comes in time, any dispatcher gets the
outcome, again until it is stored. Sending both is harmless: the stream knows them by the attempt.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from sollol_agents.node.attempts.attempt import Attempt
from sollol_agents.node.attempts.farewells import REPORT_ACK_S, End, Farewells
from sollol_bus.errors import BusError
from sollol_bus.jetstream.api import ack_of
from sollol_bus.jetstream.outcomes import OutcomePublisher
from sollol_bus.parts import Part
from sollol_bus.transport.messages import Msg, encode
from sollol_bus.waiting import happens
from sollol_schemas.events import Outcome
from sollol_schemas.execution import AttemptDone, AttemptFailed

_OPEN_MAX: Final = 256
"""Reports that wait for an acknowledgement; further ones leave that to the queue of outcomes, which is bounded."""


class Reports(Part):
    """The reports of one node.

    Args:
        farewells: Tell callers and dispatchers the ends of attempts.
        outcomes: Get what no dispatcher of an attempt stores.
    """

    def __init__(self, farewells: Farewells, outcomes: OutcomePublisher) -> None:
        self._farewells = farewells
        self._outcomes = outcomes
        self._open = 0
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    async def close(self) -> None:
        """Waits until each outcome is stored or handed over."""
        await happens(self._is_settled, REPORT_ACK_S + 0.5)

    def tell(self, attempt: Attempt, end: End) -> None:
        """Reports how an attempt ended, and has its outcome stored."""
        report = report_of(attempt)
        outcome = Outcome.of_report(attempt.decision, report)
        self._outcomes.note(outcome)
        if self._open < _OPEN_MAX:
            self._open += 1
            self._is_settled.clear()
            self._farewells.report(attempt.stream, end, encode(report), partial(self._on_answer, outcome))
        else:
            self.tell_alone(attempt, end)
            self._outcomes.store(outcome)

    def tell_alone(self, attempt: Attempt, end: End) -> None:
        """Reports how an attempt ended, whose outcome is not known yet, or on another way."""
        self._farewells.report(attempt.stream, end, encode(report_of(attempt)))

    def _on_answer(self, outcome: Outcome, answer: Msg | BusError) -> None:
        self._open -= 1
        try:
            ack_of(answer)
        except BusError:
            self._outcomes.store(outcome)
        if not self._open:
            self._is_settled.set()


def outcome_of(attempt: Attempt) -> Outcome:
    """How an attempt ended, for everybody."""
    return Outcome.of_report(attempt.decision, report_of(attempt))


def report_of(attempt: Attempt) -> AttemptDone | AttemptFailed:
    """How an attempt ended, for its dispatcher."""
    if attempt.error is None:
        return AttemptDone(attempt_id=attempt.attempt_id, figures=attempt.figures)
    return AttemptFailed(
        attempt_id=attempt.attempt_id,
        error=attempt.error,
        is_streaming=attempt.has_spoken,
        figures=attempt.figures,
        evidence=attempt.evidence,
    )
