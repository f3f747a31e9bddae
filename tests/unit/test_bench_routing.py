"""The simulation behind the routing benchmark: its engine, its notion of load, and its honesty."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

pytest.importorskip("bench.routing", reason="the benchmarks are not part of the wheel")

from bench.routing import traces
from bench.routing.capacity import best_rate
from bench.routing.engine import Job, Machine
from bench.routing.figures import Cell, against, cell, geometric_mean, overall
from bench.routing.fleets import CPU4, FLEETS, G16, G24, MODELS
from bench.routing.policies import POLICIES
from bench.routing.scenarios import SCENARIOS, rate_at_load_one, requests_of
from bench.routing.simulation import run
from bench.routing.virtual import VirtualTime
from bench.routing.workloads import Request

BASE, LARGE, HUGE = MODELS["base:8b"], MODELS["large:14b"], MODELS["huge:27b"]


def request(number: int = 0, *, model: Any = BASE, prompt: int = 1, output: int = 520) -> Request:
    return Request(number, 0.0, model, "chat", prompt, output)


class Rig:
    """One machine and the instants at which its jobs ended."""

    def __init__(self, spec: Any = G16) -> None:
        self.time = VirtualTime()
        self.machine = Machine("m", spec, self.time)
        self.ends: dict[int, float] = {}
        self.errors: dict[int, str] = {}

    def submit(self, r: Request) -> Job:
        job = Job(r, f"r{r.number}-1", self._ended)
        self.machine.submit(job)
        return job

    def _ended(self, job: Job, error: str) -> None:
        self.ends[job.request.number] = self.time.now
        self.errors[job.request.number] = error

    def run(self) -> dict[int, float]:
        self.time.run_while(lambda: True)
        return self.ends


def test_one_request_takes_load_prompt_and_decode() -> None:
    rig = Rig()
    rig.submit(request(prompt=2200, output=520))
    assert rig.run()[0] == pytest.approx(G16.load_s(BASE) + 1.0 + 10.0)


def test_four_sequences_share_the_machine_and_the_fifth_waits() -> None:
    rig = Rig()
    for i in range(5):
        rig.submit(request(i))
    ends = rig.run()
    load, alone = G16.load_s(BASE), 10.0 + 1 / 2200
    assert ends[0] == ends[3] == pytest.approx(load + alone * (1 + 0.3 * 3))
    assert ends[4] == pytest.approx(ends[3] + alone)


def test_a_load_waits_for_its_victim_while_the_victim_takes_more_work() -> None:
    rig = Rig(G24)
    rig.submit(request(0, model=LARGE, output=620))
    rig.time.at(20.0, lambda: None)
    rig.time.run_while(lambda: 0 not in rig.ends)
    rig.submit(request(1, model=LARGE, output=620))
    rig.submit(request(2, model=HUGE, output=30))
    rig.submit(request(3, model=LARGE, output=620))
    ends = rig.run()
    assert ends[2] > max(ends[1], ends[3])
    assert rig.machine.loads == 2


def test_a_crash_ends_every_job_with_an_error_and_empties_the_memory() -> None:
    rig = Rig()
    for i in range(6):
        rig.submit(request(i))
    rig.time.at(5.0, rig.machine.crash)
    rig.run()
    assert set(rig.errors.values()) == {"connection reset"}
    assert rig.machine.memory == {}


def test_a_cached_prefix_is_not_read_again() -> None:
    rig = Rig()
    first = request(0, prompt=4400, output=1)
    first.prefix_hashes, first.prefix_tokens = ("a",), (4400,)
    rig.submit(first)
    cold = rig.run()[0]
    again = request(1, prompt=4401, output=1)
    again.prefix_hashes, again.prefix_tokens = ("a", "b"), (4400, 4401)
    job = rig.submit(again)
    warm = rig.run()[1] - cold
    assert job.cached_tokens == 4400
    assert warm < 0.1


def test_the_best_rate_of_a_known_problem_is_exact() -> None:
    assert best_rate([1.0], [[2.0, 2.0]]) == pytest.approx(1.0)
    assert best_rate([0.5, 0.5], [[1.0, math.inf], [math.inf, 3.0]]) == pytest.approx(2 / 3)
    assert best_rate([0.5, 0.5], [[1.0, 4.0], [4.0, 1.0]]) == pytest.approx(2.0)


def test_a_slow_machine_adds_little_capacity() -> None:
    complex_ = SCENARIOS["complex"]
    alone = rate_at_load_one(complex_, (G24,))
    with_cpu = rate_at_load_one(complex_, (G24, CPU4))
    assert alone < with_cpu < 1.05 * alone


def test_every_policy_sees_the_same_arrivals() -> None:
    one, other = (requests_of(SCENARIOS["burst"], "F1", 0.7, 200, 3) for _ in range(2))
    assert one == other
    assert one != requests_of(SCENARIOS["burst"], "F1", 0.7, 200, 4)


@pytest.mark.parametrize("name", sorted(s.name for s in SCENARIOS.values() if not (s.is_closed or s.is_batch)))
def test_the_offered_load_is_what_it_claims(name: str) -> None:
    scenario = SCENARIOS[name]
    requests = [r for r in requests_of(scenario, scenario.fleet, 0.5, 4000, 1) if math.isfinite(r.arrival_s)]
    share = 5.0 if name == "chat" else 1.0
    rate = share * len(requests) / requests[-1].arrival_s
    assert rate == pytest.approx(0.5 * rate_at_load_one(scenario, FLEETS[scenario.fleet]), rel=0.15)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_answers_every_request_and_repeats_itself(policy: str) -> None:
    def once() -> list[float | None]:
        requests = requests_of(SCENARIOS["complex"], "F2", 0.5, 60, 1)
        run(SCENARIOS["complex"], "F2", requests, 1, POLICIES[policy])
        return [r.latency_s for r in requests]

    first = once()
    assert all(x is not None and 0 < x <= 300 for x in first)
    assert first == once()


def test_failures_count_as_the_time_out() -> None:
    requests = [request(i) for i in range(20)]
    for r in requests:
        r.latency_s, r.done_at = 1.0, float(r.number)
    requests[-1].latency_s, requests[-1].is_failed = 300.0, True
    figures = cell(requests, scenario="s", fleet="F1", load=0.5, policy="p", seed=1, loads=0)
    assert figures.requests == 18
    assert figures.mean_s == pytest.approx((17 + 300) / 18)
    assert figures.success_ratio == pytest.approx(17 / 18)


def test_ratios_compare_the_same_cells() -> None:
    rng = random.Random(1)

    def made(policy: str, mean: float, seed: int) -> Cell:
        return Cell(
            scenario="s",
            fleet="F1",
            load=0.5,
            policy=policy,
            seed=seed,
            mean_s=mean,
            p50_s=1,
            p95_s=mean,
            p99_s=1,
            ttft_mean_s=rng.random(),
            success_ratio=1,
            throughput_rps=1,
            requests=1,
            loads=0,
            by_priority_mean_s={},
        )

    cells = [made("plan", 1.0, 1), made("plan", 3.0, 2), made("oracle", 1.0, 1), made("oracle", 1.0, 2)]
    ratios = against(cells, "oracle")
    assert ratios["plan"]["s@F1/0.5"].mean == pytest.approx(2.0)
    assert overall(ratios)["plan"].mean == pytest.approx(2.0)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_a_trace_is_replayed_in_order_and_bad_lines_are_named() -> None:
    lines = [
        b'{"t": 5, "prompt_tokens": 10, "output_tokens": 3}',
        b"",
        b'{"t": 1, "prompt_tokens": 7, "output_tokens": 2}',
    ]
    assert [(r.arrival_s, r.prompt_tokens) for r in traces.parse(lines, speed_up=2.0)] == [(0.5, 7), (2.5, 10)]
    with pytest.raises(traces.BadTrace, match="line 1"):
        traces.parse([b'{"t": -1}'])
    with pytest.raises(traces.BadTrace, match="not one of"):
        traces.parse([b'{"t": 1, "prompt_tokens": 7, "output_tokens": 2, "model": "gone"}'])


def test_callers_that_come_straight_back_keep_the_slow_node_busy_too() -> None:
    scenario = SCENARIOS["steps"]
    requests = requests_of(scenario, "steps", 12, 1500, 1)
    run(scenario, "steps", requests, 1, POLICIES["plan"])
    made = cell(requests, scenario="steps", fleet="steps", load=12, policy="plan", seed=1, loads=0)
    assert made.throughput_rps >= 0.9 * 70.0
