"""The official clients, unchanged but for their base URL, on an emulated Ollama and on a real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet, Target

anthropic = ClientPackage("anthropic")
ollama = ClientPackage("ollama")
openai = ClientPackage("openai")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


class Clients(Target):
    """Clients of a gateway that ask one node behind it; they are closed after the test."""

    def __init__(self, fleet: GatewayFleet, node: str, clients: ExitStack) -> None:
        super().__init__(fleet, node)
        self.clients = clients

    def ollama(self) -> Any:
        client = ollama.Client(self.url, headers=self.headers)
        self.clients.callback(client._client.close)
        return client

    def openai(self, **settings: Any) -> Any:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", default_headers=self.headers, **settings)
        self.clients.callback(client.close)
        return client

    def anthropic(self) -> Any:
        client = anthropic.Anthropic(base_url=self.url, api_key="none", default_headers=self.headers)
        self.clients.callback(client.close)
        return client


@pytest.fixture(params=["emulated", "real"])
def target(request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet) -> Iterator[Clients]:
    with ExitStack() as clients:
        yield Clients(fleet_behind_gateway, request.param, clients)


class TestOllama:
    """The `ollama` package."""

    def test_generates_whole_and_streaming(self, target: Clients) -> None:
        client = target.ollama()
        whole = client.generate("countdown", "count 4")
        assert whole.response.split() == ["3", "2", "1", "0"]
        assert whole.done
        assert whole.eval_count == 5
        parts = list(client.generate("countdown", "count 4", stream=True))
        assert "".join(part.response for part in parts).split() == ["3", "2", "1", "0"]
        assert [part.done for part in parts] == [*[False] * (len(parts) - 1), True]

    def test_chats_whole_and_streaming(self, target: Clients) -> None:
        client = target.ollama()
        messages = [{"role": "user", "content": "count 3"}]
        assert client.chat("countdown", messages).message.content.split() == ["2", "1", "0"]
        parts = list(client.chat("countdown", messages, stream=True))
        assert "".join(part.message.content for part in parts).split() == ["2", "1", "0"]

    def test_calls_tools(self, target: Clients) -> None:
        messages = [{"role": "user", "content": "please call"}]
        message = target.ollama().chat("countdown", messages, tools=[WEATHER]).message
        assert [call.function.name for call in message.tool_calls] == ["get_weather"]
        assert isinstance(message.tool_calls[0].function.arguments, dict)
        answered = [
            *messages,
            message,
            {"role": "tool", "content": "rain, then count 2", "tool_name": "get_weather"},
        ]
        assert target.ollama().chat("countdown", answered, tools=[WEATHER]).message.content

    def test_gives_structured_output(self, target: Clients) -> None:
        messages = [{"role": "user", "content": "please think"}]  # the tiny model needs it before an object
        message = target.ollama().chat("countdown", messages, format=SCHEMA).message
        assert isinstance(json.loads(message.content)["ok"], bool)

    def test_thinks(self, target: Clients) -> None:
        message = target.ollama().chat("countdown", [{"role": "user", "content": "please think"}], think=True).message
        assert message.thinking

    def test_obeys_options(self, target: Clients) -> None:
        answer = target.ollama().generate("countdown", "count 50", options={"num_predict": 5, "temperature": 0})
        assert answer.done_reason == "length"
        assert len(answer.response.split()) == 5

    def test_embeds(self, target: Clients) -> None:
        client = target.ollama()
        one, two = client.embed(target.embedder, ["a cat", "a dog"]).embeddings
        assert len(one) == len(two) > 0
        assert one != two
        assert len(client.embeddings(target.embedder, "a cat").embedding) == len(one)

    def test_lists_and_shows_models(self, target: Clients) -> None:
        client = target.ollama()
        assert "countdown" in {model.model.removesuffix(":latest") for model in client.list().models}
        assert {model.model for model in client.ps().models}
        assert client.show("countdown").modelinfo

    def test_unknown_models_are_404_with_ollamas_text(self, target: Clients) -> None:
        client = target.ollama()
        with pytest.raises(ollama.ResponseError, match=r"^model 'nope' not found") as chat:
            client.chat("nope", [{"role": "user", "content": "x"}])
        assert chat.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match=r'^model "nope" not found, try pulling it first'):
            client.embed("nope", "x")
        with pytest.raises(ollama.ResponseError, match=r"^model 'nope:latest' not found"):
            client.show("nope")

    def test_empty_prompts_load(self, target: Clients) -> None:
        assert target.ollama().generate("countdown", "").done_reason == "load"

    async def test_works_asynchronously(self, target: Clients) -> None:
        client = ollama.AsyncClient(target.url, headers=target.headers)
        texts = [part.response async for part in await client.generate("countdown", "count 3", stream=True)]
        assert "".join(texts).split() == ["2", "1", "0"]
        await client._client.aclose()


class TestOpenAI:
    """The `openai` package."""

    def test_chats_whole(self, target: Clients) -> None:
        answer = target.openai().chat.completions.create(
            model="countdown", messages=[{"role": "user", "content": "count 3"}]
        )
        assert answer.choices[0].message.content.split() == ["2", "1", "0"]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == 4

    def test_chats_streaming_with_usage(self, target: Clients) -> None:
        chunks = list(
            target.openai().chat.completions.create(
                model="countdown",
                messages=[{"role": "user", "content": "count 3"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.split() == ["2", "1", "0"]
        assert chunks[-1].usage.completion_tokens == 4
        assert len({chunk.id for chunk in chunks}) == 1

    def test_ids_are_unique(self, target: Clients) -> None:
        client = target.openai()
        messages = [{"role": "user", "content": "count 1"}]
        ids = [client.chat.completions.create(model="countdown", messages=messages).id for _ in range(40)]
        assert len(set(ids)) == 40

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_obeys_the_limit_by_either_name(self, target: Clients, field: str) -> None:
        limit: dict[str, Any] = {field: 5}
        answer = target.openai().chat.completions.create(
            model="countdown", messages=[{"role": "user", "content": "count 50"}], **limit
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 5

    def test_calls_tools(self, target: Clients) -> None:
        answer = target.openai().chat.completions.create(
            model="countdown", messages=[{"role": "user", "content": "please call"}], tools=[WEATHER]
        )
        call = answer.choices[0].message.tool_calls[0]
        assert call.function.name == "get_weather"
        assert isinstance(json.loads(call.function.arguments), dict)

    def test_gives_structured_output(self, target: Clients) -> None:
        answer = target.openai().chat.completions.create(
            model="countdown",
            messages=[{"role": "user", "content": "please think"}],
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        )
        assert isinstance(json.loads(answer.choices[0].message.content)["ok"], bool)

    def test_completes(self, target: Clients) -> None:
        client = target.openai()
        whole = client.completions.create(model="countdown", prompt="count 3", max_tokens=10)
        assert whole.choices[0].text.split() == ["2", "1", "0"]
        parts = client.completions.create(model="countdown", prompt="count 3", max_tokens=10, stream=True)
        assert "".join(part.choices[0].text for part in parts if part.choices).split() == ["2", "1", "0"]

    def test_embeds_as_base64_by_default(self, target: Clients) -> None:
        answer = target.openai().embeddings.create(model=target.embedder, input=["a cat", "a dog"])
        assert len(answer.data) == 2
        assert len(answer.data[0].embedding) == len(answer.data[1].embedding) > 0

    def test_lists_models(self, target: Clients) -> None:
        client = target.openai()
        assert "countdown" in {model.id.removesuffix(":latest") for model in client.models.list()}
        assert client.models.retrieve("countdown").object == "model"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nope")

    def test_unknown_models_are_not_retried(self, target: Clients) -> None:
        with pytest.raises(openai.NotFoundError, match="model 'nope' not found") as caught:
            target.openai(max_retries=2).chat.completions.create(
                model="nope", messages=[{"role": "user", "content": "x"}]
            )
        assert caught.value.body["type"] == "not_found_error"
        assert caught.value.response.headers["x-should-retry"] == "false"

    def test_sees_where_it_ran(self, target: Clients) -> None:
        raw = target.openai().chat.completions.with_raw_response.create(
            model="countdown", messages=[{"role": "user", "content": "count 1"}]
        )
        assert raw.headers["x-sollol-node"] == target.node
        assert raw.headers["x-sollol-reason"]

    def test_responds(self, target: Clients) -> None:
        client = target.openai()
        whole = client.responses.create(model="countdown", input="count 3")
        assert whole.output_text.split() == ["2", "1", "0"]
        kinds = [event.type for event in client.responses.create(model="countdown", input="count 3", stream=True)]
        assert kinds[-1] == "response.completed"


class TestAnthropic:
    """The `anthropic` package."""

    def test_answers_whole(self, target: Clients) -> None:
        answer = target.anthropic().messages.create(
            model="countdown", max_tokens=50, messages=[{"role": "user", "content": "count 3"}]
        )
        assert answer.content[0].text.split() == ["2", "1", "0"]
        assert answer.stop_reason == "end_turn"
        assert answer.usage.output_tokens >= 3

    def test_answers_streaming(self, target: Clients) -> None:
        with target.anthropic().messages.stream(
            model="countdown", max_tokens=50, messages=[{"role": "user", "content": "count 3"}]
        ) as stream:
            assert "".join(stream.text_stream).split() == ["2", "1", "0"]
            final = stream.get_final_message()
        assert final.stop_reason == "end_turn"

    def test_obeys_the_limit(self, target: Clients) -> None:
        answer = target.anthropic().messages.create(
            model="countdown", max_tokens=5, system="be brief", messages=[{"role": "user", "content": "count 50"}]
        )
        assert answer.stop_reason == "max_tokens"

    def test_calls_tools(self, target: Clients) -> None:
        tool = {
            "name": "get_weather",
            "description": "The weather of a city",
            "input_schema": WEATHER["function"]["parameters"],  # type: ignore[index]
        }
        answer = target.anthropic().messages.create(
            model="countdown", max_tokens=200, tools=[tool], messages=[{"role": "user", "content": "please call"}]
        )
        used = [block for block in answer.content if block.type == "tool_use"]
        assert [block.name for block in used] == ["get_weather"]
        assert isinstance(used[0].input, dict)
        assert answer.stop_reason == "tool_use"

    def test_counts_tokens(self, target: Clients) -> None:
        counted = target.anthropic().messages.count_tokens(
            model="countdown", messages=[{"role": "user", "content": "count 3"}]
        )
        assert counted.input_tokens > 0

    def test_unknown_models_are_404_in_its_own_form(self, target: Clients) -> None:
        with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found") as caught:
            target.anthropic().messages.create(model="nope", max_tokens=5, messages=[{"role": "user", "content": "x"}])
        assert caught.value.body["error"]["type"] == "not_found_error"
