"""The benchmark's requests as prompts that the countdown model answers at the wanted length.

A prompt ends in the number from which the answer counts down, and begins with words of its own, so that no two
share a beginning that an engine could have cached. Answers are at most 1,000 tokens long and prompts 3,000, so that
both fit a context of 4,096; in the simulation too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.live.machines import MODEL
from bench.routing.scenarios import SCENARIOS, requests_of
from bench.routing.workloads import Request

LONGEST_ANSWER_TOKENS = 1000
SCENARIO_NAMES = ("uniform", "complex", "prio", "burst")
"""Scenarios of one model without conversations."""
LONGEST_PROMPT_TOKENS = 3000
_SHORTEST_PROMPT_TOKENS = 8
_FRAME_TOKENS = 4  # the start, two words of its own, the number


def workload(scenario: str, fleet: str, load: float, count: int, seed: int) -> list[Request]:
    """The requests of a scenario of `bench.routing`, with lengths that can be played live."""
    return [playable(r) for r in requests_of(SCENARIOS[scenario], fleet, load, count, seed)]


def playable(request: Request) -> Request:
    """The request with its lengths brought into the range that the countdown model can answer."""
    return replace(
        request,
        prompt_tokens=max(_SHORTEST_PROMPT_TOKENS, min(LONGEST_PROMPT_TOKENS, request.prompt_tokens)),
        output_tokens=max(2, min(LONGEST_ANSWER_TOKENS, request.output_tokens)),
    )


def hastened(requests: list[Request], factor: float) -> list[Request]:
    """Fresh copies whose arrivals come `factor` times faster."""
    return [replace(r, arrival_s=r.arrival_s / factor) for r in requests]


def body_of(request: Request) -> dict[str, Any]:
    """The request as Ollama's body with routing fields."""
    own = f" {1 + request.number % 999} {1 + request.number // 999}"
    filler = " the" * (request.prompt_tokens - _FRAME_TOKENS)
    fields: dict[str, Any] = {
        "model": MODEL,
        "prompt": f"{own}{filler} {request.output_tokens - 1}",
        "stream": False,
        "task_type": request.task,
        "priority": request.priority,
    }
    return fields | ({"session_id": request.session} if request.session else {})
