"""Anthropic's paths on any engine: its own where it has them, translated to a chat where it has not."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineAnswer, EngineRequest
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.lines import LineSplitter, event_data, split
from sollol_agents.node.engines.passthrough import PassthroughAnswer
from sollol_agents.node.engines.refusals import broken_off, engine_error
from sollol_agents.node.engines.translation.bodies import fields_of
from sollol_agents.node.engines.translation.chat import CHAT_PATH
from sollol_agents.node.engines.translation.messages import chat_of
from sollol_agents.node.engines.translation.messages_reply import MessageStream
from sollol_bus.errors import SollolError
from sollol_schemas.errors import ErrorCode

MESSAGES_PATH: Final = "/v1/messages"
COUNT_PATH: Final = "/v1/messages/count_tokens"


class Support:
    """Which of the paths an engine has, as far as it was found out."""

    def __init__(self) -> None:
        self.missing: set[str] = set()


class MessagesAnswer(EngineAnswer):
    """A message, or the count of its tokens, on an engine that may not speak Anthropic's dialect.

    Args:
        http: The connection.
        request: The request; its path is one of the two.
        model: The model's name on the engine.
        support: What is known of the engine's paths; learns from each request.
    """

    def __init__(self, http: EngineHttp, request: EngineRequest, *, model: str, support: Support) -> None:
        self._http = http
        self._request = request
        self._model = model
        self._support = support

    async def chunks(self) -> AsyncGenerator[list[bytes], None]:
        """The engine's own answer, or the translated one."""
        path = self._request.path.partition("?")[0]
        if path not in self._support.missing:
            try:
                async with aclosing(self._relay(PassthroughAnswer(self._http, self._request))) as chunks:
                    async for batch in chunks:
                        yield batch
            except SollolError as error:
                if not is_missing_path(error):
                    raise
                self._support.missing.add(path)
            else:
                return
        translated = self._count if path == COUNT_PATH else self._message
        async with aclosing(translated()) as chunks:
            async for batch in chunks:
                yield batch

    def join(self, chunks: list[bytes]) -> bytes:
        """The body."""
        return b"".join(chunks)

    async def _relay(self, run: PassthroughAnswer) -> AsyncGenerator[list[bytes], None]:
        async with aclosing(run.chunks()) as chunks:
            async for batch in chunks:
                self.content_type = run.content_type
                self.output_chunks = run.output_chunks
                yield batch
        self.figures = run.figures

    async def _message(self) -> AsyncGenerator[list[bytes], None]:
        fields = fields_of(self._request.body)
        is_stream = fields.get("stream") is True
        stops = tuple(stop for stop in fields.get("stop_sequences") or () if isinstance(stop, str))
        stream = MessageStream(f"msg_{secrets.token_hex(12)}", self._request.model, stops)
        self.content_type = "text/event-stream" if is_stream else "application/json"
        started = False
        async with aclosing(self._events(chat_of(fields, self._model), stream.feed)) as events:
            async for said in events:
                self.output_chunks += 1
                if is_stream:
                    yield [said if started else stream.start() + said]
                    started = True
        self.figures = stream.figures()
        if is_stream:
            yield [stream.finish() if started else stream.start() + stream.finish()]
        else:
            yield [stream.whole()]

    async def _count(self) -> AsyncGenerator[list[bytes], None]:
        """Counts by letting the engine read the prompt: nobody else has its template and vocabulary."""
        fields = fields_of(self._request.body) | {"max_tokens": 1}
        stream = MessageStream("", self._request.model)
        async with aclosing(self._events(chat_of(fields, self._model), stream.feed)) as events:
            async for _ in events:
                self.output_chunks += 1
        self.figures = stream.figures()
        tokens = self.figures.prompt_tokens
        if tokens is None:
            raise engine_error(ErrorCode.ENGINE_PROTOCOL, "the engine does not tell how many tokens a prompt has")
        self.content_type = "application/json"
        yield [msgspec.json.encode({"input_tokens": tokens})]

    async def _events(self, body: dict[str, Any], feed: Callable[[bytes], bytes]) -> AsyncGenerator[bytes, None]:
        splitter = LineSplitter()
        async with self._http.open("POST", CHAT_PATH, msgspec.json.encode(body), model=self._request.model) as answer:
            async for data in answer:
                events = [event for line in split(splitter, data) if (event := event_data(line)) is not None]
                if said := b"".join([feed(event) for event in events]):
                    yield said
        if splitter.rest.strip():
            raise broken_off("the engine's stream ended in the middle of a line")


def is_missing_path(error: SollolError) -> bool:
    """Whether an engine refused because it has no such path."""
    return error.body.code is ErrorCode.ENGINE_REJECTED and error.body.http_status in (404, 405, 501)
