"""LangChain's own classes for Ollama and OpenAI, unchanged but for their base URL, on both kinds of engine."""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from sollol_agents.lab.testing.gateway_fleet import ClientPackage, GatewayFleet, Target

langchain_ollama = ClientPackage("langchain_ollama")
langchain_openai = ClientPackage("langchain_openai")
messages = ClientPackage("langchain_core.messages")
prompts = ClientPackage("langchain_core.prompts")

MODEL = "countdown"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {
    "title": "Answer",
    "description": "Whether it is so",
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
}

pytestmark = [
    # sockets of clients that offer no way to be closed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def their_sockets_are_gone() -> Iterator[None]:
    """Collects what the classes leave open here, so that no other module's test is blamed for it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


class Clients(Target):
    """Clients of a gateway that ask one node behind it."""

    def ollama(self, kind: str = "ChatOllama", *, model: str = MODEL, **settings: Any) -> Any:
        sent = {"headers": self.headers, "trust_env": False}
        made = getattr(langchain_ollama, kind)
        return made(model=model, base_url=self.url, client_kwargs=sent, **settings)

    def openai(self, kind: str = "ChatOpenAI", *, model: str = MODEL, **settings: Any) -> Any:
        made = getattr(langchain_openai, kind)
        base = {"base_url": f"{self.url}/v1", "api_key": "none", "default_headers": self.headers}
        return made(model=model, **base, **settings)

    def chat(self, dialect: str, **settings: Any) -> Any:
        return self.ollama(**settings) if dialect == "ollama" else self.openai(**settings)


@pytest.fixture(params=["emulated", "real"])
def target(request: pytest.FixtureRequest, fleet_behind_gateway: GatewayFleet) -> Clients:
    return Clients(fleet_behind_gateway, request.param)


both = pytest.mark.parametrize("dialect", ["ollama", "openai"])


@both
class TestChat:
    """ChatOllama and ChatOpenAI."""

    def test_is_invoked(self, target: Clients, dialect: str) -> None:
        answer = target.chat(dialect).invoke("count 3")
        assert answer.content.split() == ["2", "1", "0"]
        assert answer.usage_metadata["output_tokens"] == 4

    async def test_is_invoked_asynchronously(self, target: Clients, dialect: str) -> None:
        assert (await target.chat(dialect).ainvoke("count 3")).content.split() == ["2", "1", "0"]

    def test_streams(self, target: Clients, dialect: str) -> None:
        parts = list(target.chat(dialect).stream("count 5"))
        assert "".join(part.content for part in parts).split() == ["4", "3", "2", "1", "0"]
        assert len(parts) > 3

    async def test_streams_asynchronously(self, target: Clients, dialect: str) -> None:
        parts = [part.content async for part in target.chat(dialect).astream("count 5")]
        assert "".join(parts).split() == ["4", "3", "2", "1", "0"]

    def test_takes_batches(self, target: Clients, dialect: str) -> None:
        answers = target.chat(dialect).batch([f"count {n}" for n in (2, 3, 4, 5, 6)])
        assert [len(answer.content.split()) for answer in answers] == [2, 3, 4, 5, 6]

    def test_takes_a_conversation_from_a_template(self, target: Clients, dialect: str) -> None:
        template = prompts.ChatPromptTemplate.from_messages([("system", "be brief"), ("human", "count {number}")])
        assert (template | target.chat(dialect)).invoke({"number": 2}).content.split() == ["1", "0"]

    def test_calls_tools_and_takes_their_results(self, target: Clients, dialect: str) -> None:
        chat = target.chat(dialect).bind_tools([get_weather])
        asked = messages.HumanMessage("please call")
        called = chat.invoke([asked])
        assert [call["name"] for call in called.tool_calls] == ["get_weather"]
        result = messages.ToolMessage("rain, then count 2", tool_call_id=called.tool_calls[0]["id"])
        assert chat.invoke([asked, called, result]).content

    def test_streams_calls_of_tools(self, target: Clients, dialect: str) -> None:
        whole = None
        for part in target.chat(dialect).bind_tools([get_weather]).stream("please call"):
            whole = part if whole is None else whole + part
        assert whole is not None
        assert [call["name"] for call in whole.tool_calls] == ["get_weather"]

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_gives_structured_output(self, target: Clients, dialect: str, method: str) -> None:
        chat = target.chat(dialect).with_structured_output(SCHEMA, method=method)
        answer = chat.invoke("please call" if method == "function_calling" else "please think")
        assert isinstance(answer["ok"], bool)

    def test_sends_images(self, target: Clients, dialect: str) -> None:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
        asked = [messages.HumanMessage([picture, {"type": "text", "text": "count 2"}])]
        if target.node == "emulated":
            assert target.chat(dialect).invoke(asked).content.split() == ["1", "0"]
            return
        with pytest.raises(Exception, match="image"):  # of the client's own class; the model cannot see
            target.chat(dialect, **({} if dialect == "ollama" else {"max_retries": 0})).invoke(asked)

    def test_tells_of_unknown_models(self, target: Clients, dialect: str) -> None:
        with pytest.raises(Exception, match="model 'nope' not found") as caught:
            target.chat(dialect, model="nope").invoke("x")
        assert caught.value.status_code == 404  # type: ignore[attr-defined]


class TestOllama:
    """What LangChain offers for Ollama alone."""

    def test_completes(self, target: Clients) -> None:
        model = target.ollama("OllamaLLM")
        assert model.invoke("count 3").split() == ["2", "1", "0"]
        assert "".join(model.stream("count 3")).split() == ["2", "1", "0"]

    async def test_completes_asynchronously(self, target: Clients) -> None:
        model = target.ollama("OllamaLLM")
        assert (await model.ainvoke("count 3")).split() == ["2", "1", "0"]
        assert "".join([part async for part in model.astream("count 3")]).split() == ["2", "1", "0"]

    def test_obeys_options(self, target: Clients) -> None:
        answer = target.ollama(num_predict=5, temperature=0, keep_alive="10m").invoke("count 50")
        assert answer.response_metadata["done_reason"] == "length"

    def test_thinks(self, target: Clients) -> None:
        answer = target.ollama(reasoning=True).invoke("please think")
        assert answer.additional_kwargs["reasoning_content"]

    def test_makes_sure_that_a_model_exists(self, target: Clients) -> None:
        assert target.ollama(validate_model_on_init=True).invoke("count 1")
        with pytest.raises(ValueError, match="nope"):
            target.ollama(model="nope", validate_model_on_init=True)


class TestOpenAI:
    """What LangChain offers for OpenAI alone."""

    def test_completes(self, target: Clients) -> None:
        model = target.openai("OpenAI", max_tokens=20)
        assert "".join(model.stream("count 3")).split() == ["2", "1", "0"]
        if target.node == "real":
            assert model.invoke("count 3").split() == ["2", "1", "0"]
            return
        with pytest.raises(Exception, match="Error code: 400"):  # the class asks with a list, Ollama takes one text
            model.invoke("count 3")

    def test_obeys_the_limit(self, target: Clients) -> None:
        answer = target.openai(max_tokens=5).invoke("count 50")
        assert answer.response_metadata["finish_reason"] == "length"

    def test_uses_the_newer_interface(self, target: Clients) -> None:
        answer = target.openai(use_responses_api=True).invoke("count 3")
        assert answer.text.split() == ["2", "1", "0"]
        parts = target.openai(use_responses_api=True).stream("count 3")
        assert "".join(part.text for part in parts).split() == ["2", "1", "0"]


def ollama_embeddings(target: Clients) -> Any:
    return target.ollama("OllamaEmbeddings", model=target.embedder)


def openai_embeddings(target: Clients) -> Any:
    return target.openai("OpenAIEmbeddings", model=target.embedder, check_embedding_ctx_length=False)


@pytest.mark.parametrize("made", [ollama_embeddings, openai_embeddings])
class TestEmbeddings:
    """OllamaEmbeddings and OpenAIEmbeddings."""

    def test_embed_documents_and_questions(self, target: Clients, made: Callable[[Target], Any]) -> None:
        embeddings = made(target)
        one, two = embeddings.embed_documents(["a short story", "the time of day"])
        assert math.dist(one, two) > 0
        again = embeddings.embed_query("a short story")
        assert len(again) == len(one)
        if target.node == "emulated":  # a llama.cpp server answers otherwise when its cache holds the beginning
            assert again == pytest.approx(one, abs=1e-4)

    async def test_embed_asynchronously(self, target: Clients, made: Callable[[Target], Any]) -> None:
        embeddings = made(target)
        assert len(await embeddings.aembed_query("a")) == len((await embeddings.aembed_documents(["a"]))[0])


def test_the_gateway_saw_them_all(fleet_behind_gateway: GatewayFleet) -> None:
    seen = httpx.get(f"{fleet_behind_gateway.url}/metrics", trust_env=False).text
    assert not [status for status in ("502", "503", "504") if f'status="{status}"' in seen], (
        "500 is an engine's own word"
    )
