"""One log line for each decision and each outcome, and the text of requests for those who ask for it.

Both have loggers of their own, so that an operator can silence the one and switch on the other. The text of
requests is off whatever the root logger's level is: it must never appear because a program logs everything.
"""

from __future__ import annotations

import logging
from typing import Final

from sollol_schemas.decision import DecisionEvent
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.subjects import NO_NODE

REQUESTS: Final = "sollol_bus.requests"
"""The logger of decisions and outcomes."""
PROMPTS: Final = "sollol_bus.prompts"
"""The logger of the text of requests; silent until its level is set."""
_TEXT_MAX: Final = 2000

_requests = logging.getLogger(REQUESTS)
_prompts = logging.getLogger(PROMPTS)
_prompts.setLevel(logging.CRITICAL + 1)
_ENDED: Final = {
    OutcomeStatus.SUCCESS: "was answered",
    OutcomeStatus.FAILED: "failed",
    OutcomeStatus.CANCELLED: "was cancelled",
    OutcomeStatus.CLIENT_ERROR: "was refused",
    OutcomeStatus.PRESUMED_LOST: "is presumed lost",
}
_LEVEL: Final = {OutcomeStatus.FAILED: logging.WARNING, OutcomeStatus.PRESUMED_LOST: logging.WARNING}


def log_decision(event: DecisionEvent) -> None:
    """Says where a request runs, and why."""
    if not _requests.isEnabledFor(logging.INFO):
        return
    made = event.decision
    _requests.info(
        "request %s goes to %s: %s; predicted %.2f s",
        made.request_id,
        made.node_id,
        made.reason,
        made.forecast.total_s,
        extra={
            "action": "decision",
            "request_id": made.request_id,
            "attempt_id": made.attempt_id,
            "node_id": made.node_id,
            "model": made.model,
            "mode": made.mode.value,
            "strategy": made.strategy,
            "priority": made.priority,
            "queue_s": round(made.queue_s, 4),
            "predicted_s": round(made.forecast.total_s, 4),
            "candidates": len(event.candidates),
            "rejected": made.rejected,
            "queued": event.queued,
        },
    )


def log_outcome(outcome: Outcome) -> None:
    """Says how an attempt ended. The error's text is left out: an engine may repeat the prompt in it."""
    level = _LEVEL.get(outcome.status, logging.INFO)
    if not _requests.isEnabledFor(level):
        return
    made, figures = outcome.decision, outcome.figures
    _requests.log(
        level,
        "request %s %s%s%s",
        made.request_id,
        _ENDED[outcome.status],
        "" if made.node_id == NO_NODE else f" on {made.node_id}",
        _how(outcome),
        extra={
            "action": "outcome",
            "request_id": made.request_id,
            "attempt_id": made.attempt_id,
            "node_id": made.node_id,
            "model": made.model,
            "mode": made.mode.value,
            "strategy": made.strategy,
            "priority": made.priority,
            "queue_s": round(made.queue_s, 4),
            "predicted_s": round(made.forecast.total_s, 4),
            "status": outcome.status.value,
            "code": outcome.code.value if outcome.code is not None else None,
            "actual_s": round(figures.actual_s, 4) if figures is not None else None,
            "ttft_s": round(figures.ttft_s, 4) if figures is not None and figures.ttft_s is not None else None,
            "prompt_tokens": figures.prompt_tokens if figures is not None else None,
            "output_tokens": figures.output_tokens if figures is not None else None,
        },
    )


def _how(outcome: Outcome) -> str:
    """The code in words, unless the status says it already, or how long it took."""
    if outcome.code is not None:
        return "" if outcome.code.value == outcome.status.value else f": {outcome.code.value.replace('_', ' ')}"
    return f" after {outcome.figures.actual_s:.2f} s" if outcome.figures else ""


def log_prompt(request_id: str, model: str, body: bytes) -> None:
    """Shows the beginning of a request's body, if that was switched on."""
    if _prompts.isEnabledFor(logging.INFO):
        _prompts.info(
            "request %s for %s: %s",
            request_id,
            model,
            body[:_TEXT_MAX].decode("utf-8", "replace"),
            extra={"action": "prompt", "request_id": request_id, "model": model},
        )


def set_up(*, requests: bool, prompts: bool) -> None:
    """Switches the lines about requests, and the text of requests, on or off."""
    _requests.setLevel(logging.NOTSET if requests else logging.CRITICAL + 1)
    _prompts.setLevel(logging.INFO if prompts else logging.CRITICAL + 1)
