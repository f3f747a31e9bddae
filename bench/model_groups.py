"""How near the choices of a group come to the best one: `python -m bench.model_groups`, in virtual time.

Three models of which one is quick, one in between and one slow answer requests, one after the other; each answer is
rated, on average by its model's true quality. The choice and what is learnt are the scorer's own code. Regret is what
the chosen models cost on average beyond the best one, by their true qualities, as a share of that: of requests 501 to
1,000, and of those from 201 to 300 after a change.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from bench.command import parser_of, started
from sollol_agents.scorer.choice.model_choice import Contender, Turns, hopeful, pick, total_s
from sollol_agents.scorer.knowledge.quality import Qualities
from sollol_schemas.groups import Group, GroupMember

SECONDS: Final = {"small": 2.0, "middle": 5.0, "large": 9.0}
"""What an answer of each model takes."""
Truth = dict[str, float]
STEADY: Final[dict[str, Truth]] = {
    "the middle one is best": {"small": 0.3, "middle": 0.9, "large": 0.92},
    "the small one is best": {"small": 0.85, "middle": 0.88, "large": 0.9},
    "the large one is best": {"small": 0.5, "middle": 0.7, "large": 0.97},
}
CHANGES: Final[dict[str, tuple[Truth, Truth]]] = {
    "the best breaks": (
        {"small": 0.4, "middle": 0.92, "large": 0.9},
        {"small": 0.4, "middle": 0.4, "large": 0.9},
    ),
    "the quickest breaks": (
        {"small": 0.9, "middle": 0.9, "large": 0.9},
        {"small": 0.2, "middle": 0.9, "large": 0.9},
    ),
    "two change places": (
        {"small": 0.6, "middle": 0.6, "large": 0.9},
        {"small": 0.6, "middle": 0.95, "large": 0.5},
    ),
    "a poor one becomes the best": (
        {"small": 0.6, "middle": 0.6, "large": 0.9},
        {"small": 0.6, "middle": 0.95, "large": 0.9},
    ),
}
"""True qualities before and after a change."""
LEARNT: Final = 500
CHANGED_AFTER: Final = 600
RECOVERED_WITHIN: Final = 200
_LOOKED_AT: Final = 100
_NEAR: Final = 0.05
_GRADES: Final = 3.0


class World:
    """Three models whose true quality is known, and readers who rate their answers.

    Args:
        truth: Quality by model.
        seed: Of everything that is left to chance.
        is_graded: Whether ratings are grades between bad and good; otherwise each is one of the two.
    """

    def __init__(self, truth: Truth, seed: int, *, is_graded: bool = True) -> None:
        self.truth = dict(truth)
        self._rng = random.Random(seed)
        self._is_graded = is_graded
        self._qualities = Qualities()
        self._now = 0.0
        self._group = Group(name="g", members=tuple(GroupMember(model=name) for name in SECONDS))

    def play(self, count: int) -> list[float]:
        """The regret of each of so many requests, one after the other."""
        return [self._ask() for _ in range(count)]

    def _cost_s(self, model: str) -> float:
        return total_s(SECONDS[model], self.truth[model], self._group.patience_s)

    def _ask(self) -> float:
        rng, qualities = self._rng, self._qualities
        contenders = [
            Contender(
                model=name,
                name=name,
                weight=1.0,
                seconds=seconds * rng.uniform(0.9, 1.1),  # what a busy fleet adds
                node_id="n1",
                size_bytes=1e9,
                load=0,
                quality=hopeful(qualities.expected(name, "coding")),
            )
            for name, seconds in SECONDS.items()
        ]
        choice = pick(
            self._group, contenders, draw=lambda c: qualities.sample(c.model, "coding", rng), turns=Turns(), rng=rng
        )
        model = choice.contender.model
        self._now += 10.0
        qualities.learn(model, "coding", self._rating(self.truth[model]), self._now)
        return self._cost_s(model) / min(map(self._cost_s, SECONDS)) - 1.0

    def _rating(self, quality: float) -> float:
        if self._is_graded:
            return self._rng.betavariate(_GRADES * quality, _GRADES * (1.0 - quality))
        return float(self._rng.random() < quality)


def learnt(truth: Truth, seed: int, *, is_graded: bool = True) -> list[float]:
    """The regrets after 500 answers."""
    world = World(truth, seed, is_graded=is_graded)
    world.play(LEARNT)
    return world.play(LEARNT)


def recovered(before: Truth, after: Truth, seed: int, *, is_graded: bool = True) -> list[float]:
    """The regrets from 200 answers after a change on."""
    world = World(before, seed, is_graded=is_graded)
    world.play(CHANGED_AFTER)
    world.truth = dict(after)
    world.play(RECOVERED_WITHIN)
    return world.play(_LOOKED_AT)


def near_best(regrets: list[float]) -> float:
    """Share of the requests that went to the best model, or one nearly as good."""
    return sum(regret < _NEAR for regret in regrets) / len(regrets)


async def measure(_folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plays every scene over several seeds."""
    seeds = range(4 if arguments.quick else 60)
    rows: list[dict[str, Any]] = []
    for is_graded in (True, False):
        for scene, truth in STEADY.items():
            rows.append(_row(scene, is_graded, [x for s in seeds for x in learnt(truth, s, is_graded=is_graded)]))
        for scene, (before, after) in CHANGES.items():
            found = [x for s in seeds for x in recovered(before, after, s, is_graded=is_graded)]
            rows.append(_row(scene, is_graded, found))
    return {"seeds": len(seeds), "scenes": rows}


def _row(scene: str, is_graded: bool, regrets: list[float]) -> dict[str, Any]:
    mean = round(statistics.fmean(regrets), 4)
    ratings = "grades" if is_graded else "good or bad"
    return {"scene": scene, "ratings": ratings, "regret_ratio": mean, "best_ratio": round(near_best(regrets), 4)}


def as_text(figures: dict[str, Any]) -> str:
    """A line for each scene."""
    return "\n".join(
        f"{row['scene']:30} {row['ratings']:12} regret {100 * row['regret_ratio']:5.1f} %"
        f"  to the best {100 * row['best_ratio']:5.1f} %"
        for row in figures["scenes"]
    )


if __name__ == "__main__":
    sys.exit(started(parser_of("bench.model_groups", __doc__), measure, as_text))
