"""What is asked, in every dialect and by every way, and what was heard."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from sollol_bus.errors import SollolError
from sollol_bus.sdk.client import Client
from sollol_bus.sdk.results import Answer, AnswerStream

HTTP: Final = (
    "/api/generate",
    "/api/chat",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
)
_PATIENCE_S: Final = 120.0
SEED: Final = 7
"""Of questions with a temperature."""
Json = dict[str, Any]


class Question(NamedTuple):
    """One request."""

    way: str
    """A path over HTTP, `sdk.generate`, `sdk.chat` or `job`."""
    is_streamed: bool
    model: str
    prompt: str
    tokens: int
    temperature: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in figures."""
        return f"{self.way}{' stream' if self.is_streamed else ''}"

    @property
    def body(self) -> Json:
        """Its body over HTTP."""
        messages = [{"role": "user", "content": self.prompt}]
        common: Json = {"model": self.model, "stream": self.is_streamed}
        sampled: Json = {"temperature": self.temperature} | ({"seed": SEED} if self.temperature else {})
        match self.way:
            case "/api/generate":
                return common | {"prompt": self.prompt, "options": sampled | {"num_predict": self.tokens}}
            case "/api/chat":
                return common | {"messages": messages, "options": sampled | {"num_predict": self.tokens}}
            case "/v1/completions":
                body = common | sampled | {"prompt": self.prompt, "max_tokens": self.tokens}
            case "/v1/responses":
                return common | sampled | {"input": self.prompt, "max_output_tokens": self.tokens}
            case "/v1/messages":
                return common | sampled | {"messages": messages, "max_tokens": self.tokens}
            case _:
                body = common | sampled | {"messages": messages, "max_tokens": self.tokens}
        return body | ({"stream_options": {"include_usage": True}} if self.is_streamed else {})


class Heard(msgspec.Struct, kw_only=True):
    """What a caller got."""

    data: bytes = b""
    content_type: str = "application/json"
    error: str = ""
    request_id: str = ""
    resumed: int = 0
    pause_s: float = 0.0
    """The longest time between two pieces of a stream."""
    paused_until_mono_s: float = 0.0
    took_s: float = 0.0
    seams: list[tuple[str, str]] = []
    """What the client library had when the answer went on, and the next piece."""


class Pauses:
    """Measures the longest pause of a stream."""

    def __init__(self) -> None:
        self._last = 0.0
        self.longest_s = self.until_mono_s = 0.0

    def piece(self) -> None:
        """One more piece came."""
        now = time.monotonic()
        if self._last and now - self._last > self.longest_s:
            self.longest_s, self.until_mono_s = now - self._last, now
        self._last = now


def questions(models: dict[str, tuple[str, ...]], tokens: dict[str, int], temperature: float = 0.0) -> list[Question]:
    """Each prompt of each model, by every way."""

    def ways(model: str, prompt: str) -> Iterator[Question]:
        for is_streamed in (False, True):
            for way in (*HTTP, "sdk.generate", "sdk.chat"):
                yield Question(way, is_streamed, model, prompt, tokens[model], temperature)
        yield Question("job", False, model, prompt, tokens[model], temperature)

    return [one for model, prompts in models.items() for prompt in prompts for one in ways(model, prompt)]


class Asker:
    """Asks over HTTP, by the client library, and as jobs.

    Args:
        http: A client of the gateway.
        client: A client of the bus.
    """

    def __init__(self, http: httpx.AsyncClient, client: Client) -> None:
        self._http = http
        self._client = client

    async def ask(self, question: Question, on_piece: Callable[[], None] = lambda: None) -> Heard:
        """The whole answer, or what was heard of it and the error."""
        began, pauses, heard = time.monotonic(), Pauses(), Heard()

        def piece() -> None:
            pauses.piece()
            on_piece()

        try:
            if question.way.startswith("/"):
                await self._by_http(question, heard, piece)
            elif question.way == "job":
                await self._as_job(question, heard)
            else:
                await self._by_sdk(question, heard, piece)
        except (SollolError, httpx.HTTPError) as error:
            heard.error = f"{type(error).__name__}: {error} {getattr(error, 'details', '')}"
        heard.pause_s, heard.paused_until_mono_s = pauses.longest_s, pauses.until_mono_s
        heard.took_s = time.monotonic() - began
        return heard

    async def _by_http(self, question: Question, heard: Heard, piece: Callable[[], None]) -> None:
        heard.request_id = secrets.token_hex(8)
        headers = {"anthropic-version": "2023-06-01", "x-sollol-request-id": heard.request_id}
        async with self._http.stream(
            "POST", question.way, json=question.body, headers=headers, timeout=_PATIENCE_S
        ) as reply:
            heard.content_type = reply.headers.get("content-type", "")
            async for data in reply.aiter_raw():
                if not data.startswith(b":"):
                    piece()
                heard.data += data
            heard.resumed = int(reply.headers.get("x-sollol-resumed", 0)) or _resumed_in(heard.data)
            if reply.status_code != httpx.codes.OK:
                heard.error = f"{reply.status_code}: {heard.data[:300].decode(errors='replace')}"

    async def _by_sdk(self, question: Question, heard: Heard, piece: Callable[[], None]) -> None:
        sampled = _sampled(question)
        stream: AnswerStream
        if question.way == "sdk.chat":
            messages = [{"role": "user", "content": question.prompt}]
            stream = self._client.chat_stream(question.model, messages, options=sampled)
        else:
            stream = self._client.generate_stream(question.model, question.prompt, options=sampled)
        lines: list[bytes] = []
        heard.request_id = stream.request_id
        async with stream:
            said = ""
            async for chunk in stream:
                piece()
                if stream.resumed > len(heard.seams):
                    heard.seams.append((said, chunk.text))
                said += chunk.text
                lines.append(chunk.raw)
            heard.resumed = stream.call.resumed
            answer = stream.answer
        heard.data = b"\n".join(lines) if question.is_streamed else msgspec.json.encode(_told(answer))
        heard.content_type = "application/x-ndjson" if question.is_streamed else "application/json"

    async def _as_job(self, question: Question, heard: Heard) -> None:
        sampled = _sampled(question)
        job_id = await self._client.generate_async(question.model, question.prompt, options=sampled)
        answer = await self._client.wait_for_task(job_id, timeout_s=_PATIENCE_S)
        if answer.error is not None:
            raise answer.error
        heard.data = b"" if answer.result is None else bytes(answer.result.body)
        heard.resumed = answer.status.resumed


def _sampled(question: Question) -> Json:
    seed: Json = {"seed": SEED} if question.temperature else {}
    return {"temperature": question.temperature, "num_predict": question.tokens} | seed


def _resumed_in(data: bytes) -> int:
    """How often an answer went on, as it says itself: by comments of an event stream, or in its last object."""
    told = re.search(rb'"resumed":\s*(\d+)', data)
    return data.count(b": resumed on ") or (int(told.group(1)) if told else 0)


def _told(answer: Answer) -> Json:
    """What a program reads of an answer."""
    return {"text": answer.text, "thinking": answer.thinking, "final": answer.final}
