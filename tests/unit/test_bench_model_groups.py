"""In virtual time: how near the choices of a group come to the best, and how soon after a change of quality."""

from __future__ import annotations

import statistics

import pytest

pytest.importorskip("bench.model_groups", reason="the benchmarks are not part of the wheel")

from bench.model_groups import CHANGES, STEADY, learnt, near_best, recovered

SEEDS = range(3)


@pytest.mark.parametrize("scene", STEADY)
def test_after_500_answers_regret_is_below_a_twentieth(scene: str) -> None:
    regrets = [regret for seed in SEEDS for regret in learnt(STEADY[scene], seed)]
    assert statistics.fmean(regrets) < 0.05


@pytest.mark.parametrize("scene", [scene for scene in CHANGES if "poor" not in scene])
def test_within_200_answers_a_change_of_quality_is_overcome(scene: str) -> None:
    before, after = CHANGES[scene]
    regrets = [regret for seed in SEEDS for regret in recovered(before, after, seed)]
    assert near_best(regrets) > 0.95, "nearly all go to the best model, or one as good"
