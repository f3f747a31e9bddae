"""`seven_factor`: the classic score of nodes, a product of seven hand-made factors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from sollol_agents.scorer.choice.cost import Cost, end_of
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.strategies.base import Choice, free_or_soonest, pick_highest
from sollol_agents.scorer.strategies.simple import load_ratio
from sollol_schemas.context import ComplexityClass
from sollol_schemas.events import Outcome

_GPU_MODEL_BYTES = 1.5e9
_URGENT = 7


class Host(NamedTuple):
    """What the score knows of a node."""

    free_vram_mib: float
    has_gpu: bool
    load_ratio: float
    latency_ms: float
    success_ratio: float
    host_priority: int
    prefers_task: bool
    is_available: bool = True


class Ask(NamedTuple):
    """What the score knows of a request."""

    needs_gpu: bool
    is_complex: bool
    priority: int
    expected_s: float


def score(host: Host, ask: Ask) -> float:
    """The seven-factor score; >= 0, higher is better, 100 is neutral."""
    if not host.is_available:
        return 0.0
    value = 100.0
    if ask.needs_gpu:
        value *= _gpu_factor(host)
    value *= host.success_ratio
    value /= 1.0 + _latency_penalty(host.latency_ms, ask.priority)
    if ask.is_complex:
        value *= 0.3 if host.load_ratio > 0.8 else 1.3 if host.load_ratio < 0.3 else 1.0
    is_urgent = ask.priority >= _URGENT
    if host.host_priority == 0:
        value *= 1.5 if is_urgent else 1.2
    value /= 1.0 + host.load_ratio * (3.0 if is_urgent else 1.5)
    if host.prefers_task:
        value *= 1.3
    if ask.expected_s > 5.0 and host.load_ratio > 0.6:
        value *= 0.7
    return value


def _gpu_factor(host: Host) -> float:
    if not host.has_gpu:
        return 0.2
    if host.free_vram_mib < 2000:
        return 0.5
    if host.free_vram_mib > 8000:
        return 2.0
    return 1.5 if host.free_vram_mib > 4000 else 1.0


def _latency_penalty(latency_ms: float, priority: int) -> float:
    weight = 1.0 + priority / 10.0
    if latency_ms < 200:
        return latency_ms / 1000 * weight
    if latency_ms > 1000:
        return latency_ms / 100 * weight
    return min(latency_ms / 100, 10.0) * weight


class SevenFactor:
    """Takes the free node with the highest score, fed with the scorer's own live counts."""

    name = "seven_factor"
    prune_ratio: float | None = None

    def choose(self, waiting: Waiting, costs: Sequence[Cost], now: float, rng: random.Random) -> Choice:
        """The node with the highest seven-factor score."""
        candidates = free_or_soonest(costs)
        best_s = min(end_of(c) - now for c in candidates)
        ask = _ask(waiting, candidates[0], best_s)
        cost, value = pick_highest(candidates, lambda c: score(host_of(c, waiting), ask), rng)
        return Choice(cost, f"seven-factor score {value:.1f}")

    def learn(self, outcome: Outcome) -> None:
        """Learns nothing of its own."""


def _ask(waiting: Waiting, cost: Cost, expected_s: float) -> Ask:
    context = waiting.request.context
    return Ask(
        needs_gpu=cost.estimate.profile.need_bytes > _GPU_MODEL_BYTES,
        is_complex=context.complexity_class is ComplexityClass.COMPLEX,
        priority=waiting.priority,
        expected_s=expected_s,
    )


def host_of(cost: Cost, waiting: Waiting) -> Host:
    """The facts of one candidate that enter its score."""
    node = cost.horizon.node
    return Host(
        free_vram_mib=node.free_vram_mib(),
        has_gpu=node.has_gpu,
        load_ratio=load_ratio(cost),
        latency_ms=node.telemetry.bus_rtt_s * 1000.0,
        success_ratio=node.record.expected,
        host_priority=node.telemetry.host_priority,
        prefers_task=waiting.request.context.task_type in node.telemetry.preferred_task_types,
    )
