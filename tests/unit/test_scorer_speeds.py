"""What answers teach of a node's speed, also those that came whole."""

from __future__ import annotations

import random

import pytest

from sollol_agents.node.attempts.outcome import figures_of
from sollol_agents.scorer.knowledge import priors
from sollol_agents.scorer.knowledge.speeds import NodeSpeeds
from sollol_schemas.execution import Figures

SIZE = priors.REFERENCE_BYTES


def speeds() -> NodeSpeeds:
    return NodeSpeeds(machine=priors.UNKNOWN_MACHINE, has_gpu=False)


def whole(prompt: int, output: int, prompt_tps: float, decode_tps: float) -> Figures:
    """The figures of an answer whose total alone is known."""
    seconds = prompt / prompt_tps + output / decode_tps
    told = Figures(prompt_tokens=prompt, output_tokens=output)
    return figures_of(
        told, accepted_at=0.0, began_at=0.0, first_at=seconds, last_at=seconds, output_chunks=0, now=seconds
    )


@pytest.mark.parametrize("decode_tps", [2.0, 120.0])
def test_answers_that_come_whole_teach_how_fast_a_node_writes(decode_tps: float) -> None:
    known = speeds()
    for _ in range(12):
        known.learn("m", SIZE, whole(20, 200, 500.0, decode_tps), 1.0)
    assert known.decode_tps("m", SIZE) == pytest.approx(decode_tps, rel=0.15)


def test_they_do_not_blame_reading_for_writing() -> None:
    known = speeds()
    before = known.prompt_tps("m", SIZE)
    for _ in range(12):
        known.learn("m", SIZE, whole(20, 400, before, 2.0), 1.0)
    assert known.prompt_tps("m", SIZE) == before


def test_totals_of_different_requests_tell_both_speeds_apart() -> None:
    known, rng = speeds(), random.Random(3)
    for _ in range(200):
        known.learn("m", SIZE, whole(rng.choice((40, 4000)), rng.choice((10, 300)), 1200.0, 40.0), 1.0)
    assert known.decode_tps("m", SIZE) == pytest.approx(40.0, rel=0.2)
    assert known.prompt_tps("m", SIZE) == pytest.approx(1200.0, rel=0.3)


def test_a_stream_is_timed_by_its_first_and_last_token() -> None:
    figures = figures_of(
        Figures(output_tokens=100), accepted_at=0.0, began_at=0.0, first_at=1.0, last_at=3.0, output_chunks=100, now=3.0
    )
    assert (figures.prompt_s, figures.decode_s) == (1.0, 2.0)
