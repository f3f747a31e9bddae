"""How llama.cpp's server goes on: the prompt as it renders it, and a completion of that with what was said behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import marks as templates
from sollol_agents.node.engines.continuing.answer import LENGTH, Completed, Start
from sollol_agents.node.engines.continuing.chat_bodies import COMPLETION_PATH, Asked, asked
from sollol_agents.node.engines.continuing.marks import Marks
from sollol_agents.node.engines.continuing.refusing import not_continued
from sollol_agents.node.engines.continuing.seam import after_partial, is_unlikely, joined, with_thought
from sollol_agents.node.engines.decoding import as_seconds, as_tokens, decoded
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.lines import LineSplitter, event_data, split
from sollol_agents.node.engines.refusals import failure
from sollol_agents.node.engines.translation.options import Flavour
from sollol_bus.errors import SollolError
from sollol_bus.waiting import both
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.execution import Figures

_CANDIDATES: Final = 20
_LOOK: Final[dict[str, Any]] = {"n_predict": 1, "temperature": 0, "n_probs": _CANDIDATES, "stop": [], "stream": False}


class _Prompt(msgspec.Struct):
    prompt: str


class _Tokens(msgspec.Struct):
    tokens: list[Any]


class _Timings(msgspec.Struct):
    cache_n: Any = None
    prompt_ms: Any = None
    predicted_ms: Any = None


class _Candidate(msgspec.Struct):
    token: str = ""


class _Place(msgspec.Struct):
    top_logprobs: list[_Candidate] | None = None


class _Event(msgspec.Struct):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    tokens_evaluated: Any = None
    tokens_predicted: Any = None
    timings: _Timings | None = None
    completion_probabilities: list[_Place] | None = None
    error: Any = None

    def likely(self) -> list[str]:
        """What the model may say there, likeliest first."""
        places = (self.completion_probabilities or [])[:1]
        return [self.content, *(one.token for place in places for one in place.top_logprobs or [])]

    def figures(self) -> Figures:
        """What it took."""
        timings = self.timings or _Timings()
        return Figures(
            prompt_tokens=as_tokens(self.tokens_evaluated),
            output_tokens=as_tokens(self.tokens_predicted),
            cached_tokens=as_tokens(timings.cache_n),
            prompt_s=as_seconds(timings.prompt_ms, 1e3),
            decode_s=as_seconds(timings.predicted_ms, 1e3),
        )


class LlamaCppWay:
    """Goes on with one answer on llama.cpp's server.

    Args:
        http: The connection.
        request: What is gone on with.
        said: What was said.
        model: The model's name on the engine.
        context_length: Tokens of one slot's context; 0 when it is not known.
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
        self._sampling: dict[str, Any] = {}
        self._spent = Figures()
        """What the looks took."""

    async def start(self) -> Start:
        """Renders, looks how the model would begin, and puts the pieces together."""
        want = asked(self._request, self._model, Flavour.LLAMA_CPP, self._context_length)
        self._sampling = want.sampling | {"cache_prompt": True}
        rendered, calls = await both(self._rendered(want), self._call_marks(want))
        text = after_partial(rendered, want.partial, self._said.text)
        if text is None:
            raise not_continued("less was said than the request says itself")
        (whole, thought), prompt_tokens = await both(self._whole(want, rendered, text), self._count(rendered))
        if kept := [*(thought.tokens if thought is not None else ()), *calls]:
            self._sampling["preserved_tokens"] = kept
        said_tokens = left_tokens = None
        if want.limit is not None:  # else the completion tells, once it is over
            said_tokens = max(0, await self._count(whole) - prompt_tokens)
            left_tokens = max(0, want.limit - said_tokens)
        return Start(
            text=whole,
            prompt_tokens=prompt_tokens,
            said_tokens=said_tokens,
            left_tokens=left_tokens,
            thought=None if text else thought,
            calls=calls,
            spent=self._spent,
        )

    async def _rendered(self, want: Asked) -> str:
        return want.prompt if want.chat is None else await self._render(want.chat, want.chat["messages"])

    async def _whole(self, want: Asked, rendered: str, text: str) -> tuple[str, Marks | None]:
        """The prompt with what was said behind it, and the marks of the thought that is in it or goes on."""
        if want.chat is None:
            return rendered + text, None
        if self._said.thinking or (text and templates.ends_in_thought(rendered)):
            thought = await self._thought_marks(want.chat, rendered)
            if not text and len(thought.tokens_of_closing) > 1:
                raise not_continued("the thought may end in more than one way, which is not parsed here")
            self._sampling["preserved_tokens"] = thought.tokens
            return await with_thought(self._likely, rendered, self._said.thinking, text, thought, trims=False), thought
        return await self._with_text(rendered, text) if text == self._said.text else rendered + text, None

    async def rest(self, start: Start) -> AsyncGenerator[list[str], None]:
        """The raw completion, event by event."""
        limit = -1 if start.left_tokens is None else start.left_tokens
        body = self._sampling | {"prompt": start.text, "n_predict": limit, "stream": True}
        splitter = LineSplitter()
        async with self._open(body) as answer:
            async for data in answer:
                texts = []
                for line in split(splitter, data):
                    if (told := event_data(line)) is None:
                        continue
                    event = _checked(told)
                    if event.content:
                        texts.append(event.content)
                    if event.stop:
                        reason = LENGTH if event.stop_type == "limit" else "stop"
                        self.completed = Completed(
                            reason=reason, figures=event.figures(), stopping_word=event.stopping_word
                        )
                if texts:
                    yield texts

    def _open(self, body: dict[str, Any]) -> Any:  # noqa: ANN401 an async context of the connection's
        return self._http.open("POST", COMPLETION_PATH, msgspec.json.encode(body), model=self._request.model)

    async def _render(self, chat: dict[str, Any], messages: list[Any]) -> str:
        body = msgspec.json.encode(chat | {"messages": messages})
        told = await self._http.call("POST", "/apply-template", body, timeout_s=None)
        return decoded(told, _Prompt, "a rendering").prompt

    async def _count(self, text: str) -> int:
        asked_for = {"content": text, "add_special": True, "parse_special": True, "model": self._model}
        told = await self._http.call("POST", "/tokenize", msgspec.json.encode(asked_for), timeout_s=None)
        return len(decoded(told, _Tokens, "/tokenize").tokens)

    async def _likely(self, prompt: str) -> list[str]:
        """What the model may say behind a prompt, which it then has in its cache."""
        body = msgspec.json.encode(self._sampling | _LOOK | {"prompt": prompt})
        looked = _checked(await self._http.call("POST", COMPLETION_PATH, body, timeout_s=None))
        told = looked.figures()
        self._spent = msgspec.structs.replace(
            self._spent,
            prompt_s=(self._spent.prompt_s or 0.0) + (told.prompt_s or 0.0),
            cached_tokens=told.cached_tokens if self._spent.cached_tokens is None else self._spent.cached_tokens,
        )
        return looked.likely()

    async def _with_text(self, rendered: str, text: str) -> str:
        """The prompt with a text behind it, as the model wrote that."""
        if text[:1].isspace():
            return rendered + text
        likely = await self._likely(rendered)
        if self._sampling.get("temperature") == 0 and is_unlikely(text, likely):
            raise not_continued("what was said does not begin as the model begins here")
        return await joined(self._likely, rendered, text, likely)

    async def _thought_marks(self, chat: dict[str, Any], rendered: str) -> Marks:
        shown = await self._render(chat, [*chat["messages"], templates.shown_turn("reasoning_content")])
        found = templates.thought_marks(rendered, shown)
        if found is None:
            raise not_continued("the model's template does not show how it marks a thought")
        return found

    async def _call_marks(self, want: Asked) -> tuple[str, ...]:
        if want.chat is None or not want.has_tools:
            return ()
        try:
            shown = await self._render(want.chat, [*want.chat["messages"], *templates.calling_turns()])
        except SollolError:
            shown = ""
        return templates.call_marks(shown)


def _checked(data: bytes) -> _Event:
    event = decoded(data, _Event, "a completion")
    if event.error is not None:
        said = event.error
        raise failure(str(said.get("message", said)) if isinstance(said, dict) else str(said))
    return event
