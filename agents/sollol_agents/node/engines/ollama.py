"""Ollama's native API, always streamed: Ollama frees an abandoned stream at once, an abandoned reply late."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineAnswer, EngineInventory, EngineRequest, LoadRequest, PretendedMachine
from sollol_agents.node.engines.continuing.answer import ContinuedAnswer
from sollol_agents.node.engines.continuing.ollama_way import OllamaWay
from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.http.client import EngineHttp, HttpAnswer
from sollol_agents.node.engines.lines import LineSplitter, split
from sollol_agents.node.engines.ollama_wire import (
    FinalLine,
    Processes,
    Show,
    Tags,
    check_line,
    installed_model,
    is_token,
    loaded_model,
    own_limit,
    renders_prompts,
    repaired,
    streamed,
)
from sollol_agents.node.engines.passthrough import PassthroughAnswer
from sollol_agents.node.engines.refusals import broken_off, said_of_models
from sollol_agents.node.engines.translation.messages_answer import COUNT_PATH, MESSAGES_PATH, MessagesAnswer, Support
from sollol_bus.errors import BackendRefused, SollolError
from sollol_bus.sdk.answers import joined
from sollol_bus.transport.clock import wall_s
from sollol_schemas.context import RequestKind
from sollol_schemas.control import EngineOperation
from sollol_schemas.telemetry import EngineKind, Gpu, LoadedModel

_PATHS: Final = {RequestKind.GENERATE: "/api/generate", RequestKind.CHAT: "/api/chat"}
_ONE_OBJECT: Final = "application/json"
_EMBED: Final = "/api/embed"
_PS: Final = "/api/ps"
_PS_WITHIN_S: Final = 5.0
_SAMPLE: Final = "a"
_OPERATIONS: Final = {
    EngineOperation.TAGS: ("GET", "/api/tags"),
    EngineOperation.PS: ("GET", _PS),
    EngineOperation.SHOW: ("POST", "/api/show"),
    EngineOperation.PULL: ("POST", "/api/pull"),
    EngineOperation.CREATE: ("POST", "/api/create"),
    EngineOperation.PUSH: ("POST", "/api/push"),
    EngineOperation.COPY: ("POST", "/api/copy"),
    EngineOperation.DELETE: ("DELETE", "/api/delete"),
    EngineOperation.RECOMMENDATIONS: ("GET", "/api/experimental/model-recommendations"),
    EngineOperation.BLOB: ("HEAD", "/api/blobs"),
}


class _Version(msgspec.Struct):
    version: str
    emulated: bool = False
    """Told by this software's emulator alone."""


class _EmulatedGpu(msgspec.Struct):
    name: str
    memory_total_mib: float
    memory_used_mib: float
    utilization_ratio: float | None = None


class _EmulatedState(msgspec.Struct):
    emulated: bool
    gpu: _EmulatedGpu | None = None
    ram_total_mib: float = 0.0

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The fake GPU, if there is one."""
        gpu = self.gpu
        if gpu is None:
            return ()
        return (
            Gpu(
                index=0,
                name=gpu.name,
                memory_total_mib=gpu.memory_total_mib,
                memory_used_mib=gpu.memory_used_mib,
                memory_free_mib=max(0.0, gpu.memory_total_mib - gpu.memory_used_mib),
                utilisation_ratio=gpu.utilization_ratio,
                driver="emulated",
            ),
        )


class OllamaAnswer(EngineAnswer):
    """A native generate or chat; lines go on as they are."""

    def __init__(self, http: EngineHttp, request: EngineRequest) -> None:
        self._http = http
        self._request = request

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The lines of the stream."""
        request, splitter = self._request, LineSplitter()
        final: FinalLine | None = None
        async with self._http.open("POST", _PATHS[request.kind], streamed(request.body), model=request.model) as answer:
            self.content_type = answer.content_type
            if self.content_type.startswith(_ONE_OBJECT):
                yield [await self._whole(answer)]
                return
            answer.pass_to(partial(self._pass, splitter))
            async for data in answer:
                lines = split(splitter, data)
                failure: SollolError | None = None
                for index, line in enumerate(lines):
                    try:
                        final = check_line(line) or final
                    except SollolError as error:
                        failure, lines = error, lines[:index]  # what came before it is the caller's
                        break
                self.output_chunks += len(lines)
                self.is_whole = answer.is_whole and final is not None and failure is None
                if lines:
                    yield lines
                if failure is not None:
                    raise failure
        if splitter.rest.strip():
            # A last line without its line feed is complete when it is the final object, and half a line otherwise.
            final = check_line(splitter.rest.strip())
            yield [splitter.rest.strip()]
        if final is None:
            raise broken_off("the engine's stream ended without its final message")
        self.figures = final.figures()

    def _pass(self, splitter: LineSplitter, data: bytes) -> bool:
        """Whether data is the line of one token, and was taken."""
        taker, line = self.taker, data[:-1]
        if taker is None or b"\n" in line or data[-1:] != b"\n" or splitter.has_begun or not is_token(line):
            return False
        if not taker.has_room:
            return False
        self.output_chunks += 1
        taker.take([line])
        return True

    async def _whole(self, answer: HttpAnswer) -> bytes:
        """What Ollama does not stream: that a model is loaded or unloaded, or how a prompt is rendered."""
        reply = (await answer.read()).strip()
        self.output_chunks = 1
        self.figures = decoded(reply, FinalLine, "a request").figures()
        return reply

    def join(self, chunks: list[bytes]) -> bytes:
        """Ollama's single reply."""
        return joined(self._request.kind, chunks)


class OllamaEmbedAnswer(EngineAnswer):
    """An embedding: one reply, which Ollama does not stream."""

    def __init__(self, http: EngineHttp, request: EngineRequest) -> None:
        self._http = http
        self._request = request

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The one reply."""
        request = self._request
        async with self._http.open("POST", _EMBED, request.body, model=request.model) as answer:
            self.content_type = answer.content_type
            reply = await answer.read()
        figures = decoded(reply, FinalLine, _EMBED).figures()
        self.figures = msgspec.structs.replace(figures, output_tokens=0)
        yield [reply]

    def join(self, chunks: list[bytes]) -> bytes:
        """The reply as it is."""
        return chunks[0]


class OllamaEngine:
    """An adapter to Ollama (or an emulated node that speaks its API)."""

    kind = EngineKind.OLLAMA

    def __init__(self, http: EngineHttp) -> None:
        self.url = http.url
        self._http = http
        self._shown: dict[str, Show] = {}
        """By digest: a model's header never changes."""
        self._by_name: dict[str, Show] = {}
        self._is_real = True
        self._support = Support()

    async def probe(self) -> str:
        """Ollama's version."""
        told = await self._http.get("/api/version", _Version)
        self._is_real = not told.emulated
        return told.version

    async def inventory(self) -> EngineInventory:
        """The models on disk; their headers are read once per digest."""
        version = await self.probe()
        tags = (await self._http.get("/api/tags", Tags)).models or []
        local = [tag for tag in tags if tag.is_here]
        shown = {tag.name: await self._show(tag.name, tag.digest) for tag in local}
        self._by_name = {name: show for name, show in shown.items() if show is not None}
        self._shown = {tag.digest: self._by_name[tag.name] for tag in local if tag.name in self._by_name}
        goes_on = renders_prompts(version)
        installed = tuple(installed_model(tag, shown[tag.name], goes_on=goes_on) for tag in local)
        return EngineInventory(version=version, installed=installed)

    async def loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory."""
        read_at_s: list[float] = []
        told = await self._http.call(
            "GET", _PS, timeout_s=_PS_WITHIN_S, on_head=lambda head: read_at_s.append(head.unix_s(wall_s()))
        )
        models = decoded(told, Processes, _PS).models or []
        now = dt.datetime.fromtimestamp(read_at_s[0], dt.UTC)  # the engine's clock told when they expire
        # A fleet tells a model once for each of its nodes; two fleets behind each other would without end.
        return tuple({one.name: loaded_model(one, now) for one in models}.values())

    async def pretended(self) -> PretendedMachine | None:
        """What an emulated node says about its machine; a real Ollama is not asked."""
        if self._is_real:
            return None
        try:
            state = await self._http.get("/emulator/state", _EmulatedState)
        except BackendRefused:
            self._is_real = True
            return None
        return PretendedMachine(gpus=state.gpus, ram_total_mib=state.ram_total_mib)

    def run(self, request: EngineRequest) -> EngineAnswer:
        """A native request, or any other path byte for byte; or the rest of an answer."""
        if request.kind is RequestKind.PASSTHROUGH:
            request = msgspec.structs.replace(request, body=repaired(request.path, request.body))
        if request.continued is not None:
            way = OllamaWay(self._http, request, request.continued, self._own_limit(request.model))
            return ContinuedAnswer(way, request)
        if request.kind is RequestKind.PASSTHROUGH:
            if request.path.partition("?")[0] in (MESSAGES_PATH, COUNT_PATH):
                return MessagesAnswer(self._http, request, model=request.model, support=self._support)
            return PassthroughAnswer(self._http, request)
        kind = OllamaEmbedAnswer if request.kind is RequestKind.EMBED else OllamaAnswer
        return kind(self._http, request)

    async def load(self, wanted: LoadRequest) -> None:
        """Loads by a request of our own: a load is aborted when the client that caused it leaves."""
        await self._empty_request(wanted.model, _load_body(wanted), timeout_s=None)

    async def sample(self, loaded: LoadRequest) -> None:
        """Asks with the options that the model has: with others it would be loaded anew."""
        body = _load_body(loaded)
        body["options"] = body.get("options", {}) | {"num_predict": 1}
        if self._only_embeds(loaded.model):
            path, body = _EMBED, body | {"input": _SAMPLE}
        else:
            path, body = "/api/generate", body | {"prompt": _SAMPLE, "raw": True, "stream": False}
        await self._http.call("POST", path, msgspec.json.encode(body), timeout_s=None, model=loaded.model)

    async def unload(self, model: str) -> None:
        """Unloads by a request that keeps the model for no time."""
        await self._empty_request(model, {"model": model, "keep_alive": 0}, timeout_s=30.0)

    async def operate(self, operation: EngineOperation, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Ollama's own answer, line by line; nothing where it answers with an empty body. An error line is raised."""
        method, path = _OPERATIONS[operation]
        if operation is EngineOperation.BLOB:
            path = f"{path}/{body.get('digest', '')}"
        sent = msgspec.json.encode(body) if method in ("POST", "DELETE") else None
        splitter = LineSplitter()
        async with self._http.open(method, path, sent, refuse=said_of_models) as answer:
            async for data in answer:
                for line in split(splitter, data):
                    if line.startswith(b'{"error"'):
                        raise said_of_models(500, line, "application/json")
                    check_line(line)
                    yield line
        if rest := splitter.rest.strip():
            yield rest

    async def upload(self, digest: str, pieces: AsyncIterator[bytes]) -> int:
        """Ollama's status; a file that it has is not sent."""
        path = f"/api/blobs/{digest}"
        try:
            await self._http.call("HEAD", path, timeout_s=30.0)
        except SollolError as error:
            if error.body.http_status != 404:
                raise
            return await self._http.upload(path, pieces)
        return 200

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def _empty_request(self, model: str, body: dict[str, Any], *, timeout_s: float | None) -> None:
        """Ollama's idiom to load or unload; models that only embed refuse it on the path for text."""
        if self._only_embeds(model):
            path, body = _EMBED, body | {"input": []}
        else:
            path, body = "/api/generate", body | {"stream": False}
        await self._http.call("POST", path, msgspec.json.encode(body), timeout_s=timeout_s, model=model)

    def _shown_as(self, model: str) -> Show | None:
        return self._by_name.get(model) or self._by_name.get(f"{model}:latest")

    def _own_limit(self, model: str) -> int | None:
        show = self._shown_as(model)
        return own_limit(show.parameters) if show is not None else None

    def _only_embeds(self, model: str) -> bool:
        show = self._shown_as(model)
        return show is not None and "embedding" in (show.capabilities or ())

    async def _show(self, name: str, digest: str) -> Show | None:
        if digest not in self._shown:
            try:
                self._shown[digest] = await self._http.post("/api/show", {"model": name}, Show, model=name)
            except SollolError:
                return None  # the list of models is worth having without it
        return self._shown[digest]


def _load_body(wanted: LoadRequest) -> dict[str, Any]:
    """A body without a prompt that names a model with its load options."""
    body: dict[str, Any] = {"model": wanted.model}
    options = dict(wanted.options)
    if "shift" in options:
        body["shift"] = options.pop("shift")
    if options:
        body["options"] = options
    if wanted.keep_alive_s is not None:
        body["keep_alive"] = wanted.keep_alive_s
    return body
