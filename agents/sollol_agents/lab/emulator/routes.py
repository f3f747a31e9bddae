"""The paths of an emulated Ollama node, and what answers each."""

from __future__ import annotations

import datetime as dt
import posixpath
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import (
    calls,
    embeddings,
    http,
    messages,
    names,
    openai,
    responses,
    stamps,
    views,
)
from sollol_agents.lab.emulator.calls import Machine
from sollol_agents.lab.emulator.dialects import Figures
from sollol_agents.lab.emulator.inference import Inference
from sollol_agents.lab.emulator.management import Management
from sollol_agents.lab.emulator.reading import read_body
from sollol_agents.lab.emulator.refusals import CloudError, RedirectError, RefusalError, not_found
from sollol_agents.lab.emulator.unspoken import FIXED_ANSWERS, RECOMMENDATIONS
from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import SHOW

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sollol_agents.lab.emulator.calls import Call
    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.embeddings import EmbedCall
    from sollol_agents.lab.emulator.faults import FaultBox
    from sollol_agents.lab.emulator.http import Request, Responder
    from sollol_agents.lab.emulator.models import ModelSpec, ModelStore
    from sollol_agents.lab.emulator.presets import Preset
    from sollol_agents.lab.emulator.residency import Residency

    Answering = Coroutine[Any, Any, None] | None
    Handler = Callable[[Request, Responder], Answering]

_encode = msgspec.json.Encoder().encode
_OLLAMA_VERSION: Final = "0.33.0"
_RECORDED_VERSION: Final = "0.33.0-rc2"
_NOT_FOUND: Final = b"404 page not found"
_NOT_ALLOWED: Final = b"405 method not allowed"
_READ: Final = ("HEAD", "GET")


class Routes:
    """Finds the handler of a request; a handler answers at once or returns a coroutine that does."""

    def __init__(
        self, config: EmulatorConfig, preset: Preset, store: ModelStore, residency: Residency, faults: FaultBox
    ) -> None:
        self._preset = preset
        self._store = store
        self._residency = residency
        self._faults = faults
        self._machine = Machine(store, residency.ctx_tokens)
        self._inference = Inference(residency, faults)
        self._management = Management(config, store, is_offline=preset.is_recorded)
        told = {"version": _RECORDED_VERSION} if preset.is_recorded else {"emulated": True, "version": _OLLAMA_VERSION}
        self._version = _encode(told)
        self._started_at = dt.datetime.now(dt.UTC)  # noqa: TID251 the engine's own clock
        self._frozen_ps: tuple[bytes, float] = (b"", float("-inf"))
        self._table = self._build_table()

    def answer(self, request: Request, responder: Responder) -> Answering:
        """Answers a request, or returns the coroutine that will.

        Raises:
            RefusalError: with the status and text of the answer.
            RedirectError: the path is written another way.
        """
        methods = self._methods(request.path)
        handler = methods.get(request.method) if methods else None
        if handler is not None:
            return handler(request, responder)
        self._turn_away(request, responder, methods)
        return None

    def allow_line(self, request: Request) -> bytes:
        """Returns the header that names the methods of a path, where the one asked for is not among them."""
        methods = self._methods(request.path)
        if not methods or request.method in methods:
            return b""
        return b"Allow: %b\r\n" % ", ".join(methods).encode()

    def freeze_ps(self, until: float) -> None:
        """Lets /api/ps show what it shows now until that instant of the residency's clock."""
        self._frozen_ps = (self._ps_body(), until)

    def _turn_away(self, request: Request, responder: Responder, methods: dict[str, Handler] | None) -> None:
        """Answers what no handler does: a preflight, a wrong method, a path written another way, or none."""
        path = request.path
        if request.method == "OPTIONS" and path == "*":
            responder.send(200)
            return
        clean = posixpath.normpath(path) + ("/" if path.endswith("/") else "") if path.startswith("/") else path
        clean = "/" + clean.strip("/") + ("/" if clean.endswith("/") and clean.strip("/") else "")
        if clean != path:
            raise RedirectError(clean, 307)
        if methods is None and path.endswith("/") and self._methods(path.rstrip("/")):
            raise RedirectError(path.rstrip("/"), 301 if request.method == "GET" else 307)
        is_preflight = request.method == "OPTIONS" and bool(responder.extra)
        responder.extra += self.allow_line(request)
        if is_preflight:
            responder.send(204)
        elif methods is None:
            responder.send(404, _NOT_FOUND, http.PLAIN)
        else:
            responder.send(405, _NOT_ALLOWED, http.PLAIN)

    def _methods(self, path: str) -> dict[str, Handler] | None:
        return self._table.get(path) or self._patterns(path)

    def _build_table(self) -> dict[str, dict[str, Handler]]:
        """Returns the handlers by path and method, in the order in which methods are told."""
        both: dict[str, Handler] = {
            "/": self._root,
            "/api/version": lambda _, responder: responder.send(200, self._version),
            "/api/tags": self._tags,
        }
        reads: dict[str, Handler] = {
            "/api/status": lambda _, responder: responder.send(200, b'{"cloud":{"disabled":true,"source":"env"}}'),
            "/api/experimental/model-recommendations": lambda _, responder: responder.send(200, RECOMMENDATIONS),
            "/api/ps": self._ps,
            "/v1/models": self._openai_models,
        }
        posts: dict[str, Handler] = {
            "/api/generate": self._generating(calls.generate_call),
            "/api/chat": self._generating(calls.chat_call),
            "/v1/chat/completions": self._generating(openai.chat_call),
            "/v1/completions": self._generating(openai.completion_call),
            responses.PATH: self._generating(responses.responses_call),
            messages.PATH: self._generating(messages.messages_call),
            "/api/show": self._show,
            "/api/pull": self._management.pull,
            "/api/push": self._management.push,
            "/api/create": self._management.create,
            "/api/copy": self._management.copy,
        }
        posts |= {path: _fixed(status, text) for path, (status, text) in FIXED_ANSWERS.items()}
        posts |= dict.fromkeys(embeddings.PATHS, self._embed)
        table: dict[str, dict[str, Handler]] = {path: dict.fromkeys(_READ, one) for path, one in both.items()}
        table |= {path: {"GET": one} for path, one in reads.items()}
        table |= {path: {"POST": one} for path, one in posts.items()}
        table["/api/delete"] = {"DELETE": self._management.delete}
        return table

    def _patterns(self, path: str) -> dict[str, Handler] | None:
        """Returns the handlers of a path that ends in a name."""
        prefix, _, name = path.rpartition("/")
        if prefix == "/api/blobs" and name:
            return {"HEAD": self._management.has_blob, "POST": self._management.put_blob}
        if prefix == "/v1/models" and name:
            return {"GET": self._openai_model}
        return None

    def _generating(self, read: Callable[[bytes, Machine], Call]) -> Handler:
        """Returns the handler of a path that generates."""

        def handle(request: Request, responder: Responder) -> Answering:
            call = read(request.body, self._machine)
            responder.is_stream = call.is_stream
            if self._preset.is_instant and not self._faults and call.refusal is None and call.rendered is None:
                if call.is_stream and call.prompt:
                    responder.send_raw(instant_answer(call, responder.extra))
                else:
                    _send_whole(call, responder)
                return None
            return self._inference.generate(request.path, call, responder)

        return handle

    def _embed(self, request: Request, responder: Responder) -> Answering:
        """Answers the paths of embeddings."""
        return self._embedded(embeddings.embed_call(request.path, request.body, self._machine), responder)

    async def _embedded(self, call: EmbedCall, responder: Responder) -> None:
        figures = await self._inference.embed(call, responder)
        responder.send(200, embeddings.answer(call, figures))

    def _root(self, request: Request, responder: Responder) -> None:
        del request
        responder.send(200, b"Ollama is running", http.TEXT)

    def _tags(self, request: Request, responder: Responder) -> None:
        del request
        responder.send(200, _encode(views.tags(self._store.all(), self._modified_at())))

    def _ps(self, request: Request, responder: Responder) -> None:
        del request
        body, until = self._frozen_ps
        responder.send(200, body if self._residency.now() < until else self._ps_body())

    def _ps_body(self) -> bytes:
        wall = dt.datetime.now(dt.UTC)  # noqa: TID251 the engine's own clock
        return _encode(views.ps(self._residency.loaded(), now=self._residency.now(), wall=wall))

    def _show(self, request: Request, responder: Responder) -> None:
        body = read_body(request.body, SHOW)
        model = self._named(body.get("model") or body.get("name", ""))
        told = views.show(model, self._modified_at(), system=body.get("system", ""), options=body.get("options"))
        responder.send(200, gojson.write(told))

    def _openai_models(self, request: Request, responder: Responder) -> None:
        del request
        created = int(self._started_at.timestamp())
        responder.send(200, _encode(views.openai_models(self._store.all(), created)) + b"\n")

    def _openai_model(self, request: Request, responder: Responder) -> None:
        name = request.path.removeprefix("/v1/models/")
        model = self._named(name, adds_tag=False)
        responder.send(200, _encode(views.openai_model(model, int(self._started_at.timestamp()))) + b"\n")

    def _named(self, name: str, *, adds_tag: bool = True) -> ModelSpec:
        """Returns the model of that name, or the refusal of the paths that tell about it."""
        if names.is_of_cloud(name):
            raise CloudError("remote model details are")
        model = self._store.find(name)
        if model is None and name and names.is_valid(name.strip()):
            last = name.rpartition("/")[2]
            raise not_found(f"{name}:latest" if adds_tag and ":" not in last else name)
        return names.find(self._store, name, is_required=True)

    def _modified_at(self) -> str:
        return stamps.rfc3339(self._started_at)


def _fixed(status: int, text: str) -> Handler:
    """Returns a handler that always says the same."""

    def handle(request: Request, responder: Responder) -> None:
        del request, responder
        raise RefusalError(text, status, is_at_door=True)

    return handle


def instant_answer(call: Call, extra: bytes) -> bytes:
    """Returns a whole streamed answer, framed and ready to be written at once."""
    dialect = call.dialect
    parts = [http.stream_head(dialect.content_type, extra if dialect.is_cached else extra + http.NO_CACHE)]
    for piece in call.answer.pieces:
        data = dialect.piece(piece)
        if data:
            parts.append(http.chunk(data))
    parts.append(http.chunk(dialect.closing(_instant_figures(call))))
    parts.append(b"0\r\n\r\n")
    return b"".join(parts)


def _send_whole(call: Call, responder: Responder) -> None:
    """Sends an answer that does not stream, at once."""
    responder.send(200, call.dialect.whole(call.answer.pieces, _instant_figures(call)))


def _instant_figures(call: Call) -> Figures:
    """Returns figures of an answer that took no time, but never a duration of zero."""
    if not call.prompt:
        return Figures(done_reason="unload" if call.keep_alive_s == 0 else "load")
    return Figures(
        done_reason=call.answer.done_reason,
        total_s=1e-6,
        load_s=1e-7,
        prompt_tokens=len(call.prompt),
        prompt_s=1e-7,
        output_tokens=call.answer.tokens,
        output_s=1e-7,
        tool_calls=call.answer.tool_calls,
    )
