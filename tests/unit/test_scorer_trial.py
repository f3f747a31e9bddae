"""The trial of a candidate: at most one false alarm in twenty, however often one looks, and the power that is left."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sollol_agents.scorer.knowledge.trial import ALPHA, Trial, Trials
from sollol_schemas.groups import TrialVerdict
from sollol_schemas.learned import Learned, LearnedTrial

Scores = Callable[[random.Random], float]


def _good(ratio: float) -> Scores:
    return lambda rng: 1.0 if rng.random() < ratio else 0.0


def _trial() -> Trial:
    return Trial(LearnedTrial(group="g", model="candidate"))


def _verdict_at(seed: int, candidate: Scores, others: Scores, *, share: float, answers: int) -> tuple[int, Trial]:
    """After how many rated answers a verdict was reached by whoever looks after each; 0: never."""
    rng, trial = random.Random(seed), _trial()
    for number in range(1, answers + 1):
        is_candidate = rng.random() < share
        trial.learn((candidate if is_candidate else others)(rng), is_candidate=is_candidate)
        if trial.verdict is not TrialVerdict.UNDECIDED:
            return number, trial
    return 0, trial


_NULLS: tuple[tuple[Scores, Scores, float], ...] = (
    (_good(0.5), _good(0.5), 0.5),
    (_good(0.9), _good(0.9), 0.2),
    (random.Random.random, random.Random.random, 0.5),
    (random.Random.random, _good(0.5), 0.3),
)


def test_of_1000_trials_without_a_difference_at_most_50_end_with_a_verdict() -> None:
    alarms = 0
    for seed in range(1000):
        candidate, others, share = _NULLS[seed % len(_NULLS)]
        alarms += _verdict_at(seed, candidate, others, share=share, answers=250)[0] > 0
    assert alarms <= 1000 * ALPHA


@pytest.mark.parametrize(
    ("candidate", "others", "share", "answers", "verdict"),
    [
        pytest.param(0.9, 0.5, 0.5, 200, TrialVerdict.BETTER, id="0.4 better, half of the traffic"),
        pytest.param(0.6, 0.8, 0.5, 1000, TrialVerdict.WORSE, id="0.2 worse, half of the traffic"),
        pytest.param(0.8, 0.6, 0.2, 1500, TrialVerdict.BETTER, id="0.2 better, a fifth of the traffic"),
    ],
)
def test_a_difference_is_found(
    candidate: float, others: float, share: float, answers: int, verdict: TrialVerdict
) -> None:
    ended = [
        _verdict_at(seed, _good(candidate), _good(others), share=share, answers=answers)[1].verdict
        for seed in range(40)
    ]
    assert ended.count(verdict) >= 36


def test_rating_one_side_more_often_is_no_difference() -> None:
    """Readers of the candidate complain and praise five times as often."""
    alarms = [_verdict_at(s, _good(0.7), _good(0.7), share=5 / 6, answers=400)[0] > 0 for s in range(200)]
    assert sum(alarms) <= 10


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.tuples(st.booleans(), st.floats(allow_infinity=True, allow_nan=True)), max_size=80))
def test_what_is_told_stays_in_its_ranges_and_goes_on_after_a_restart(scores: list[tuple[bool, float]]) -> None:
    trials, restarted = Trials(), Trials()
    for each in (trials, restarted):
        each.follow({"g": "candidate"})
    for is_candidate, score in scores:
        model = "candidate" if is_candidate else "other"
        trials.learn("g", model, score)
        restarted.learn("g", model, score)
        kept = msgspec.json.decode(msgspec.json.encode(Learned(trials=restarted.snapshot())), type=Learned)
        restarted = Trials()
        restarted.restore(kept.trials)
    trial, again = trials.of("g", "candidate"), restarted.of("g", "candidate")
    assert trial is not None
    assert again is not None
    assert -1.0 <= trial.difference <= 1.0
    assert trial.evidence >= 0.0
    assert again.view() == trial.view()
    assert msgspec.json.decode(msgspec.json.encode(trial.view()), type=type(trial.view())) == trial.view()


def test_a_verdict_stays_when_the_candidate_changes_later() -> None:
    _, trial = _verdict_at(1, _good(1.0), _good(0.2), share=0.5, answers=500)
    assert trial.verdict is TrialVerdict.BETTER
    for _ in range(500):
        trial.learn(0.0, is_candidate=True)
        trial.learn(1.0, is_candidate=False)
    assert trial.verdict is TrialVerdict.BETTER
    assert trial.difference < 0.0


def test_only_answers_of_the_group_count_and_another_candidate_begins_anew() -> None:
    trials = Trials()
    trials.follow({"g": "candidate"})
    trials.learn("g", "candidate", 1.0)
    trials.learn("other group", "candidate", 1.0)
    trials.learn("g", "member", 0.0)
    trial = trials.of("g", "candidate")
    assert trial is not None
    assert (trial.view().candidate_feedback, trial.view().others_feedback) == (1, 1)
    trials.follow({"g": "candidate", "h": "x"})
    assert trials.of("g", "candidate") is trial
    trials.follow({"g": "another"})
    assert trials.of("g", "candidate") is None
    fresh = trials.of("g", "another")
    assert fresh is not None
    assert fresh.rated == 0


def test_a_reset_begins_the_trial_anew() -> None:
    trials = Trials()
    trials.follow({"g": "candidate", "h": "x"})
    for group in ("g", "h"):
        trials.learn(group, "x", 1.0)
    trials.reset("candidate")
    assert [t.candidate.count + t.others.count for t in trials.snapshot()] == [0, 1]
    trials.reset()
    assert [t.candidate.count + t.others.count for t in trials.snapshot()] == [0, 0]


def test_who_has_heard_more_of_a_trial_goes_on_with_its_own() -> None:
    ahead, behind = Trials(), Trials()
    for trials, count in ((ahead, 5), (behind, 2)):
        trials.follow({"g": "candidate"})
        for _ in range(count):
            trials.learn("g", "candidate", 1.0)
    heard = ahead.snapshot()
    ahead.restore(behind.snapshot())
    assert ahead.snapshot() == heard
    behind.restore(heard)
    assert behind.snapshot() == heard
