"""Answers in every dialect, streamed and not, are the undisturbed ones while nodes, engines and connections die.

The long form is a benchmark.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.resume.__main__ import Tally, figures_of, references
from bench.resume.questions import Question, questions
from bench.resume.stage import COUNTDOWN, EMULATED, Machines, Stage

KINDS = ("node", "engine", "connection")
PROMPTS = {COUNTDOWN: "count 900", EMULATED: "count down from 90"}
TOKENS = {COUNTDOWN: 990, EMULATED: 95}
TRIES = 5
"""An engine on a busy machine may have said all before its first word is read: then another answer is hit."""


async def hit_in_the_middle(stage: Stage, model: str, kind: str) -> int:
    """How often an answer goes on of which the node, its engine or its connection is hit once it has begun."""
    async with stage.client.generate_stream(model, PROMPTS[model], options={"num_predict": TOKENS[model]}) as stream:
        chunks = aiter(stream)
        await anext(chunks)
        assert stream.decision is not None
        node = stream.decision.node_id
        await stage.hit_part(f"{node}-engine" if kind == "engine" else node, kind)
        async for _ in chunks:
            pass
        return stream.call.resumed


async def breaks_off(stage: Stage, model: str, kind: str) -> bool:
    """Whether an answer went on."""
    for _ in range(TRIES):
        if await hit_in_the_middle(stage, model, kind):
            return True
        await stage.all_back()
        if kind == "connection":  # it may be back before anything is missed
            break
    return False


@pytest.mark.timeout(240)
@pytest.mark.parametrize("model", [EMULATED, COUNTDOWN], ids=["emulated Ollama", "llama.cpp"])
async def test_every_answer_is_the_undisturbed_one_while_a_node_an_engine_and_a_connection_die(
    tmp_path: Path, figure: Callable[[str], None], model: str
) -> None:
    if model == COUNTDOWN and importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no engine: the extra `engine`")
    asked = questions({model: (PROMPTS[model],)}, TOKENS)
    async with Stage(tmp_path, (Machines(model, 3, slots=8),), decode_tps=40.0) as stage:
        tally = Tally(await references(stage, asked, at_once=len(asked)))

        async def ask(question: Question) -> None:
            tally.note(question, await stage.asker.ask(question))

        for kind in KINDS:
            async with asyncio.TaskGroup() as group:
                for question in asked:
                    group.create_task(ask(question))
                hit = group.create_task(breaks_off(stage, model, kind))
            assert hit.result() or kind == "connection", f"no answer broke off with its {kind}"
            await stage.all_back()
        figures = figures_of(tally, stage.hits, await stage.logs())
    assert figures["exact"] == figures["answers"] == len(KINDS) * len(asked), figures["examples"]
    figure(f"{figures['answers']} answers, {figures['resumed']} of them resumed; pauses {figures['pause_s']}")
