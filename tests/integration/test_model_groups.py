"""Requests that name a group, on a real server with three emulated models: one of its models answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.emulator import Fault, FaultKind
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_bus.errors import SollolError
from sollol_bus.transport.messages import encode, error_of
from sollol_schemas import subjects
from sollol_schemas.errors import ErrorCode
from sollol_schemas.groups import CloseModelBreaker, ForgetQuality

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK, GOOD, OUTSIDE, VECTORS = "quick:1b", "good:3b", "outside:1b", "nomic-embed-text:latest"
MEMBERS = {QUICK, GOOD}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmulatedSystem]:
    """A fleet of one node with three models in memory, and the group `coding` of two of them."""
    engine = {
        "model": ("quick:1b=1", "good:3b=2", "outside:1b=0.5", "nomic-embed-text=0.1"),
        "preload": (QUICK, GOOD, OUTSIDE, VECTORS),
    }
    folder: Path = tmp_path_factory.mktemp("groups")
    async with EmulatedSystem(folder, engine=engine, gateway=GatewayConfig(port=0), decode_tps=500.0) as here:
        await here.client.set_group("coding", [QUICK, GOOD])
        yield here


SAID = [{"role": "user", "content": "count down from 3"}]
DIALECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ollama generate": ("/api/generate", {"prompt": "count down from 3", "stream": False}),
    "ollama chat": ("/api/chat", {"messages": SAID, "stream": False}),
    "openai chat": ("/v1/chat/completions", {"messages": SAID}),
    "openai completions": ("/v1/completions", {"prompt": "count down from 3"}),
    "openai responses": ("/v1/responses", {"input": "count down from 3"}),
    "anthropic messages": ("/v1/messages", {"messages": SAID, "max_tokens": 20}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_member_answers_in_every_dialect_and_says_which_it_is_and_why(
    system: EmulatedSystem, dialect: str
) -> None:
    path, body = DIALECTS[dialect]
    answer = await system.http.post(path, json={"model": "coding", **body})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] in MEMBERS
    assert answer.headers["x-sollol-group"] == "coding"
    assert answer.headers["x-sollol-model"] == answer.json()["model"]
    assert f"{answer.json()['model']} of coding: " in answer.headers["x-sollol-reason"]


async def test_a_stream_says_it_in_its_last_line(system: EmulatedSystem) -> None:
    text = (await system.http.post("/api/chat", json={"model": "coding", "messages": SAID})).text
    first, *_, last = [json.loads(line) for line in text.splitlines()]
    assert first["model"] in MEMBERS
    assert last["_sollol_routing"]["group"] == "coding"
    assert last["_sollol_routing"]["model"] == first["model"]


async def test_auto_asks_only_models_that_make_vectors_for_vectors(system: EmulatedSystem) -> None:
    answer = await system.http.post("/api/embed", json={"model": "auto", "input": ["a", "b"]})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == VECTORS
    talk = await system.client.chat("auto", SAID)
    assert talk.decision is not None
    assert talk.decision.model in MEMBERS | {OUTSIDE}
    assert talk.decision.group == "auto"


async def test_the_client_jobs_and_why_know_the_group(system: EmulatedSystem) -> None:
    answer = await system.client.generate("coding", "count down from 3")
    assert answer.decision is not None
    assert (answer.decision.group, answer.decision.model in MEMBERS) == ("coding", True)
    where = await system.client.route("coding", "fix this bug: def f(): retrun 1")
    assert {model.model for model in where.models} == MEMBERS
    why = None

    async def is_known() -> bool:
        nonlocal why
        try:
            why = await system.client.why(answer.request_id)
        except SollolError:
            return False
        return bool(why.decisions)

    await eventually(is_known, complaint="the recorder knows the decision")
    assert why is not None
    assert {model.model for model in why.decisions[0].models} == MEMBERS
    job_id = await system.client.generate_async("coding", "count down from 3")
    result = await system.client.jobs.wait(job_id, timeout_s=20)
    assert isinstance(result.body, dict)
    assert result.body["model"] in MEMBERS


async def test_feedback_moves_the_choice(system: EmulatedSystem) -> None:
    scorer = next(actor for actor in system.stack.actors if isinstance(actor, Scorer))
    first = await system.client.generate("coding", "count down from 2")
    assert first.decision is not None
    chosen = first.decision.model
    for model, score in ((chosen, 0.0), *((m, 1.0) for m in MEMBERS - {chosen})):
        for _ in range(12):
            scorer.core.qualities.learn(model, first.decision.category, score, 0.0)
    second = await system.client.generate("coding", "count down from 2")
    assert second.decision is not None
    assert {chosen, second.decision.model} == MEMBERS
    asked = encode(ForgetQuality(name="coding"))
    assert error_of(await system.client.bus.request(subjects.SCORER_GROUPS_SET, asked)) is None
    assert all(member.quality.feedback == 0 for member in (await system.client.group("coding")).members)


async def test_a_model_that_fails_before_a_word_is_followed_by_another_one(system: EmulatedSystem) -> None:
    system.engines["n1"].inject(Fault(kind=FaultKind.OUT_OF_MEMORY, times=1))
    answer = await system.client.generate("coding", "count down from 3")
    assert answer.decision is not None
    assert answer.decision.attempt == 2
    assert answer.decision.model in MEMBERS
    system.clear_faults()
    request = encode(CloseModelBreaker(model=QUICK))
    assert error_of(await system.client.bus.request(subjects.SCORER_GROUPS_SET, request)) is None


@pytest.mark.parametrize(
    ("name", "models", "words"),
    [
        (OUTSIDE, [QUICK], "is the name of a model that a node has"),
        ("twice", [QUICK, "Quick:1b"], "stands twice"),
        ("nested", ["coding"], "is a group; a group has models alone"),
        ("odd name", [QUICK], "is no name of a model"),
        ("empty", [], "name at least one"),
    ],
)
async def test_a_group_that_cannot_be_is_refused_with_the_reason(
    system: EmulatedSystem, name: str, models: list[str], words: str
) -> None:
    with pytest.raises(SollolError, match=words):
        await system.client.set_group(name, models)


async def test_an_unknown_model_and_a_group_without_models_are_not_found(system: EmulatedSystem) -> None:
    await system.client.set_group("hollow", ["gone:1b"])
    for name in ("codding", "hollow"):
        answer = await system.http.post("/api/chat", json={"model": name, "messages": SAID})
        assert answer.status_code == 404, answer.text
    with pytest.raises(SollolError) as caught:
        await system.client.chat("codding", SAID)
    assert caught.value.body.code is ErrorCode.UNKNOWN_MODEL
    assert {"auto", "coding", "hollow"} <= set(_names(caught.value.body.details["groups"]))


def _names(groups: Iterable[object]) -> list[str]:
    return [str(name) for name in groups]


async def test_a_model_outside_the_group_is_never_used(system: EmulatedSystem) -> None:
    async with asyncio.TaskGroup() as group:  # more than there are slots: some wait
        calls = [group.create_task(system.client.generate("coding", "count down from 9")) for _ in range(12)]
    assert {call.result().model for call in calls} <= MEMBERS
    for_group = [outcome.decision for outcome in system.outcomes if outcome.decision.group == "coding"]
    assert {decision.model for decision in for_group} <= MEMBERS


async def test_groups_outlive_their_scorer(system: EmulatedSystem) -> None:
    """Last: the scorer is another one afterwards."""
    scorer = next(actor for actor in system.stack.actors if isinstance(actor, Scorer))
    follower = Scorer(scorer.config, scorer.bus.config)
    async with follower:
        assert follower.core.binder.book.named("coding") == scorer.core.binder.book.named("coding")
