"""A node at another site gets a request only when that saves time, the way there included."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import model, telemetry
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.strategies.least_cost import TIE_RATIO, TIE_S
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent, Forecast
from sollol_schemas.grant import RouteRequest
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import InFlight, LoadedModel

MODEL = "llama3:8b"
NOW = 100.0
WAY_S = 0.3
"""There and back."""


def routed(
    *, busy_near: int, busy_far: int = 0, way_s: float = WAY_S, slots: int = 2, prompt: int = 100, hold: float = 0.3
) -> DecisionEvent:
    """Where a request goes, of two machines that are alike but for where they stand."""
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0, hold=hold), random.Random(1), NOW)
    core.term = 1
    for node_id, busy, rtt_s in (("near", busy_near, 0.0005), ("far", busy_far, way_s)):
        running = tuple(
            InFlight(
                attempt_id=f"{node_id}{n}-1",
                model=MODEL,
                has_first_token=True,
                forecast=Forecast(output_tokens=300.0),
            )
            for n in range(min(busy, slots))
        )
        told = telemetry(
            node_id,
            slots=slots,
            installed=(model(),),
            loaded=(LoadedModel(name=MODEL, size_bytes=5_000_000_000),),
            in_flight=running,
            labels={"site": node_id},
            bus_rtt_s=rtt_s,
        )
        core.on_telemetry(told, NOW)
    context = TaskContext(kind=RequestKind.CHAT, model=MODEL, prompt_tokens=prompt)
    event = core.route(RouteRequest(request_id="r", context=context, routing=Routing()), NOW)
    assert isinstance(event, DecisionEvent)
    return event


@pytest.mark.parametrize("way_s", [0.02, 0.3, 2.0])
def test_what_can_start_here_as_well_stays_here(way_s: float) -> None:
    assert routed(busy_near=0, way_s=way_s).decision.node_id == "near"


def test_what_would_wait_here_for_longer_than_the_way_goes_to_the_other_site() -> None:
    event = routed(busy_near=2)
    assert event.decision.node_id == "far"
    costs = {candidate.node_id: candidate for candidate in event.candidates}
    assert costs["near"].total_s - costs["far"].total_s > 0.0
    assert costs["far"].rtt_s == pytest.approx(WAY_S / 2), "the way is part of the price"


@given(st.integers(0, 4), st.integers(0, 4), st.floats(0.001, 9.0), st.integers(1, 4), st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_the_other_site_is_chosen_exactly_when_it_saves_time(
    busy_near: int, busy_far: int, way_s: float, slots: int, prompt: int
) -> None:
    event = routed(busy_near=busy_near, busy_far=busy_far, way_s=way_s, slots=slots, prompt=prompt, hold=0.0)
    costs = {candidate.node_id: candidate.total_s for candidate in event.candidates}
    saved_s = costs["near"] - costs["far"]
    as_good_s = 2 * max(TIE_S, TIE_RATIO * costs["near"])
    if event.decision.node_id == "far":
        assert saved_s > -as_good_s
    else:
        assert saved_s < as_good_s
