"""The judge of batches: a bound that nothing beats, a list scheduler that comes near it, and what is measured."""

from __future__ import annotations

import pytest

pytest.importorskip("bench.routing", reason="the benchmarks are not part of the wheel")

from bench.routing.__main__ import Run, play
from bench.routing.bars import verdicts
from bench.routing.batch import batch_figures, idle_slot_s
from bench.routing.bound import fluid_bound_s
from bench.routing.engine import Machine
from bench.routing.figures import Cell
from bench.routing.fleets import A6000, FLEETS, G16, M4, MODELS, SLOTS
from bench.routing.policies.delivery import JobWindow, Way
from bench.routing.scenarios import SCENARIOS, named, requests_of
from bench.routing.virtual import VirtualTime
from bench.routing.workloads import Request

BASE = MODELS["base:8b"]
WARM, COLD = "batch-async-all-warm-1-short", "batch-fast-one-warm-1-short"
TWO_MODELS = "batch-async-none-warm-2-mixed"


def played(scenario: str, policy: str, count: int = 40) -> Cell:
    return play(Run(scenario, "desk", count, policy, 1, 0))


def makespan_s(cell: Cell) -> float:
    assert cell.batch is not None
    return cell.batch.makespan_s


def request(number: int = 0, *, output: int = 520, **fields: object) -> Request:
    made = Request(number, 0.0, BASE, "chat", 1, output)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_the_bound_of_one_model_is_work_over_the_rates_from_the_end_of_the_loads_on() -> None:
    requests = requests_of(SCENARIOS[COLD], "desk", 200, 200, 1)
    rates = [
        SLOTS
        / (1 + spec.beta * (SLOTS - 1))
        * 200
        / sum(r.prompt_tokens / spec.prompt(BASE) + r.output_tokens / spec.decode(BASE) for r in requests)
        for spec in FLEETS["desk"]
    ]
    loads = [0.0, *(spec.load_s(BASE) for spec in FLEETS["desk"][1:])]
    expected = (200 + sum(rate * load for rate, load in zip(rates, loads, strict=True))) / sum(rates)
    assert fluid_bound_s(requests, FLEETS["desk"], 1) == pytest.approx(expected, rel=1e-4)


def test_no_batch_ends_before_its_longest_answer_could() -> None:
    assert fluid_bound_s([request(output=1020)], [A6000, M4], 1) == pytest.approx(10.0, rel=1e-3)


@pytest.mark.parametrize("policy", ["plan", "oracle", "list", "least_loaded"])
@pytest.mark.parametrize("scenario", [WARM, COLD, TWO_MODELS])
def test_nobody_beats_the_bound_and_everything_is_answered(scenario: str, policy: str) -> None:
    cell = played(scenario, policy)
    assert cell.batch is not None
    assert cell.batch.makespan_s >= cell.batch.bound_s
    assert cell.requests == 40
    assert cell.success_ratio == 1.0


@pytest.mark.parametrize("scenario", [WARM, COLD])
def test_the_list_scheduler_comes_near_the_bound(scenario: str) -> None:
    cell = played(scenario, "list", 200)
    assert cell.batch is not None
    assert cell.batch.makespan_s <= 1.06 * cell.batch.bound_s


def test_the_list_scheduler_loads_where_that_pays_and_nowhere_else() -> None:
    assert played(COLD, "list", 8).loads == 0
    assert played(COLD, "list", 200).loads == 3


def test_free_slots_beside_waiting_requests_are_idle_and_those_of_a_loading_machine_are_not() -> None:
    time = VirtualTime()
    busy, loading = Machine("busy", G16, time), Machine("loading", G16, time)
    loading.load_spans.append((0.0, 4.0))
    requests = [
        *(request(n, started_at=0.0, done_at=10.0, machine_name="busy") for n in range(3)),
        *(request(n, started_at=6.0, done_at=10.0, machine_name="loading") for n in range(3, 6)),
    ]
    assert idle_slot_s(requests, [busy, loading]) == pytest.approx(4.0 * 1 + 2.0 * 3), "no more slots than requests"


def test_the_longest_wait_is_compared_with_the_median_of_those_that_waited() -> None:
    requests = [request(n, started_at=at, done_at=9.0, machine_name="m") for n, at in enumerate((0, 0, 0, 1, 2, 6))]
    assert batch_figures(requests, [Machine("m", G16, VirtualTime())], 1).wait_ratio == pytest.approx(3.0)


def test_a_dispatcher_takes_a_window_of_jobs_ahead_and_another_one_for_each_that_begins() -> None:
    time = VirtualTime()
    taken: list[str] = []
    window = JobWindow(time, 2, taken.append)
    for name in "abcd":
        window.store(name, 5)
    window.store("urgent", 9)
    time.run_while(lambda: True)
    assert taken == ["a", "b", "urgent"]
    window.began(5)
    time.run_while(lambda: True)
    assert taken == ["a", "b", "urgent", "c"]


def test_questions_of_a_burst_reach_the_scorer_one_after_another() -> None:
    time, came = VirtualTime(), []
    way = Way(time)
    for _ in range(64):
        way.deliver(lambda: came.append(time.now))
    time.run_while(lambda: True)
    assert came == sorted(came)
    assert came[-1] - came[0] == pytest.approx(0.063)


def test_a_name_stands_for_all_scenarios_that_begin_with_it() -> None:
    assert len(named("batch")) == 36
    assert named("uniform,cold_lengths") == ["uniform", "cold_lengths-shorter", "cold_lengths-longer"]
    with pytest.raises(LookupError, match="nonsense"):
        named("nonsense")


def test_batches_are_judged_by_the_list_scheduler_by_least_loaded_and_by_their_waits() -> None:
    cells = [played("cold_lengths-shorter", policy, 30) for policy in ("plan", "list", "least_loaded")]
    found = {v.bar.removeprefix("cold_lengths-shorter@desk/30 "): v for v in verdicts(cells)}
    assert set(found) == {
        "makespan vs list",
        "mean vs list",
        "makespan vs least_loaded",
        "mean vs least_loaded",
        "longest wait over the median",
    }
    assert found["makespan vs list"].measured == pytest.approx(makespan_s(cells[0]) / makespan_s(cells[1]), abs=1e-3)
