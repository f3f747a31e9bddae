"""Whether two answers are the same, but for what differs between any two answers. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bench.resume.questions import Heard

VOLATILE: Final = frozenset(
    {
        "_sollol_routing",
        "cache_read_input_tokens",
        "cached_tokens",
        "completed_at",
        "context",  # token ids of the whole, which nobody has who made only the rest
        "created",
        "created_at",
        "eval_duration",
        "load_duration",
        "prompt_eval_duration",
        "timings",
        "total_duration",
    }
)
"""Fields of which no two answers have the same, or which one that went on has not."""
NAMES: Final = frozenset({"id", "item_id", "response_id", "call_id"})
"""Fields that are drawn for each answer: the same one where it was the same one before."""
_TEXTS: Final = frozenset({"response", "content", "text", "delta", "partial_json", "thinking"})


def events_of(heard: Heard) -> list[Any]:
    """What a program reads of an answer: its objects in order, an event stream's with their names."""
    if "event-stream" in heard.content_type:
        return [_event(block) for block in heard.data.replace(b"\r\n", b"\n").split(b"\n\n") if _is_told(block)]
    if "ndjson" in heard.content_type:
        return [msgspec.json.decode(line) for line in heard.data.split(b"\n") if line]
    return [msgspec.json.decode(heard.data)] if heard.data else []


def _is_told(block: bytes) -> bool:
    return any(line and not line.startswith(b":") for line in block.split(b"\n"))


def _event(block: bytes) -> Any:  # noqa: ANN401 whatever the engine says
    event: dict[str, Any] = {}
    for line in block.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name == b"data":
            event["data"] = value.decode() if value == b"[DONE]" else msgspec.json.decode(value)
        elif name:
            event[name.decode()] = value.decode()
    return event


def normal(events: list[Any]) -> list[Any]:
    """The same without what is volatile, and with drawn names numbered as they come."""
    known: dict[str, str] = {}

    def plain(value: Any, field: str = "") -> Any:  # noqa: ANN401 JSON
        if isinstance(value, dict):
            value = _with_whole_prompt(value)
            return {name: plain(one, name) for name, one in value.items() if name not in VOLATILE}
        if isinstance(value, list):
            return [plain(one) for one in value]
        if field in NAMES and isinstance(value, str):
            return known.setdefault(value, f"<{len(known) + 1}>")
        return value

    return [plain(event) for event in events]


def _with_whole_prompt(usage: dict[str, Any]) -> dict[str, Any]:
    """Usage of which the tokens of the prompt that came from a cache are a part, wherever the engine counts them."""
    cached = usage.get("cache_read_input_tokens")
    return usage | {"input_tokens": usage["input_tokens"] + cached} if cached and "input_tokens" in usage else usage


def text_of(events: list[Any]) -> str:
    """Every text in it, one behind the other."""

    def texts(value: Any, field: str = "") -> str:  # noqa: ANN401 JSON
        if isinstance(value, dict):
            return "".join(texts(one, name) for name, one in value.items())
        if isinstance(value, list):
            return "".join(texts(one, field) for one in value)
        return value if isinstance(value, str) and field in _TEXTS else ""

    return "".join(texts(event) for event in events)


def difference(mine: list[Any], other: list[Any]) -> str:
    """Where two normal answers differ first; empty: nowhere."""

    def between(a: Any, b: Any, path: str) -> str:  # noqa: ANN401 JSON
        if isinstance(a, dict) and isinstance(b, dict):
            if list(a) != list(b):
                return f"{path}: fields {sorted(set(a) ^ set(b)) or 'in another order'}"
            return next((told for name in a if (told := between(a[name], b[name], f"{path}.{name}"))), "")
        if isinstance(a, list) and isinstance(b, list):
            pairs = enumerate(zip(a, b, strict=False))
            told = next((told for at, (x, y) in pairs if (told := between(x, y, f"{path}[{at}]"))), "")
            return told or (f"{path}: {len(a)} instead of {len(b)}" if len(a) != len(b) else "")
        return "" if a == b and type(a) is type(b) else f"{path}: {_short(a)} instead of {_short(b)}"

    return between(mine, other, "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:50]}...{text[-45:]}"
