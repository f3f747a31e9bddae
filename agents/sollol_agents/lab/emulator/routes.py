"""The paths of an emulated Ollama node, and what answers each."""

from __future__ import annotations

import base64
import datetime as dt
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sollol_agents.lab.emulator import calls, http, messages, responses, views, wire
from sollol_agents.lab.emulator.dialects import Figures
from sollol_agents.lab.emulator.inference import Inference
from sollol_agents.lab.emulator.management import Management
from sollol_agents.lab.emulator.wire import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sollol_agents.lab.emulator.calls import Call, EmbedCall
    from sollol_agents.lab.emulator.config import EmulatorConfig
    from sollol_agents.lab.emulator.faults import FaultBox
    from sollol_agents.lab.emulator.http import Request, Responder
    from sollol_agents.lab.emulator.models import ModelSpec, ModelStore
    from sollol_agents.lab.emulator.presets import Preset
    from sollol_agents.lab.emulator.residency import Residency

    Answering = Coroutine[Any, Any, None] | None
    Handler = Callable[[Request, Responder], Answering]

_encode = msgspec.json.Encoder().encode
_OLLAMA_VERSION: Final = "0.33.0"
_NOT_FOUND: Final = b"404 page not found"
_NOT_ALLOWED: Final = b"405 method not allowed"


class Routes:
    """Finds the handler of a request; a handler answers at once or returns a coroutine that does."""

    def __init__(
        self, config: EmulatorConfig, preset: Preset, store: ModelStore, residency: Residency, faults: FaultBox
    ) -> None:
        self._preset = preset
        self._store = store
        self._residency = residency
        self._faults = faults
        self._inference = Inference(residency, faults)
        self._management = Management(config, store)
        self._version = _encode({"version": _OLLAMA_VERSION})
        self._started_at = dt.datetime.now(dt.UTC)
        self._frozen_ps: tuple[bytes, float] = (b"", float("-inf"))
        self._table = self._build_table()

    def answer(self, request: Request, responder: Responder) -> Answering:
        """Answers a request, or returns the coroutine that will.

        Raises:
            BadRequestError: or one of its kinds, with the status and text of the answer.
        """
        methods = self._table.get(request.path) or self._patterns(request.path)
        if methods is None:
            responder.send(404, _NOT_FOUND, http.PLAIN)
            return None
        handler = methods.get(request.method)
        if handler is None:
            responder.send(405, _NOT_ALLOWED, http.PLAIN)
            return None
        return handler(request, responder)

    def freeze_ps(self, until: float) -> None:
        """Lets /api/ps show what it shows now until that instant of the residency's clock."""
        self._frozen_ps = (self._ps_body(), until)

    def _build_table(self) -> dict[str, dict[str, Handler]]:
        """Returns the handlers by path and method."""
        reads: dict[str, Handler] = {
            "/": self._root,
            "/api/version": lambda _, responder: responder.send(200, self._version),
            "/api/status": lambda _, responder: responder.send(200, b'{"cloud":{"disabled":true,"source":"env"}}'),
            "/api/tags": self._tags,
            "/api/ps": self._ps,
            "/v1/models": self._openai_models,
        }
        posts: dict[str, Handler] = {
            "/api/generate": self._generating(calls.generate_call),
            "/api/chat": self._generating(calls.chat_call),
            "/v1/chat/completions": self._generating(calls.openai_chat_call),
            "/v1/completions": self._generating(calls.openai_completion_call),
            responses.PATH: self._generating(responses.responses_call),
            messages.PATH: self._generating(messages.messages_call),
            "/api/embed": self._embed,
            "/api/embeddings": self._old_embed,
            "/v1/embeddings": self._openai_embed,
            "/api/show": self._show,
            "/api/pull": self._management.pull,
            "/api/push": self._management.push,
            "/api/create": self._management.create,
            "/api/copy": self._management.copy,
        }
        table: dict[str, dict[str, Handler]] = {path: {"GET": one, "HEAD": one} for path, one in reads.items()}
        table |= {path: {"POST": one} for path, one in posts.items()}
        table["/api/delete"] = {"DELETE": self._delete}
        return table

    def _patterns(self, path: str) -> dict[str, Handler] | None:
        """Returns the handlers of a path that ends in a name."""
        if path.startswith("/api/blobs/"):
            return {"POST": self._management.put_blob, "HEAD": self._management.has_blob}
        if path.startswith("/v1/models/"):
            return {"GET": self._openai_model}
        return None

    def _generating(self, read: Callable[[bytes, ModelStore, Preset], Call]) -> Handler:
        """Returns the handler of a path that generates."""

        def handle(request: Request, responder: Responder) -> Answering:
            call = read(request.body, self._store, self._preset)
            if self._preset.is_instant and not self._faults:
                if call.is_stream and call.prompt:
                    responder.send_raw(instant_answer(call))
                else:
                    _send_whole(call, responder)
                return None
            return self._inference.generate(request.path, call, responder)

        return handle

    async def _embed(self, request: Request, responder: Responder) -> None:
        """Answers /api/embed."""
        vectors, figures, model = await self._vectors(request, responder, is_old=False)
        body = {
            "model": model,
            "embeddings": vectors,
            "total_duration": int(figures.total_s * 1e9),
            "load_duration": int(figures.load_s * 1e9),
            "prompt_eval_count": figures.prompt_tokens,
        }
        responder.send(200, _encode(body))

    async def _old_embed(self, request: Request, responder: Responder) -> None:
        """Answers /api/embeddings."""
        vectors, _, _ = await self._vectors(request, responder, is_old=True)
        responder.send(200, _encode({"embedding": vectors[0] if vectors else []}))

    async def _openai_embed(self, request: Request, responder: Responder) -> None:
        """Answers /v1/embeddings."""
        body = wire.parse(request.body, wire.OpenAiEmbedRequest)
        vectors, figures, model = await self._vectors(request, responder, is_old=False)
        is_base64 = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "embedding": _base64(vector) if is_base64 else vector, "index": place}
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": figures.prompt_tokens, "total_tokens": figures.prompt_tokens}
        responder.send(200, _encode({"object": "list", "data": data, "model": model, "usage": usage}))

    async def _vectors(
        self, request: Request, responder: Responder, *, is_old: bool
    ) -> tuple[list[list[float]], Figures, str]:
        """Returns the vectors, the figures and the name under which the model was asked for."""
        call: EmbedCall = calls.embed_call(request.body, self._store, self._preset, is_old=is_old)
        vectors, figures = await self._inference.embed(request.path, call, responder)
        return vectors, figures, call.name

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
        wall = dt.datetime.now(dt.UTC)
        return _encode(views.ps(self._residency.loaded(), now=self._residency.now(), wall=wall))

    def _show(self, request: Request, responder: Responder) -> None:
        name = wire.parse(request.body, wire.NamedRequest).wanted()
        responder.send(200, _encode(views.show(self._named(name), self._modified_at())))

    def _openai_models(self, request: Request, responder: Responder) -> None:
        del request
        created = int(self._started_at.timestamp())
        responder.send(200, _encode(views.openai_models(self._store.all(), created)))

    def _openai_model(self, request: Request, responder: Responder) -> None:
        model = self._named(request.path.removeprefix("/v1/models/"))
        responder.send(200, _encode(views.openai_model(model, int(self._started_at.timestamp()))))

    def _delete(self, request: Request, responder: Responder) -> None:
        self._residency.expire(self._management.delete(request, responder))

    def _named(self, name: str) -> ModelSpec:
        """Returns the model of that name, or the refusal that /api/show gives."""
        if not name:
            raise BadRequestError("model is required")
        model = self._store.find(name)
        if model is None:
            raise NotFoundError(f"model '{name if ':' in name else f'{name}:latest'}' not found")
        return model

    def _modified_at(self) -> str:
        return wire.rfc3339(self._started_at)


def instant_answer(call: Call) -> bytes:
    """Returns a whole streamed answer, framed and ready to be written at once."""
    dialect = call.dialect
    parts = [http.stream_head(dialect.content_type)]
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


def _base64(vector: list[float]) -> str:
    """Returns a vector as the base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
