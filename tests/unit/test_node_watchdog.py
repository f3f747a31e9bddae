"""How long an engine may be silent, and what its figures teach."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.node.attempts.loading import LoadPatience
from sollol_agents.node.attempts.speeds import Speeds
from sollol_agents.node.attempts.watchdog import Limits, Phase, Watchdog, limits_of
from sollol_agents.node.config import NodeConfig
from sollol_schemas.decision import Decision, Forecast
from sollol_schemas.execution import Exec, Figures
from sollol_schemas.telemetry import LearnedSpeed


def limits(forecast: Forecast, *, has_tools: bool = False, may_load: bool = False) -> Limits:
    load_s = LoadPatience(300.0).limit_s("m", 0, forecast.load_s)
    return limits_of(envelope(forecast, has_tools=has_tools), NodeConfig(), load_s=load_s, may_load=may_load)


def envelope(forecast: Forecast, *, has_tools: bool = False) -> Exec:
    decision = Decision(request_id="r", attempt_id="r-1", node_id="n", instance="i", model="m", forecast=forecast)
    return Exec(decision=decision, has_tools=has_tools)


def test_between_tokens_the_floor_holds_for_fast_models() -> None:
    assert limits(Forecast(gap_s=0.02)).gap_s == 30.0


def test_between_tokens_slow_models_get_a_multiple_and_their_co_runners_prefill() -> None:
    assert limits(Forecast(gap_s=3.0, co_runner_prefill_s=15.0)).gap_s == 20 * 3.0 + 15.0


def test_with_tools_silence_may_last_three_times_the_predicted_total() -> None:
    with_tools = limits(Forecast(total_s=100.0), has_tools=True)
    assert (with_tools.first_token_s, with_tools.gap_s) == (300.0, 300.0)


def test_the_first_token_may_take_as_long_as_the_load_when_one_is_needed() -> None:
    without = limits(Forecast(first_token_s=30.0))
    with_load = limits(Forecast(first_token_s=30.0, load_s=100.0, needs_load=True))
    assert without.first_token_s == 150.0
    assert with_load.load_s == 500.0
    assert with_load.first_token_s == 650.0
    assert limits(Forecast(first_token_s=30.0), may_load=True).first_token_s == 450.0


def test_a_load_may_take_as_long_as_a_slow_disk_needs_and_twice_as_long_after_it_was_cut() -> None:
    patience = LoadPatience(300.0)
    assert patience.limit_s("m", 4e9) == 300.0
    assert patience.limit_s("m", 40e9) == 2000.0
    patience.cut("m", 2000.0)
    assert patience.limit_s("m", 40e9) == 4000.0
    patience.answered("m", 0.0)
    assert patience.limit_s("m", 40e9) == 2000.0


def test_an_engine_that_swaps_models_may_have_dropped_one_that_was_silent_for_a_minute() -> None:
    patience = LoadPatience(300.0)
    assert patience.is_doubtful("m", 0.0)
    patience.answered("m", 0.0)
    assert not patience.is_doubtful("m", 59.0)
    assert patience.is_doubtful("m", 61.0)


def test_it_counts_from_the_last_sign_of_life() -> None:
    watchdog = Watchdog(Limits(load_s=300, first_token_s=60, gap_s=10), now=0.0)
    assert watchdog.left_s(20.0) == 40.0
    watchdog.enter(Phase.BETWEEN_TOKENS, 20.0)
    assert watchdog.left_s(25.0) == 5.0
    assert watchdog.left_s(31.0) < 0
    watchdog.enter(Phase.PERMISSION, 31.0)
    assert watchdog.left_s(1e9) == math.inf


def figures(tps: float, *, tokens: int = 100, co_runners: float = 0.0) -> Figures:
    return Figures(
        output_tokens=tokens + 1,
        decode_s=tokens / tps,
        prompt_tokens=200,
        cached_tokens=0,
        prompt_s=200 / (tps * 10),
        co_runners=co_runners,
    )


def learned(speeds: Speeds) -> LearnedSpeed:
    (speed,) = speeds.all()
    return speed


def test_the_first_sample_is_believed_at_once() -> None:
    speeds = Speeds()
    speeds.learn("m", figures(50.0))
    assert learned(speeds).decode_tps == pytest.approx(50.0)
    assert learned(speeds).prompt_tps == pytest.approx(500.0)


def test_work_beside_others_does_not_teach_the_base_speed() -> None:
    speeds = Speeds()
    speeds.learn("m", figures(50.0))
    speeds.learn("m", figures(20.0, co_runners=1.0))
    assert learned(speeds).decode_tps == pytest.approx(50.0)


def test_a_slow_phase_hardly_moves_what_was_learned_and_a_lasting_change_does() -> None:
    speeds = Speeds()
    speeds.learn("m", figures(100.0))
    speeds.learn("m", figures(10.0))
    assert learned(speeds).decode_tps > 95.0
    for _ in range(200):
        speeds.learn("m", figures(10.0))
    assert learned(speeds).decode_tps == pytest.approx(10.0, rel=0.2)


def test_a_faster_engine_is_believed_step_by_step() -> None:
    speeds = Speeds()
    speeds.learn("m", figures(10.0))
    speeds.learn("m", figures(1000.0))
    assert learned(speeds).decode_tps <= 13.0
    for _ in range(100):
        speeds.learn("m", figures(1000.0))
    assert learned(speeds).decode_tps == pytest.approx(1000.0, rel=0.05)


def test_cached_prompts_teach_no_prompt_speed() -> None:
    speeds = Speeds()
    speeds.learn("m", Figures(prompt_tokens=2000, cached_tokens=1995, prompt_s=0.01))
    assert speeds.all() == ()


def test_short_answers_are_not_timed() -> None:
    speeds = Speeds()
    speeds.learn("m", figures(50.0, tokens=3))
    assert learned(speeds).decode_tps == 0.0


def test_loads_are_averaged() -> None:
    speeds = Speeds()
    speeds.learn_load("m", 10.0)
    speeds.learn_load("m", 20.0)
    speeds.learn_load("m", float("nan"))
    assert learned(speeds).load_s == pytest.approx(13.0)


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True) | st.none(),
            st.integers(-5, 10**9) | st.none(),
        ),
        max_size=30,
    )
)
def test_no_figure_makes_a_speed_that_is_no_number(samples: list[tuple[float | None, int | None]]) -> None:
    speeds = Speeds()
    for seconds, tokens in samples:
        speeds.learn("m", Figures(output_tokens=tokens, decode_s=seconds, prompt_tokens=tokens, prompt_s=seconds))
    for speed in speeds.all():
        assert math.isfinite(speed.decode_tps)
        assert math.isfinite(speed.prompt_tps)
        assert speed.decode_tps >= 0
        assert speed.prompt_tps >= 0
