"""Names, priors, learned speeds and lengths, and the arithmetic of remaining work."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.knowledge import priors
from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_agents.scorer.knowledge.demand import Demand, RankedWork, bucket_of
from sollol_agents.scorer.knowledge.lengths import LengthTable
from sollol_agents.scorer.knowledge.lognormal import MEAN_FACTOR, SIGMA, mean_residual
from sollol_agents.scorer.knowledge.prefixes import PrefixMirror
from sollol_agents.scorer.knowledge.reliability import CEILING, Record, lower_bound
from sollol_agents.scorer.knowledge.speeds import NodeSpeeds, Pace
from sollol_schemas.execution import Figures
from sollol_schemas.telemetry import Gpu, InFlight, LearnedSpeed

GPU = priors.Machine(936, 3865)


@pytest.mark.parametrize(("value", "expected"), [(math.nan, 0.0), (-1.0, 0.0), (math.inf, 9.0), (3.0, 3.0)])
def test_numbers_from_outside_are_made_finite(value: float, expected: float) -> None:
    assert clamped(value, 0.0, 9.0) == expected


def test_the_expected_rest_of_a_fresh_answer_is_its_mean() -> None:
    assert mean_residual(0.0) == pytest.approx(MEAN_FACTOR)


def test_the_expected_rest_agrees_with_sampled_lengths() -> None:
    rng = random.Random(1)
    lengths = [rng.lognormvariate(0.0, SIGMA) for _ in range(200_000)]
    for made in (0.3, 1.0, 2.5):
        rest = [x - made for x in lengths if x > made]
        assert mean_residual(made) == pytest.approx(sum(rest) / len(rest), rel=0.03)


@given(st.floats(0, 1e6))
def test_the_expected_rest_is_positive_and_finite(u: float) -> None:
    assert 0 < mean_residual(u) < 100


def test_speeds_of_a_known_card_are_near_published_ones() -> None:
    gpu = Gpu(index=0, name="NVIDIA GeForce RTX 3090", memory_total_mib=24_576)
    machine = priors.gpu_machine((gpu,))
    assert priors.decode_tps(machine, priors.REFERENCE_BYTES) == pytest.approx(112, rel=0.15)
    assert priors.prompt_tps(machine, priors.REFERENCE_BYTES) == pytest.approx(3865, rel=0.15)


def test_an_unknown_card_is_judged_by_its_memory() -> None:
    small = priors.gpu_machine((Gpu(index=0, name="Weird 9", memory_total_mib=8_000),))
    large = priors.gpu_machine((Gpu(index=0, name="Weird 9", memory_total_mib=24_000),))
    assert small.bandwidth_gb_s < large.bandwidth_gb_s


@pytest.mark.parametrize(("cores", "decode"), [(4, 4), (32, 8), (64, 14)])
def test_processors_decode_at_the_pace_of_their_class(cores: int, decode: float) -> None:
    assert priors.decode_tps(priors.cpu_machine(cores), priors.REFERENCE_BYTES) == pytest.approx(decode, rel=0.4)


def figures(tps: float, *, co: float = 0.0, tokens: int = 200, prompt_tps: float = 2000.0) -> Figures:
    return Figures(
        actual_s=tokens / tps,
        prompt_tokens=1000,
        prompt_s=1000 / prompt_tps,
        output_tokens=tokens,
        decode_s=tokens / tps,
        co_runners=co,
    )


def test_one_sample_replaces_the_prior_and_teaches_other_models() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    before = speeds.decode_tps("b", 9.8e9)
    size = priors.REFERENCE_BYTES
    prior = speeds.decode_tps("a", size)
    speeds.learn("a", size, figures(prior / 2), 1.0)
    assert speeds.decode_tps("a", size) == pytest.approx(prior / 2)
    assert speeds.decode_tps("b", 9.8e9) == pytest.approx(before / 2, rel=0.01)
    assert speeds.prompt_tps("a", size) == pytest.approx(2000)


def test_made_up_names_do_not_push_a_model_in_use_out_of_the_speeds() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    figures = Figures(actual_s=2, output_tokens=100, decode_s=1.0)
    for number in range(3000):
        speeds.learn(f"made-up-{number}", 4.9e9, figures, 1.0)
        speeds.learn("real", 4.9e9, figures, 1.0)
    assert len(speeds.models()) <= 512
    assert speeds.models()["real"].decode_samples == 3000


def test_company_is_taken_out_of_a_sample() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    speeds.learn("a", 4.9e9, figures(50.0, co=3.0), 1.0)
    assert speeds.decode_tps("a", 4.9e9) == pytest.approx(50.0 * (1 + 0.3 * 3))


def test_a_slow_phase_does_not_teach_the_base_speed() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    for _ in range(5):
        speeds.learn("a", 4.9e9, figures(100.0), 1.0)
    for _ in range(20):
        speeds.learn("a", 4.9e9, figures(25.0, prompt_tps=500.0), 0.25)
    assert speeds.decode_tps("a", 4.9e9) == pytest.approx(100.0, rel=0.01)
    assert speeds.prompt_tps("a", 4.9e9) == pytest.approx(2000.0, rel=0.01)


def test_cached_prompts_do_not_teach_the_prompt_speed() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    prior = speeds.prompt_tps("a", 4.9e9)
    speeds.learn("a", 4.9e9, Figures(prompt_tokens=1000, cached_tokens=995, prompt_s=0.001, load_s=3.0), 1.0)
    assert speeds.prompt_tps("a", 4.9e9) == prior
    assert speeds.load_s("a", 4.9e9) == 3.0


def test_what_the_node_measured_is_taken_until_we_have_our_own() -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    told = (LearnedSpeed(model="A", prompt_tps=500.0, decode_tps=33.0, load_s=7.0, samples=4),)
    speeds.adopt(told, {"A": "a:latest"})
    assert speeds.decode_tps("a:latest", 4.9e9) == 33.0
    speeds.learn("a:latest", 4.9e9, figures(40.0), 1.0)
    speeds.adopt(told, {"A": "a:latest"})
    assert speeds.decode_tps("a:latest", 4.9e9) == pytest.approx(40.0)


@given(
    st.lists(
        st.builds(
            Figures,
            prompt_tokens=st.integers(0, 10**9),
            cached_tokens=st.integers(0, 10**9),
            output_tokens=st.integers(0, 10**9),
            prompt_s=st.floats(0, 1e9),
            decode_s=st.floats(0, 1e9),
            load_s=st.floats(0, 1e9),
            co_runners=st.floats(0, 1e9),
        ),
        max_size=20,
    ),
    st.floats(0.05, 1.25),
)
def test_no_figures_make_a_speed_infinite_or_zero(samples: list[Figures], pace: float) -> None:
    speeds = NodeSpeeds(machine=GPU, has_gpu=True)
    for sample in samples:
        speeds.learn("a", 4.9e9, sample, pace)
    for model in ("a", "b"):
        for value in (speeds.decode_tps(model, 1e9), speeds.prompt_tps(model, 1e9), speeds.load_s(model, 1e9)):
            assert math.isfinite(value)
            assert value > 0
    assert 0.0 <= speeds.beta <= 1.5


def test_pace_follows_a_slow_phase_within_seconds_and_recovers_when_idle() -> None:
    pace = Pace(0.0)
    for second in range(1, 9):
        pace.observe(25.0, 100.0, float(second))
    assert pace.value == pytest.approx(0.25, abs=0.05)
    pace.rest(100.0)
    assert pace.value > 0.9


def test_lengths_are_learnt_per_model_task_and_prompt_size() -> None:
    table = LengthTable()
    assert table.median_tokens("m", "embedding", 100) == 0.0
    for _ in range(50):
        table.learn("m", "chat", 100, 40)
        table.learn("m", "chat", 3000, 800)
    assert table.median_tokens("m", "chat", 110) == pytest.approx(40, rel=0.4)
    assert table.median_tokens("m", "chat", 2900) == pytest.approx(800, rel=0.4)


def test_a_prompt_size_never_seen_leans_on_the_model() -> None:
    table = LengthTable()
    for _ in range(50):
        table.learn("m", "chat", 100, 40)
    assert table.median_tokens("m", "chat", 100_000) == pytest.approx(40, rel=0.3)


def test_reliability_is_unproven_without_history_and_forgives_one_error() -> None:
    record = Record()
    assert record.bound == 0.0
    for _ in range(16):
        record.count(is_success=True)
    assert record.bound >= 0.95
    for _ in range(60):
        record.count(is_success=True)
    record.count(is_success=False)
    assert 0.93 < record.bound < 0.98
    assert CEILING < 1.0


@given(st.lists(st.booleans(), max_size=300))
def test_the_bound_never_passes_the_ceiling_and_lies_below_the_ratio(results: list[bool]) -> None:
    record = Record()
    for result in results:
        record.count(is_success=result)
    assert 0.0 <= record.bound <= CEILING
    if record.attempts:
        assert record.bound <= record.successes / record.attempts + 1e-9


def test_the_bound_grows_with_evidence() -> None:
    assert lower_bound(5, 5) < lower_bound(50, 50) < 1.0


def test_demand_is_a_rate_that_fades() -> None:
    demand = Demand()
    for second in range(600):
        demand.count("m", float(second))
    assert demand.rate("m", 600.0) == pytest.approx(1.0, rel=0.05)
    assert demand.rate("m", 1200.0) < 0.01
    assert demand.rate("other", 0.0) == 0.0


def test_work_of_higher_rank_stretches_a_wait() -> None:
    work = RankedWork(0.0)
    for second in range(1000):
        work.count(9.0, 0.5, float(second))
    assert work.overtaking_factor(bucket_of(2.0), 1000.0) == pytest.approx(2.0, rel=0.1)
    assert work.overtaking_factor(bucket_of(9.5), 1000.0) == 1.0


@given(st.lists(st.tuples(st.floats(0, 900), st.floats(0, 30)), max_size=30))
def test_the_load_is_the_faded_sum_of_all_work_however_far_apart_it_came(work: list[tuple[float, float]]) -> None:
    ranked, now, came = RankedWork(0.0), 0.0, []
    for pause_s, node_s in work:
        now += pause_s
        ranked.count(5.0, node_s, now)
        came.append((now, node_s))
    now += 10.0
    faded = sum(node_s * math.exp((at - now) / 300.0) for at, node_s in came) / 300.0
    assert ranked.load(now) == pytest.approx(faded / (1.0 - math.exp(-now / 300.0)), rel=1e-9, abs=1e-12)


@given(st.lists(st.tuples(st.floats(-5, 50), st.floats(0, 1e6)), max_size=30), st.floats(-5, 50))
def test_the_overtaking_factor_is_bounded(work: list[tuple[float, float]], rank: float) -> None:
    ranked = RankedWork(0.0)
    for i, (r, s) in enumerate(work):
        ranked.count(r, s, float(i))
    assert 1.0 <= ranked.overtaking_factor(bucket_of(rank), 100.0) <= 10.0 + 1e-6


def attempt(**fields: float) -> Attempt:
    made = Attempt(
        attempt_id="r-1", request_id="r", node_id="n", instance="i", model="m", wire_model="m", granted_at=0.0
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_the_rest_of_an_attempt_shrinks_while_it_prefills_and_decodes() -> None:
    one = attempt(prefill_s=2.0, decode_tps=50.0, output_median=100.0)
    whole = 2.0 + 100 * MEAN_FACTOR / 50
    assert one.base_left_s(0.0, 1.0) == pytest.approx(whole)
    assert one.base_left_s(1.0, 1.0) == pytest.approx(whole - 1.0)
    one.observe(InFlight(attempt_id="r-1", model="m", output_tokens=50, has_first_token=True), 3.0)
    assert one.base_left_s(3.0, 1.0) == pytest.approx(100 * mean_residual(0.5) / 50)
    assert one.base_left_s(4.0, 1.0) == pytest.approx(100 * mean_residual(1.0) / 50, rel=0.01)


def test_the_callers_limit_caps_what_is_left() -> None:
    one = attempt(decode_tps=10.0, output_median=500.0, max_output_tokens=20)
    one.observe(InFlight(attempt_id="r-1", model="m", output_tokens=15, has_first_token=True), 1.0)
    assert one.base_left_s(1.0, 1.0) == pytest.approx(0.5)


@given(st.floats(0, 1e6), st.floats(0.01, 2.0), st.booleans(), st.integers(0, 10**9))
def test_something_is_always_left(now: float, speed: float, has_first: bool, tokens: int) -> None:
    one = attempt(prefill_s=1.0, decode_tps=30.0, output_median=50.0)
    one.observe(InFlight(attempt_id="r-1", model="m", output_tokens=tokens, has_first_token=has_first), 0.0)
    assert 0 < one.base_left_s(now, speed) < math.inf


def test_a_node_remembers_the_prefixes_it_served() -> None:
    mirror = PrefixMirror()
    assert mirror.hit_tokens("m", "s", ("a", "b"), (100, 200)) == 0
    mirror.remember("m", "s", 230, ("a", "b"), 1)
    assert mirror.hit_tokens("m", "other", ("a", "x"), (100, 200)) == 100
    assert mirror.hit_tokens("m", "s", ("a", "b", "c"), (100, 200, 300)) == 200
    assert mirror.hit_tokens("m", "s", (), ()) == 230
    mirror.forget("m")
    assert mirror.hit_tokens("m", "s", ("a",), (100,)) == 0


def test_the_oldest_prefix_goes_when_slots_and_cache_are_full() -> None:
    mirror = PrefixMirror()
    for i in range(5):
        mirror.remember("m", f"s{i}", 100 + i, (f"h{i}",), 1)
    assert mirror.would_evict_tokens("m", "new", 1) == 100
    assert mirror.would_evict_tokens("m", "s0", 1) == 0
    mirror.remember("m", "new", 500, ("n",), 1)
    assert mirror.hit_tokens("m", None, ("h0",), (90,)) == 0
    assert mirror.hit_tokens("m", None, ("h1",), (90,)) == 90
