"""Answers in every dialect, streamed and not, are the undisturbed ones while nodes, engines and connections die."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.resume.__main__ import Tally, ask_all, figures_of, references
from bench.resume.questions import questions
from bench.resume.stage import COUNTDOWN, EMULATED, Load, Machines, Stage

MACHINES = {COUNTDOWN: Machines(COUNTDOWN, 3), EMULATED: Machines(EMULATED, 4)}
PROMPTS = {COUNTDOWN: "count 900", EMULATED: "count down from 90"}
TOKENS = {COUNTDOWN: 990, EMULATED: 95}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("model", [EMULATED, COUNTDOWN], ids=["emulated Ollama", "llama.cpp"])
async def test_every_answer_is_the_undisturbed_one_while_something_dies_all_the_time(
    tmp_path: Path, figure: Callable[[str], None], model: str
) -> None:
    if model == COUNTDOWN and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no engine: the extra `engine`")
    asked = questions({model: (PROMPTS[model],)}, TOKENS)
    async with Stage(tmp_path, (MACHINES[model],), decode_tps=30.0) as stage:
        tally = Tally(await references(stage, asked))
        await ask_all(stage, asked, Load(answers=len(asked), callers=6, every_s=1.5), tally, random.Random(7))
        figures = figures_of(tally, stage.hits, await stage.logs())
    assert figures["exact"] == figures["answers"] == len(asked), figures["examples"]
    assert figures["resumed"] > 0
    figure(f"{figures['answers']} answers, {figures['resumed']} of them resumed; pauses {figures['pause_s']}")
