"""Feedback on a running system with three models, in every way there is: bus, HTTP, SDK and command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.gateway.http.keys import KeyStore
from sollol_agents.lab.testing import processes
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_bus import sync
from sollol_bus.transport.messages import decode, encode, error_of
from sollol_schemas import subjects
from sollol_schemas.feedback import FeedbackReply, FeedbackRequest

MODELS = ("small:latest", "middle:latest", "large:latest")
CATEGORY = "testing"
PROMPT = "Write unit tests for this function:\ndef f(x):\n    return x + 1"


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[EmulatedSystem]:
    models = [f"{name.partition(':')[0]}={size}" for name, size in zip(MODELS, (1, 2, 3), strict=True)]
    engine = {"model": (*models, "nomic-embed-text=0.1"), "preload": ("small", "middle", "large")}
    gateway = GatewayConfig(port=0, require_key=True)
    async with EmulatedSystem(tmp_path, engine=engine, gateway=gateway) as started:
        yield started


async def asked(system: EmulatedSystem, model: str) -> str:
    """The id of a request that a model has answered."""
    return (await system.client.generate(model, PROMPT, num_predict=3)).request_id


async def test_feedback_comes_in_by_bus_http_sdk_and_command_line(system: EmulatedSystem) -> None:
    small, middle, large = [await asked(system, model) for model in MODELS]
    msg = await system.client.bus.request(subjects.FEEDBACK, encode(FeedbackRequest(request_id=small, success=True)))
    assert error_of(msg) is None
    assert decode(msg.data, FeedbackReply).model == MODELS[0]

    reply = await system.client.feedback(middle, score=0.5, comment="so so")
    assert (reply.model, reply.category, reply.score) == (MODELS[1], CATEGORY, 0.5)

    def in_a_program_without_async() -> FeedbackReply:
        with sync.Client(system.stack.nats_url) as client:
            return client.feedback(model="middle", category="debugging", score=0.25)

    reply = await asyncio.to_thread(in_a_program_without_async)
    assert (reply.model, reply.category) == (MODELS[1], "debugging")

    done = await processes.sollol(
        system.stack.nats_url, "feedback", large, "--bad", "--category", CATEGORY, "--comment", "made up"
    )
    assert done.code == 0, done.err
    assert done.out == f"0 for {MODELS[2]} at {CATEGORY}\n"
    explained = await processes.sollol(system.stack.nats_url, "why", large)
    assert f"feedback: 0 for {MODELS[2]} at {CATEGORY}: made up" in explained.out

    own, others = await _over_http(system)
    assert own.status_code == 200, own.text
    assert own.json() | {"request_id": ""} == {
        "type": "feedback.v1",
        "request_id": "",
        "model": MODELS[0],
        "category": CATEGORY,
        "score": 0.9,
    }
    assert others.status_code == 404
    assert "nothing is recorded" in others.text

    scorer = next(actor for actor in system.stack.actors if isinstance(actor, Scorer))

    def learnt() -> dict[str, float]:
        return {name: round(scorer.core.qualities.expected(name, CATEGORY).answers, 1) for name in MODELS}

    await eventually(lambda: learnt() == {MODELS[0]: 2.0, MODELS[1]: 1.0, MODELS[2]: 1.0})
    means = [scorer.core.qualities.expected(name, CATEGORY).mean for name in MODELS]
    assert means == sorted(means, reverse=True)


async def test_feedback_on_a_group_counts_for_the_model_that_answered_and_for_its_trial(system: EmulatedSystem) -> None:
    await system.client.set_group("trio", MODELS[:2], candidate=MODELS[2], share=0.9)
    rated = []
    for _ in range(6):
        reply = await system.client.feedback(await asked(system, "trio"), score=0.5)
        assert (reply.group, reply.category) == ("trio", CATEGORY)
        rated.append(reply.model)

    async def shown() -> tuple[int, int]:
        trial = (await system.client.group("trio")).trial
        return (trial.candidate_feedback, trial.others_feedback) if trial is not None else (-1, -1)

    async def is_shown() -> bool:
        return await shown() == (rated.count(MODELS[2]), 6 - rated.count(MODELS[2]))

    await eventually(is_shown)
    views = {view.model: round(view.quality.feedback) for view in (await system.client.group("trio")).members}
    assert views == {model: rated.count(model) for model in MODELS}
    await system.client.reset_group("trio")

    async def is_forgotten() -> bool:
        members = (await system.client.group("trio")).members
        return await shown() == (0, 0) and not any(view.quality.feedback for view in members)

    await eventually(is_forgotten)


async def _over_http(system: EmulatedSystem) -> tuple[httpx.Response, httpx.Response]:
    """What the gateway says to feedback on a request of one's own, and to that of another key."""
    keys = KeyStore(system.client.bus)
    heads = [{"authorization": f"Bearer {(await keys.create(name))[1]}"} for name in ("app", "other")]

    async def is_known() -> bool:
        return all([(await system.http.get("/api/tags", headers=head)).status_code == 200 for head in heads])

    await eventually(is_known)
    body: dict[str, Any] = {"model": "small", "prompt": PROMPT, "stream": False, "options": {"num_predict": 3}}
    answer = await system.http.post("/api/generate", json=body, headers=heads[0])
    assert answer.status_code == 200, answer.text
    said = {"request_id": answer.headers["x-sollol-request-id"], "score": 0.9}
    own, others = [await system.http.post("/api/feedback", json=said, headers=head) for head in heads]
    return own, others


async def test_what_the_gateway_cannot_use_it_refuses_with_what_to_say(system: EmulatedSystem) -> None:
    keys = KeyStore(system.client.bus)
    head = {"authorization": f"Bearer {(await keys.create('app'))[1]}"}

    async def is_known() -> bool:
        return (await system.http.get("/api/tags", headers=head)).status_code == 200

    await eventually(is_known)
    for body, status, hint in (
        ({"request_id": "r1"}, 400, "score from 0 to 1, or success"),
        ({"request_id": "r1", "score": 2}, 400, "score"),
        ({"request_id": "r1", "score": "good"}, 400, "score"),
        ({"request": "r1", "score": 1}, 400, "unknown field 'request'"),
        ({"model": "small", "score": 1}, 403, "only operators"),
        ([], 400, "not a JSON object"),
    ):
        answer = await system.http.post("/api/feedback", json=body, headers=head)
        assert (answer.status_code, hint in answer.text) == (status, True), answer.text
    assert (await system.http.post("/api/feedback", json={})).status_code == 401
    early = await system.http.post("/api/feedback", json={"request_id": "to-come", "score": 1}, headers=head)
    assert (early.status_code, early.json()["is_waiting"]) == (202, True)
