"""Loading and eviction follow Ollama's rules, not those one would wish for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.emulator import scheduler
from sollol_agents.lab.emulator.models import ModelSpec, parse_model
from sollol_agents.lab.emulator.presets import PRESETS
from sollol_agents.lab.emulator.scheduler import Load, Loaded, RunnerOptions, Unload, Use, Wanted

GPU_24 = PRESETS["rtx3090-24"]
CPU = PRESETS["laptop-cpu"]
SMALL = parse_model("small:3b=3.2")
MIDDLE = parse_model("middle:8b=8.03")
LARGE = parse_model("large:32b=32.8")


def effective(model: ModelSpec, **options: Any) -> RunnerOptions:
    return scheduler.effective(RunnerOptions(**options), automatic_ctx_tokens=4096, trained_ctx_tokens=model.ctx_tokens)


def wanted(model: ModelSpec, *, slots: int = 1, **options: Any) -> Wanted:
    return Wanted(model=model, options=effective(model, **options), slots=slots)


def loaded(model: ModelSpec, *, keep_alive_s: float = 300.0, in_flight: int = 0) -> Loaded:
    load = scheduler.place(wanted(model), [], GPU_24)
    assert load is not None
    return Loaded(
        model=model,
        options=load.options,
        slots=1,
        size_bytes=load.size_bytes,
        vram_bytes=load.vram_bytes,
        keep_alive_s=keep_alive_s,
        expires_at=keep_alive_s,
        in_flight=in_flight,
    )


def decide(want: Wanted, have: list[Loaded], *, max_loaded: int = 0) -> Use | Load | Unload:
    return scheduler.decide(want, have, GPU_24, max_loaded=max_loaded)


def test_a_loaded_model_is_used() -> None:
    one = loaded(SMALL)
    assert decide(wanted(SMALL), [one]) == Use(one)


@pytest.mark.parametrize(
    ("before", "after", "reloads"),
    [
        ({}, {"num_ctx": 8192}, True),
        ({"num_ctx": 8192}, {}, True),
        ({}, {"num_ctx": 4096}, False),
        ({"num_ctx": 131072}, {"num_ctx": 999_999}, False),
        ({"num_ctx": 0}, {"num_ctx": -5}, False),
        ({"num_ctx": 0}, {}, True),
        ({}, {"num_thread": 1}, True),
        ({"num_thread": 1}, {}, True),
        ({}, {"main_gpu": 0}, True),
        ({}, {"num_batch": 0}, False),
        ({}, {"num_batch": 64}, True),
        ({"num_gpu": 0}, {}, False),
        ({"num_gpu": 0}, {"num_gpu": -1}, False),
        ({"num_gpu": 0}, {"num_gpu": 3}, True),
        ({}, {"use_mmap": False}, True),
        ({}, {"shift": False}, True),
        ({"shift": False}, {}, True),
    ],
    ids=str,
)
def test_effective_values_that_differ_mean_unload_first(
    before: dict[str, Any], after: dict[str, Any], reloads: bool
) -> None:
    one = msgspec.structs.replace(loaded(SMALL), options=effective(SMALL, **before))
    assert decide(wanted(SMALL, **after), [one]) == (Unload(one) if reloads else Use(one))


def test_models_of_the_same_weights_share_their_runner() -> None:
    one = loaded(SMALL)
    twin = msgspec.structs.replace(SMALL, name="twin:latest", digest="f" * 64, blob=SMALL.digest)
    assert decide(wanted(twin), [one]) == Use(one)
    assert decide(wanted(twin, num_ctx=2048), [one]) == Unload(one)


def test_a_runner_whose_process_has_ended_is_loaded_anew() -> None:
    one = msgspec.structs.replace(loaded(SMALL), is_dead=True)
    assert decide(wanted(SMALL), [one]) == Unload(one)


def test_models_that_fit_beside_each_other_are_loaded_side_by_side() -> None:
    decision = decide(wanted(SMALL), [loaded(MIDDLE)])
    assert isinstance(decision, Load)
    assert decision.vram_bytes == decision.size_bytes


def test_a_model_that_does_not_fit_beside_another_evicts_it() -> None:
    one = loaded(MIDDLE)
    assert decide(wanted(LARGE), [one]) == Unload(one)


def test_the_slots_count_towards_the_size() -> None:
    one = loaded(MIDDLE)
    assert isinstance(decide(wanted(MIDDLE, num_ctx=4096), []), Load)
    assert decide(wanted(SMALL, slots=64), [one]) == Unload(one)


def test_the_first_model_is_loaded_even_if_it_must_be_split() -> None:
    decision = decide(wanted(parse_model("huge:70b=70.6")), [])
    assert isinstance(decision, Load)
    assert 0 < decision.vram_bytes < decision.size_bytes


def test_without_a_gpu_nothing_lies_on_one() -> None:
    decision = scheduler.decide(wanted(SMALL), [], CPU, max_loaded=0)
    assert isinstance(decision, Load)
    assert decision.vram_bytes == 0


def test_the_fourth_model_evicts_by_default() -> None:
    have = [loaded(parse_model(f"m{n}=0.1")) for n in range(3)]
    assert isinstance(decide(wanted(parse_model("m3=0.1")), have), Unload)
    assert isinstance(decide(wanted(parse_model("m3=0.1")), have, max_loaded=4), Load)


def test_the_victim_is_idle_with_the_shortest_keep_alive_not_the_least_recently_used() -> None:
    long, short = loaded(SMALL, keep_alive_s=600), loaded(MIDDLE, keep_alive_s=60)
    assert scheduler.choose_victim([long, short]) is short
    busy = msgspec.structs.replace(short, in_flight=1)
    assert scheduler.choose_victim([long, busy]) is long


def test_when_all_are_busy_the_first_of_the_order_is_waited_for() -> None:
    one, two = loaded(SMALL, keep_alive_s=600, in_flight=1), loaded(MIDDLE, keep_alive_s=60, in_flight=1)
    assert scheduler.choose_victim([one, two]) is two


def test_an_embedding_model_has_one_slot() -> None:
    assert scheduler.slots_of(parse_model("nomic-embed-text=0.137"), 8) == 1
    assert scheduler.slots_of(SMALL, 8) == 8


@given(
    sizes=st.lists(st.floats(0.1, 80), min_size=1, max_size=8),
    ctx_tokens=st.sampled_from([2048, 8192, 65536]),
    slots=st.integers(1, 8),
)
def test_every_queue_of_models_is_served_in_the_end_and_memory_is_never_exceeded(
    sizes: list[float], ctx_tokens: int, slots: int
) -> None:
    have: list[Loaded] = []
    for place, size in enumerate(sizes):
        want = wanted(parse_model(f"m{place}={size}"), num_ctx=ctx_tokens, slots=slots)
        for _ in range(len(have) + 1):
            match decide(want, have):
                case Unload(victim):
                    have.remove(victim)
                case Load() as load:
                    have.append(msgspec.structs.replace(loaded(SMALL), model=want.model, vram_bytes=load.vram_bytes))
                    break
                case Use():
                    pytest.fail("a model that is not loaded cannot be used")
        assert have
        assert have[-1].model == want.model
        assert sum(one.vram_bytes for one in have) <= GPU_24.vram_mib * 1024 * 1024
