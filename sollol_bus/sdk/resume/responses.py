"""OpenAI's responses: items of thinking and of text, told piece by piece and once more as a whole at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from sollol_bus.sdk.resume.request_shape import Asked
from sollol_bus.sdk.resume.rest import Rest
from sollol_bus.sdk.resume.streams import CALL_BEGUN, EventTelling, Fields, Kind

_KINDS: Final[dict[str, Kind]] = {"message": "text", "reasoning": "thinking"}
_TYPES: Final[dict[Kind, str]] = {"text": "message", "thinking": "reasoning"}
_PREFIXES: Final[dict[Kind, str]] = {"text": "msg", "thinking": "rs"}
_DELTAS: Final[dict[str, Kind]] = {
    "response.output_text.delta": "text",
    "response.reasoning_summary_text.delta": "thinking",
    "response.reasoning_text.delta": "thinking",
}
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed")
_FORM: Final = "this engine's form of responses is not known"
_ERROR: Final = "it ended with an error"


class _Item(msgspec.Struct):
    id: str = ""
    type: str = ""


class _Event(msgspec.Struct):
    type: str
    sequence_number: int | None = None
    response: Fields = {}
    item: _Item | None = None
    delta: str = ""


class _Told:
    """One item of the answer, as far as it was told."""

    def __init__(self, kind: Kind, item_id: str) -> None:
        self.kind = kind
        self.id = item_id
        self.texts: list[str] = []
        self.is_begun = False
        """Whether the part that takes its text was told."""
        self.ends: set[str] = set()
        """The types of the events that told its end."""

    @property
    def text(self) -> str:
        """All of its text."""
        self.texts = ["".join(self.texts)]
        return self.texts[0]

    @property
    def is_closed(self) -> bool:
        """Whether it was told as a whole."""
        return "response.output_item.done" in self.ends


_decoder = msgspec.json.Decoder(_Event)


class ResponseTelling(EventTelling):
    """Reads and tells /v1/responses, as Ollama writes them (fields sorted, events numbered) or llama-server."""

    _is_named = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._response: Fields = {}
        self._items: list[_Told] = []
        self._sequence: int | None = None

    def _take(self, data: bytes) -> tuple[Kind, str] | None:
        event = _decoder.decode(data)
        self._sequence = event.sequence_number if event.sequence_number is not None else self._sequence
        if event.type in _ENDS:
            self._is_over = True
        elif event.type == "response.created":
            self._open(data, event)
        elif event.type == "error":
            self._refusal = self._refusal or _ERROR
        elif event.type == "response.output_item.added":
            kind = _KINDS.get(event.item.type) if event.item is not None else None
            if event.item is None or kind is None:
                self._refusal = self._refusal or CALL_BEGUN
            else:
                self._items.append(_Told(kind, event.item.id))
        elif self._items:
            return self._take_in(event)
        return None

    def _open(self, data: bytes, event: _Event) -> None:
        self._response = event.response
        is_known = data.startswith(b'{"response"') or (data.startswith(b'{"type"') and event.sequence_number is None)
        if not is_known:
            self._refusal = self._refusal or _FORM

    def _take_in(self, event: _Event) -> tuple[Kind, str] | None:
        """What an event says of an item."""
        item = self._items[-1]
        if event.type == "response.content_part.added":
            item.is_begun = True
        elif event.type in _DELTAS:
            item.texts.append(event.delta)
            return (_DELTAS[event.type], event.delta) if event.delta else None
        elif event.type == "response.output_item.done" and event.item is not None:
            item = next((one for one in self._items if one.id == event.item.id), item)
            item.ends.add(event.type)
        elif event.type.endswith(".done"):
            item.ends.add(event.type)
        return None

    def _tell(self, kind: Kind, text: str) -> Iterator[Fields]:
        item = self._items[-1] if self._items else None
        if item is not None and item.ends and item.kind == kind:  # its end was handed out in part
            return
        if item is None or item.kind != kind:
            if item is not None and self._is_numbered():
                yield from self._close(item)
            yield self._added(kind)
            item = self._items[-1]
        if kind == "text" and not item.is_begun:
            yield self._event("response.content_part.added", self._in_part(item) | {"part": self._first_part()})
        if kind == "text":
            logprobs: Fields = {"logprobs": []} if self._is_numbered() else {}
            yield self._event("response.output_text.delta", self._in_part(item) | {"delta": text} | logprobs)
        elif self._is_numbered():
            yield self._event("response.reasoning_summary_text.delta", self._in_summary(item) | {"delta": text})
        else:
            yield self._event("response.reasoning_text.delta", {"delta": text, "item_id": item.id})

    def _end(self, rest: Rest) -> Iterator[Fields | None]:
        for item in self._items:
            if not item.is_closed:
                yield from self._close(item)
        if self._is_over:
            return
        done = self._completed(rest)
        timings = {} if self._is_numbered() else {"timings": rest.timings(self._said_before)}
        yield self._event("response.completed", {"response": done} | timings)

    def _is_go(self) -> bool:
        return self._is_numbered()

    def _is_sorted(self) -> bool:
        return self._is_numbered()

    def _is_opening(self, data: bytes) -> bool:
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if event.type == "response.output_item.added":
            return event.item is not None and event.item.type in _KINDS
        return event.type in ("response.created", "response.in_progress", "response.content_part.added")

    def _is_numbered(self) -> bool:
        """Whether it is Ollama's."""
        return self._sequence is not None

    def _event(self, kind: str, fields: Fields) -> Fields:
        number = {} if self._sequence is None else {"sequence_number": self._sequence + 1}
        return {"type": kind} | fields | number

    def _close(self, item: _Told) -> Iterator[Fields]:
        """What ends an item, as far as it was not told."""
        closing: list[tuple[str, Fields]] = []
        if item.kind == "text":
            logprobs: Fields = {"logprobs": []} if self._is_numbered() else {}
            closing.append(("response.output_text.done", self._in_part(item) | {"text": item.text} | logprobs))
            closing.append(("response.content_part.done", self._in_part(item) | {"part": _part(item.text)}))
        elif self._is_numbered():
            closing.append(("response.reasoning_summary_text.done", self._in_summary(item) | {"text": item.text}))
        place = {"output_index": self._items.index(item)} if self._is_numbered() else {}
        closing.append(("response.output_item.done", {"item": self._whole(item)} | place))
        for kind, fields in closing:
            if kind not in item.ends:
                yield self._event(kind, fields)

    def _added(self, kind: Kind) -> Fields:
        """The event that begins an item; its id is made of the response's."""
        item_id = f"{_PREFIXES[kind]}_{str(self._response.get('id', '')).removeprefix('resp_')}{len(self._items)}"
        item: Fields = {"content": [], "id": item_id, "role": "assistant", "status": "in_progress", "type": "message"}
        if kind == "thinking":
            item = {"id": item_id, "summary": [], "type": "reasoning"}
            if not self._is_numbered():
                item |= {"content": [], "encrypted_content": "", "status": "in_progress"}
        place = {"output_index": len(self._items)} if self._is_numbered() else {}
        return self._event("response.output_item.added", {"item": item} | place)

    def _in_part(self, item: _Told) -> Fields:
        if not self._is_numbered():
            return {"item_id": item.id}
        return {"item_id": item.id, "output_index": self._items.index(item), "content_index": 0}

    def _in_summary(self, item: _Told) -> Fields:
        return {"item_id": item.id, "output_index": self._items.index(item), "summary_index": 0}

    def _first_part(self) -> Fields:
        return _part("") if self._is_numbered() else {"type": "output_text", "text": ""}

    def _whole(self, item: _Told) -> Fields:
        """The item as it is told at its end."""
        if item.kind == "text":
            content = [_part(item.text)]
            return {"type": "message", "status": "completed", "id": item.id, "content": content, "role": "assistant"}
        if self._is_numbered():
            summary = [{"type": "summary_text", "text": item.text}]
            return {"id": item.id, "type": "reasoning", "summary": summary, "encrypted_content": item.text}
        content = [{"text": item.text, "type": "reasoning_text"}]
        return {"id": item.id, "summary": [], "type": "reasoning", "content": content, "encrypted_content": ""}

    def _completed(self, rest: Rest) -> Fields:
        """The whole response, as it is told at its end."""
        output = [self._whole(item) for item in self._items]
        prompt, said = rest.prompt_eval_count, rest.eval_count
        usage: Fields = {"input_tokens": prompt, "output_tokens": said, "total_tokens": prompt + said}
        usage["input_tokens_details"] = {"cached_tokens": 0}
        if self._is_numbered():
            usage["output_tokens_details"] = {"reasoning_tokens": 0}
            ended = {"completed_at": rest.unix_s, "status": "completed"}
            return self._response | ended | {"output": output, "usage": usage}
        return {
            "id": self._response.get("id"),
            "object": "response",
            "created_at": rest.unix_s,
            "status": "completed",
            "model": self._asked.model,
            "output": output,
            "usage": usage,
        }


def _part(text: str) -> Fields:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
