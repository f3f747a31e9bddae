"""Strategies: the classic score to the digit, turns, counts, chance and learning."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from sollol_agents.scorer.strategies import BUILT_IN, UnknownStrategy, strategy_named
from sollol_agents.scorer.strategies.least_cost import LeastCost
from sollol_agents.scorer.strategies.seven_factor import Ask, Host, score

A = Host(
    free_vram_mib=16_384,
    has_gpu=True,
    load_ratio=0.2,
    latency_ms=80,
    success_ratio=0.99,
    host_priority=0,
    prefers_task=True,
)
B = Host(
    free_vram_mib=2048,
    has_gpu=True,
    load_ratio=0.7,
    latency_ms=200,
    success_ratio=0.95,
    host_priority=1,
    prefers_task=False,
)
C = Host(
    free_vram_mib=0,
    has_gpu=False,
    load_ratio=0.1,
    latency_ms=100,
    success_ratio=0.98,
    host_priority=2,
    prefers_task=False,
)
ASK = Ask(needs_gpu=True, is_complex=True, priority=7, expected_s=8.0)


@pytest.mark.parametrize(("host", "expected"), [(A, 276.1), (B, 4.9), (C, 16.8)], ids=["A", "B", "C"])
def test_the_seven_factor_score_matches_its_golden_values(host: Host, expected: float) -> None:
    assert round(score(host, ASK), 1) == expected


def test_an_unavailable_host_scores_nothing() -> None:
    assert score(A._replace(is_available=False), ASK) == 0.0


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"free_vram_mib": 1999}, 0.25),
        ({"free_vram_mib": 4000}, 0.5),
        ({"free_vram_mib": 8000}, 0.75),
        ({"has_gpu": False}, 0.1),
    ],
    ids=["tiny", "small", "medium", "none"],
)
def test_less_video_memory_scores_less(changes: dict[str, float], factor: float) -> None:
    host = A._replace(**changes)  # type: ignore[arg-type]  # one field of several types
    assert score(host, ASK) == pytest.approx(score(A, ASK) * factor)


@pytest.mark.parametrize(
    ("latency_ms", "penalty"), [(100, 0.1), (199, 0.199), (200, 2.0), (1000, 10.0), (1001, 10.01), (3000, 30.0)]
)
def test_the_latency_penalty_has_three_parts(latency_ms: float, penalty: float) -> None:
    calm = ASK._replace(priority=0)
    fast = score(A._replace(latency_ms=0), calm)
    assert score(A._replace(latency_ms=latency_ms), calm) == pytest.approx(fast / (1 + penalty))


def test_every_built_in_strategy_can_be_made_by_its_name() -> None:
    assert [strategy_named(name).name for name in BUILT_IN] == list(BUILT_IN)


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownStrategy, match="seven_factor"):
        strategy_named("best_of_all")


def candidate(total_s: float, *, is_free: bool, load: object = None, hit_tokens: int = 0) -> Any:
    """A cost with what the hold rule reads."""
    node = SimpleNamespace(node_id="free" if is_free else "busy")
    return SimpleNamespace(
        total_s=total_s,
        is_free=is_free,
        load=load,
        start=1.0,
        estimate=SimpleNamespace(hit_tokens=hit_tokens),
        horizon=SimpleNamespace(node=node, finishes=[]),
    )


def chosen(busy: Any, free: Any, *, held_ahead: int) -> str:
    """Where `plan` sends a request that follows others which are held."""
    waiting: Any = SimpleNamespace(mode=None, held_ahead=held_ahead, newcomers_ratio=1.0, is_broken_off=False)
    node: str = LeastCost(hold=0.3).choose(waiting, [busy, free], 0.0, random.Random(1)).cost.horizon.node.node_id
    return node


def test_every_request_held_ahead_makes_holding_one_more_harder() -> None:
    busy, free = candidate(4.0, is_free=False), candidate(10.0, is_free=True)
    assert [chosen(busy, free, held_ahead=k) for k in range(4)] == ["busy", "busy", "free", "free"]


@pytest.mark.parametrize("spared", ["load", "prefix"])
def test_a_request_that_spares_work_by_waiting_waits_behind_others_too(spared: str) -> None:
    busy = candidate(4.0, is_free=False, hit_tokens=100 if spared == "prefix" else 0)
    free = candidate(10.0, is_free=True, load=object() if spared == "load" else None)
    assert chosen(busy, free, held_ahead=3) == "busy"
