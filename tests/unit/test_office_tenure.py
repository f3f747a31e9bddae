"""Who is in office: never two at any instant, and always one again once all is well; in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.lab.testing.office_world import World
from sollol_bus.jetstream.tenure import Found, Tenure

TROUBLE_S = 60.0


def world_after(seed: int, *, is_lone: bool, candidates: int) -> World:
    world = World(seed, is_lone=is_lone, candidates=candidates, trouble_s=TROUBLE_S)
    world.run(TROUBLE_S + 40)
    return world


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 40), is_lone=st.booleans(), candidates=st.integers(2, 3))
def test_no_two_are_ever_in_office_and_one_is_once_all_is_well(seed: int, is_lone: bool, candidates: int) -> None:
    world = world_after(seed, is_lone=is_lone, candidates=candidates)
    assert world.doubles == []
    assert world.offices > 0
    assert len(world.holders()) == 1


@pytest.mark.parametrize("is_lone", [True, False], ids=["one server", "a cluster"])
def test_the_world_finds_a_candidate_that_takes_what_names_no_holder_at_once(
    monkeypatch: pytest.MonkeyPatch, is_lone: bool
) -> None:
    right = Tenure._wait_s

    def hasty(self: Tenure, found: Found, now: float, *, is_lone: bool) -> float:
        return 0.0 if found.holder is None else right(self, found, now, is_lone=is_lone)

    monkeypatch.setattr(Tenure, "_wait_s", hasty)
    assert any(world_after(seed, is_lone=is_lone, candidates=3).doubles for seed in range(40))


def test_the_world_finds_a_holder_that_stays_in_office_without_its_only_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tenure, "disconnected", lambda _self, _now: None)
    assert any(world_after(seed, is_lone=True, candidates=3).doubles for seed in range(120))
