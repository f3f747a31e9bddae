"""How good a model's answers proved to be, by category: discounted shares of good answers, from feedback.

A score lies between 0 (bad) and 1 (good). Every model has one cell for each category that it was rated in and one
for all of them together; a cell holds the weight of its scores and how much of it was good. What is expected of a
model in a category leans on the model's own mean, which leans on a prior, as a beta distribution does on what it
began with. The parent counts for as many answers as it deserves: its variance and that between categories add up,

    strength = 1 / (1 / (answers of the model + 2) + 1 / 6)

so that a model of which nothing is known stays uncertain everywhere, and ten answers in one category already tell
something about the others.

Quality changes (another quantisation under the same name, another prompt), so old scores count for less: half after
40 further scores by the same caller, half after 160 by others, half after 400 of other models in the category, half
after 30 days. The third makes a model uncertain again that nobody asks any more, which is what lets sampling return
to it (discounted Thompson sampling: Raj and Kalyani, "Taming Non-stationary Bandits", arXiv:1707.09727). A sliding
window would do as well but keeps every answer.

Nobody's word decides alone where others speak too: whoever said most counts for ten answers more than all others
together, however often they said it. A caller who is the only one is believed.
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
_BESIDE_KEEP = 0.5 ** (1 / 160)
_OTHERS_KEEP = 0.5 ** (1 / 400)
_HALF_LIFE_S = 30 * 86_400.0
_PRIOR_ANSWERS = 2.0  # that the prior counts for in a model's mean
_MODEL_ANSWERS = 6.0  # that a model's mean counts for in a category at most
_CATEGORIES = 64
_MODELS = 256
_VOICES = 16
_FREE_ANSWERS = 10.0  # that a single caller's word counts for in any case
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


class _Voice:
    """What one caller said of a model in a category."""

    __slots__ = ("answers", "at", "good", "said", "tick")

    def __init__(self, said: float, tick: float, at: float) -> None:
        self.good = 0.0
        self.answers = 0.0
        self.said = said
        self.tick = tick
        self.at = at


class _Cell:
    """What callers said of a model in a category, and how much they said in all."""

    __slots__ = ("said", "voices")

    def __init__(self) -> None:
        self.said = 0.0
        self.voices: dict[str, _Voice] = {}

    def heard(self, tick: float) -> dict[str, tuple[float, float]]:
        """Good answers and all answers by caller, as much as they still count; `tick` is the category's."""
        heard = {}
        for caller, voice in self.voices.items():
            beside = self.said - voice.said
            keep = _BESIDE_KEEP**beside * _OTHERS_KEEP ** max(0.0, tick - voice.tick - beside)
            heard[caller] = (voice.good * keep, voice.answers * keep)
        return heard

    def counts(self, tick: float) -> tuple[float, float]:
        """Good answers and all answers; whoever said most counts for few more than all others together."""
        heard = self.heard(tick)
        good = sum(voice[0] for voice in heard.values())
        answers = sum(voice[1] for voice in heard.values())
        if len(heard) > 1:
            most_good, most = max(heard.values(), key=lambda voice: voice[1])
            surplus = most - (_FREE_ANSWERS + answers - most)
            if surplus > 0.0:
                good, answers = good - most_good * surplus / most, answers - surplus
        return max(0.0, min(good, answers)), answers

    def learn(self, caller: str, score: float, weight: float, tick: float, now: float) -> None:
        """Takes one score; `tick` is the category's with this one."""
        voice = self.voices.get(caller)
        if voice is None:
            if len(self.voices) >= _VOICES:
                del self.voices[min(self.voices, key=lambda name: self.heard(tick)[name][1])]
            voice = self.voices[caller] = _Voice(self.said, tick - weight, now)
        good, answers = self.heard(tick - weight)[caller]
        keep = _OWN_KEEP**weight * 0.5 ** (max(0.0, now - voice.at) / _HALF_LIFE_S)
        voice.good, voice.answers = good * keep + score * weight, answers * keep + weight
        self.said += weight
        voice.said, voice.tick, voice.at = self.said, tick, max(voice.at, now)


class _Category:
    """The models of one category, and how many answers were rated in it."""

    __slots__ = ("cells", "ticks")

    def __init__(self) -> None:
        self.ticks = 0.0
        self.cells: dict[str, _Cell] = {}

    def counts(self, model: str) -> tuple[float, float]:
        """Good answers and all answers of a model, as much as they still count."""
        cell = self.cells.get(model)
        return (0.0, 0.0) if cell is None else cell.counts(self.ticks)

    def learn(self, model: str, caller: str, score: float, weight: float, now: float) -> None:
        if model not in self.cells:
            if len(self.cells) >= _MODELS:
                del self.cells[min(self.cells, key=lambda name: self.counts(name)[1])]
            self.cells[model] = _Cell()
        self.ticks += weight
        self.cells[model].learn(caller, score, weight, self.ticks, now)


class Qualities:
    """The quality of every model by category; bounded at 64 categories of 256 models, the least known go first.

    Callers name models and categories: made-up ones push out one another, not those that were rated often.
    """

    def __init__(self) -> None:
        self._categories: dict[str, _Category] = {EVERY: _Category()}

    def learn(
        self, model: str, category: str, score: float, now: float, *, weight: float = 1.0, caller: str = ""
    ) -> None:
        """Takes one answer's score; one that is no number teaches nothing, nor one of a model without a usable name.

        Args:
            model: Canonical name of the model that answered.
            category: What was asked for; empty or too long: not known, which teaches about the model alone.
            score: 0 is bad, 1 is good; values outside are clamped.
            now: Monotonic seconds.
            weight: How much the score counts, above 0 and up to 1.
            caller: Whose word it is; empty: nobody's whose name is known.
        """
        if math.isnan(score) or not weight > 0.0 or not 0 < len(model) <= NAME_MAX:
            return
        for name in {EVERY, category if len(category) <= CATEGORY_MAX else EVERY}:
            self._category(name).learn(model, caller, clamped(score, 0.0, 1.0), min(1.0, weight), now)

    def correct(self, model: str, category: str, before: float, score: float, *, caller: str = "") -> None:
        """Replaces a score that was learnt by another one of the same answer, as far as it still counts."""
        for name in {EVERY, category}:
            cell = self._categories[name].cells.get(model) if name in self._categories else None
            voice = cell.voices.get(caller) if cell is not None else None
            if voice is not None:
                voice.good = clamped(voice.good + score - before, 0.0, voice.answers)

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
                caller=caller,
                good=round(min(good, answers), 9),
                answers=round(answers, 9),
                idle_s=_HOUR_S * round(max(0.0, now - cell.voices[caller].at) / _HOUR_S),
            )
            for name, category in self._categories.items()
            for model, cell in category.cells.items()
            for caller, (good, answers) in cell.heard(category.ticks).items()
            if answers > 0.0
        ]
        order = sorted(cells, key=lambda cell: (cell.answers, cell.model, cell.category, cell.caller))
        return tuple(order[-_KEPT:])

    def restore(self, cells: Iterable[LearnedQuality], now: float) -> None:
        """Goes on from a snapshot, also one of another process; what this one has learnt itself stays."""
        own = {(name, model) for name, category in self._categories.items() for model in category.cells}
        for learned in cells:
            if (learned.category, learned.model) in own:
                continue
            category = self._category(learned.category)
            if learned.model not in category.cells and len(category.cells) >= _MODELS:
                continue
            cell = category.cells.setdefault(learned.model, _Cell())
            voice = cell.voices[learned.caller] = _Voice(cell.said, category.ticks, now - learned.idle_s)
            voice.good, voice.answers = learned.good, learned.answers

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
