"""Anthropic's messages: blocks of thinking and of text, which engines open and close in different ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from sollol_bus.sdk.resume.request_shape import Asked
from sollol_bus.sdk.resume.rest import Rest
from sollol_bus.sdk.resume.streams import CALL_BEGUN, EventTelling, Fields, Kind

_STOP_REASONS: Final = {"length": "max_tokens"}
_ERROR: Final = "it ended with an error"


class _Form(NamedTuple):
    """How an engine writes them."""

    is_go: bool = False
    closes_late: bool = False
    """Whether blocks are closed at the end of the answer, all of them, instead of before the next one."""
    signs: bool = False
    """Whether a signature stands before the end of a block of thinking."""
    starts_signed: bool = False
    """Whether a block of thinking starts with an empty signature."""
    is_indexed_last: bool = False
    """Whether the index is the last field of an event."""
    tells_sequence: bool = False
    """Whether the end tells the text at which it stopped."""
    names_sequence: bool = False
    """Whether that is a reason of its own."""
    counts_prompt: bool = True
    """Whether the end tells the prompt's tokens too."""
    has_end_mark: bool = False


_OLLAMA: Final = _Form(is_go=True)
_LLAMA: Final = _Form(closes_late=True, signs=True, tells_sequence=True, counts_prompt=False)
_VLLM: Final = _Form(signs=True, is_indexed_last=True, has_end_mark=True)
_OURS: Final = _Form(starts_signed=True, tells_sequence=True, names_sequence=True)


class _Usage(msgspec.Struct):
    cache_read_input_tokens: Any = msgspec.UNSET


class _Message(msgspec.Struct):
    role: Any = msgspec.UNSET
    stop_reason: Any = msgspec.UNSET
    usage: _Usage | None = None

    def form(self) -> _Form:
        """The form of the engine that starts a message like this."""
        if self.role is msgspec.UNSET:
            return _VLLM
        if self.stop_reason is msgspec.UNSET:
            return _OLLAMA
        has_cache = self.usage is not None and self.usage.cache_read_input_tokens is not msgspec.UNSET
        return _LLAMA if has_cache else _OURS


class _Block(msgspec.Struct):
    type: str


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None


_decoder = msgspec.json.Decoder(_Event)


class MessageTelling(EventTelling):
    """Reads and tells /v1/messages."""

    _is_named = True
    _form = _OURS
    _has_ended = False
    """Whether its reason to stop was told."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._blocks: dict[int, str] = {}
        """The type of each block, by its index."""
        self._closed: set[int] = set()
        self._signed: set[int] = set()

    def _take(self, data: bytes) -> tuple[Kind, str] | None:
        event = _decoder.decode(data)
        block, delta = event.content_block, event.delta
        match event.type:
            case "message_start" if event.message is not None:
                self._form = event.message.form()
            case "content_block_start" if block is not None:
                self._blocks[event.index] = block.type
                if block.type not in ("text", "thinking"):
                    self._refusal = self._refusal or CALL_BEGUN
            case "content_block_delta" if delta is not None:
                if delta.type == "signature_delta":
                    self._signed.add(event.index)
                if delta.text or delta.thinking:
                    return ("text", delta.text) if delta.text else ("thinking", delta.thinking)
            case "content_block_stop":
                self._closed.add(event.index)
            case "message_delta":
                self._has_ended = True
            case "message_stop":
                self._is_over = True
            case "error":
                self._refusal = self._refusal or _ERROR
        return None

    def _tell(self, kind: Kind, text: str) -> Iterator[Fields]:
        if self._has_ended:
            return
        index = max(self._blocks, default=-1)
        if index < 0 or index in self._closed or self._blocks[index] != kind:
            if not self._form.closes_late:
                yield from self._close()
            index += 1
            yield self._event("content_block_start", index, content_block=self._start(kind))
        yield self._event("content_block_delta", index, delta={"type": f"{kind}_delta", kind: text})

    def _end(self, rest: Rest) -> Iterator[Fields | None]:
        if not self._has_ended:
            yield from self._close()
            yield {"type": "message_delta", "delta": self._stop(rest), "usage": self._usage(rest)}
        if not self._is_over:
            yield {"type": "message_stop"}
        if self._form.has_end_mark:
            yield None

    def _is_go(self) -> bool:
        return self._form.is_go

    def _is_opening(self, data: bytes) -> bool:
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if event.type == "content_block_start" and event.content_block is not None:
            return event.content_block.type in ("text", "thinking")
        return event.type == "message_start"

    def _close(self) -> Iterator[Fields]:
        for index, kind in sorted(self._blocks.items()):
            if index in self._closed:
                continue
            if kind == "thinking" and self._form.signs and index not in self._signed:
                yield self._event("content_block_delta", index, delta={"type": "signature_delta", "signature": ""})
            yield self._event("content_block_stop", index)

    def _start(self, kind: Kind) -> Fields:
        is_signed = kind == "thinking" and self._form.starts_signed
        return {"type": kind, kind: ""} | ({"signature": ""} if is_signed else {})

    def _event(self, kind: str, index: int, **fields: Fields) -> Fields:
        if self._form.is_indexed_last:
            return {"type": kind, **fields, "index": index}
        return {"type": kind, "index": index, **fields}

    def _stop(self, rest: Rest) -> Fields:
        word = rest.stopping_word if rest.stopping_word in self._asked.stops else None
        reason = _STOP_REASONS.get(rest.done_reason, "end_turn")
        if not self._form.tells_sequence:
            return {"stop_reason": reason}
        return {"stop_reason": "stop_sequence" if word and self._form.names_sequence else reason, "stop_sequence": word}

    def _usage(self, rest: Rest) -> Fields:
        prompt = {"input_tokens": rest.prompt_eval_count} if self._form.counts_prompt else {}
        return prompt | {"output_tokens": rest.eval_count}
