"""How often a trial without a difference calls one, and after how many rated answers a true one is called.

    python -m bench.trials [--quick] [--json] [--out FILE]

Each row is 1,000 trials of 2,000 rated answers in virtual time; whoever looks does so after every score, and takes
the first verdict. `alarms` is the share of trials that ended with one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import parser_of, started
from sollol_agents.scorer.knowledge.trial import Trial
from sollol_schemas.groups import TrialVerdict
from sollol_schemas.learned import LearnedTrial

Scores = Callable[[random.Random], float]


class Scene(NamedTuple):
    """Two sides and how often each is asked."""

    name: str
    candidate: Scores
    others: Scores
    share: float


def good(ratio: float) -> Scores:
    """Scores of 0 and 1."""
    return lambda rng: 1.0 if rng.random() < ratio else 0.0


def _uniform(rng: random.Random) -> float:
    return rng.random()


SAME = (
    Scene("half good", good(0.5), good(0.5), 0.5),
    Scene("nine in ten good", good(0.9), good(0.9), 0.5),
    Scene("nine in ten good, a tenth of the traffic", good(0.9), good(0.9), 0.1),
    Scene("any score between", _uniform, _uniform, 0.5),
    Scene("same mean, other spread", _uniform, good(0.5), 0.3),
)
DIFFERENT = (
    Scene("0.5 beside 0.9", good(0.5), good(0.9), 0.5),
    Scene("0.6 beside 0.8", good(0.6), good(0.8), 0.5),
    Scene("0.6 beside 0.8, a fifth of the traffic", good(0.6), good(0.8), 0.2),
    Scene("0.8 beside 0.9", good(0.8), good(0.9), 0.5),
)


def played(scene: Scene, seed: int, answers: int) -> tuple[int, TrialVerdict]:
    """After how many rated answers a trial ended, and how."""
    rng, trial = random.Random(seed), Trial(LearnedTrial(group="g", model="candidate"))
    for number in range(1, answers + 1):
        is_candidate = rng.random() < scene.share
        trial.learn((scene.candidate if is_candidate else scene.others)(rng), is_candidate=is_candidate)
        if trial.verdict is not TrialVerdict.UNDECIDED:
            return number, trial.verdict
    return answers, TrialVerdict.UNDECIDED


async def measure(_folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plays every scene."""
    trials, answers = (50, 300) if arguments.quick else (1000, 2000)
    rows: list[dict[str, Any]] = []
    for scene in (*SAME, *DIFFERENT):
        ends = [played(scene, seed, answers) for seed in range(trials)]
        called = sorted(number for number, verdict in ends if verdict is not TrialVerdict.UNDECIDED)
        row: dict[str, Any] = {"scene": scene.name, "share": scene.share, "called_ratio": len(called) / trials}
        if scene in DIFFERENT:
            row["wrong_ratio"] = sum(verdict is TrialVerdict.BETTER for _, verdict in ends) / trials
            row["median_answers"] = statistics.median(called) if called else None
            row["p90_answers"] = called[int(0.9 * len(called))] if called else None
        rows.append(row)
    return {"trials": trials, "answers": answers, "scenes": rows}


def as_text(figures: dict[str, Any]) -> str:
    """A line for each scene."""
    return "\n".join(
        f"{row['scene']:45} {100 * row['called_ratio']:5.1f} %"
        + (f"  median after {row['median_answers']:.0f}, P90 {row['p90_answers']}" if row.get("median_answers") else "")
        for row in figures["scenes"]
    )


if __name__ == "__main__":
    sys.exit(started(parser_of("bench.trials", __doc__), measure, as_text))
