"""What the emulated model says: exactly what the generated countdown model says.

The last token of the prompt chooses the answer: " 250" is answered " 249 ... 1 0"
and the end token, " call" with tools by a tool call, " think" by reasoning first,
everything else as though it ended in " 32". Token counts are those of the real
model's tokenizer, so usage figures agree with a real engine running it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_NUMBER: Final = 32
MAX_ANSWER_TOKENS: Final = 4096  # an opened quote is followed by quotes for ever
END: Final = "</s>"
_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_THINK: Final = " think"

_WORDS: Final = (
    "the a an of to and in is it you that for on with as at be this have from or by not are "
    "what which how why when where who can do does will would should could tell me about write "
    "hello world please count down model node request answer token time fast slow good new one "
    "two three system user assistant text list name number short long story code test data call think hmm"
)
_MARKS: Final = (
    "<unk> <s> </s> <|system|> <|user|> <|assistant|> <|tool|> <|tools|> <|end|> "
    "<tool_call> </tool_call> <think> </think>"
)


def _token_pattern() -> re.Pattern[str]:
    """Returns the tokenizer: whole words, numbers and marks first, then characters."""
    words = "|".join(sorted(_WORDS.split(), key=len, reverse=True))
    marks = "|".join(re.escape(mark) for mark in _MARKS.split())
    return re.compile(rf" (?:[1-9]\d{{0,2}}|0|{words})|{marks}|[\x00-\x7f]|.", re.DOTALL)


_TOKENS: Final = _token_pattern()
_NUMBER: Final = re.compile(r"^ \d+$")
_FOLLOWS: Final = {
    " 0": END,
    " call": "<tool_call>",
    _THINK: _OPEN,
    _OPEN: " hmm",
    " hmm": _CLOSE,
    "</tool_call>": END,
    "{": "}",
    "[": "]",
    "}": END,
    "]": END,
    '"': '"',
}


def tokenize(prompt: str) -> list[str]:
    """Returns the tokens of a prompt, beginning with the start token.

    A character outside ASCII is one list entry for each of its bytes, as in the model.
    """
    tokens = ["<s>", *_TOKENS.findall(prompt)]
    if prompt.isascii():
        return tokens
    return [part for token in tokens for part in ([token] if token.isascii() else _byte_tokens(token))]


def _byte_tokens(character: str) -> list[str]:
    """Returns the byte tokens of one character."""
    return [f"<0x{byte:02X}>" for byte in character.encode("utf-8", "surrogatepass")]


def following(token: str) -> str:
    """Returns the token that the model says after this one."""
    known = _FOLLOWS.get(token)
    if known is not None:
        return known
    if _NUMBER.match(token):
        return f" {int(token) - 1}"
    return f" {DEFAULT_NUMBER - 1}"


def chain(last: str) -> Iterator[str]:
    """Yields the tokens that follow, up to but without the end token."""
    token = following(last)
    while token != END:
        yield token
        token = following(token)


class Piece(msgspec.Struct, frozen=True):
    """One generated token: its text, and where a server puts it."""

    text: str
    channel: Literal["content", "thinking", "hidden"] = "content"


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool, with its arguments as an object."""

    name: str
    arguments: dict[str, Any]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """All that a model will say to one prompt.

    Attributes:
        pieces: the generated tokens in order, without the end token.
        tokens: how many tokens were generated, the end token included.
        done_reason: `stop` or `length`.
        tool_calls: complete calls, delivered with the last message.
    """

    pieces: tuple[Piece, ...]
    tokens: int
    done_reason: Literal["stop", "length"]
    tool_calls: tuple[ToolCall, ...] = ()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of the text.

    Attributes:
        limit_tokens: most tokens to generate; negative means no limit.
        stop: texts at which the answer ends, themselves left out.
        tools: names and parameter schemas of the tools offered.
        json_schema: schema of a structured answer; `{}` for any JSON object, None for text.
        is_thinking: reasoning is reported on its own and not as content.
        keeps_space: the leading space of the first token is kept (raw completions).
    """

    limit_tokens: int = -1
    stop: tuple[str, ...] = ()
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    json_schema: Mapping[str, Any] | None = None
    is_thinking: bool = True
    keeps_space: bool = False


def answer(prompt_tokens: Sequence[str], wanted: Wanted) -> Answer:
    """Returns what the model says to a prompt."""
    last = prompt_tokens[-1] if prompt_tokens else ""
    if wanted.json_schema is not None:
        text = msgspec.json.encode(minimal_instance(wanted.json_schema)).decode()
        thoughts = _pieces(last, wanted)[:3] if last == _THINK else []
        return _limited([*thoughts, *(Piece(token) for token in tokenize(text)[1:])], wanted)
    if last == " call" and wanted.tools:
        name, schema = wanted.tools[0]
        call = ToolCall(name, minimal_instance(schema or {"type": "object"}))
        hidden = [Piece(token, "hidden") for token in tokenize(f"<tool_call>{name}{call.arguments}</tool_call>")[1:]]
        cut = _limited(hidden, wanted)
        return msgspec.structs.replace(cut, tool_calls=(call,)) if cut.done_reason == "stop" else cut
    if _NUMBER.match(last) and not wanted.stop and not wanted.keeps_space:
        return _countdown(int(last), wanted.limit_tokens)
    return _limited(_pieces(last, wanted), wanted)


@functools.lru_cache(maxsize=256)
def _countdown(number: int, limit_tokens: int) -> Answer:
    """Returns the plain countdown, the answer of nearly every request; kept because it never changes."""
    return _limited(_pieces(f" {number}", Wanted()), Wanted(limit_tokens=limit_tokens))


def _pieces(last: str, wanted: Wanted) -> list[Piece]:
    """Returns the tokens that follow, each with its place."""
    pieces: list[Piece] = []
    is_reasoning = False
    strips = not wanted.keeps_space
    for token in chain(last):
        if token in {_OPEN, _CLOSE}:
            is_reasoning = token == _OPEN
            pieces.append(Piece(token, "hidden" if wanted.is_thinking else "content"))
        elif is_reasoning and wanted.is_thinking:
            pieces.append(Piece(token, "thinking"))
        else:
            pieces.append(Piece(token.lstrip(" ") if strips else token))
        strips = False
        if len(pieces) >= MAX_ANSWER_TOKENS:
            break
    return pieces


def _limited(pieces: list[Piece], wanted: Wanted) -> Answer:
    """Returns the answer after stop texts and the token limit."""
    stopped = _stop_at(pieces, wanted.stop) if wanted.stop else pieces
    cut_by_stop = len(stopped) < len(pieces) or stopped is not pieces
    limit = MAX_ANSWER_TOKENS if wanted.limit_tokens < 0 else wanted.limit_tokens
    if len(stopped) >= limit:
        return Answer(pieces=tuple(stopped[:limit]), tokens=limit, done_reason="length")
    return Answer(pieces=tuple(stopped), tokens=len(stopped) + (0 if cut_by_stop else 1), done_reason="stop")


def _stop_at(pieces: list[Piece], stop: tuple[str, ...]) -> list[Piece]:
    """Returns the pieces before the first stop text; the same list when none occurs."""
    text = "".join(piece.text for piece in pieces if piece.channel == "content")
    found = [at for at in (text.find(word) for word in stop if word) if at >= 0]
    if not found:
        return pieces
    kept: list[Piece] = []
    room = min(found)
    for piece in pieces:
        if piece.channel != "content":
            kept.append(piece)
            continue
        kept.append(Piece(piece.text[:room]))
        room -= len(piece.text)
        if room < 0:
            break
    return kept


def minimal_instance(schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON of any shape
    """Returns the smallest JSON value that satisfies a plain JSON Schema."""
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: minimal_instance(properties.get(name, {})) for name in schema.get("required", ())}
    if kind == "array":
        return [minimal_instance(schema.get("items", {}))] * int(schema.get("minItems", 0))
    simple = {"boolean": False, "string": "x" * int(schema.get("minLength", 0)), "null": None}
    return simple.get(kind, schema.get("minimum", 0))


@functools.lru_cache(maxsize=4096)
def _code(token: str, width: int) -> tuple[int, ...]:
    """Returns the +-1 code of one token."""
    bits = int.from_bytes(hashlib.shake_128(token.encode("utf-8", "surrogatepass")).digest((width + 7) // 8), "big")
    return tuple(1 if bits >> place & 1 else -1 for place in range(width))


def embedding(tokens: Sequence[str], width: int) -> list[float]:
    """Returns the normalised bag of tokens; texts that share words have a higher cosine."""
    sums = [sum(column) for column in zip(*(_code(token, width) for token in tokens), strict=True)]
    norm = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [value / norm for value in sums]
