"""OpenAI's chats and completions: every event is a chunk, and the last one handed out is the pattern of the next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from sollol_bus.sdk.resume.rest import Rest
from sollol_bus.sdk.resume.streams import CALL_BEGUN, EventTelling, Fields, Kind

Engine = Literal["ollama", "llama.cpp", "vllm"]
_KEYS: Final[dict[Kind, tuple[str, ...]]] = {"text": ("content",), "thinking": ("reasoning_content", "reasoning")}
_SEVERAL: Final = "it has several answers in one stream"


class _Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decoder = msgspec.json.Decoder(_Chunk)


class ChunkTelling(EventTelling):
    """Reads and tells /v1/chat/completions and /v1/completions."""

    _is_named = False
    _has_finished = False
    _has_usage = False
    _ends_blank = False
    """Whether the last chunk had an empty text: llama-server's for the token that ends a completion."""
    _roles = 0
    """Pieces that named the role."""

    def _take(self, data: bytes) -> tuple[Kind, str] | None:
        chunk = _decoder.decode(data)
        self._has_usage = self._has_usage or not chunk.choices
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        delta = choice.delta or _Delta(content=choice.text)
        if choice.index or len(chunk.choices) > 1:
            self._refusal = self._refusal or _SEVERAL
        if delta.tool_calls or delta.function_call:
            self._refusal = self._refusal or CALL_BEGUN
        self._has_finished = self._has_finished or choice.finish_reason is not None
        self._ends_blank = choice.text == ""
        thought, text = delta.reasoning_content or delta.reasoning, delta.content
        if not thought and not text:
            return None
        self._roles += delta.role is not None
        return ("text", text) if text else ("thinking", thought or "")

    def _tell(self, kind: Kind, text: str) -> Iterator[Fields]:
        if self._has_finished:  # the end was handed out but for its last events
            return
        chunk, found = self._pattern(kind)
        choice = chunk["choices"][0]
        if "text" in choice:
            choice["text"] = text
        else:
            choice["delta"] = self._delta(choice["delta"], kind, text, is_same=found == kind)
        yield chunk

    def _end(self, rest: Rest) -> Iterator[Fields | None]:
        engine = self._engine()
        has_text = "text" in self._pattern("text")[0]["choices"][0]
        is_counted_apart = self._asked.includes_usage and not (engine == "llama.cpp" and has_text)
        if not self._has_finished:
            ends_by_token = rest.done_reason == "stop" and not self._asked.stops
            if engine == "llama.cpp" and has_text and ends_by_token and not self._ends_blank:
                yield self._blank()
            yield self._finish(rest, engine, has_figures=not is_counted_apart)
        if is_counted_apart and not self._has_usage:
            chunk = self._pattern("text")[0] | {"choices": [], "usage": _usage(rest, engine)}
            yield chunk | ({"timings": rest.timings(self._said_before)} if engine == "llama.cpp" else {})
        if not self._is_over:
            yield None

    def _is_go(self) -> bool:
        return self._engine() == "ollama"

    def _is_opening(self, data: bytes) -> bool:
        try:
            chunk = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        return all(_is_silent(choice) for choice in chunk.choices) and bool(chunk.choices)

    def _pattern(self, kind: Kind) -> tuple[Fields, Kind]:
        """The last chunk with such a piece, else with the other kind, without what only that one had."""
        found: Kind = kind if kind in self._patterns else next(iter(self._patterns))
        chunk: Fields = msgspec.json.decode(self._patterns[found])
        chunk.pop("timings", None)
        return chunk, found

    def _delta(self, delta: Fields, kind: Kind, text: str, *, is_same: bool) -> Fields:
        if not is_same:
            key = _KEYS[kind][0 if kind == "text" or self._engine() == "llama.cpp" else 1]
            told = {name: delta[name] for name in ("role",) if name in delta} | {key: text}
        else:
            told = {name: text if value and name in _KEYS[kind] else value for name, value in delta.items()}
        if self._roles <= 1:  # the first piece alone names it
            told.pop("role", None)
        return told

    def _blank(self) -> Fields:
        chunk = self._pattern("text")[0]
        chunk["choices"][0]["text"] = ""
        return chunk

    def _finish(self, rest: Rest, engine: Engine, *, has_figures: bool) -> Fields:
        chunk = self._pattern("text")[0]
        choice = chunk["choices"][0]
        has_text = "text" in choice
        if has_text:
            choice["text"] = ""
        else:
            choice["delta"] = {"content": ""} if engine == "vllm" else {}
        choice["finish_reason"] = rest.done_reason
        if engine == "vllm" and "stop_reason" not in choice:
            chunk["choices"] = [_with(choice, "finish_reason", "stop_reason", rest.stopping_word or None)]
        if engine != "llama.cpp" or not has_figures:
            return chunk
        if has_text:
            chunk = _with(chunk, "object", "usage", _usage(rest, engine))
        return chunk | {"timings": rest.timings(self._said_before)}

    def _engine(self) -> Engine:
        """Which engine writes such chunks."""
        chunk, _ = self._pattern("text")
        if chunk.get("system_fingerprint") == "fp_ollama":
            return "ollama"
        return "llama.cpp" if next(iter(chunk)) == "choices" else "vllm"


def _is_silent(choice: _Choice) -> bool:
    delta = choice.delta or _Delta(content=choice.text)
    spoken = delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls or delta.function_call
    return not spoken and choice.finish_reason is None


def _with(fields: Fields, after: str, name: str, value: Any) -> Fields:  # noqa: ANN401 any JSON
    """The fields with one more behind another one."""
    told: Fields = {}
    for key, one in fields.items():
        told[key] = one
        if key == after:
            told[name] = value
    return told


def _usage(rest: Rest, engine: Engine) -> Fields:
    prompt, output = rest.prompt_eval_count, rest.eval_count
    total = prompt + output
    if engine == "ollama":
        return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total}
    if engine == "vllm":
        return {"prompt_tokens": prompt, "total_tokens": total, "completion_tokens": output}
    details = {"cached_tokens": 0}
    return {
        "completion_tokens": output,
        "prompt_tokens": prompt,
        "total_tokens": total,
        "prompt_tokens_details": details,
    }
