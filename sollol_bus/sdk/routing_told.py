"""Where a request ran and why, as one mapping: `_sollol_routing` over HTTP, `routing` of the client's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sollol_schemas.decision import Decision
from sollol_schemas.escalation import Tried
from sollol_schemas.execution import Figures

_FULL_SCORE: Final = 100.0
_MS: Final = 1000.0
_NUMBERS_PER_SENDING: Final = 10
_TWO: Final = 2


def routing_told(decision: Decision | None, figures: Figures | None, request_id: str) -> dict[str, Any]:
    """What is told of one request.

    `decision_score` is 100 for a node that would answer at once, and falls as its predicted seconds grow: 50 for one
    second, 100 / (1 + predicted_s) in general. `host` is the machine and the engine's port, or the node's id for
    whoever is not told where engines listen.
    """
    told: dict[str, Any] = {"request_id": request_id}
    if decision is not None:
        told |= {
            "node_id": decision.node_id,
            "host": decision.host or decision.node_id,
            **({"node_url": decision.node_url} if decision.node_url else {}),
            "task_type": decision.task_type,
            **({"coding_category": decision.coding_category} if decision.coding_category else {}),
            **({"group": decision.group, "model": decision.model} if decision.group else {}),
            "complexity": decision.complexity.value,
            "mode": decision.mode.value,
            "strategy": decision.strategy,
            "priority": decision.priority,
            "predicted_s": decision.forecast.total_s,
            "decision_score": round(_FULL_SCORE / (1.0 + decision.forecast.total_s), 1),
            "queue_s": decision.queue_s,
            "attempts": attempts_of(decision),
            "reason": decision.reason,
            "rejected": dict(decision.rejected),
        }
    if figures is not None:
        told |= {
            "actual_s": figures.actual_s,
            "actual_duration_ms": round(figures.actual_s * _MS, 3),
            "first_token_s": figures.ttft_s,
        }
    return told


def escalation_told(tried: Sequence[Tried], failure: str) -> dict[str, Any]:
    """What is told beside it where answers were checked: the models that were tried before, with what they took.

    Args:
        tried: Models whose answers failed.
        failure: Why the answer that is given fails too; empty: it does not.
    """
    told: dict[str, Any] = {"escalated": len(tried), "tried": msgspec.to_builtins(tuple(tried))} if tried else {}
    return told | ({"check_failure": failure} if failure else {})


def resumed_told(decisions: Sequence[Decision]) -> dict[str, Any]:
    """What is told beside it of an answer that went on: how often, and on which nodes it was made, in order.

    Args:
        decisions: Of every attempt that spoke.
    """
    if len(decisions) < _TWO:
        return {}
    return {"resumed": len(decisions) - 1, "nodes": [decision.node_id for decision in decisions]}


def attempts_of(decision: Decision) -> int:
    """How many attempts were made, as far as their numbers tell: each further sending counts from the next ten on."""
    sendings, before = divmod(decision.attempt - 1, _NUMBERS_PER_SENDING)
    return sendings + before + 1
