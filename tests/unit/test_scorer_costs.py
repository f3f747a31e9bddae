"""Costs rise with what makes a request dearer, whatever the rest: hypothesis looks for the exception."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import model, telemetry
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import CandidateCost, DecisionEvent, Forecast
from sollol_schemas.grant import RouteRequest
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import Gpu, InFlight, LoadedModel

MODEL = "llama3:8b"
NOW = 100.0
Claims = dict[str, Any]

fleets = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 6),
        "running": st.integers(0, 8),
        "tokens": st.integers(0, 3000),
        "is_loaded": st.booleans(),
        "gpu": st.sampled_from(["RTX 3090", "RTX 4090", ""]),
        "weight": st.floats(0.1, 10.0),
        "rtt_s": st.floats(0.0, 1.0),
    }
)


def cost_of(claims: Claims, *, prompt: int = 500, **context: Any) -> CandidateCost:
    """What one node would cost a request."""
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0), random.Random(1), NOW)
    core.term = 1
    gpus = (Gpu(index=0, name=claims["gpu"], memory_total_mib=24_576, memory_free_mib=18_000),) if claims["gpu"] else ()
    loaded = (LoadedModel(name=MODEL, size_bytes=5_000_000_000, vram_bytes=5_000_000_000 * bool(gpus)),)
    running = min(claims["running"], claims["slots"]) if claims["is_loaded"] else 0
    core.on_telemetry(
        telemetry(
            "n",
            slots=claims["slots"],
            gpus=gpus,
            cpu_count=16,
            ram_total_mib=64_000.0,
            ram_available_mib=60_000.0,
            installed=(model(),),
            loaded=loaded if claims["is_loaded"] else (),
            in_flight=tuple(
                InFlight(
                    attempt_id=f"x{n}-1",
                    model=MODEL,
                    has_first_token=True,
                    output_tokens=claims["tokens"],
                    forecast=Forecast(output_tokens=300.0),
                )
                for n in range(running)
            ),
            weight=claims["weight"],
            bus_rtt_s=claims["rtt_s"],
        ),
        NOW,
    )
    asked = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=prompt, **context)
    decision = core.route(RouteRequest(request_id="r", context=asked, routing=Routing()), NOW)
    assert isinstance(decision, DecisionEvent)
    return decision.candidates[0]


def no_dearer(cheap: CandidateCost, dear: CandidateCost) -> bool:
    return cheap.total_s <= dear.total_s + 1e-3


@given(fleets, st.integers(1, 8000), st.integers(1, 8000))
@settings(max_examples=60, deadline=None)
def test_a_longer_prompt_is_never_cheaper_to_read(claims: Claims, one: int, other: int) -> None:
    short, long = sorted((one, other))
    assert cost_of(claims, prompt=short).prefill_s <= cost_of(claims, prompt=long).prefill_s + 1e-3


@given(fleets, st.integers(1, 2000), st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_a_lower_limit_of_tokens_is_never_dearer(claims: Claims, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert no_dearer(cost_of(claims, max_output_tokens=low), cost_of(claims, max_output_tokens=high))


@given(fleets)
@settings(max_examples=60, deadline=None)
def test_a_model_that_must_be_loaded_is_never_cheaper(claims: Claims) -> None:
    idle = claims | {"running": 0}
    assert no_dearer(cost_of(idle | {"is_loaded": True}), cost_of(idle | {"is_loaded": False}))


@given(fleets, st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_more_company_of_one_kind_never_makes_the_wait_shorter(claims: Claims, more: int) -> None:
    claims = claims | {"is_loaded": True}
    fewer = claims | {"running": min(claims["running"], more)}
    full = claims | {"running": max(claims["running"], more)}
    assert cost_of(fewer).wait_s <= cost_of(full).wait_s + 1e-3


@given(fleets, st.floats(0.1, 10.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_weight_and_nearness_make_a_node_cheaper(claims: Claims, weight: float, rtt_s: float) -> None:
    heavier = max(weight, claims["weight"])
    assert no_dearer(cost_of(claims | {"weight": heavier}), cost_of(claims | {"weight": min(weight, claims["weight"])}))
    near, far = sorted((rtt_s, claims["rtt_s"]))
    assert no_dearer(cost_of(claims | {"rtt_s": near}), cost_of(claims | {"rtt_s": far}))
