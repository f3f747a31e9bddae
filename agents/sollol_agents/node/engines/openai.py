"""OpenAI-compatible engines: llama.cpp, vLLM, SGLang, LM Studio. Native requests are translated both ways."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import msgspec

from sollol_agents.node.engines.base import EngineAnswer, EngineInventory, EngineRequest, LoadRequest, PretendedMachine
from sollol_agents.node.engines.continuing.answer import ContinuedAnswer
from sollol_agents.node.engines.continuing.ways import way_of
from sollol_agents.node.engines.decoding import slot_wait_s, whole
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.lines import LineSplitter, event_data, split
from sollol_agents.node.engines.ollama_wire import is_load_only
from sollol_agents.node.engines.passthrough import PassthroughAnswer
from sollol_agents.node.engines.props import Props
from sollol_agents.node.engines.refusals import broken_off, engine_error
from sollol_agents.node.engines.served import Models, Served
from sollol_agents.node.engines.translation.bodies import fields_of, is_unload
from sollol_agents.node.engines.translation.chat import translate
from sollol_agents.node.engines.translation.chat_reply import NativeStream
from sollol_agents.node.engines.translation.embeddings import (
    EMBEDDINGS_PATH,
    embed_reply,
    embed_request,
    nothing_embedded,
    old_embed_reply,
)
from sollol_agents.node.engines.translation.messages_answer import COUNT_PATH, MESSAGES_PATH, MessagesAnswer, Support
from sollol_agents.node.engines.translation.native_lines import CONTENT_TYPE, created_at
from sollol_agents.node.engines.translation.options import Flavour
from sollol_agents.requests.body import model_in, with_model
from sollol_agents.requests.dialects import OLD_EMBED_PATH
from sollol_agents.requests.names import canonical
from sollol_bus.errors import BackendBrokeProtocol, BackendRefused, SollolError, UnknownModel
from sollol_bus.sdk.answers import joined
from sollol_schemas.context import RequestKind
from sollol_schemas.control import EngineOperation
from sollol_schemas.errors import ErrorCode
from sollol_schemas.telemetry import EngineKind, LoadedModel

_MAX_SLOTS: Final = 1024
_MODELS_ASKED: Final = 32
_TYPICAL_CONTEXT_TOKENS: Final = 4096
_VLLM_SEQUENCES: Final = 256  # vLLM's default bound on sequences that run at a time
_CACHE_INFO: Final = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


class _Version(msgspec.Struct):
    version: str = ""


class OpenAIAnswer(EngineAnswer):
    """A native generate or chat on an OpenAI-compatible engine."""

    content_type = CONTENT_TYPE

    def __init__(
        self, http: EngineHttp, request: EngineRequest, *, model: str, flavour: Flavour, context_length: int
    ) -> None:
        self._http = http
        self._request = request
        self._model = model
        self._flavour = flavour
        self._context_length = context_length

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """Ollama's lines."""
        request = self._request
        stream = NativeStream(request.kind, request.model)
        fields = fields_of(request.body)
        if is_load_only(request):
            yield [stream.load_only(created_at(), is_unload=is_unload(fields))]
            return
        sent = translate(
            request.kind,
            fields,
            self._model,
            flavour=self._flavour,
            context_length=self._context_length,
        )
        self.left_out = sent.left_out
        splitter, began = LineSplitter(), time.perf_counter()
        first = last = began
        async with self._http.open("POST", sent.path, sent.body, model=request.model) as answer:
            async for data in answer:
                now = created_at()
                events = [event for line in split(splitter, data) if (event := event_data(line)) is not None]
                lines = [line for event in events if (line := stream.feed(event, now)) is not None]
                if lines or (events and stream.is_calling):  # a call is told when it is whole: the work goes on
                    last = time.perf_counter()
                    first = last if first == began else first
                    self.output_chunks += len(lines) or len(events)
                    yield lines
        if splitter.rest.strip():
            raise broken_off("the engine's stream ended in the middle of a line")
        told = stream.figures()
        total_s = time.perf_counter() - began
        prompt_s = told.prompt_s if told.prompt_s is not None else first - began
        decode_s = told.decode_s if told.decode_s is not None else last - first
        self.figures = msgspec.structs.replace(
            told,
            output_tokens=told.output_tokens if told.output_tokens is not None else self.output_chunks,
            prompt_s=prompt_s,
            decode_s=decode_s,
            slot_wait_s=slot_wait_s(total_s, load_s=0.0, prompt_s=prompt_s, decode_s=decode_s),
        )
        yield stream.last(created_at(), self.figures, total_s)

    def join(self, chunks: list[bytes]) -> bytes:
        """Ollama's single reply."""
        return joined(self._request.kind, chunks)


class OpenAIEmbedAnswer(EngineAnswer):
    """An embedding on an OpenAI-compatible engine, asked for by `/api/embed` or the older `/api/embeddings`."""

    content_type = "application/json"

    def __init__(self, http: EngineHttp, request: EngineRequest, model: str) -> None:
        self._http = http
        self._request = request
        self._model = model
        self._is_old = request.kind is RequestKind.PASSTHROUGH

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """Ollama's one reply."""
        fields, model = fields_of(self._request.body), self._request.model
        if self._is_old:
            fields["input"] = fields.pop("prompt", "")
        asked = embed_request(fields)
        body = nothing_embedded(model)
        if asked.texts:
            began = time.perf_counter()
            async with self._http.open("POST", EMBEDDINGS_PATH, asked.body(self._model), model=model) as answer:
                reply = await answer.read()
            body, self.figures = embed_reply(reply, model, asked.dimensions, time.perf_counter() - began)
        yield [old_embed_reply(body) if self._is_old else body]

    def join(self, chunks: list[bytes]) -> bytes:
        """The reply as it is."""
        return chunks[0]


class OpenAIEngine:
    """An adapter to an OpenAI-compatible server.

    Args:
        http: The connection.
        model_alias: Offered names of models to the engine's own.
    """

    kind = EngineKind.OPENAI

    def __init__(self, http: EngineHttp, model_alias: dict[str, str]) -> None:
        self.url = http.url
        self._http = http
        self._own_name = dict(model_alias)
        self._flavour = Flavour.OTHER
        self._props: dict[str, Props] = {}
        """What a llama.cpp says of each of its models, by its own name for it."""
        self._support = Support()

    async def probe(self) -> str:
        """The server's version, empty where it has none."""
        return (await self._describe(await self._models())).version

    async def inventory(self) -> EngineInventory:
        """Version, slots, and the models it serves."""
        models = await self._models()
        described = await self._describe(models)
        installed = tuple(
            model.installed(name, self._props.get(model.id), self._flavour.value)
            for model in models
            for name in self._offered(model.id)
        )
        return msgspec.structs.replace(described, installed=installed)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory: all that it serves, but for a server that loads on demand."""
        return tuple(
            model.loaded(name, self._props.get(model.id))
            for model in await self._models()
            if model.is_loaded
            for name in self._offered(model.id)
        )

    async def pretended(self) -> PretendedMachine | None:
        """None: nothing of this dialect is emulated."""
        return None

    def run(self, request: EngineRequest) -> EngineAnswer:
        """A native request, translated; or any other path byte for byte; or the rest of an answer."""
        model = self._own_name.get(request.model, request.model)
        flavour, context_length = self._flavour, self._context_length(model)
        if request.continued is not None:
            way = way_of(flavour, self._http, request, request.continued, model=model, context_length=context_length)
            return ContinuedAnswer(way, request)
        if request.kind is RequestKind.PASSTHROUGH:
            return self._passthrough(request, model)
        if request.kind is RequestKind.EMBED:
            return OpenAIEmbedAnswer(self._http, request, model)
        return OpenAIAnswer(self._http, request, model=model, flavour=flavour, context_length=context_length)

    def _passthrough(self, request: EngineRequest, model: str) -> EngineAnswer:
        if request.path == OLD_EMBED_PATH:
            return OpenAIEmbedAnswer(self._http, request, model)
        if model_in(request.body) not in ("", model):
            request = msgspec.structs.replace(request, body=with_model(request.body, model))
        if request.path.partition("?")[0] in (MESSAGES_PATH, COUNT_PATH):
            return MessagesAnswer(self._http, request, model=model, support=self._support)
        return PassthroughAnswer(self._http, request)

    async def load(self, wanted: LoadRequest) -> None:
        """Only looks whether there is such a model: these servers hold theirs, or load them with the request."""
        names = {canonical(name) for model in await self._models() for name in self._offered(model.id)}
        if names and canonical(wanted.model) not in names:
            raise engine_error(ErrorCode.UNKNOWN_MODEL, f"model {wanted.model!r} not found", status=404)

    async def sample(self, loaded: LoadRequest) -> None:
        """One token, or one vector of a server that makes no text."""
        asked = {"model": self._own_name.get(loaded.model, loaded.model)}
        try:
            await self._ask("/v1/completions", asked | {"prompt": "a", "max_tokens": 1})
        except BackendRefused:
            await self._ask("/v1/embeddings", asked | {"input": "a"})

    async def _ask(self, path: str, body: dict[str, Any]) -> None:
        await self._http.call("POST", path, msgspec.json.encode(body), timeout_s=None)

    async def unload(self, model: str) -> None:
        """Refuses: there is no such operation."""
        raise _cannot("unload", model)

    async def operate(self, operation: EngineOperation, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Refuses: there are no such operations."""
        raise _cannot(operation.value, str(body.get("model") or "models"))
        yield b""  # makes this a generator

    async def upload(self, digest: str, pieces: AsyncIterator[bytes]) -> int:
        """Refuses: there is no such operation."""
        del pieces
        raise _cannot("take", f"the file {digest}")

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def _models(self) -> list[Served]:
        return (await self._http.get("/v1/models", Models)).rows()

    def _context_length(self, model: str) -> int:
        """Tokens of a slot, where the server tells them; that of its one model has many names."""
        known = self._props.get(model) or (next(iter(self._props.values())) if len(self._props) == 1 else Props())
        return whole(known.default_generation_settings.n_ctx)

    def _offered(self, own_name: str) -> list[str]:
        """The names under which a model is offered: its aliases, or its own."""
        return [offered for offered, own in self._own_name.items() if own == own_name] or [own_name]

    async def _describe(self, models: list[Served]) -> EngineInventory:
        """Version and slots, by the ways that the known servers offer."""
        props = await self._maybe("/props", Props)
        if props is not None and props.is_router:
            self._flavour = Flavour.LLAMA_CPP
            await self._ask_of_each([model.id for model in models if model.is_loaded])
            return EngineInventory(version=props.version)
        if props is not None and props.total_slots is not None:
            self._flavour = Flavour.LLAMA_CPP
            self._props = {models[0].id: props} if len(models) == 1 else {}
            return EngineInventory(version=props.version, slots=_slots(props.total_slots))
        version = await self._maybe("/version", _Version)
        if version is None or not version.version:
            return EngineInventory()
        metrics = await self._text("/metrics")
        if "vllm:" in metrics:
            self._flavour = Flavour.VLLM
            return EngineInventory(version=f"vLLM {version.version}", slots=vllm_slots(metrics))
        return EngineInventory(version=version.version)

    async def _ask_of_each(self, loaded: list[str]) -> None:
        """Asks a router of the models in its memory; asking of another would load it."""
        self._props = {
            name: props
            for name in loaded[:_MODELS_ASKED]
            if (props := await self._maybe(f"/props?model={quote(name, safe='')}&autoload=false", Props)) is not None
        }

    async def _maybe(self, path: str, kind: type[Any]) -> Any:  # noqa: ANN401 the decoded answer
        try:
            return await self._http.get(path, kind)
        except (BackendRefused, BackendBrokeProtocol, UnknownModel):
            return None

    async def _text(self, path: str) -> str:
        try:
            return (await self._http.call("GET", path, timeout_s=5.0)).decode("utf-8", "replace")
        except (BackendRefused, BackendBrokeProtocol):
            return ""


def vllm_slots(metrics: str) -> int | None:
    """How many requests fit into vLLM's cache at a time, at a typical context; None when it does not tell."""
    found = _CACHE_INFO.search(metrics)
    if found is None:
        return None
    labels = dict(_LABEL.findall(found.group(1)))
    try:
        tokens = int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except (KeyError, ValueError):
        return None
    return max(1, min(_VLLM_SEQUENCES, tokens // _TYPICAL_CONTEXT_TOKENS))


def _slots(total: Any) -> int | None:  # noqa: ANN401 whatever an engine put there
    return min(whole(total), _MAX_SLOTS) or None


def _cannot(what: str, model: str) -> SollolError:
    return engine_error(ErrorCode.ENGINE_REJECTED, f"this engine cannot {what} {model} at run time", status=501)
