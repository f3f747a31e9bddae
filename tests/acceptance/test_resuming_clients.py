"""The official clients iterate over streams that are cut twice, and notice nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from sollol_agents.lab.testing.cut_fleet import CutFleet
from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet

anthropic = ClientPackage("anthropic")
ollama = ClientPackage("ollama")
openai = ClientPackage("openai")
KINDS: Final = {"emulated": "ollama", "real": "openai"}
COUNT: Final = [{"role": "user", "content": "count 9"}]
SAID: Final = "8 7 6 5 4 3 2 1 0"


@pytest.fixture(params=KINDS)
async def cut_fleet(
    request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet, tmp_path: Path
) -> AsyncIterator[CutFleet]:
    async with CutFleet(tmp_path, KINDS[request.param], fleet_behind_gateway.need(request.param)) as made:
        yield made


def _openai(fleet: CutFleet) -> Any:
    return openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key="none")


async def test_openai_iterates_over_a_chat(cut_fleet: CutFleet) -> None:
    async with _openai(cut_fleet) as client:
        cut_fleet.cuts[:] = [3, 2]
        asked: dict[str, Any] = {"model": "countdown", "messages": COUNT, "stream_options": {"include_usage": True}}
        chunks = [one async for one in await client.chat.completions.create(**asked, stream=True)]
    assert not cut_fleet.cuts
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == SAID
    assert len({(one.id, one.created, one.model, one.system_fingerprint) for one in chunks}) == 1
    assert [one.choices[0].finish_reason for one in chunks if one.choices and one.choices[0].finish_reason] == ["stop"]
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (8, 10)


async def test_openai_iterates_over_a_completion(cut_fleet: CutFleet) -> None:
    async with _openai(cut_fleet) as client:
        cut_fleet.cuts[:] = [3, 2]
        stream = await client.completions.create(model="countdown", prompt="count 9", stream=True)
        chunks = [one async for one in stream]
    assert not cut_fleet.cuts
    assert "".join(one.choices[0].text for one in chunks) == f" {SAID}"
    assert len({(one.id, one.created) for one in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_iterates_over_a_response(cut_fleet: CutFleet) -> None:
    async with _openai(cut_fleet) as client:
        cut_fleet.cuts[:] = [6, 2]
        events = [one async for one in await client.responses.create(model="countdown", input="count 9", stream=True)]
    assert not cut_fleet.cuts
    done = events[-1].response
    assert "".join(one.delta for one in events if one.type == "response.output_text.delta") == SAID
    assert done.output_text == SAID
    assert (done.id, done.status) == (events[0].response.id, "completed")
    assert (done.usage.input_tokens, done.usage.output_tokens) == (8, 10)


async def test_anthropic_reads_a_message(cut_fleet: CutFleet) -> None:
    async with anthropic.AsyncAnthropic(base_url=cut_fleet.url, api_key="none") as client:
        cut_fleet.cuts[:] = [5, 2]
        async with client.messages.stream(model="countdown", max_tokens=90, messages=COUNT) as stream:
            text = "".join([one async for one in stream.text_stream])
            message = await stream.get_final_message()
    assert not cut_fleet.cuts
    assert text == message.content[0].text == SAID
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 10)


@pytest.fixture
async def forgetful_fleet(fleet_behind_gateway: GatewayFleet, tmp_path: Path) -> AsyncIterator[CutFleet]:
    """Its gateway keeps four bytes of an answer, so that one which breaks off later does not go on."""
    url = fleet_behind_gateway.need("emulated")
    async with CutFleet(tmp_path, "ollama", url, resume_bytes=4) as made:
        yield made


async def test_every_client_understands_the_error_of_an_answer_that_does_not_go_on(forgetful_fleet: CutFleet) -> None:
    why, cuts = "more than 4 bytes of it were said, which is all that is kept", forgetful_fleet.cuts
    async with _openai(forgetful_fleet) as client:
        cuts[:] = [5]
        with pytest.raises(openai.APIError) as of_chat:
            async for _ in await client.chat.completions.create(model="countdown", messages=COUNT, stream=True):
                pass
        assert of_chat.value.body["not_resumed"] == why
        cuts[:] = [9]
        events = [one async for one in await client.responses.create(model="countdown", input="count 9", stream=True)]
        assert (events[-1].type, events[-1].model_extra["not_resumed"]) == ("error", why)
    async with anthropic.AsyncAnthropic(base_url=forgetful_fleet.url, api_key="none") as client:
        cuts[:] = [8]
        with pytest.raises(anthropic.APIStatusError) as of_message:
            async with client.messages.stream(model="countdown", max_tokens=90, messages=COUNT) as stream:
                await stream.get_final_message()
        assert of_message.value.body["error"]["not_resumed"] == why
    client = ollama.AsyncClient(host=forgetful_fleet.url)
    cuts[:] = [5]
    with pytest.raises(ollama.ResponseError, match=r"broke off|closed|ended"):
        async for _ in await client.chat(model="countdown", messages=COUNT, stream=True):
            pass
    cuts[:] = [5]
    reply = await forgetful_fleet.system.http.post("/api/chat", json={"model": "countdown", "messages": COUNT})
    assert json.loads(reply.text.splitlines()[-1])["not_resumed"] == why
