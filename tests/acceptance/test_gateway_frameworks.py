"""LlamaIndex's classes for Ollama and LiteLLM's client, unchanged but for their base URL, on both kinds of engine."""

from __future__ import annotations

from typing import Any

import pytest

from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet, Target

litellm = ClientPackage("litellm")
llama_llms = ClientPackage("llama_index.llms.ollama")
llama_embeddings = ClientPackage("llama_index.embeddings.ollama")
llama_core = ClientPackage("llama_index.core.llms")
llama_tools = ClientPackage("llama_index.core.tools")

MODEL = "countdown"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

pytestmark = [
    # sockets of clients that offer no way to be closed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Clients(Target):
    """Clients of a gateway that ask one node behind it."""

    def llama_index(self, **more: Any) -> Any:
        """Its class asks for the model's context by `/api/show` and sends it back with every request."""
        return llama_llms.Ollama(MODEL, base_url=self.url, headers=self.headers, request_timeout=60, **more)

    def litellm(self, provider: str, content: str, **more: Any) -> Any:
        base = self.url if provider in ("ollama", "ollama_chat", "anthropic") else f"{self.url}/v1"
        return litellm.completion(
            f"{provider}/{MODEL}",
            [{"role": "user", "content": content}],
            api_base=base,
            api_key="none",
            extra_headers=self.headers,
            timeout=60,
            num_retries=0,
            **more,
        )


@pytest.fixture(params=["emulated", "real"])
def target(request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet) -> Clients:
    return Clients(fleet_behind_gateway, request.param)


class TestLlamaIndex:
    def test_chats_whole_and_streaming(self, target: Clients) -> None:
        messages = [llama_core.ChatMessage(role="user", content="count 4")]
        assert target.llama_index().chat(messages).message.content.split() == ["3", "2", "1", "0"]
        parts = [part.delta or "" for part in target.llama_index().stream_chat(messages)]
        assert "".join(parts).split() == ["3", "2", "1", "0"]
        assert len(parts) > 1

    def test_completes(self, target: Clients) -> None:
        assert target.llama_index(temperature=0).complete("count 4").text.split() == ["3", "2", "1", "0"]

    def test_calls_a_tool(self, target: Clients) -> None:
        def get_weather(city: str) -> str:
            """The weather of a city."""
            return f"rain in {city}"

        tool = llama_tools.FunctionTool.from_defaults(get_weather)
        answer = target.llama_index().chat_with_tools([tool], user_msg="please call")
        calls = target.llama_index().get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        assert [call.tool_name for call in calls] == ["get_weather"]

    def test_embeds(self, target: Clients) -> None:
        kwargs = {"headers": target.headers}
        embedder = llama_embeddings.OllamaEmbedding(target.embedder, base_url=target.url, client_kwargs=kwargs)
        one, two = embedder.get_text_embedding_batch(["a cat", "a dog"])
        assert len(one) == len(two) > 0


class TestLiteLLM:
    @pytest.mark.parametrize("provider", ["ollama_chat", "ollama", "openai", "anthropic"])
    def test_completes_whole_and_streaming(self, target: Clients, provider: str) -> None:
        whole = target.litellm(provider, "count 4", temperature=0, max_tokens=40)
        assert whole.choices[0].message.content.split()[-4:] == ["3", "2", "1", "0"]
        assert whole.usage.completion_tokens >= 4
        parts = [p.choices[0].delta.content or "" for p in target.litellm(provider, "count 4", stream=True)]
        assert "".join(parts).split()[-4:] == ["3", "2", "1", "0"]

    @pytest.mark.parametrize("provider", ["ollama_chat", "openai", "anthropic"])
    def test_calls_a_tool(self, target: Clients, provider: str) -> None:
        message = target.litellm(provider, "please call", tools=[WEATHER], max_tokens=200).choices[0].message
        assert [call.function.name for call in message.tool_calls] == ["get_weather"]

    @pytest.mark.parametrize("provider", ["ollama", "openai"])
    def test_embeds(self, target: Clients, provider: str) -> None:
        base = target.url if provider == "ollama" else f"{target.url}/v1"
        model, more = f"{provider}/{target.embedder}", {"extra_headers": target.headers} if provider == "openai" else {}
        reply = litellm.embedding(model, ["a cat", "a dog"], api_base=base, api_key="none", timeout=60, **more)
        assert len(reply.data) == 2
