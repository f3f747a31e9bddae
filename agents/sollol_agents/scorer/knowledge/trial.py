"""Whether a candidate's answers are better or worse than those of the models beside it; may be looked at any time.

A group gives a share of its requests, chosen by chance, to a candidate. Scores between 0 and 1 come in for both sides
in any order. They are paired: as soon as both sides have been rated since the last pair, the difference of the two
means, which lies between -1 and 1, is the next one. Where the candidate is neither better nor worse its expectation
is 0, however scores are spread, whatever the share, and whoever rates more often.

Two gamblers bet on these differences, one that they are positive, one that they are negative. Each stakes a part of
its wealth before the difference is known, so that under "no difference" nobody gains on average, and by Ville's
inequality the mean of both wealths, which begins at 1, ever reaches 20 with a probability of at most 1/20. That holds
for all instants together: looking after every score, and stopping when the verdict pleases, costs nothing. A t-test
looked at so often would call one of three equal candidates different.

The stake follows "aGRAPA" of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86 (2024), arXiv:2010.09686; the pairing is that of Shekhar and Ramdas,
"Nonparametric two-sample testing by betting", arXiv:2112.09162. Weighting every score by the inverse of its share
needs no pairs, but is wrong as soon as one side is rated more often than it is asked. A verdict once reached stays;
a model that changes later needs a new trial.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_schemas.groups import GROUPS_MAX, TrialVerdict, TrialView
from sollol_schemas.learned import LearnedScores, LearnedTrial

ALPHA: Final = 0.05
"""Probability that the trial of a candidate that is neither better nor worse ever ends with a verdict, at most."""
_STAKE_MAX: Final = 0.75
_PRIOR_PAIRS: Final = 4.0  # that showed no difference, with which the stakes begin
_PRIOR_SQUARE: Final = 0.25
_EVIDENCE_MAX: Final = 1e12


class _Scores:
    """How many answers of one side were rated, and the sum of their scores."""

    __slots__ = ("count", "sum")

    def __init__(self, told: LearnedScores) -> None:
        self.count, self.sum = told.count, told.sum

    def add(self, score: float) -> None:
        self.count += 1
        self.sum += score

    def take_mean(self) -> float:
        """The mean of these scores, which are forgotten."""
        mean = self.sum / self.count
        self.count, self.sum = 0, 0.0
        return mean

    def learned(self) -> LearnedScores:
        return LearnedScores(count=self.count, sum=round(self.sum, 9))


class Trial:
    """The trial of one candidate in one group, from its beginning or from where another process left it."""

    __slots__ = ("_all", "_difference_sum", "_down", "_pairs", "_square_sum", "_unpaired", "_up", "group", "model")

    def __init__(self, learned: LearnedTrial) -> None:
        self.group = learned.group
        self.model = learned.model
        self._all = (_Scores(learned.candidate), _Scores(learned.others))
        self._unpaired = (_Scores(learned.candidate_unpaired), _Scores(learned.others_unpaired))
        self._pairs = learned.pairs
        self._difference_sum = learned.difference_sum
        self._square_sum = learned.square_sum
        self._up = learned.up
        self._down = learned.down

    def learn(self, score: float, *, is_candidate: bool) -> None:
        """Takes the score of one more answer; values outside 0 to 1 are clamped."""
        score = clamped(score, 0.0, 1.0)
        side = 0 if is_candidate else 1
        self._all[side].add(score)
        self._unpaired[side].add(score)
        candidate, others = self._unpaired
        if candidate.count and others.count:
            self._settle(candidate.take_mean() - others.take_mean())

    @property
    def rated(self) -> int:
        """How many answers were rated."""
        return self._all[0].count + self._all[1].count

    @property
    def evidence(self) -> float:
        """What a wealth of 1 became by betting against "no difference"; 20 and more is a verdict."""
        return min(_EVIDENCE_MAX, (self._up + self._down) / 2.0)

    @property
    def verdict(self) -> TrialVerdict:
        """What the trial has shown; once it has, that stays."""
        if self.evidence < 1.0 / ALPHA:
            return TrialVerdict.UNDECIDED
        return TrialVerdict.BETTER if self._up > self._down else TrialVerdict.WORSE

    @property
    def difference(self) -> float:
        """Mean score of the candidate less the others'; 0 while one side was not rated."""
        candidate, others = self._all
        if not (candidate.count and others.count):
            return 0.0
        return clamped(candidate.sum / candidate.count - others.sum / others.count, -1.0, 1.0)

    def view(self) -> TrialView:
        """The trial as it is told."""
        return TrialView(
            model=self.model,
            verdict=self.verdict,
            candidate_feedback=self._all[0].count,
            others_feedback=self._all[1].count,
            difference=round(self.difference, 4),
            evidence=round(self.evidence, 4),
        )

    def learned(self) -> LearnedTrial:
        """The trial as plain data."""
        return LearnedTrial(
            group=self.group,
            model=self.model,
            candidate=self._all[0].learned(),
            others=self._all[1].learned(),
            candidate_unpaired=self._unpaired[0].learned(),
            others_unpaired=self._unpaired[1].learned(),
            pairs=self._pairs,
            difference_sum=self._difference_sum,
            square_sum=self._square_sum,
            up=min(_EVIDENCE_MAX, self._up),
            down=min(_EVIDENCE_MAX, self._down),
        )

    def _settle(self, difference: float) -> None:
        """The bets on one difference are settled; after a verdict nobody bets any more."""
        if self.verdict is not TrialVerdict.UNDECIDED:
            return
        pairs = self._pairs + _PRIOR_PAIRS
        square = (self._square_sum + _PRIOR_PAIRS * _PRIOR_SQUARE) / pairs
        stake = clamped(self._difference_sum / pairs / square, -_STAKE_MAX, _STAKE_MAX)
        if stake > 0.0:
            self._up *= 1.0 + stake * difference
        else:
            self._down *= 1.0 + stake * difference
        self._pairs += 1
        self._difference_sum += difference
        self._square_sum += difference * difference


class Trials:
    """The trials of every group that has a candidate: one for each."""

    def __init__(self) -> None:
        self._trials: dict[str, Trial] = {}

    def follow(self, candidates: Mapping[str, str]) -> None:
        """Goes on with the trials of these candidates (canonical names, by group) and begins those that are new.

        A group that has no candidate any more, or another one, loses its trial.
        """
        self._trials = {group: self.of(group, model) or _begun(group, model) for group, model in candidates.items()}

    def learn(self, group: str, model: str, score: float) -> None:
        """Takes the score of an answer that a group's model gave; in a group without a trial, nothing."""
        trial = self._trials.get(group)
        if trial is not None and not math.isnan(score):
            trial.learn(score, is_candidate=model == trial.model)

    def of(self, group: str, model: str) -> Trial | None:
        """The trial of a candidate in a group."""
        trial = self._trials.get(group)
        return trial if trial is not None and trial.model == model else None

    def snapshot(self) -> tuple[LearnedTrial, ...]:
        """Every trial, for `restore`."""
        return tuple(trial.learned() for trial in self._trials.values())

    def restore(self, trials: Iterable[LearnedTrial]) -> None:
        """Goes on from another process' trials; one of which this process has heard more itself stays."""
        for learned in list(trials)[:GROUPS_MAX]:
            trial, own = Trial(learned), self._trials.get(learned.group)
            if own is None or (own.model == trial.model and own.rated < trial.rated):
                self._trials[learned.group] = trial

    def reset(self, model: str | None = None) -> None:
        """Begins the trials of one candidate, or every trial, anew."""
        for group, trial in self._trials.items():
            if model in (None, trial.model):
                self._trials[group] = _begun(group, trial.model)


def _begun(group: str, model: str) -> Trial:
    return Trial(LearnedTrial(group=group, model=model))
