"""An engine that speaks OpenAI's dialect as strictly as vLLM does: a field that it does not know is refused.

It says "hello" to whatever it understands, and embeds every text as the same vector. What it took is kept, for a test
to look at.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Final

import msgspec

from sollol_bus.parts import Part

MODEL: Final = "strict"
_CONTEXT_TOKENS: Final = 4096
_WORDS: Final = ("hel", "lo")

_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class _Sampling(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a request of text may say beside its prompt."""

    model: str
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None


class _Function(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: _Function


class _CalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class _Call(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    id: str
    function: _CalledFunction


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Annotated[str, msgspec.Meta(pattern="^(system|user|assistant|tool)$")]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Chat(_Sampling, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    tools: Annotated[list[_Tool], msgspec.Meta(min_length=1)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str, msgspec.Meta(pattern="^(low|medium|high)$")] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _Completion(_Sampling, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[str]


class _Embedding(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    input: str | list[str]
    encoding_format: Annotated[str, msgspec.Meta(pattern="^(float|base64)$")] = "float"
    user: str | None = None


_BODIES: Final[dict[str, type[Any]]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Completion,
    "/v1/embeddings": _Embedding,
}
_PAGES: Final[dict[str, bytes]] = {
    "/v1/models": json.dumps({"data": [{"id": MODEL, "owned_by": "vllm", "max_model_len": _CONTEXT_TOKENS}]}).encode(),
    "/version": b'{"version":"0.11.0"}',
    "/metrics": b'vllm:cache_config_info{block_size="16",num_gpu_blocks="2048"} 1.0\n',
    "/health": b"{}",
}


class StrictEngine(Part):
    """A server on a free port.

    Args:
        vector: The vector of every text, as it is written.
    """

    def __init__(self, vector: str = "[0.6,0.8]") -> None:
        self.url = ""
        self.taken: list[tuple[str, dict[str, Any]]] = []
        """Path and body of each request that it understood, in order."""
        self.refused: list[str] = []
        """Why it refused others."""
        self._vector = vector.encode()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stops."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lengths = [line.split(":")[1] for line in head.lower().split("\r\n") if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            status, content_type, answer = self._answer(head.split(" ")[1], body)
            writer.write(
                f"HTTP/1.1 {status} x\r\nContent-Type: {content_type}\r\nContent-Length: {sum(map(len, answer))}\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            for piece in answer:
                writer.write(piece)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    def _answer(self, path: str, body: bytes) -> tuple[int, str, list[bytes]]:
        """Status, type and the pieces of the body."""
        if path in _PAGES:
            return 200, "application/json", [_PAGES[path]]
        kind = _BODIES.get(path)
        if kind is None:
            return 404, "application/json", [b'{"detail":"Not Found"}']
        try:
            asked = msgspec.json.decode(body, type=kind)
            if getattr(asked, "tool_choice", None) not in (None, "none") and not asked.tools:
                raise msgspec.ValidationError("When using `tool_choice`, `tools` must be set.")
        except msgspec.DecodeError as error:
            self.refused.append(str(error))
            told = {"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}}
            return 400, "application/json", [json.dumps(told).encode()]
        self.taken.append((path, json.loads(body)))
        if isinstance(asked, _Embedding):
            return 200, "application/json", self._vectors(1 if isinstance(asked.input, str) else len(asked.input))
        return 200, "text/event-stream", [_spoken(is_chat=isinstance(asked, _Chat))]

    def _vectors(self, count: int) -> list[bytes]:
        begins = [b'%b{"index":%d,"embedding":' % (b"},"[: 2 * bool(n)], n) for n in range(count)]
        usage = b'}],"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (count, count)
        vectors = [piece for begin in begins for piece in (begin, self._vector)]
        return [b'{"object":"list","model":"%b","data":[' % MODEL.encode(), *vectors, usage]


def _spoken(*, is_chat: bool) -> bytes:
    """The events of an answer."""
    said = [{"delta": {"content": word}} if is_chat else {"text": word} for word in _WORDS]
    end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
    choices: list[dict[str, Any]] = [{"index": 0, "finish_reason": None} | one for one in said]
    choices.append({"index": 0, "finish_reason": "stop", "stop_reason": None} | end)
    usage = {"prompt_tokens": 5, "completion_tokens": len(said), "total_tokens": 5 + len(said)}
    events: list[dict[str, Any]] = [{"id": "x", "choices": [choice]} for choice in choices]
    events.append({"id": "x", "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
