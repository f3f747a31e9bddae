"""A fake of vLLM for tests: a countdown behind what its documents say of the paths that a node uses. It is no engine.

Kept to: the list of models with root and length, the version and the metrics by which it is known, `/tokenize` of texts
and chats, completions and chats as streams with usage, `continue_final_message` without a repetition, and the refusals
of what is too long or contradicts itself. Nothing here was recorded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, Self

from sollol_agents.lab.emulator.text import Wanted, answer, tokenize

MODEL: Final = "countdown"
MAX_TOKENS: Final = 512
_USUAL_LIMIT: Final = 16  # of a completion that names none
_JSON: Final = "application/json"
_ROW: Final = {"id": MODEL, "owned_by": "vllm", "root": f"lab/{MODEL}", "max_model_len": MAX_TOKENS}
_TOLD: Final = {
    "/v1/models": (json.dumps({"object": "list", "data": [_ROW]}), _JSON),
    "/version": ('{"version":"0.11.0"}', _JSON),
    "/metrics": ('vllm:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1.0\n', "text/plain"),
}
Fields = dict[str, Any]


class RefusedError(Exception):
    """A refusal in vLLM's words."""


class FakeVllm:
    """A server on a free port; an async context."""

    def __init__(self) -> None:
        self.bodies: list[Fields] = []
        """The bodies of what it completed, in order."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                length = next((int(one.split(":")[1]) for one in lines if one.lower().startswith("content-length")), 0)
                body = await reader.readexactly(length)
                writer.write(self._answered(lines[0].split()[1], json.loads(body) if body else {}))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the other side, or the test, has had enough
        finally:
            self._tasks.discard(task)
            writer.close()

    def _answered(self, path: str, body: Fields) -> bytes:
        try:
            if path == "/tokenize":
                count = len(tokenize(_prompt(body)))
                return _whole(json.dumps({"count": count, "max_model_len": MAX_TOKENS, "tokens": list(range(count))}))
            if path in ("/v1/completions", "/v1/chat/completions"):
                self.bodies.append(body)
                return _stream(_events(body, is_chat="chat" in path))
            return _whole(*_TOLD[path]) if path in _TOLD else _whole('{"detail":"Not Found"}', status="404 Not Found")
        except RefusedError as error:
            refusal = {"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": 400}}
            return _whole(json.dumps(refusal), status="400 Bad Request")


def _prompt(body: Fields) -> str:
    """What the model reads: a text as it is, a chat by a template with a prompt for the answer."""
    if "messages" not in body:
        return str(body["prompt"])
    is_open = body.get("continue_final_message", False)
    is_prompted = body.get("add_generation_prompt", True)
    if is_open and is_prompted:
        raise RefusedError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    text = "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in body["messages"])
    if is_open:
        return text.removesuffix("<|end|>")
    return text + ("<|assistant|>" if is_prompted else "")


def _events(body: Fields, *, is_chat: bool) -> Iterator[Fields]:
    tokens = tokenize(_prompt(body))
    limit = body.get("max_tokens", None if is_chat else _USUAL_LIMIT)
    if len(tokens) + (limit or 1) > MAX_TOKENS:
        raise RefusedError(
            f"This model's maximum context length is {MAX_TOKENS} tokens. However, you requested {limit or 1} output "
            f"tokens and your prompt contains {len(tokens)} input tokens."
        )
    stop = body.get("stop") or []
    wanted = Wanted(limit_tokens=-1 if limit is None else limit, stop=(stop,) if isinstance(stop, str) else tuple(stop))
    said = answer(tokens, wanted)
    if is_chat:
        yield _chunk([_choice({"role": "assistant", "content": ""}, None)], is_chat=True)
    for piece in said.pieces:
        yield _chunk([_choice(piece.text, None, is_chat=is_chat)], is_chat=is_chat)
    yield _chunk([_choice("", said.done_reason, is_chat=is_chat)], is_chat=is_chat)
    if (body.get("stream_options") or {}).get("include_usage"):
        total = len(tokens) + said.tokens
        usage = {"prompt_tokens": len(tokens), "total_tokens": total, "completion_tokens": said.tokens}
        yield _chunk([], is_chat=is_chat) | {"usage": usage}


def _chunk(choices: list[Fields], *, is_chat: bool) -> Fields:
    """Chats leave out fields that are not set; completions do not."""
    told = "chat.completion.chunk" if is_chat else "text_completion"
    chunk = {"id": "chatcmpl-1" if is_chat else "cmpl-1", "object": told, "created": 1, "model": MODEL}
    return chunk | {"choices": choices} | ({} if is_chat else {"usage": None})


def _choice(text: str | Fields, finish_reason: str | None, *, is_chat: bool = True) -> Fields:
    """A choice; of a chat's, only the last tells of a reason to stop."""
    if not is_chat:
        ending = {"finish_reason": finish_reason, "stop_reason": None}
        return {"index": 0, "text": text, "logprobs": None} | ending
    delta = text if isinstance(text, dict) else {"content": text}
    choice: Fields = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return choice | ({"stop_reason": None} if finish_reason is not None else {})


def _whole(text: str, kind: str = _JSON, status: str = "200 OK") -> bytes:
    body = text.encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _stream(events: Iterator[Fields]) -> bytes:
    told = [f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode() for event in events]
    chunks = [b"%x\r\n%b\r\n" % (len(one), one) for one in [*told, b"data: [DONE]\n\n"]]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunks) + b"0\r\n\r\n"
