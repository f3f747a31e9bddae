"""The less used calls of the official Python clients: models, images, tools in streams, async, parsing, refusals."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet

anthropic = ClientPackage("anthropic")
ollama = ClientPackage("ollama")
openai = ClientPackage("openai")

MODEL = "countdown"
USER = [{"role": "user", "content": "count 3"}]
CALLING = [{"role": "user", "content": "please call"}]
THINKING = [{"role": "user", "content": "please think"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather of a city", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return f"rain in {city}"


class Answer(BaseModel):
    """Whether it is so."""

    ok: bool


class Clients(NamedTuple):
    """Async clients that ask one node through the gateway; they are closed after the test."""

    node: str
    ollama: Any
    openai: Any
    anthropic: Any

    @property
    def embedder(self) -> str:
        return "nomic-embed-text" if self.node == "emulated" else MODEL


@pytest.fixture(params=["emulated", "real"])
async def clients(request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet) -> AsyncIterator[Clients]:
    fleet_behind_gateway.need(request.param)
    url, headers = fleet_behind_gateway.url, {"X-Sollol-Node-Id": request.param, "X-Sollol-Strict": "true"}
    settings = {"api_key": "none", "default_headers": headers}
    async with AsyncExitStack() as stack:
        of_ollama = ollama.AsyncClient(url, headers=headers)
        stack.push_async_callback(of_ollama._client.aclose)
        of_openai = await stack.enter_async_context(openai.AsyncOpenAI(base_url=f"{url}/v1", **settings))
        of_anthropic = await stack.enter_async_context(anthropic.AsyncAnthropic(base_url=url, **settings))
        yield Clients(request.param, of_ollama, of_openai, of_anthropic)


@pytest.fixture
def emulated(clients: Clients) -> Clients:
    if clients.node != "emulated":
        pytest.skip("this engine has no models to manage")
    return clients


class TestOllama:
    """The `ollama` package."""

    async def test_chats_and_embeds_asynchronously(self, clients: Clients) -> None:
        client = clients.ollama
        assert (await client.chat(MODEL, USER)).message.content.split() == ["2", "1", "0"]
        parts = [part async for part in await client.chat(MODEL, USER, stream=True)]
        assert "".join(part.message.content for part in parts).split() == ["2", "1", "0"]
        assert len((await client.embed(clients.embedder, ["a", "b"])).embeddings) == 2

    async def test_takes_functions_as_tools_in_streams(self, clients: Clients) -> None:
        parts = [part async for part in await clients.ollama.chat(MODEL, CALLING, tools=[get_weather], stream=True)]
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        assert [call.function.name for call in calls] == ["get_weather"]

    async def test_thinks_in_streams(self, clients: Clients) -> None:
        parts = [part async for part in await clients.ollama.chat(MODEL, THINKING, think=True, stream=True)]
        assert "".join(part.message.thinking or "" for part in parts)
        whole = await clients.ollama.generate(MODEL, "please think", think=True)
        assert whole.thinking or "<think>" in whole.response  # a Jinja template's thoughts stay in the text there

    async def test_obeys_a_schema_and_stops(self, clients: Clients) -> None:
        said = await clients.ollama.chat(MODEL, THINKING, format=Answer.model_json_schema())
        assert isinstance(Answer.model_validate_json(said.message.content).ok, bool)
        stopped = await clients.ollama.generate(MODEL, "count 9", options={"stop": ["5"]}, keep_alive="5m")
        assert stopped.response.split() == ["8", "7", "6"]

    async def test_sends_images(self, clients: Clients, tmp_path: Path) -> None:
        picture = tmp_path / "pixel.png"
        picture.write_bytes(base64.b64decode(PIXEL))
        messages = [{"role": "user", "content": "count 2", "images": [picture]}]
        if clients.node == "emulated":
            assert (await clients.ollama.chat(MODEL, messages)).message.content.split() == ["1", "0"]
            assert (await clients.ollama.generate(MODEL, "count 2", images=[PIXEL])).response.split() == ["1", "0"]
            return
        with pytest.raises(ollama.ResponseError, match="image"):  # a model that cannot see says so
            await clients.ollama.chat(MODEL, messages)

    async def test_manages_models(self, emulated: Clients) -> None:
        client = emulated.ollama
        assert (await client.create("py-made", from_=MODEL)).status == "success"
        steps = [step.status async for step in await client.create("py-made", from_=MODEL, stream=True)]
        assert steps[-1] == "success"
        assert (await client.copy(MODEL, "py-copy")).status == "success"
        while "py-copy:latest" not in {row.model for row in (await client.list()).models}:
            pass  # each turn asks the gateway; the test has a limit of its own
        assert (await client.show("py-copy")).modelinfo
        assert (await client.push("py-copy")).status == "success"
        assert (await client.delete("py-copy")).status == "success"
        assert (await client.pull(MODEL)).status == "success"
        progress = [step async for step in await client.pull(MODEL, stream=True)]
        assert progress[-1].status == "success"
        assert any(step.total for step in progress)

    async def test_refusals_in_streams_and_of_models(self, emulated: Clients) -> None:
        client = emulated.ollama
        with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
            async for _ in await client.chat("nope", USER, stream=True):
                pass
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            async for _ in await client.pull("nope", stream=True):
                pass
        for refused in (client.delete("nope"), client.copy("nope", "x"), client.create("x", from_="nope")):
            with pytest.raises(ollama.ResponseError, match="not found") as caught:
                await refused
            assert caught.value.status_code == 404

    async def test_uploads_files_of_models(self, emulated: Clients, tmp_path: Path) -> None:
        file = tmp_path / "tiny.gguf"
        file.write_bytes(b"GGUF" + b"\0" * 5000)
        digest = await emulated.ollama.create_blob(file)
        assert digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


class TestOpenAI:
    """The `openai` package."""

    async def test_streams_with_its_helper(self, clients: Clients) -> None:
        async with clients.openai.chat.completions.stream(model=MODEL, messages=USER) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.content.split() == ["2", "1", "0"]

    async def test_calls_tools_in_streams_and_takes_results(self, clients: Clients) -> None:
        chat = clients.openai.chat.completions
        async with chat.stream(model=MODEL, messages=CALLING, tools=[TOOL]) as stream:
            message = (await stream.get_final_completion()).choices[0].message
        assert [call.function.name for call in message.tool_calls] == ["get_weather"]
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain, then count 2"}
        turns = [*CALLING, message.model_dump(exclude_none=True, exclude={"parsed"}), result]
        for call in turns[1]["tool_calls"]:
            call["function"].pop("parsed_arguments", None)
        assert (await chat.create(model=MODEL, messages=turns, tools=[TOOL])).choices[0].message.content

    async def test_parses_into_a_class(self, clients: Clients) -> None:
        said = await clients.openai.chat.completions.parse(model=MODEL, messages=THINKING, response_format=Answer)
        assert isinstance(said.choices[0].message.parsed.ok, bool)

    async def test_sends_images(self, clients: Clients) -> None:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
        messages = [{"role": "user", "content": [picture, {"type": "text", "text": "count 2"}]}]
        asked = clients.openai.with_options(max_retries=0).chat.completions.create(model=MODEL, messages=messages)
        if clients.node == "emulated":
            assert (await asked).choices[0].message.content.split() == ["1", "0"]
            return
        with pytest.raises(openai.APIStatusError, match="image"):
            await asked

    async def test_embeds_in_both_encodings(self, clients: Clients) -> None:
        create = clients.openai.embeddings.create
        packed = (await create(model=clients.embedder, input="a cat")).data[0].embedding
        plain = (await create(model=clients.embedder, input="a cat", encoding_format="float")).data[0].embedding
        assert len(packed) == len(plain)
        if clients.node == "emulated":  # a llama.cpp server answers otherwise when its cache holds the beginning
            assert packed == pytest.approx(plain, abs=1e-4)

    async def test_responds_with_tools_and_in_streams(self, clients: Clients) -> None:
        tool = {"type": "function", **FUNCTION}
        whole = await clients.openai.responses.create(model=MODEL, input=CALLING, tools=[tool])
        assert [item.name for item in whole.output if item.type == "function_call"] == ["get_weather"]
        events = [event async for event in await clients.openai.responses.create(model=MODEL, input="x 3", stream=True)]
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas).split() == ["2", "1", "0"]
        if clients.node == "real":
            return  # a llama.cpp server leaves out the indexes that the helper needs
        async with clients.openai.responses.stream(model=MODEL, input="count 3") as stream:
            final = await stream.get_final_response()
        assert final.output_text.split() == ["2", "1", "0"]

    async def test_gives_raw_streams(self, clients: Clients) -> None:
        raw = clients.openai.chat.completions.with_streaming_response
        async with raw.create(model=MODEL, messages=USER, stream=True) as answer:
            lines = [line async for line in answer.iter_lines()]
        assert lines[-2 if not lines[-1] else -1] == "data: [DONE]"

    async def test_a_bad_request_is_told_as_one(self, clients: Clients) -> None:
        with pytest.raises(openai.BadRequestError):
            await clients.openai.chat.completions.create(model=MODEL, messages="x")


class TestAnthropic:
    """The `anthropic` package."""

    async def test_streams_asynchronously(self, clients: Clients) -> None:
        async with clients.anthropic.messages.stream(model=MODEL, max_tokens=50, messages=USER) as stream:
            assert "".join([text async for text in stream.text_stream]).split() == ["2", "1", "0"]
            final = await stream.get_final_message()
        assert final.usage.output_tokens >= 3

    async def test_uses_tools_in_streams_and_takes_results(self, clients: Clients) -> None:
        tool = {"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "tools": [tool]}
        async with clients.anthropic.messages.stream(messages=CALLING, **asked) as stream:
            final = await stream.get_final_message()
        (used,) = [block for block in final.content if block.type == "tool_use"]
        assert final.stop_reason == "tool_use"
        assert isinstance(used.input, dict)
        result = {"type": "tool_result", "tool_use_id": used.id, "content": "rain, then count 2"}
        turns = [
            *CALLING,
            {"role": "assistant", "content": final.to_dict()["content"]},
            {"role": "user", "content": [result]},
        ]
        assert (await clients.anthropic.messages.create(messages=turns, **asked)).content

    async def test_stops_at_a_sequence_and_obeys_a_system_text_in_blocks(self, clients: Clients) -> None:
        said = await clients.anthropic.messages.create(
            model=MODEL,
            max_tokens=50,
            messages=[{"role": "user", "content": [{"type": "text", "text": "count 9"}]}],
            system=[{"type": "text", "text": "be brief"}],
            stop_sequences=["5"],
        )
        assert said.content[0].text.split() == ["8", "7", "6"]

    async def test_sends_images(self, clients: Clients) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        content = [{"type": "image", "source": source}, {"type": "text", "text": "count 2"}]
        asked = clients.anthropic.with_options(max_retries=0).messages.create(
            model=MODEL, max_tokens=20, messages=[{"role": "user", "content": content}]
        )
        if clients.node == "emulated":
            assert (await asked).content[0].text.split() == ["1", "0"]
            return
        with pytest.raises(anthropic.APIStatusError, match="image"):
            await asked

    async def test_a_bad_request_is_told_as_one(self, clients: Clients) -> None:
        with pytest.raises(anthropic.BadRequestError):
            await clients.anthropic.messages.create(
                model=MODEL, max_tokens=9, messages=[{"role": "user", "content": 3}]
            )


def test_keys_travel_as_each_client_sends_them(
    fleet_behind_gateway: GatewayFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "unneeded")  # without keys in use any key is let in
    client = ollama.Client(fleet_behind_gateway.url)
    try:
        assert client._client.headers["authorization"] == "Bearer unneeded"
        assert client.generate(MODEL, "count 1").response.strip() == "0"
    finally:
        client._client.close()
