"""A group that begins with its smallest model, on a real stack before a played engine whose models answer as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from sollol_agents.gateway.config import GatewayConfig
from sollol_agents.lab.testing.scripted_engine import OLLAMA, ScriptedEngine, chunk, head, whole
from sollol_agents.lab.testing.stack import EmulatedSystem
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus import Routing
from sollol_bus.errors import BadRequest
from sollol_bus.transport.connection import BusConfig

MIB: Final = 1 << 20
SAYS: Final = {"small": "no idea", "middle": '{"answer": "many"}', "large": '{"answer": 42}'}
SIZES: Final = {"small": MIB, "middle": 5 * MIB, "large": 40 * MIB}
SCHEMA: Final = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "integer"}}}
FLEETS: Final = 24
"""So many sets of these models there are, as tags: each test has one of which nothing was learnt."""
TALK: Final = [{"role": "user", "content": "how many?"}]


class PlayedEngine(ScriptedEngine):
    """An Ollama with three models, of which each always says the same."""

    def __init__(self) -> None:
        named = [(f"{name}:{tag}", size) for name, size in SIZES.items() for tag in range(FLEETS)]
        rows = [{"name": name, "size": size, "digest": name} for name, size in named]
        loaded = [row | {"size_vram": row["size"]} for row in rows]
        self.asked: list[str] = []
        super().__init__(
            {
                **OLLAMA,
                "/api/tags": whole(json.dumps({"models": rows}).encode()),
                "/api/ps": whole(json.dumps({"models": loaded}).encode()),
                "/api/generate": self._native,
                "/api/chat": self._native,
                "/v1/chat/completions": self._openai,
            }
        )

    def _model(self) -> str:
        model = str(json.loads(self.bodies[-1])["model"])
        self.asked.append(base(model))
        return model

    async def _native(self, path: str, writer: asyncio.StreamWriter) -> None:
        model = self._model()
        words = SAYS[base(model)].split(" ")
        said = [" " * bool(i) + word for i, word in enumerate(words)]
        pieces = [{"response": one} if path == "/api/generate" else {"message": {"content": one}} for one in said]
        end = {"response": ""} if path == "/api/generate" else {"message": {"content": ""}}
        figures = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": len(words)}
        lines = [*({"model": model, "done": False, **one} for one in pieces), {"model": model, **end, **figures}]
        writer.write(head(None, "application/x-ndjson"))
        writer.write(
            b"".join(chunk(json.dumps(line, separators=(",", ":")).encode() + b"\n") for line in lines) + b"0\r\n\r\n"
        )
        await writer.drain()

    async def _openai(self, _: str, writer: asyncio.StreamWriter) -> None:
        body, model = json.loads(self.bodies[-1]), self._model()
        choice = {"index": 0, "finish_reason": None}
        if not body.get("stream"):
            message = {"role": "assistant", "content": SAYS[base(model)]}
            writer.write(whole(json.dumps({"model": model, "choices": [choice | {"message": message}]}).encode()))
            await writer.drain()
            return
        deltas = [{"content": word} for word in (SAYS[base(model)][:4], SAYS[base(model)][4:])]
        events = [{"model": model, "choices": [choice | {"delta": delta}]} for delta in deltas]
        texts = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
        writer.write(head(None, "text/event-stream"))
        writer.write(b"".join(map(chunk, [*texts, b"data: [DONE]\n\n"])) + b"0\r\n\r\n")
        await writer.drain()


def base(model: str) -> str:
    """A model without its tag."""
    return model.partition(":")[0]


class Fleet:
    """A stack, and the engine behind it."""

    def __init__(self, system: EmulatedSystem, engine: PlayedEngine) -> None:
        self.client = system.client
        self.http = system.http
        self._engine = engine
        self._next = 0
        self.ladder = ""
        """A group that begins with its smallest model."""

    async def begin(self) -> None:
        """Makes a group of models of which nothing was learnt."""
        tag, self._next = self._next, self._next + 1
        self.ladder = f"ladder-{tag}"
        await self.client.set_group(self.ladder, [f"{name}:{tag}" for name in SIZES], strategy="cheap_first")
        self.asked()

    def asked(self) -> list[str]:
        """The models that the engine was asked for since the last look."""
        asked, self._engine.asked = self._engine.asked, []
        return asked


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("escalation")
    async with (
        PlayedEngine() as engine,
        EmulatedSystem(folder, nodes=0, gateway=GatewayConfig(port=0)) as system,
        NodeMonitor(NodeConfig(node_id="n1", url=engine.url, slots=4), BusConfig(url=system.stack.nats_url)),
    ):

        async def is_there() -> bool:
            return len((await system.client.models()).models) >= FLEETS * len(SIZES)

        await eventually(is_there)
        yield Fleet(system, engine)


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(shared: Fleet) -> Fleet:
    """The fleet, with a group of which it has learnt nothing."""
    await shared.begin()
    return shared


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_form_that_was_asked_for_leads_to_the_first_model_that_keeps_it(fleet: Fleet) -> None:
    answer = await fleet.client.generate(fleet.ladder, "how many?", format=SCHEMA)
    assert fleet.asked() == ["small", "middle", "large"]
    assert (answer.text, answer.routing["group"]) == (SAYS["large"], fleet.ladder)
    assert [(base(one.model), one.output_tokens) for one in answer.tried] == [("small", 2), ("middle", 2)]
    assert (answer.escalated, answer.check_failure) == (2, "")
    assert answer.tried[1].why == "it breaks the schema: type at $.answer"
    assert answer.routing["escalated"] == 2


async def test_every_model_that_was_asked_is_explained_under_the_one_id(fleet: Fleet) -> None:
    answer = await fleet.client.chat(fleet.ladder, TALK, check={"regex": "many"})
    assert fleet.asked() == ["small", "middle"]

    async def is_known() -> bool:
        return len((await fleet.client.why(answer.request_id)).decisions) == 2

    await eventually(is_known)
    told = [base(event.decision.model) for event in (await fleet.client.why(answer.request_id)).decisions]
    assert sorted(told) == ["middle", "small"]


async def test_a_function_of_the_callers_judges_answers(fleet: Fleet) -> None:
    answer = await fleet.client.generate(
        fleet.ladder, "how many?", check=lambda one: "answer" in one.text or "no answer"
    )
    assert fleet.asked() == ["small", "middle"]
    assert [one.why for one in answer.tried] == ["no answer"]


async def test_the_last_answer_is_given_and_marked_when_none_passes(fleet: Fleet) -> None:
    answer = await fleet.client.generate(fleet.ladder, "how many?", check={"regex": "^never$"})
    assert fleet.asked() == list(SIZES)
    assert (answer.text, answer.escalated) == (SAYS["large"], 2)
    assert answer.check_failure == "nothing in it matches the expression"


async def test_nothing_is_checked_where_nothing_was_asked_for(fleet: Fleet) -> None:
    answer = await fleet.client.generate(fleet.ladder, "how many?")
    assert fleet.asked() == ["small"]
    assert answer.escalated == 0
    await fleet.client.generate("small:0", "how many?", format=SCHEMA)
    assert fleet.asked() == ["small"]


async def test_whoever_is_not_content_asks_the_next_model(fleet: Fleet) -> None:
    first = await fleet.client.generate(fleet.ladder, "how many?")
    await fleet.client.generate(fleet.ladder, "how many?", routing=Routing(avoid_models=(first.model,)))
    assert fleet.asked() == ["small", "middle"]


async def test_a_wrong_check_is_refused_before_anything_runs(fleet: Fleet) -> None:
    with pytest.raises(BadRequest, match="regex"):
        await fleet.client.generate(fleet.ladder, "how many?", check={"regex": "("})
    with pytest.raises(TypeError, match="stream"):
        fleet.client.generate_stream(fleet.ladder, "how many?", check={"regex": "a"})
    answer = await fleet.http.post("/api/generate", json={"model": fleet.ladder, "prompt": "?", "check": {"rgex": "a"}})
    assert answer.status_code == 400
    assert "check" in answer.json()["error"]
    assert fleet.asked() == []


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_ollamas_clients_see_the_answer_that_passed_alone(fleet: Fleet, is_stream: bool) -> None:
    body = {"model": fleet.ladder, "messages": TALK, "stream": is_stream, "check": {"regex": "answer"}}
    answer = await fleet.http.post("/api/chat", json=body)
    assert fleet.asked() == ["small", "middle"]
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == SAYS["middle"]
    assert answer.headers["x-sollol-escalated"] == "1"
    assert "nothing in it matches" in answer.headers["x-sollol-tried"]
    assert lines[-1]["_sollol_routing"]["tried"][0]["output_tokens"] == 2
    assert len(lines) > 1 or not is_stream


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_openais_clients_have_their_schema_checked(fleet: Fleet, is_stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    body = {"model": fleet.ladder, "messages": TALK, "stream": is_stream, "response_format": form}
    answer = await fleet.http.post("/v1/chat/completions", json=body)
    assert fleet.asked() == ["small", "middle"]
    assert answer.headers["x-sollol-escalated"] == "1"
    if is_stream:
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["delta"]["content"] for event in events) == SAYS["middle"]
        assert answer.text.endswith("data: [DONE]\n\n")
    else:
        assert answer.json()["choices"][0]["message"]["content"] == SAYS["middle"]


async def test_a_check_may_stand_in_a_header(fleet: Fleet) -> None:
    body: dict[str, Any] = {"model": fleet.ladder, "messages": TALK}
    head_ = {"x-sollol-check": json.dumps({"regex": "^never$"})}
    answer = await fleet.http.post("/v1/chat/completions", json=body, headers=head_)
    assert fleet.asked() == list(SIZES)
    assert answer.headers["x-sollol-check-failure"] == "nothing in it matches the expression"


async def test_a_job_escalates_too_and_says_so(fleet: Fleet) -> None:
    job_id = await fleet.client.jobs.generate(fleet.ladder, "how many?", check={"regex": "answer"})
    answer = await fleet.client.jobs.wait(job_id, timeout_s=20)
    assert fleet.asked() == ["small", "middle"]
    assert answer.text == SAYS["middle"]
    assert answer.result is not None
    assert [base(one.model) for one in answer.result.tried] == ["small"]
    assert answer.routing["escalated"] == 1


async def test_what_fails_often_is_not_begun_with(fleet: Fleet) -> None:
    async def is_learnt() -> bool:  # a busy machine may make the large one seem the faster for a while
        await fleet.client.generate(fleet.ladder, "how many?", check={"regex": "answer"})
        members = (await fleet.client.group(fleet.ladder)).members
        return any(base(m.model) == "small" and m.quality.mean < 0.35 for m in members)

    await eventually(is_learnt)
    fleet.asked()
    for _ in range(5):
        await fleet.client.generate(fleet.ladder, "how many?", check={"regex": "answer"})
    assert fleet.asked().count("small") < 5


async def test_groups_are_set_read_and_removed_over_http_and_listed_as_such(fleet: Fleet) -> None:
    http = fleet.http
    made = await http.put("/api/groups/pair", json={"models": {"small:0": 2, "large:0": 1}, "patience_s": 5})
    assert (made.status_code, made.json()["group"]["patience_s"]) == (200, 5.0)
    members = (await http.get("/api/groups/pair")).json()["members"]
    assert [member["model"] for member in members] == ["small:0", "large:0"]
    rows = {row["name"]: row for row in (await http.get("/api/tags")).json()["models"]}
    assert rows["pair"]["group"] == {"strategy": "cost", "models": ["small:0", "large:0"], "is_built_in": False}
    assert (await http.get("/v1/models/pair")).json()["owned_by"] == "sollol"
    assert (await http.post("/api/show", json={"model": "pair"})).json()["group"]["models"] == ["small:0", "large:0"]
    assert {v.name: v.members for v in (await fleet.client.models()).models}["pair"] == ("small:0", "large:0")
    left = (await http.delete("/api/groups/pair")).json()["groups"]
    assert "pair" not in [view["group"]["name"] for view in left]
    assert (await http.get("/api/groups/pair")).status_code == 404
    assert (await http.put("/api/groups/small:0", json={"models": ["large:0"]})).status_code == 409
