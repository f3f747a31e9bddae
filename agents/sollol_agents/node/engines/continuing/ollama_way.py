"""How an Ollama goes on: the prompt as it renders it, and a raw completion of that with what was said behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec

from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.continuing import marks as templates
from sollol_agents.node.engines.continuing.answer import Completed, Start
from sollol_agents.node.engines.continuing.conversations import native
from sollol_agents.node.engines.continuing.marks import Marks
from sollol_agents.node.engines.continuing.ollama_bodies import CHAT, GENERATE, Asked, asked, limit_of
from sollol_agents.node.engines.continuing.refusing import not_continued
from sollol_agents.node.engines.continuing.seam import after_partial, is_unlikely, joined, with_thought
from sollol_agents.node.engines.decoding import decoded
from sollol_agents.node.engines.http.client import EngineHttp
from sollol_agents.node.engines.lines import LineSplitter, split
from sollol_agents.node.engines.ollama_wire import FinalLine, check_line
from sollol_agents.node.engines.translation.chat import CHAT_PATH
from sollol_bus.errors import SollolError
from sollol_bus.waiting import both
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.execution import Figures

_CANDIDATES: Final = 20


class _Debug(msgspec.Struct):
    rendered_template: str


class _Rendered(msgspec.Struct):
    debug_info: _Debug | None = msgspec.field(default=None, name="_debug_info")


class _Candidate(msgspec.Struct):
    token: str = ""


class _Token(msgspec.Struct):
    top_logprobs: list[_Candidate] | None = None


class _Looked(FinalLine):
    response: str = ""
    logprobs: list[_Token] | None = None

    def likely(self) -> list[str]:
        """What the model may say next, likeliest first."""
        return [self.response, *(one.token for token in (self.logprobs or [])[:1] for one in token.top_logprobs or [])]


class _Line(msgspec.Struct):
    response: str = ""
    done_reason: str = ""


class OllamaWay:
    """Goes on with one answer on an Ollama.

    Args:
        http: The connection.
        request: What is gone on with.
        said: What was said.
        own_limit: The model's own limit of tokens, by its Modelfile; None: it has none.
    """

    def __init__(
        self, http: EngineHttp, request: EngineRequest, said: ContinueFrom, own_limit: int | None = None
    ) -> None:
        self._http = http
        self._request = request
        self._said = said
        self._own_limit = own_limit
        self.completed: Completed | None = None
        self._asked: Asked | None = None
        self._spent = Figures()
        """What the looks took."""

    async def start(self) -> Start:
        """Renders, looks how the model would begin, and puts the pieces together."""
        self._asked = want = asked(self._request)
        rendered = want.prompt if want.prompt is not None else await self._render(want.path, want.fields)
        text = after_partial(rendered, want.partial, self._said.text)
        if text is None:
            raise not_continued("less was said than the request says itself")
        if want.hides_thoughts and templates.ends_in_thought(rendered):
            raise not_continued("what the model thought is left out of what was said")
        first, calls = await both(self._look(rendered), self._call_marks())
        thought: Marks | None = None
        trims = False
        if self._said.thinking or (text and templates.ends_in_thought(rendered)):
            thought, trims = await self._thought_marks(rendered, is_open=not text)
            whole = await with_thought(self._likely, rendered, self._said.thinking, text, thought, trims=trims)
            thought = None if text else thought
        else:
            whole = await self._with_text(rendered, first, text)
        limit = want.limit if want.has_limit else limit_of(want.path, self._own_limit)
        said_tokens = None
        if limit is not None:
            said_tokens = max(0, _read(await self._look(whole)) - _read(first))
        return Start(
            text=whole,
            prompt_tokens=_read(first),
            said_tokens=said_tokens,
            left_tokens=None if limit is None or said_tokens is None else max(0, limit - said_tokens),
            thought=thought,
            calls=calls,
            trims=trims,
            spent=self._spent,
        )

    async def rest(self, start: Start) -> AsyncGenerator[list[str], None]:
        """The raw completion, line by line."""
        assert self._asked is not None
        options = dict(self._asked.options)
        if start.left_tokens is not None:
            options["num_predict"] = start.left_tokens
        body = msgspec.json.encode(self._raw(start.text, options) | {"stream": True})
        splitter = LineSplitter()
        async with self._http.open("POST", GENERATE, body, model=self._request.model) as answer:
            async for data in answer:
                texts = []
                for line in split(splitter, data):
                    final = check_line(line)
                    told = decoded(line, _Line, "a completion")
                    if told.response:
                        texts.append(told.response)
                    if final is not None:
                        self.completed = Completed(reason=told.done_reason or "stop", figures=final.figures())
                if texts:
                    yield texts

    def _raw(self, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
        """A completion of a prompt as it is. A thought in it is not looked for: that is done here."""
        assert self._asked is not None
        body = {"model": self._request.model, "prompt": prompt, "raw": True, "truncate": False, "think": False}
        return body | self._asked.kept | {"options": options}

    async def _look(self, prompt: str) -> _Looked:
        """Lets the model read a prompt, which it then has in its cache, and say one token."""
        assert self._asked is not None
        options = self._asked.options | {"num_predict": 1, "temperature": 0}
        options.pop("stop", None)
        body = self._raw(prompt, options) | {"stream": False, "logprobs": True, "top_logprobs": _CANDIDATES}
        told = await self._http.call(
            "POST", GENERATE, msgspec.json.encode(body), timeout_s=None, model=self._request.model
        )
        looked = decoded(told, _Looked, "a completion")
        self._spent = _both(self._spent, looked.figures())
        return looked

    async def _render(self, path: str, fields: dict[str, Any]) -> str:
        assert self._asked is not None
        body = fields | {"stream": False, "_debug_render_only": True}
        if path == CHAT_PATH:
            body["max_tokens"] = 1
        else:  # with other load options it would be loaded anew
            body |= self._asked.kept | {"options": self._asked.options | {"num_predict": 1}}
        try:
            told = await self._http.call("POST", path, msgspec.json.encode(body), timeout_s=None)
        except SollolError as error:
            if "think" in fields and "does not support thinking" in error.message:
                return await self._render(path, {name: value for name, value in fields.items() if name != "think"})
            raise
        debug = decoded(told, _Rendered, "a rendering").debug_info
        if debug is None:
            raise not_continued("this engine does not tell how it renders a prompt")
        return debug.rendered_template

    async def _likely(self, prompt: str) -> list[str]:
        return (await self._look(prompt)).likely()

    async def _with_text(self, rendered: str, first: _Looked, text: str) -> str:
        """The prompt with a text behind it, as the model wrote that."""
        assert self._asked is not None
        if text != self._said.text:
            return rendered + text
        if self._asked.options.get("temperature") == 0 and is_unlikely(text, first.likely()):
            raise not_continued("what was said does not begin as the model begins here")
        if not self._asked.is_chat:
            return rendered + text
        return await joined(self._likely, rendered, text, first.likely())

    async def _thought_marks(self, rendered: str, *, is_open: bool) -> tuple[Marks, bool]:
        """The marks of a thought, and whether Ollama's own reader takes all blanks off behind one."""
        assert self._asked is not None
        path, fields, field = self._asked.path, self._asked.fields, self._asked.thought_field
        if path == GENERATE:
            path, fields = CHAT, {"model": fields["model"], "messages": [{"role": "user", "content": "a"}]}
            rendered = await self._render(path, fields)
        shown = await self._render(path, fields | {"messages": [*fields["messages"], templates.shown_turn(field)]})
        found = templates.thought_marks(rendered, shown)
        if found is None:
            raise not_continued("the model's template does not show how it marks a thought")
        if is_open and not found.close.startswith("</"):
            raise not_continued("the end of the thought would not be seen on this engine")
        return found, not shown.endswith(templates.ANSWER)

    async def _call_marks(self) -> tuple[str, ...]:
        assert self._asked is not None
        fields = self._asked.fields
        if not fields.get("tools"):
            return ()
        turns = templates.calling_turns()
        if self._asked.path == CHAT:
            turns = native(turns)
        try:
            shown = await self._render(self._asked.path, fields | {"messages": [*fields["messages"], *turns]})
        except SollolError:
            shown = ""
        return templates.call_marks(shown)


def _read(looked: _Looked) -> int:
    return looked.figures().prompt_tokens or 0


def _both(one: Figures, other: Figures) -> Figures:
    return Figures(
        prompt_s=(one.prompt_s or 0.0) + (other.prompt_s or 0.0),
        load_s=one.load_s + other.load_s,
        slot_wait_s=one.slot_wait_s + other.slot_wait_s,
    )
