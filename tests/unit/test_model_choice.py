"""Which model of a group is chosen, by each strategy."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.choice.model_choice import (
    Contender,
    Picked,
    Turns,
    is_clear,
    is_tried,
    pick,
    size_prior,
    told,
    total_s,
)
from sollol_agents.scorer.knowledge.quality import PRIOR
from sollol_schemas.groups import Candidate, Group, GroupMember, GroupStrategy


def contender(name: str, seconds: float = 5.0, quality: float = 0.7, **more: float) -> Contender:
    usual = {"weight": 1.0, "size_bytes": 5e9, "load": 0}
    fields = usual | more
    return Contender(
        model=name,
        name=name,
        weight=fields["weight"],
        seconds=seconds,
        node_id="n1",
        size_bytes=fields["size_bytes"],
        load=int(fields["load"]),
        quality=quality,
    )


def group(strategy: GroupStrategy = GroupStrategy.COST, patience_s: float = 30.0) -> Group:
    members = (GroupMember(model="a"), GroupMember(model="b"))
    return Group(name="g", members=members, strategy=strategy, patience_s=patience_s)


def picked(of: Group, *contenders: Contender, seed: int | None = None, turns: Turns | None = None) -> Picked:
    rng = None if seed is None else random.Random(seed)
    return pick(of, contenders, draw=lambda c: c.quality, turns=turns or Turns(), rng=rng, category="debugging")


def test_a_bad_answer_costs_its_time_again_and_its_readers_patience() -> None:
    assert total_s(5.0, 1.0, 30.0) == 5.0
    assert total_s(5.0, 0.5, 30.0) == 5.0 + 35.0
    assert total_s(5.0, 0.0, 30.0) == 5.0 + 20.0 * 35.0, "hopeless, and still finite"
    assert total_s(5.0, 0.5, 30.0, weight=2.0) == 20.0


@given(
    st.floats(0, 1e4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1e4),
    st.floats(0.01, 100),
)
def test_better_answers_never_cost_more(
    seconds: float, one: float, other: float, patience: float, weight: float
) -> None:
    low, high = sorted((one, other))
    assert total_s(seconds, high, patience, weight) <= total_s(seconds, low, patience, weight)


COST, FAST, GOOD = GroupStrategy.COST, contender("a", 2.0, 0.6), contender("b", 6.0, 0.95)


@pytest.mark.parametrize(
    ("strategy", "patience_s", "name", "words"),
    [
        (COST, 30.0, "b", "a good answer in 7.9 s, with a in 23 s"),
        (COST, 0.0, "a", "a good answer in 3.3 s, with b in 6.3 s"),
        (GroupStrategy.PERFORMANCE, 30.0, "a", "0.3 good answers a second, b 0.16"),
        (GroupStrategy.AFFINITY, 30.0, "b", "0.95 good answers at debugging, a 0.60"),
        (GroupStrategy.HYBRID, 30.0, "a", "quality, speed and load 0.84, b 0.71"),
    ],
    ids=["a patient reader", "an impatient one", "performance", "affinity", "hybrid"],
)
def test_a_strategy_says_what_it_compared(strategy: GroupStrategy, patience_s: float, name: str, words: str) -> None:
    choice = picked(group(strategy, patience_s), FAST, GOOD)
    assert (choice.contender.name, choice.reason) == (name, words)


def test_of_the_least_loaded_a_heavier_one_may_have_more() -> None:
    loaded = [contender("a", load=3, weight=4.0), contender("b", load=1)]
    assert picked(group(GroupStrategy.LEAST_LOADED), *loaded).contender.name == "a"


def test_the_smallest_is_asked_first() -> None:
    assert (
        picked(group(GroupStrategy.CHEAP_FIRST), contender("a"), contender("b", size_bytes=1e9)).contender.name == "b"
    )


def test_each_has_its_turn_as_often_as_its_weight_says() -> None:
    turns = Turns()
    models = [contender("a", weight=2.0), contender("b"), contender("c")]
    row = [picked(group(GroupStrategy.ROUND_ROBIN), *models, turns=turns).contender.name for _ in range(8)]
    assert row == ["a", "b", "c", "a", "a", "b", "c", "a"]
    turns.keep([])
    assert picked(group(GroupStrategy.ROUND_ROBIN), *models, turns=turns).contender.name == "a", "begun anew"


def test_chance_follows_the_weights() -> None:
    models = [contender("a", weight=3.0), contender("b")]
    names = [picked(group(GroupStrategy.RANDOM), *models, seed=seed).contender.name for seed in range(400)]
    assert 0.68 < names.count("a") / 400 < 0.82


def test_one_request_in_twenty_explores_and_keeps_what_it_drew() -> None:
    def explored(seed: int) -> Picked:
        rng = random.Random(seed)
        return pick(group(), [FAST, GOOD], draw=lambda c: 1.0 if c is FAST else 0.1, turns=Turns(), rng=rng)

    tried = [choice for seed in range(1000) if (choice := explored(seed)).contender is FAST]
    assert 30 < len(tried) < 70
    assert tried[0].drawn == {"a": 1.0, "b": 0.1}
    assert tried[0].reason == "tried to learn how good it is; else b"
    assert told(group(), tried[0], [GOOD, FAST])[0].total_s == 2.0, "it is told as it was compared"


def test_a_larger_model_is_trusted_a_little_more() -> None:
    sizes = [1e9, 5e9, 40e9]
    assert size_prior(5e9, sizes) == PRIOR
    assert size_prior(40e9, sizes) == pytest.approx(PRIOR + 0.06)
    assert size_prior(1e9, sizes) == pytest.approx(PRIOR - 0.06)
    assert size_prior(0, sizes) == size_prior(1e9, []) == PRIOR


def test_a_share_of_the_requests_goes_to_the_candidate_and_each_stays_there() -> None:
    candidate = Candidate(model="c", share=0.2)
    tried = [is_tried(candidate, f"r{number}") for number in range(2000)]
    assert 0.17 < sum(tried) / 2000 < 0.23
    assert tried == [is_tried(candidate, f"r{number}") for number in range(2000)]
    assert not is_tried(None, "r")


def test_a_request_moves_only_where_that_is_clearly_better() -> None:
    assert is_clear(3.0, 6.0)
    assert not is_clear(1.0, 6.0), "too small a share"
    assert not is_clear(0.3, 0.4), "too little"


def test_a_smallest_whose_answers_are_mostly_asked_for_anew_is_not_begun_with() -> None:
    of = group(GroupStrategy.CHEAP_FIRST)
    models = [
        contender("small", size_bytes=1e9, quality=0.1),
        contender("middle", size_bytes=2e9, quality=0.6),
        contender("large", size_bytes=9e9, quality=0.9),
    ]
    chosen = picked(of, *models)
    assert chosen.contender.name == "middle"
    assert "small does for 10 %" in chosen.reason
    tried = [picked(of, *models, seed=seed).contender.name for seed in range(200)]
    assert 5 < tried.count("small") < 40, "now and then, so that it may show that it became better"
    assert picked(of, *(m._replace(quality=0.1) for m in models)).contender.name == "large"
