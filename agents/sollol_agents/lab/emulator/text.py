"""What the emulated model says: exactly what the generated countdown model says.

The last token of the prompt chooses the answer: " 250" is answered " 249 ... 1 0"
and the end token, " call" with tools by a tool call, " think" by reasoning first,
everything else as though it ended in " 32". Token counts are those of the real
model's tokenizer, so usage figures agree with a real engine running it.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from sollol_agents.lab.emulator.prompts import compact
from sollol_agents.lab.emulator.schema import minimal_instance, written
from sollol_agents.lab.engine.vocabulary import DEFAULT_NUMBER, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ANSWER_TOKENS: Final = 4096  # an opened quote is followed by quotes for ever
END: Final = "</s>"
_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"
_THINK: Final = " think"
_CALL: Final = "<tool_call>"
_MARKS: Final = (
    "<unk> <s> </s> <|system|> <|user|> <|assistant|> <|tool|> <|tools|> <|end|> "
    "<tool_call> </tool_call> <think> </think>"
)
_STORY: Final = (
    "One day , I was out on a walk , and I saw a cat in the distance . The cat saw me too , and we both sat down "
    "and looked at the sea until it was dark , and then each of us went home ."
)


def _token_pattern() -> re.Pattern[str]:
    """Returns the tokenizer: whole words, numbers and marks first, then characters."""
    words = "|".join(sorted(WORDS, key=len, reverse=True))
    marks = "|".join(re.escape(mark) for mark in _MARKS.split())
    return re.compile(rf" (?:[1-9]\d{{0,2}}|0|{words})|{marks}|[\x00-\x7f]|.", re.DOTALL)


_TOKENS: Final = _token_pattern()
# close to a real one's count for plain English, which is all that it is for
_WORDY_TOKENS: Final = re.compile(r"<\|\w+\|>|ass(?=istant\n)| ?[A-Za-z]+|\d|\s|.", re.DOTALL)
_NUMBER: Final = re.compile(r"^ \d+$")
_FOLLOWS: Final = {
    " 0": END,
    " call": _CALL,
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


def tokenize(prompt: str, *, is_wordy: bool = False) -> list[str]:
    """Returns the tokens of a prompt, beginning with the start token.

    A character outside ASCII is one list entry for each of its bytes, as in the model.

    Args:
        prompt: the rendered text.
        is_wordy: by the words of a language model, which adds no start token.
    """
    if is_wordy:
        return _WORDY_TOKENS.findall(prompt)
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
    """One generated token: the text that it adds, where a server puts it, the token itself and the one before."""

    text: str
    channel: Literal["content", "thinking", "hidden"] = "content"
    token: str = ""
    before: str = ""


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
        room_tokens: most that the context holds, where it is not shifted; negative means no limit.
        stop: texts at which the answer ends, themselves left out.
        tools: names and parameter schemas of the tools offered.
        json_schema: schema of a structured answer; `{}` for any JSON object, None for text.
        is_parsed: the server knows reasoning and calls of tools apart, and trims the text.
        hides_calls: it knows calls of tools alone, and waits for ever for the end of one.
        is_talker: a language model, not the countdown.
        is_certain: without chance, which else may lead a constrained answer past its reasoning.
        partial: text that the answer begins with.
    """

    limit_tokens: int = -1
    room_tokens: int = -1
    stop: tuple[str, ...] = ()
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    json_schema: Mapping[str, Any] | None = None
    is_parsed: bool = False
    hides_calls: bool = False
    is_talker: bool = False
    is_certain: bool = False
    partial: str = ""


_PARSED: Final = Wanted(is_parsed=True)


def answer(prompt_tokens: Sequence[str], wanted: Wanted) -> Answer:
    """Returns what the model says to a prompt."""
    last = prompt_tokens[-1] if prompt_tokens else ""
    if wanted.json_schema is not None:
        return _limited(_structured(last, wanted.json_schema, wanted), wanted)
    if wanted.is_talker:
        return _limited([Piece(word, token=word) for word in _story_after(prompt_tokens)], wanted)
    if last == " call" and wanted.tools and wanted.is_parsed:
        name, schema = wanted.tools[0]
        call = ToolCall(name, minimal_instance(schema or {"type": "object"}))
        text = f'{_CALL}{{"name":"{name}","arguments":{compact(call.arguments)}}}</tool_call>'
        cut = _limited([Piece("", "hidden", token) for token in tokenize(text)[1:]], wanted)
        return msgspec.structs.replace(cut, tool_calls=(call,)) if cut.done_reason == "stop" else cut
    if _NUMBER.match(last) and wanted.room_tokens < 0 and not (wanted.stop or wanted.partial or wanted.tools):
        return _countdown(int(last), wanted.limit_tokens, is_parsed=wanted.is_parsed)
    return _limited(_pieces(last, wanted), wanted)


def _story_after(prompt_tokens: Sequence[str]) -> list[str]:
    """Returns what is left of the story to a prompt that ends with some of it."""
    words = re.findall(r" ?[A-Za-z]+|[.,]", _STORY)
    told = range(min(len(words), len(prompt_tokens)), 0, -1)
    return words[next((size for size in told if list(prompt_tokens[-size:]) == words[:size]), 0) :]


@functools.lru_cache(maxsize=256)
def _countdown(number: int, limit_tokens: int, *, is_parsed: bool) -> Answer:
    """Returns the plain countdown, the answer of nearly every request; kept because it never changes."""
    wanted = Wanted(limit_tokens=limit_tokens, is_parsed=is_parsed)
    return _limited(_pieces(f" {number}", wanted), wanted)


def _pieces(last: str, wanted: Wanted) -> list[Piece]:
    """Returns the tokens that follow, each with its place."""
    pieces: list[Piece] = []
    is_reasoning = False
    before = last
    for token in itertools.islice(chain(last), MAX_ANSWER_TOKENS):
        is_hidden = (
            wanted.hides_calls and bool(wanted.tools) and (token == _CALL or (pieces and pieces[0].token == _CALL))
        )
        if is_hidden or (wanted.is_parsed and token in {_OPEN, _CLOSE}):
            is_reasoning = token == _OPEN
            pieces.append(Piece("", "hidden", token, before))
        else:
            pieces.append(Piece(token, "thinking" if is_reasoning else "content", token, before))
        before = token
    return pieces


def _structured(last: str, schema: Mapping[str, Any], wanted: Wanted) -> list[Piece]:
    """Returns the tokens of an answer that a grammar constrains.

    A server that expects reasoning first lets the model open it letter by letter, and then nothing tells the model
    to close it: it counts without end.
    """
    if wanted.is_parsed and wanted.is_certain and last != _THINK:
        opened = [Piece("", "hidden", letter) for letter in _OPEN]
        counted = itertools.islice(itertools.cycle([*chain(f" {DEFAULT_NUMBER}"), _CALL]), MAX_ANSWER_TOKENS)
        return opened + [Piece(token, "thinking", token) for token in counted]
    thoughts = _pieces(last, _PARSED)[:3] if wanted.is_parsed and last == _THINK else []
    text = written(minimal_instance(schema))
    return thoughts + [Piece(token, token=token) for token in tokenize(text)[1:]]


def _limited(pieces: list[Piece], wanted: Wanted) -> Answer:
    """Returns the answer after stop texts, the token limit, and what a server does to the first text."""
    limit = MAX_ANSWER_TOKENS if wanted.limit_tokens < 0 else wanted.limit_tokens
    if wanted.room_tokens >= 0:
        limit = min(limit, wanted.room_tokens)
    stopped = _stopped(pieces, wanted.stop) if wanted.stop else None
    if stopped is not None and stopped[1] <= limit:
        kept, tokens = stopped
        return Answer(pieces=tuple(_first_told(kept, wanted)), tokens=tokens, done_reason="stop")
    if len(pieces) >= limit:
        return Answer(pieces=tuple(_first_told(pieces[:limit], wanted)), tokens=limit, done_reason="length")
    return Answer(pieces=tuple(_first_told(pieces, wanted)), tokens=len(pieces) + 1, done_reason="stop")


def _first_told(pieces: list[Piece], wanted: Wanted) -> list[Piece]:
    """Returns the pieces with the first text trimmed, or put after the part of the answer that was sent."""
    if not (wanted.is_parsed or wanted.partial):
        return pieces
    if not pieces:
        return [Piece(wanted.partial)] if wanted.partial else []
    first = pieces[0]
    if first.channel != "content":
        return pieces
    text = wanted.partial + first.text if wanted.partial else first.text.lstrip(" ")
    return [Piece(text, "content" if text else "hidden", first.token, first.before), *pieces[1:]]


def _stopped(pieces: list[Piece], stop: tuple[str, ...]) -> tuple[list[Piece], int] | None:
    """Returns the pieces before the first stop text and the tokens it took; None when none occurs.

    A token that may end with the beginning of a stop text is held back whole until it is known.
    """
    kept: list[Piece] = []
    text, sent = "", 0
    for place, piece in enumerate(pieces):
        if piece.channel != "content":
            kept.append(piece)
            continue
        text += piece.text
        found = [at for at in (text.find(word, sent) for word in stop) if at >= 0]
        until = min(found) if found else sent if _may_begin(text[sent:], stop) else len(text)
        told = text[sent:until]
        kept.append(Piece(told, "content" if told else "hidden", told, piece.before))
        sent = max(sent, until)
        if found:
            return kept, place + 1
    return None


def _may_begin(text: str, stop: tuple[str, ...]) -> bool:
    """Whether a text may end with the beginning of a stop text."""
    return any(text.endswith(word[:size]) for word in stop for size in range(1, len(word)))
