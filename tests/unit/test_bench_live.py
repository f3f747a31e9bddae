"""The live benchmark's own parts: workloads that can be played, machines in compressed time, figures side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("bench.live", reason="the benchmarks are not part of the wheel")

from bench.live.batch import BatchRun, verdicts
from bench.live.figures import order, row_of
from bench.live.machines import MODEL, compressed, preset_of
from bench.live.replay import Sample
from bench.live.simulated import fleet_in, simulate
from bench.live.workload import LONGEST_ANSWER_TOKENS, SCENARIO_NAMES, body_of, hastened, workload
from bench.routing.fleets import FLEETS, G16, MODELS
from bench.routing.traces import read, write
from bench.routing.workloads import Request
from sollol_agents.lab.emulator.models import parse_model
from sollol_agents.lab.emulator.text import tokenize
from sollol_agents.lab.emulator.timing import decode_step_s

BASE = MODELS[MODEL]


def request(number: int = 7, prompt: int = 50, output: int = 20) -> Request:
    return Request(number, 1.5, BASE, "chat", prompt, output, priority=9, session="s1")


def test_a_prompt_has_the_wanted_length_and_asks_for_the_wanted_answer() -> None:
    body = body_of(request())
    assert abs(len(tokenize(body["prompt"])) - 50) <= 2
    assert body["prompt"].endswith(" 19")
    assert (body["task_type"], body["priority"], body["session_id"]) == ("chat", 9, "s1")


def test_no_two_prompts_share_a_beginning() -> None:
    beginnings = {body_of(request(number))["prompt"][:16] for number in range(3000)}
    assert len(beginnings) == 3000


@pytest.mark.parametrize("scenario", SCENARIO_NAMES)
def test_a_workload_is_that_of_the_simulation_within_what_can_be_played(scenario: str) -> None:
    requests = workload(scenario, "F2", 0.7, 200, 1)
    assert len(requests) == 200
    assert all(2 <= r.output_tokens <= LONGEST_ANSWER_TOKENS and r.model.name == MODEL for r in requests)
    assert [r.arrival_s for r in requests] == sorted(r.arrival_s for r in requests)


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    requests = workload("prio", "F2", 0.7, 20, 3)
    write(tmp_path / "trace.jsonl", [*requests, request(20)])
    again = read(tmp_path / "trace.jsonl")
    wanted = sorted([*requests, request(20)], key=lambda r: round(r.arrival_s, 6))
    assert [(r.prompt_tokens, r.output_tokens, r.priority, r.session, r.task) for r in again] == [
        (r.prompt_tokens, r.output_tokens, r.priority, r.session, r.task) for r in wanted
    ]


def test_an_emulated_machine_decodes_as_fast_as_the_simulated_one_alone_and_full() -> None:
    preset, model = preset_of(G16), parse_model(f"{MODEL}=8.03")
    alone = decode_step_s(preset, model, gpu_ratio=1.0, depths_tokens=[1])
    full = decode_step_s(preset, model, gpu_ratio=1.0, depths_tokens=[1] * 4)
    assert 1 / alone == pytest.approx(G16.decode(BASE), rel=0.01)
    assert full / alone == pytest.approx(1 + G16.beta * 3, rel=0.01)


def test_compressed_time_makes_the_simulation_faster_and_changes_nothing_else() -> None:
    assert compressed(G16, 5.0).load_s(BASE) == pytest.approx(G16.load_s(BASE) / 5.0)
    requests = workload("uniform", "F3", 0.5, 120, 1)
    slow = simulate(hastened(requests, 1.0), "F3", "plan", 1)
    fast = simulate(hastened(requests, 4.0), fleet_in("F3", 4.0), "plan", 1)
    slow_mean = sum(r.latency_s or 0.0 for r in slow) / 120
    fast_mean = sum(r.latency_s or 0.0 for r in fast) / 120
    assert fast_mean * 4.0 == pytest.approx(slow_mean, rel=0.1)
    assert len(FLEETS["F3x4"]) == len(FLEETS["F3"])


def test_rows_compare_both_sides_in_uncompressed_time_and_count_failures_as_time_outs() -> None:
    simulated = [request(number) for number in range(10)]
    for one in simulated:
        one.latency_s = 1.0
    live = [Sample(number=n, latency_s=1.5, queue_s=0.2, service_s=1.2, node_id="a") for n in range(9)]
    live.append(Sample(number=9, latency_s=300.0, is_failed=True))
    row = row_of("plan", simulated, live, 2.0, wall_s=10.0, cpu_s=5.0)
    assert row.simulated.mean_s == pytest.approx(2.0)
    assert row.live.mean_s == pytest.approx((8 * 3.0 + 300.0) / 9)
    assert row.live.success_ratio == pytest.approx(8 / 9)
    assert row.overhead_ratio == pytest.approx(0.1 / 1.2)
    assert row.by_node == {"a": 8}
    assert order([row], "live") == ["plan"]


def batch_run(strategy: str, makespan_s: float, *, way: str = "jobs", failed: int = 0) -> BatchRun:
    return BatchRun(
        way=way,
        strategy=strategy,
        makespan_s=makespan_s,
        ratio=makespan_s / 10.0,
        mean_s=makespan_s / 2,
        longest_s=makespan_s,
        failed=failed,
        by_node={},
        load_average=0.0,
    )


@pytest.mark.parametrize(
    ("plan", "rival", "failed", "is_met"),
    [
        pytest.param((10.4, 10.6), (10.6, 10.7), 0, True, id="within the bar"),
        pytest.param((10.4, 10.7), (10.8, 10.9), 0, False, id="one run above the bar"),
        pytest.param((10.4, 10.5), (10.2, 10.3), 0, False, id="behind least_loaded"),
        pytest.param((10.4, 10.5), (10.8, 10.9), 1, False, id="one failed"),
    ],
)
def test_a_batch_is_judged_by_its_worst_run_and_by_the_simple_rule(
    plan: tuple[float, ...], rival: tuple[float, ...], failed: int, is_met: bool
) -> None:
    runs = [batch_run("plan", s, failed=failed) for s in plan] + [batch_run("least_loaded", s) for s in rival]
    (verdict,) = verdicts([*runs, batch_run("least_loaded", 1.0, way="http")])
    assert (verdict.way, verdict.is_met) == ("jobs", is_met)
    assert verdict.worst_ratio == max(plan) / 10.0
