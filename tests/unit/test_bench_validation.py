"""The validation's own parts: figures, claims, faults, and who takes part."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("bench.validation", reason="the benchmarks are not part of the wheel")

from bench.routing.fleets import FLEETS
from bench.validation import faults
from bench.validation.callers import Sample
from bench.validation.claims import claims_of
from bench.validation.curves import Block, Size, blocks
from bench.validation.figures import gini, row_of
from bench.validation.scenarios import SCENARIOS, equal_fleet, requests_of
from sollol_agents.lab.emulator.faults import FaultKind


def sample(latency_s: float, node: str = "a", **more: object) -> Sample:
    return Sample(number=0, arrival_s=1.0, latency_s=latency_s, node=node, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "ratio"), [([5, 5, 5], 0.0), ([0, 0, 9], 2 / 3), ([1, 2, 3], 2 / 9), ([0, 0], 0.0), ([7], 0.0)]
)
def test_the_gini_coefficient_tells_how_unequal_shares_are(counts: list[int], ratio: float) -> None:
    assert math.isclose(gini(counts), ratio, abs_tol=1e-12)


def test_a_row_is_in_uncompressed_seconds_and_counts_failures() -> None:
    made = row_of(
        [sample(1.0, priority=9), sample(3.0, "b", priority=2), sample(50.0, "", is_failed=True)],
        2.0,
        scenario="mixed",
        machines=3,
        system="plan",
        nodes=3,
    )
    assert (made.mean_s, made.median_s, made.max_s, made.compression) == (36.0, 6.0, 100.0, 2.0)
    assert (made.high_mean_s, made.low_mean_s) == (2.0, 6.0)
    assert math.isclose(made.success_ratio, 2 / 3)
    assert made.by_node == {"a": 1, "b": 1}
    assert math.isclose(made.throughput_rps, 2 / 6.0)  # from the first arrival to the last answer


def test_claims_are_met_or_missed_by_their_bars() -> None:
    def of(scenario: str, ours: list[Sample], theirs: list[Sample]) -> list[tuple[str, bool]]:
        pair = [
            row_of(samples, 1.0, scenario=scenario, machines=3, system=system, nodes=3)
            for system, samples in (("plan", ours), ("nginx", theirs))
        ]
        return [(claim.text.rpartition(": ")[2], claim.is_met) for claim in claims_of(pair, [], [])]

    fast, slow = [sample(1.0), sample(1.0)], [sample(10.0), sample(10.0)]
    assert of("mixed", fast, slow) == [("mean latency", True), ("P95", True), ("throughput", True)]
    assert of("mixed", slow, fast) == [("mean latency", False), ("P95", False), ("throughput", False)]
    assert of("uniform", [sample(1.04)], [sample(1.0)]) == [("as good as round robin", True)]
    assert of("uniform", [sample(1.06)], [sample(1.0)]) == [("as good as round robin", False)]
    lost = [*fast, sample(300.0, "", is_failed=True)]
    assert of("faults", lost, slow) == [("callers notice nothing", False)]
    high = [sample(1.0, priority=9), sample(9.0, priority=2)]
    assert of("priority", high, [sample(5.0, priority=9)]) == [("high priority is faster", True)]


def test_curves_are_claims_too() -> None:
    sizes = [Size(machines=n, throughput_rps=float(n), of_linear_ratio=ratio) for n, ratio in ((1, 1.0), (2, 0.8))]
    cold = [Block(first=n, last=n + 4, over_warm_ratio=r) for n, r in ((1, 3.0), (16, 2.0), (21, 1.05))]
    assert [claim.is_met for claim in claims_of([], sizes, cold)] == [False, True]


def test_a_cold_start_is_compared_block_by_block_over_all_seeds() -> None:
    made = blocks([[4.0] * 5 + [1.0] * 2, [2.0] * 5 + [1.0] * 2], [[1.0] * 7, [1.0] * 7])
    assert [(b.first, b.last, b.over_warm_ratio) for b in made] == [(1, 5, 3.0), (6, 7, 1.0)]


def test_faults_are_the_same_for_every_system_and_lie_in_compressed_time() -> None:
    plan = faults.schedule(3, 5000.0, 10.0, 1)
    assert plan == faults.schedule(3, 5000.0, 10.0, 1)
    assert plan != faults.schedule(3, 5000.0, 10.0, 2)
    assert all(f.at_s <= 500.0 for machine in plan for f in machine)
    assert {f.kind for machine in plan for f in machine} >= {FaultKind.REFUSE, FaultKind.STALL, FaultKind.SLOW}
    errors = [f for machine in plan for f in machine if f.kind is FaultKind.LOAD_ERROR]
    assert [f.chance for f in errors] == [0.12]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_played_on_three_and_six_machines(name: str) -> None:
    scenario = SCENARIOS[name]
    for machines, fleet in scenario.fleets.items():
        assert len(FLEETS[fleet]) == machines
        requests = requests_of(scenario, fleet, 20, 1)
        assert [r.arrival_s for r in requests] == sorted(r.arrival_s for r in requests)
        assert requests != requests_of(scenario, fleet, 20, 2)
    assert len(FLEETS[equal_fleet(8)]) == 8
