"""What callers ask of the context and the stay of a model, on the whole stack with emulated engines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.lab.emulator import EmulatedNode
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

MODEL = "countdown:latest"
LONG = "hello " * 5000 + "count 3"
WHOLE = 5008
LARGE = {"num_ctx": 8192}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "count 2"}]}


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    engine = {"model": ("countdown=1",), "preload": (), "ctx_tokens": 4096, "time_scale": 20.0}
    engine |= {"decode_tps": 0, "prefill_tps": 100_000}
    async with EmulatedSystem(tmp_path, nodes=0, engine=engine, scorer=ScorerConfig(seed=1)) as made:
        yield made


async def tokens_of(fleet: EmulatedSystem, prompt: str = LONG, **fields: Any) -> int:
    """How many tokens of the prompt the engine read."""
    answer = await fleet.client.generate(MODEL, prompt, **fields)
    assert answer.figures is not None
    return answer.figures.prompt_tokens or 0


def loads(engine: EmulatedNode) -> list[int]:
    """The contexts with which models were loaded, in order."""
    return [start["c"] // start["np"] for start in engine._residency.starts]


def stay_s(engine: EmulatedNode) -> float:
    return engine._residency.loaded()[0].keep_alive_s


async def test_a_long_prompt_with_num_ctx_is_read_whole_each_time_and_the_model_is_loaded_once(
    fleet: EmulatedSystem,
) -> None:
    engine = await fleet.node("a")
    assert [await tokens_of(fleet, options=LARGE) for _ in range(6)] == [WHOLE] * 6
    assert loads(engine) == [8192]


async def test_a_long_prompt_with_num_ctx_makes_a_warm_model_larger_once(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a")
    await fleet.client.generate(MODEL, "count 2")
    for _ in range(3):
        assert await tokens_of(fleet, options=LARGE) == WHOLE
        assert await tokens_of(fleet) == WHOLE, "what does not say how much it needs gets what is there"
        assert await tokens_of(fleet, "count 2", options={"num_ctx": 2048}) < 20
        await fleet.client.chat(MODEL, [{"role": "user", "content": "count 2"}], options={"num_ctx": 16384})
        await fleet.client.generate(MODEL, "", keep_alive="10m")
    assert loads(engine) == [4096, 8192]


async def test_many_who_ask_for_different_contexts_at_once_on_a_cold_model_get_what_they_need(
    fleet: EmulatedSystem,
) -> None:
    engine = await fleet.node("a", slots=8)
    asked = [None, LARGE, None, {"num_ctx": 6144}, LARGE, {"num_ctx": 512}]
    read = await asyncio.gather(
        *(
            tokens_of(fleet, LONG if options and options["num_ctx"] > 5000 else "count 2", options=options)
            for options in asked
        )
    )
    assert [tokens for tokens in read if tokens > 20] == [WHOLE] * 3
    assert len(loads(engine)) <= 3
    assert loads(engine) == sorted(loads(engine))


async def test_other_load_options_are_those_of_who_loaded_the_model(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a")
    answers = [
        await fleet.client.generate(MODEL, "count 2", options={"num_thread": 2, "num_batch": 64}),
        await fleet.client.generate(MODEL, "count 2"),
        await fleet.client.generate(MODEL, "count 2", options={"num_thread": 4}, shift=False),
    ]
    assert [a.figures.left_out for a in answers if a.figures] == [(), (), ("options.num_thread", "shift")]
    assert len(loads(engine)) == 1
    options = engine._residency.loaded()[0].options
    assert (options.num_thread, options.num_batch, options.shift) == (2, 64, True)


async def test_a_model_that_was_loaded_for_little_grows_to_its_usual_context_for_a_long_prompt(
    fleet: EmulatedSystem,
) -> None:
    engine = await fleet.node("a")
    await tokens_of(fleet, "count 2")
    await fleet.client.unload("a", MODEL)
    await tokens_of(fleet, "count 2", options={"num_ctx": 1024})
    await tokens_of(fleet, "count 2")
    prompt = "hello " * 2000
    assert await tokens_of(fleet, prompt) > 2000
    assert loads(engine) == [4096, 1024, 4096]


async def test_a_stay_that_a_caller_made_longer_is_not_shortened_by_the_next_one(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a")
    await fleet.client.generate(MODEL, "count 2", keep_alive="2h")
    await fleet.client.generate(MODEL, "count 2")
    assert stay_s(engine) == 7200
    await fleet.client.generate(MODEL, "", keep_alive=-1)
    await fleet.client.generate(MODEL, "count 2")
    await tokens_of(fleet, options=LARGE)
    await fleet.client.generate(MODEL, "count 2", keep_alive="10m")
    assert math.isinf(stay_s(engine))
    await fleet.client.generate(MODEL, "", keep_alive="10m")
    await fleet.client.generate(MODEL, "count 2")
    assert stay_s(engine) == 1800, "an order replaces what was ordered before"


async def test_an_engine_that_keeps_its_models_for_ever_goes_on_doing_so(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a", engine={"keep_alive_s": -1.0})
    await fleet.client.generate(MODEL, "count 2")
    await fleet.client.generate(MODEL, "count 2", keep_alive=0)
    assert math.isinf(stay_s(engine))
    await fleet.client.unload("a", MODEL)
    await fleet.client.load("a", MODEL, 600.0)
    assert math.isinf(stay_s(engine))


@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_an_engine_that_drops_its_models_soon_is_told_to_keep_them(fleet: EmulatedSystem, seconds: float) -> None:
    engine = await fleet.node("a", engine={"keep_alive_s": seconds})
    for _ in range(2):
        await tokens_of(fleet, options=LARGE)
    assert stay_s(engine) >= 300
    await fleet.client.unload("a", MODEL)
    before = len(loads(engine))
    await tokens_of(fleet, "count 2")
    await tokens_of(fleet, "count 2")
    assert len(loads(engine)) == before + 1


async def test_a_model_loaded_by_somebody_else_is_used_as_it_is(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a", engine={"preload": (MODEL,), "ctx_tokens": 8192})

    async def is_loaded() -> bool:
        return bool((await fleet.client.nodes()).nodes[0].telemetry.loaded)

    await eventually(is_loaded)
    assert await tokens_of(fleet, options={"num_ctx": 6144}) == WHOLE
    assert loads(engine) == []


async def test_of_two_contexts_long_prompts_go_to_the_larger_and_none_is_refused(fleet: EmulatedSystem) -> None:
    for node_id, tokens in (("small", 2048), ("large", 8192)):
        await fleet.node(node_id, slots=8, engine={"preload": (MODEL,), "ctx_tokens": tokens, "parallel": 8})

    async def are_known() -> bool:
        return all(view.telemetry.loaded for view in (await fleet.client.nodes()).nodes)

    await eventually(are_known)
    long = [{"role": "user", "content": "hello " * 4000 + "count 2"}]
    short = [{"role": "user", "content": "count 2"}]
    answers = await asyncio.gather(
        *(fleet.client.chat(MODEL, long) for _ in range(50)), *(fleet.client.chat(MODEL, short) for _ in range(50))
    )
    places = [answer.decision.node_id for answer in answers if answer.decision]
    assert set(places[:50]) == {"large"}
    assert set(places[50:]) == {"small", "large"}
    assert all(answer.figures and (answer.figures.prompt_tokens or 0) > 4000 for answer in answers[:50])


async def test_what_no_model_can_do_is_refused_at_once_in_the_engines_words_and_loads_nothing(
    fleet: EmulatedSystem,
) -> None:
    engine = await fleet.node("a")
    picture = [{"role": "user", "content": "what is it?", "images": ["iVBORw0KGgo="]}]
    with pytest.raises(SollolError, match="image input is not supported") as caught:
        await fleet.client.chat(MODEL, picture)
    assert (caught.value.body.code, caught.value.body.http_status) == (ErrorCode.ENGINE_REJECTED, 500)
    with pytest.raises(SollolError, match="does not support embeddings"):
        await fleet.client.embed(MODEL, "hello")
    assert loads(engine) == []


async def test_a_name_of_the_same_weights_is_in_memory_too_and_its_load_teaches_nothing(fleet: EmulatedSystem) -> None:
    engine = await fleet.node("a")
    await fleet.client.generate(MODEL, "count 2")
    async with httpx.AsyncClient(base_url=engine.url, trust_env=False) as http:
        await http.post("/api/copy", json={"source": MODEL, "destination": "twin"})
    await fleet.client.load("a", MODEL)  # the node looks again at what there is

    async def is_known() -> bool:
        return any(one.name == "twin:latest" for one in (await fleet.client.nodes()).nodes[0].telemetry.installed)

    await eventually(is_known)
    answer = await fleet.client.generate("twin", "count 2")
    assert answer.decision is not None
    assert not answer.decision.forecast.needs_load
    assert len(loads(engine)) == 1

    async def learned() -> set[str]:
        told = (await fleet.client.nodes()).nodes[0].telemetry.speeds
        return {one.model for one in told if one.load_s}

    assert await learned() == {MODEL}
