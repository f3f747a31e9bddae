"""What feedback teaches of models: bounded, discounted, and what is known of one category helps the others."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.scorer.knowledge.quality import EVERY, PRIOR, Qualities, Quality
from sollol_schemas.learned import CATEGORY_MAX, NAME_MAX, Learned

_MODELS = ("small", "large", "other")
_CATEGORIES = ("", "testing", "debugging")
_lessons = st.lists(
    st.tuples(
        st.sampled_from(_MODELS),
        st.sampled_from(_CATEGORIES),
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(min_value=-1.0, max_value=3.0),
        st.floats(min_value=0.0, max_value=1e8),
    ),
    max_size=60,
)


def _rated(count: int, score: float, model: str = "m", category: str = "c", into: Qualities | None = None) -> Qualities:
    qualities = into or Qualities()
    for _ in range(count):
        qualities.learn(model, category, score, 0.0)
    return qualities


def _all(qualities: Qualities) -> dict[tuple[str, str], Quality]:
    return {(m, c): qualities.expected(m, c) for m in _MODELS for c in (*_CATEGORIES, "unheard of")}


@settings(max_examples=60, deadline=None)
@given(lessons=_lessons, prior=st.floats(allow_nan=True), seed=st.integers())
def test_whatever_is_learnt_the_figures_stay_in_their_ranges(
    lessons: list[tuple[str, str, float, float, float]], prior: float, seed: int
) -> None:
    qualities = Qualities()
    rng = random.Random(seed)
    for model, category, score, weight, now in lessons:
        qualities.learn(model, category, score, now, weight=weight)
    for model in _MODELS:
        for category in _CATEGORIES:
            mean, spread, answers = qualities.expected(model, category, prior=prior)
            assert 0.0 < mean < 1.0
            assert 0.0 < spread <= 0.5
            assert 0.0 <= answers <= 60.0
            assert 0.0 <= qualities.sample(model, category, rng, prior=prior) <= 1.0


@settings(max_examples=60, deadline=None)
@given(lessons=_lessons)
def test_a_snapshot_restores_what_was_expected(lessons: list[tuple[str, str, float, float, float]]) -> None:
    qualities = Qualities()
    for model, category, score, weight, now in lessons:
        qualities.learn(model, category, score, now, weight=weight)
    kept = msgspec.json.decode(msgspec.json.encode(Learned(qualities=qualities.snapshot(2e8))), type=Learned)
    successor = Qualities()
    successor.restore(kept.qualities, 5.0)
    for key, quality in _all(qualities).items():
        assert successor.expected(*key) == pytest.approx(quality, abs=1e-6)
    assert [successor.categories(m) for m in _MODELS] == [qualities.categories(m) for m in _MODELS]


@settings(max_examples=60, deadline=None)
@given(lessons=_lessons, gone=st.sampled_from(_MODELS))
def test_a_reset_is_exact_and_leaves_the_others_alone(
    lessons: list[tuple[str, str, float, float, float]], gone: str
) -> None:
    qualities = Qualities()
    for model, category, score, weight, now in lessons:
        qualities.learn(model, category, score, now, weight=weight)
    before, fresh = _all(qualities), _all(Qualities())
    qualities.reset(gone)
    assert _all(qualities) == {key: fresh[key] if key[0] == gone else quality for key, quality in before.items()}
    qualities.reset()
    assert _all(qualities) == fresh
    assert qualities.snapshot(0.0) == ()


def test_a_model_nobody_rated_is_expected_to_be_what_the_prior_says() -> None:
    assert Qualities().expected("m", "c").mean == pytest.approx(PRIOR)
    assert Qualities().expected("m", "c", prior=0.4).mean == pytest.approx(0.4)
    assert Qualities().expected("m", "c").answers == 0.0


def test_answers_in_one_category_help_the_others_and_count_most_in_their_own() -> None:
    quality = _rated(10, 0.0)
    unknown = Qualities().expected("m", "c")
    own, other = quality.expected("m", "c"), quality.expected("m", "another")
    assert own.mean < other.mean < unknown.mean
    assert other.spread < unknown.spread
    assert own.answers > 8.0
    assert other.answers == 0.0


def test_a_category_goes_its_own_way_when_it_has_answers_enough() -> None:
    qualities = _rated(40, 1.0, category="testing")
    _rated(40, 0.0, category="debugging", into=qualities)
    assert qualities.expected("m", "testing").mean > 0.85
    assert qualities.expected("m", "debugging").mean < 0.1


def test_more_answers_leave_less_doubt() -> None:
    spreads = [_rated(n, 1.0).expected("m", "c").spread for n in (0, 1, 5, 20, 60)]
    assert spreads == sorted(spreads, reverse=True)


def test_a_change_of_quality_is_known_after_200_answers() -> None:
    qualities = _rated(500, 1.0)
    _rated(200, 0.2, into=qualities)
    assert qualities.expected("m", "c").mean < 0.26
    assert qualities.expected("m").mean < 0.26


def test_one_whom_nobody_asks_becomes_uncertain_while_others_are_rated_in_its_category() -> None:
    qualities = _rated(40, 0.5)
    before = qualities.expected("m", "c")
    _rated(300, 1.0, model="other", category="elsewhere", into=qualities)
    assert qualities.expected("m", "c").answers == pytest.approx(before.answers)
    _rated(300, 1.0, model="other", into=qualities)
    after = qualities.expected("m", "c")
    assert after.spread > before.spread
    assert after.answers < before.answers


def test_answers_of_former_months_count_for_less() -> None:
    qualities = _rated(40, 1.0)
    month_s = 30 * 86_400.0
    qualities.learn("m", "c", 0.0, 3 * month_s)
    assert qualities.expected("m", "c").answers < 5.0


def test_a_weak_lesson_moves_less() -> None:
    strong, weak = _rated(10, 1.0), _rated(10, 1.0)
    strong.learn("m", "c", 0.0, 0.0)
    weak.learn("m", "c", 0.0, 0.0, weight=0.2)
    assert strong.expected("m", "c").mean < weak.expected("m", "c").mean < _rated(10, 1.0).expected("m", "c").mean


def test_samples_lie_around_what_is_expected() -> None:
    qualities, rng = _rated(30, 0.8), random.Random(1)
    drawn = [qualities.sample("m", "c", rng) for _ in range(2000)]
    mean, spread, _ = qualities.expected("m", "c")
    assert sum(drawn) / 2000 == pytest.approx(mean, abs=0.01)
    assert math.sqrt(sum((x - mean) ** 2 for x in drawn) / 2000) == pytest.approx(spread, rel=0.1)


def test_made_up_models_and_categories_push_out_one_another_and_not_those_rated_often() -> None:
    qualities = _rated(20, 0.1)
    for i in range(1000):
        qualities.learn(f"made up {i}", "c", 1.0, 0.0)
        qualities.learn("m2", f"made up {i}", 1.0, 0.0)
    assert qualities.expected("m", "c").mean < 0.3
    assert len(qualities.snapshot(0.0)) <= 64 + 3 * 256
    assert qualities.snapshot(0.0)[-1].answers > 30.0


def test_names_too_long_to_be_kept_are_not_learnt() -> None:
    qualities = Qualities()
    qualities.learn("m", "c" * (CATEGORY_MAX + 1), 0.0, 0.0)
    qualities.learn("m" * (NAME_MAX + 1), "c", 0.0, 0.0)
    qualities.learn("", "c", 0.0, 0.0)
    assert [(cell.model, cell.category) for cell in qualities.snapshot(0.0)] == [("m", EVERY)]
    assert qualities.expected("m").mean < PRIOR


def test_what_a_scorer_learnt_itself_stays_when_it_takes_up_what_another_left() -> None:
    own, former = _rated(5, 1.0), _rated(50, 0.0)
    _rated(5, 0.0, category="testing", into=former)
    before = own.expected("m", "c")
    own.restore(former.snapshot(0.0), 0.0)
    assert own.expected("m", "c") == before
    assert own.expected("m", "testing").answers > 4.0


def test_nobody_decides_alone_where_others_speak_too() -> None:
    qualities = Qualities()
    for _ in range(40):
        for caller in "abcd":
            qualities.learn("m", "c", 1.0, 0.0, caller=caller)
    for _ in range(300):
        qualities.learn("m", "c", 0.0, 0.0, caller="flood")
    assert qualities.expected("m", "c").mean > 0.38, "0.31 if every word counted"
    assert _rated(60, 0.0).expected("m", "c").mean < 0.1, "who is alone is believed"


def test_many_callers_are_bounded_and_the_least_heard_goes_first() -> None:
    qualities = _rated(20, 0.0)
    for number in range(100):
        qualities.learn("m", "c", 1.0, 0.0, caller=f"caller {number}")
    assert len(qualities.snapshot(0.0)) == 2 * 16
    assert qualities.expected("m", "c").answers < 60.0


def test_a_later_score_of_the_same_answer_replaces_the_former() -> None:
    qualities, straight = Qualities(), Qualities()
    for each, first in ((qualities, 1.0), (straight, 0.2)):
        each.learn("m", "c", 0.5, 0.0, caller="a")
        each.learn("m", "c", first, 0.0, caller="a")
    qualities.correct("m", "c", 1.0, 0.2, caller="a")
    assert qualities.expected("m", "c") == pytest.approx(straight.expected("m", "c"))
    assert qualities.expected("m") == pytest.approx(straight.expected("m"))
    for _ in range(50):
        qualities.correct("m", "c", 1.0, 0.0, caller="a")
    assert qualities.expected("m", "c").mean > 0.0
    qualities.correct("unheard of", "nothing", 1.0, 0.0)
