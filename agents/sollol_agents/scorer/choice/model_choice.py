"""Which model of a group serves a request: the one from which a good answer may be expected soonest. Pure.

    total = [T + (1 - q) / max(0.05, q) * (T + patience)] / weight

`T` is the predicted completion with the model on its best node, waiting included; `q` the expected share of good
answers at requests of the category; `patience` what a bad answer costs its reader besides. It is the risk term of nodes
with a bad answer in the place of a failure: so many repetitions are to be expected, each of which costs the time again
and the reader's patience. A weight divides, as that of a node does.

Quality must be tried to be known. So `q` is the mean with half of its spread on top: a model has the benefit of the
doubt. And one request in twenty draws every `q` from what is believed of it (Thompson sampling); what is well known is
drawn close to its mean, so that ever fewer of these requests go to another model than the best. To draw for every
request is the textbook's way; it would send most requests of a fleet without feedback to models at random.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sollol_agents.scorer.knowledge.quality import PRIOR, Quality
from sollol_schemas.decision import ModelCandidate
from sollol_schemas.groups import Candidate, Group, GroupStrategy

EXPLORING_SHARE = 0.05
"""So many requests draw qualities instead of taking what is expected."""
_DOUBT_SHARE = 0.5
"""So much of the spread a quality is taken to be better than its mean."""
LEAST_QUALITY = 0.05
_CLEARLY_SHARE = 0.25
_CLEARLY_S = 0.5
_SIZE_STEP = 0.03
_SIZE_MOST = 0.06
_WORTH_BEGINNING = 0.35
"""A model that passes less often at such work is no saving to begin with: most of its answers are made twice."""
_HYBRID = (0.4, 0.4, 0.2)
"""What quality, speed and load count for."""

Draw = Callable[["Contender"], float]
"""Draws the quality of a model from what is believed of it."""


class Contender(NamedTuple):
    """A model of a group that could serve a request now."""

    model: str
    """Its canonical name."""
    name: str
    """As people write it."""
    weight: float
    seconds: float
    """Predicted completion on its best node, waiting included, with what it takes from others; >= 0."""
    node_id: str
    """That node."""
    size_bytes: float
    load: int
    """Requests that run or wait with it; 0 where the strategy does not ask."""
    quality: float
    """Share of good answers at requests of this category that is hoped for, 0 to 1."""


class Picked(NamedTuple):
    """The model for a request, and why."""

    contender: Contender
    reason: str
    drawn: Mapping[str, float]
    """Qualities that counted in place of the expected ones, by model."""


def total_s(seconds: float, quality: float, patience_s: float, weight: float = 1.0) -> float:
    """Expected seconds until a good answer, for a model of such a weight; see the module."""
    bad = (1.0 - quality) / max(LEAST_QUALITY, quality)
    return (seconds + bad * (seconds + patience_s)) / weight


def hopeful(known: Quality) -> float:
    """The quality that counts for a model: its mean, with the benefit of the doubt."""
    return min(1.0, known.mean + _DOUBT_SHARE * known.spread)


def size_prior(size_bytes: float, sizes: Iterable[float]) -> float:
    """Expected quality of a model of which nothing is known beside its size, among models of such sizes.

    Twice the median size counts for 0.03 more, and no size for more than 0.06.
    """
    known = sorted(size for size in sizes if size > 0)
    if size_bytes <= 0 or not known:
        return PRIOR
    steps = _SIZE_STEP * math.log2(size_bytes / known[len(known) // 2])
    return PRIOR + max(-_SIZE_MOST, min(_SIZE_MOST, steps))


def is_tried(candidate: Candidate | None, key: str) -> bool:
    """Whether a request, or the conversation with this key, goes to the candidate; whoever asks again stays there."""
    if candidate is None:
        return False
    digest = hashlib.blake2b(f"{candidate.model}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < candidate.share * 2.0**64


def is_clear(saved_s: float, seconds: float) -> bool:
    """Whether a request that has so long to go with its model is bound to another, which saves so much.

    Hysteresis keeps it from going to and fro.
    """
    return saved_s > max(_CLEARLY_S, _CLEARLY_SHARE * seconds)


class Turns:
    """Whose turn it is in groups that go round: smooth weighted round robin.

    Each model comes as often as its weight says, evenly spread.
    """

    def __init__(self) -> None:
        self._credit: dict[str, dict[str, float]] = {}

    def next(self, group: str, contenders: Sequence[Contender]) -> Contender:
        """The model whose turn it is, out of at least one."""
        before = self._credit.get(group, {})
        credit = {c.model: before.get(c.model, 0.0) + c.weight for c in contenders}
        chosen = max(contenders, key=lambda c: credit[c.model])
        credit[chosen.model] -= sum(c.weight for c in contenders)
        self._credit[group] = credit
        return chosen

    def keep(self, groups: Iterable[str]) -> None:
        """Forgets every other group."""
        self._credit = {name: self._credit[name] for name in groups if name in self._credit}


def pick(
    group: Group,
    contenders: Sequence[Contender],
    *,
    draw: Draw,
    turns: Turns,
    rng: random.Random | None,
    category: str = "",
) -> Picked:
    """The model that the group's strategy takes, out of at least one.

    Args:
        group: Whose strategy and patience count.
        contenders: The models that could serve the request.
        draw: Used for one request in twenty, and only where quality counts.
        turns: Whose turn it is.
        rng: Decides about exploring, and for `random`; None leaves both to no chance.
        category: What the request is, for words.
    """
    if len(contenders) == 1:
        return Picked(contenders[0], "the only model of the group that can do this", {})
    match group.strategy:
        case GroupStrategy.ROUND_ROBIN:
            return Picked(turns.next(group.name, contenders), "its turn", {})
        case GroupStrategy.RANDOM:
            weights = [c.weight for c in contenders]
            return Picked((rng or random.Random(0)).choices(contenders, weights)[0], "by chance", {})
        case GroupStrategy.LEAST_LOADED:
            least = min(contenders, key=lambda c: ((c.load + 1) / c.weight, c.seconds))
            return Picked(least, f"least loaded, with {least.load} requests", {})
        case GroupStrategy.CHEAP_FIRST:
            return _smallest_that_passes(contenders, rng=rng, category=category)
        case _:
            return _by_quality(group, contenders, draw=draw, rng=rng, category=category)


def _smallest_that_passes(contenders: Sequence[Contender], *, rng: random.Random | None, category: str) -> Picked:
    """The smallest model whose answers are not known to be asked for anew mostly; now and then the smallest at all."""
    by_size = sorted(contenders, key=lambda c: (c.size_bytes, c.seconds))
    smallest = by_size[0]
    good = next((c for c in by_size if c.quality >= _WORTH_BEGINNING), by_size[-1])
    if good is smallest:
        return Picked(smallest, "the smallest", {})
    if rng is not None and rng.random() < EXPLORING_SHARE:
        return Picked(smallest, f"the smallest, tried to learn how good it is; else {good.name}", {})
    at = category or "work like this"
    why = f"the smallest that does for {at}; {smallest.name} does for {smallest.quality * 100:.0f} % of it"
    return Picked(good, why, {})


def _by_quality(
    group: Group, contenders: Sequence[Contender], *, draw: Draw, rng: random.Random | None, category: str
) -> Picked:
    """The choice of strategies that learn: by what is expected, or now and then by what is drawn."""
    score = _scores(group, contenders)
    best = max(contenders, key=lambda c: score(c, c.quality))
    if rng is not None and rng.random() < EXPLORING_SHARE:
        drawn = {c.model: draw(c) for c in contenders}
        tried = max(contenders, key=lambda c: score(c, drawn[c.model]))
        if tried is not best:
            return Picked(tried, f"tried to learn how good it is; else {best.name}", drawn)
    return Picked(best, _why(group, best, contenders, score, category), {})


def _scores(group: Group, contenders: Sequence[Contender]) -> Callable[[Contender, float], float]:
    """What a strategy compares models by, given a model and its quality; higher is better."""
    soonest = max(1e-6, min(c.seconds for c in contenders))

    def cost(c: Contender, quality: float) -> float:
        return -total_s(c.seconds, quality, group.patience_s, c.weight)

    def performance(c: Contender, quality: float) -> float:
        return c.weight * quality / max(1e-6, c.seconds)

    def affinity(c: Contender, quality: float) -> float:
        return c.weight * quality

    def hybrid(c: Contender, quality: float) -> float:
        parts = (quality, soonest / max(soonest, c.seconds), 1.0 / (1 + c.load))
        return c.weight * sum(share * part for share, part in zip(_HYBRID, parts, strict=True))

    return {
        GroupStrategy.PERFORMANCE: performance,
        GroupStrategy.AFFINITY: affinity,
        GroupStrategy.HYBRID: hybrid,
    }.get(group.strategy, cost)


def _why(
    group: Group,
    best: Contender,
    contenders: Sequence[Contender],
    score: Callable[[Contender, float], float],
    category: str,
) -> str:
    second = max((c for c in contenders if c is not best), key=lambda c: score(c, c.quality))
    mine, other = score(best, best.quality), score(second, second.quality)
    match group.strategy:
        case GroupStrategy.PERFORMANCE:
            return f"{mine:.2g} good answers a second, {second.name} {other:.2g}"
        case GroupStrategy.AFFINITY:
            return f"{mine:.2f} good answers at {category or 'work like this'}, {second.name} {other:.2f}"
        case GroupStrategy.HYBRID:
            return f"quality, speed and load {mine:.2f}, {second.name} {other:.2f}"
        case _:
            return f"a good answer in {-mine:.2g} s, with {second.name} in {-other:.2g} s"


def told(group: Group, picked: Picked, contenders: Iterable[Contender]) -> list[ModelCandidate]:
    """What is said of the models that could serve a request: the chosen one first, then by cost."""
    views = [
        ModelCandidate(
            model=c.name,
            total_s=total_s(c.seconds, picked.drawn.get(c.model, c.quality), group.patience_s, c.weight),
            completion_s=c.seconds,
            quality=min(1.0, picked.drawn.get(c.model, c.quality)),
            node_id=c.node_id,
        )
        for c in contenders
    ]
    return sorted(views, key=lambda view: (view.model != picked.contender.name, view.total_s))
