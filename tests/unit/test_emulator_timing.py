"""Times of the emulated machine: published figures at their place, and the right order everywhere."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator import timing
from sollol_agents.lab.emulator.models import parse_model
from sollol_agents.lab.emulator.presets import PRESETS

MODEL_8B = parse_model("llama3.1:8b=8.03")
REAL = sorted(set(PRESETS) - {"steady", "instant"})


def rate(preset: str, model: str, *, gpu_ratio: float = 1.0, streams: int = 1) -> float:
    step = timing.decode_step_s(PRESETS[preset], parse_model(model), gpu_ratio=gpu_ratio, depths_tokens=[100] * streams)
    return streams / step


@pytest.mark.parametrize(
    ("preset", "model", "published_tps"),
    [
        ("pi5", "llama3.2:3b=3.2", 4.9),
        ("n150", "llama3.2:3b=3.2", 9.0),
        ("laptop-cpu", "llama3.2:3b=3.2", 24.0),
        ("laptop-cpu", "x:14b=14.8", 6.0),
        ("m4-mini", "llama3.2:3b=3.2", 41.0),
        ("rtx3060-12", "llama3.2:3b=3.2", 123.0),
        ("rtx3060-12", "x:14b=14.8", 30.0),
        ("rtx4090-24", "llama3.2:3b=3.2", 335.0),
        ("rtx4090-24", "x:14b=14.8", 92.0),
        ("a6000-48", "llama3.1:8b=8.03", 102.0),
        ("gb10-128", "x:14b=14.8", 24.0),
        ("h100-80", "llama3.1:8b=8.03", 144.0),
        ("m2-ultra", "llama3.1:8b=8.03", 76.0),
        ("m2-ultra", "x:70b=70.6", 12.1),
    ],
)
def test_one_stream_decodes_at_about_the_published_rate(preset: str, model: str, published_tps: float) -> None:
    assert rate(preset, model) == pytest.approx(published_tps, rel=0.1)


def test_a_spill_into_main_memory_is_a_cliff() -> None:
    assert rate("rtx4090-24", "x:70b=70.6", gpu_ratio=0.5) < rate("rtx4090-24", "x:70b=70.6") / 4


@pytest.mark.parametrize("preset", REAL)
def test_more_streams_give_more_in_all_and_less_to_each(preset: str) -> None:
    totals = [rate(preset, "llama3.1:8b=8.03", streams=n) for n in (1, 2, 4, 8)]
    assert totals == sorted(totals)
    each = [total / n for total, n in zip(totals, (1, 2, 4, 8), strict=True)]
    assert each == sorted(each, reverse=True)


@given(tokens=st.integers(0, 100_000), depth=st.integers(0, 100_000))
def test_prompt_time_is_never_negative_and_grows_with_depth(tokens: int, depth: int) -> None:
    def seconds(at: int) -> float:
        return timing.prefill_s(PRESETS["rtx3090-24"], MODEL_8B, gpu_ratio=1.0, tokens=tokens, depth_tokens=at)

    assert 0 <= seconds(0) <= seconds(depth)


def test_a_load_from_the_page_cache_is_faster_and_both_end_at_a_poll() -> None:
    preset = PRESETS["rtx3090-24"]
    cold = timing.load_s(preset, MODEL_8B, is_cached=False, jitter_ratio=0.5)
    warm = timing.load_s(preset, MODEL_8B, is_cached=True, jitter_ratio=0.5)
    assert warm < cold
    assert (cold / 0.25).is_integer()


@pytest.mark.parametrize(
    ("preset", "ctx_tokens"), [("rtx3060-12", 4096), ("rtx3090-24", 32768), ("a6000-48", 262144), ("pi5", 4096)]
)
def test_the_default_context_follows_the_size_of_the_gpu(preset: str, ctx_tokens: int) -> None:
    assert timing.default_ctx_tokens(PRESETS[preset]) == ctx_tokens


def test_keys_and_values_of_an_8b_model_take_128_kib_a_token() -> None:
    assert MODEL_8B.kv_bytes_per_token == 128 * 1024


def test_company_slows_prompts_and_streams_alike_on_a_machine_that_shares() -> None:
    preset = msgspec.structs.replace(PRESETS["rtx3090-24"], is_prompt_shared=True)
    per_step = timing.shared_tokens(preset, MODEL_8B, gpu_ratio=1.0)
    alone_s = timing.shared_step_s(preset, MODEL_8B, gpu_ratio=1.0, streams=1, prompt_tokens=[])
    prompt_alone_s = timing.prefill_s(preset, MODEL_8B, gpu_ratio=1.0, tokens=per_step, depth_tokens=0)
    assert prompt_alone_s == pytest.approx(alone_s, rel=0.02), "a step is as much prompt as it is a token"
    two_s = timing.shared_step_s(preset, MODEL_8B, gpu_ratio=1.0, streams=1, prompt_tokens=[per_step])
    assert two_s == pytest.approx(alone_s * timing.slowdown(preset, 2))
    prompts_s = timing.shared_step_s(preset, MODEL_8B, gpu_ratio=1.0, streams=0, prompt_tokens=[per_step] * 2)
    assert prompts_s == pytest.approx(prompt_alone_s * timing.slowdown(preset, 2))
    assert timing.shared_tokens(PRESETS["rtx3090-24"], MODEL_8B, gpu_ratio=1.0) == 0, "others hold the streams back"
