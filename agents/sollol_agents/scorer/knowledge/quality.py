"""How good a model's answers proved to be, by category: discounted shares of good answers, from feedback.

A score lies between 0 (bad) and 1 (good). Every model has one cell for each category that it was rated in and one
for all of them together; a cell holds the weight of its scores and how much of it was good. What is expected of a
model in a category leans on the model's own mean, which leans on a prior, as a beta distribution does on what it
began with. The parent counts for as many answers as it deserves: its variance and that between categories add up,

    strength = 1 / (1 / (answers of the model + 2) + 1 / 6)

so that a model of which nothing is known stays uncertain everywhere, and ten answers in one category already tell
something about the others.

Quality changes (another quantisation under the same name, another prompt), so old answers count for less: half after
40 answers of the model in the cell, half after 400 answers of other models in the category, half after 30 days. The
second makes a model uncertain again that nobody asks any more, which is what lets sampling return to it (discounted
Thompson sampling: Raj and Kalyani, "Taming Non-stationary Bandits", arXiv:1707.09727). A sliding window would do as
well but keeps every answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import NamedTuple

from sollol_agents.scorer.knowledge.clamp import clamped
from sollol_schemas.learned import CATEGORY_MAX, NAME_MAX, LearnedQuality

PRIOR = 0.7
"""Expected share of good answers of a model that nobody rated."""
EVERY = ""
"""The category that stands for all of them together."""

_OWN_KEEP = 0.5 ** (1 / 40)
_OTHERS_KEEP = 0.5 ** (1 / 400)
_HALF_LIFE_S = 30 * 86_400.0
_PRIOR_ANSWERS = 2.0  # that the prior counts for in a model's mean
_MODEL_ANSWERS = 6.0  # that a model's mean counts for in a category at most
_CATEGORIES = 64
_MODELS = 256
_KEPT = 1024  # cells that a snapshot holds
_HOUR_S = 3600.0
_LEAST_SHAPE = 1e-3


class Quality(NamedTuple):
    """What is expected of a model's next answer."""

    mean: float
    """Expected share of good answers; 0 to 1."""
    spread: float
    """Standard deviation of that share; 0 to 0.5."""
    answers: float
    """Rated answers that stand behind it, old ones counting for less; 0: it is the prior or leans on other
    categories."""


class _Cell:
    __slots__ = ("answers", "at", "good", "tick")

    def __init__(self, tick: float, at: float) -> None:
        self.good = 0.0
        self.answers = 0.0
        self.tick = tick
        self.at = at


class _Category:
    """The models of one category, and how many answers were rated in it."""

    __slots__ = ("cells", "ticks")

    def __init__(self) -> None:
        self.ticks = 0.0
        self.cells: dict[str, _Cell] = {}

    def counts(self, model: str) -> tuple[float, float]:
        """Good answers and all answers of a model, those of others since then accounted for."""
        cell = self.cells.get(model)
        if cell is None:
            return 0.0, 0.0
        keep = _OTHERS_KEEP ** (self.ticks - cell.tick)
        return cell.good * keep, cell.answers * keep

    def learn(self, model: str, score: float, now: float, weight: float) -> None:
        cell = self.cells.get(model)
        if cell is None:
            if len(self.cells) >= _MODELS:
                del self.cells[min(self.cells, key=lambda name: self.counts(name)[1])]
            cell = self.cells[model] = _Cell(self.ticks, now)
        keep = _OTHERS_KEEP ** (self.ticks - cell.tick) * _OWN_KEEP**weight
        keep *= 0.5 ** (max(0.0, now - cell.at) / _HALF_LIFE_S)
        cell.good = cell.good * keep + score * weight
        cell.answers = cell.answers * keep + weight
        self.ticks += weight
        cell.tick, cell.at = self.ticks, max(cell.at, now)


class Qualities:
    """The quality of every model by category; bounded at 64 categories of 256 models, the least known go first.

    Callers name models and categories: made-up ones push out one another, not those that were rated often.
    """

    def __init__(self) -> None:
        self._categories: dict[str, _Category] = {EVERY: _Category()}

    def learn(self, model: str, category: str, score: float, now: float, *, weight: float = 1.0) -> None:
        """Takes one answer's score; one that is no number teaches nothing, nor one of a model without a usable name.

        Args:
            model: Canonical name of the model that answered.
            category: What was asked for; empty or too long: not known, which teaches about the model alone.
            score: 0 is bad, 1 is good; values outside are clamped.
            now: Monotonic seconds.
            weight: How much the score counts, above 0 and up to 1.
        """
        if math.isnan(score) or not weight > 0.0 or not 0 < len(model) <= NAME_MAX:
            return
        for name in {EVERY, category if len(category) <= CATEGORY_MAX else EVERY}:
            self._category(name).learn(model, clamped(score, 0.0, 1.0), now, min(1.0, weight))

    def expected(self, model: str, category: str = EVERY, *, prior: float = PRIOR) -> Quality:
        """What to expect of a model in a category; of one never rated, the prior."""
        good, bad, answers = self._shape(model, category, prior)
        total = good + bad
        return Quality(good / total, math.sqrt(good * bad / (total * total * (total + 1.0))), answers)

    def sample(self, model: str, category: str, rng: random.Random, *, prior: float = PRIOR) -> float:
        """One draw of the share of good answers, 0 to 1: the less is known, the further from the mean."""
        good, bad, _ = self._shape(model, category, prior)
        return rng.betavariate(max(_LEAST_SHAPE, good), max(_LEAST_SHAPE, bad))

    def categories(self, model: str) -> tuple[str, ...]:
        """In which categories a model was rated, in order of their names."""
        return tuple(sorted(name for name, of in self._categories.items() if name and model in of.cells))

    def reset(self, model: str | None = None) -> None:
        """Forgets all that was learnt of one model, or of every model: as if it had never been rated."""
        if model is None:
            self._categories = {EVERY: _Category()}
            return
        for name in list(self._categories):
            category = self._categories[name]
            category.cells.pop(model, None)
            if name and not category.cells:
                del self._categories[name]

    def snapshot(self, now: float) -> tuple[LearnedQuality, ...]:
        """What is worth keeping, the best known last; the passing of seconds alone does not change it."""
        cells = [
            LearnedQuality(
                model=model,
                category=name,
                good=round(min(counts), 9),
                answers=round(counts[1], 9),
                idle_s=_HOUR_S * round(max(0.0, now - cell.at) / _HOUR_S),
            )
            for name, category in self._categories.items()
            for model, cell in category.cells.items()
            if (counts := category.counts(model))[1] > 0.0
        ]
        return tuple(sorted(cells, key=lambda cell: (cell.answers, cell.model, cell.category))[-_KEPT:])

    def restore(self, cells: Iterable[LearnedQuality], now: float) -> None:
        """Goes on from a snapshot, also one of another process; what this one has learnt itself stays."""
        own = {(name, model) for name, category in self._categories.items() for model in category.cells}
        for learned in cells:
            if (learned.category, learned.model) in own:
                continue
            category = self._category(learned.category)
            if learned.model in category.cells or len(category.cells) < _MODELS:
                cell = category.cells[learned.model] = _Cell(category.ticks, now - learned.idle_s)
                cell.good, cell.answers = learned.good, learned.answers

    def _category(self, name: str) -> _Category:
        category = self._categories.get(name)
        if category is None:
            if len(self._categories) >= _CATEGORIES:
                del self._categories[min((n for n in self._categories if n), key=self._answers_in)]
            category = self._categories[name] = _Category()
        return category

    def _answers_in(self, name: str) -> float:
        category = self._categories[name]
        return sum(category.counts(model)[1] for model in category.cells)

    def _shape(self, model: str, category: str, prior: float) -> tuple[float, float, float]:
        """Good and bad answers that a beta distribution stands for, and how many of them are the cell's own."""
        prior = clamped(prior, 0.01, 0.99)
        good, answers = self._categories[EVERY].counts(model)
        mean = (good + _PRIOR_ANSWERS * prior) / (answers + _PRIOR_ANSWERS)
        strength = answers + _PRIOR_ANSWERS
        if category != EVERY:
            strength = 1.0 / (1.0 / strength + 1.0 / _MODEL_ANSWERS)
            good, answers = self._categories[category].counts(model) if category in self._categories else (0.0, 0.0)
            return good + strength * mean, answers - good + strength * (1.0 - mean), answers
        return strength * mean, strength * (1.0 - mean), answers
