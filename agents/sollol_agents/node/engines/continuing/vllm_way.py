"""How vLLM goes on: a chat whose last message is what was said, left open; a text with what was said behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing.answer import LENGTH, Completed, Start
from sollol_agents.node.engines.continuing.chat_bodies import Asked, asked
from sollol_agents.node.engines.continuing.marks import call_marks
from sollol_agents.node.engines.continuing.refusing import not_continued
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.lines import LineSplitter, event_data, split
from sollol_agents.node.engines.translation.chat import CHAT_PATH, COMPLETIONS_PATH
from sollol_agents.node.engines.translation.chat_stream import ChatStream
from sollol_agents.node.engines.translation.options import Flavour
from sollol_bus.errors import SollolError
from sollol_bus.waiting import both
from sollol_schemas.continuation import ContinueFrom

_OUTPUT_ALONE: Final = ("presence_penalty", "frequency_penalty")
_STREAMED: Final[dict[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}
_OPEN: Final = {"continue_final_message": True, "add_generation_prompt": False}


class _Count(msgspec.Struct):
    count: int


class VllmWay:
    """Goes on with one answer on vLLM.

    Args:
        http: The connection.
        request: What is gone on with.
        said: What was said.
        model: The model's name on the engine.
        context_length: Tokens of a sequence; 0 when it is not known.
    """

    def __init__(
        self, http: EngineHttp, request: EngineRequest, said: ContinueFrom, *, model: str, context_length: int
    ) -> None:
        self._http = http
        self._request = request
        self._said = said
        self._model = model
        self._context_length = context_length
        self.completed: Completed | None = None
        self._asked: Asked | None = None

    async def start(self) -> Start:
        """Counts, and refuses what this engine cannot take up again."""
        said = self._said
        self._asked = want = asked(self._request, self._model, Flavour.VLLM, self._context_length)
        if said.thinking:
            raise not_continued("this engine's templates leave thoughts out, so that none is gone on with")
        if any(want.sampling.get(name) for name in _OUTPUT_ALONE):
            raise not_continued("a penalty counts the words of the answer alone, and would begin anew")
        if want.partial:
            raise not_continued("the request begins the answer itself")
        alone = self._chat([], is_open=False) if want.chat else {"prompt": want.prompt}
        prompt_tokens, all_tokens = await both(self._count(alone), self._count(self._continued()))
        is_counted = prompt_tokens is not None and all_tokens is not None
        said_tokens = max(0, (all_tokens or 0) - (prompt_tokens or 0)) if is_counted else said.pieces
        return Start(
            text=said.text,
            prompt_tokens=prompt_tokens if is_counted else None,
            said_tokens=said_tokens,
            left_tokens=None if want.limit is None else max(0, want.limit - said_tokens),
            calls=call_marks() if want.has_tools else (),
        )

    async def rest(self, start: Start) -> AsyncGenerator[list[str], None]:
        """The rest as vLLM streams it; it does not repeat what was said."""
        assert self._asked is not None
        body = self._asked.sampling | self._continued() | _STREAMED
        if start.left_tokens is not None:
            body["max_tokens"] = start.left_tokens
        elif self._asked.chat is None:
            body["max_tokens"] = None
        least = body.get("min_tokens")
        if isinstance(least, int):
            body["min_tokens"] = max(0, least - (start.said_tokens or 0))
        path = CHAT_PATH if self._asked.chat is not None else COMPLETIONS_PATH
        stream, splitter = ChatStream(), LineSplitter()
        async with self._http.open("POST", path, msgspec.json.encode(body), model=self._request.model) as answer:
            async for data in answer:
                texts = []
                for line in split(splitter, data):
                    if (event := event_data(line)) is None:
                        continue
                    told = stream.feed(event)
                    if stream.calls or told.thinking:
                        raise not_continued("the answer goes on with what is not parsed here")
                    if told.content:
                        texts.append(told.content)
                if texts:
                    yield texts
        reason = LENGTH if stream.ended() == LENGTH else "stop"
        self.completed = Completed(reason=reason, figures=stream.figures(), stopping_word=stream.stop_sequence or "")

    def _continued(self) -> dict[str, Any]:
        assert self._asked is not None
        if self._asked.chat is None:
            return {"model": self._model, "prompt": self._asked.prompt + self._said.text}
        return self._chat([{"role": "assistant", "content": self._said.text}], is_open=True)

    def _chat(self, more: list[dict[str, Any]], *, is_open: bool) -> dict[str, Any]:
        assert self._asked is not None
        chat = self._asked.chat or {}
        return chat | {"messages": [*chat["messages"], *more]} | (_OPEN if is_open else {})

    async def _count(self, what: dict[str, Any]) -> int | None:
        """Tokens of a chat or a text; None where the server does not count."""
        try:
            told = await self._http.call("POST", "/tokenize", msgspec.json.encode(what), timeout_s=None)
            return msgspec.json.decode(told, type=_Count).count
        except (SollolError, msgspec.DecodeError):
            return None
