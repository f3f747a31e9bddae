"""The part of Go's templates that Modelfiles use: fields, `if`, `range`, and blanks trimmed by `-`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sollol_agents.lab.emulator.refusals import RefusalError

Data = dict[str, Any]

_WORD: Final = re.compile(r'\$?\.[\w.]*|"(?:[^"\\]|\\.)*"|\S+')
_NO_VALUE: Final = "<no value>"


class _Text(msgspec.Struct, frozen=True):
    text: str


class _Value(msgspec.Struct, frozen=True):
    words: tuple[str, ...]


class _Block(msgspec.Struct):
    """An `if` or a `range` with its two branches."""

    keyword: str
    words: tuple[str, ...]
    body: list[_Node]
    otherwise: list[_Node]


_Node = _Text | _Value | _Block


class Template:
    """A parsed template.

    Raises:
        RefusalError: it cannot be parsed, in the words of Go.
    """

    def __init__(self, source: str) -> None:
        self.reads_messages = ".Messages" in source
        self._nodes = _parse(source)

    def render(self, data: Data) -> str:
        """Returns the text that the template makes of some data."""
        return "".join(_rendered(self._nodes, data))


def _parse(source: str) -> list[_Node]:
    top: list[_Node] = []
    stack: list[tuple[_Block | None, list[_Node]]] = [(None, top)]
    rest = source
    while True:
        text, opening, rest = rest.partition("{{")
        action, closing, after = rest.partition("}}")
        if opening and action.startswith("- "):
            text = text.rstrip()
        if text:
            stack[-1][1].append(_Text(text))
        if not opening:
            break
        if not closing:
            raise _failure(source, text, "unclosed action")
        rest = after.lstrip() if action.endswith(" -") else after
        _take(stack, tuple(_WORD.findall(action.removeprefix("-").removesuffix("-"))), source)
    if len(stack) > 1:
        raise _failure(source, source, "unexpected EOF")
    return top


def _take(stack: list[tuple[_Block | None, list[_Node]]], words: tuple[str, ...], source: str) -> None:
    """Adds one action to the innermost open block."""
    keyword = words[0] if words else ""
    if keyword in {"if", "range"}:
        block = _Block(keyword, words[1:], [], [])
        stack[-1][1].append(block)
        stack.append((block, block.body))
    elif keyword in {"end", "else"}:
        block_or_top = stack.pop()[0]
        if block_or_top is None:
            raise _failure(source, "", f"unexpected {{{{{keyword}}}}}")
        if keyword == "else":
            stack.append((block_or_top, block_or_top.otherwise))
    elif keyword.startswith((".", "$", '"')):
        stack[-1][1].append(_Value(words))
    elif not keyword.startswith("/*"):
        raise _failure(source, "", f'function "{keyword}" not defined' if keyword else "missing value for command")


def _failure(source: str, before: str, what: str) -> RefusalError:
    line = source[: source.find(before) + len(before)].count("\n") + 1 if before else 1
    return RefusalError(f"template: :{line}: {what}", 500)


def _rendered(nodes: Sequence[_Node], dot: Data, top: Data | None = None) -> list[str]:
    top = dot if top is None else top
    parts: list[str] = []
    for node in nodes:
        if isinstance(node, _Text):
            parts.append(node.text)
        elif isinstance(node, _Value):
            value = _value(node.words[0], dot, top)
            parts.append(_NO_VALUE if value is None else str(value))
        elif node.keyword == "if":
            parts += _rendered(node.body if _holds(node.words, dot, top) else node.otherwise, dot, top)
        else:
            for item in _value(node.words[0], dot, top) or ():
                parts += _rendered(node.body, item, top)
    return parts


def _holds(words: tuple[str, ...], dot: Data, top: Data) -> bool:
    values = [_value(word, dot, top) for word in words if word.startswith((".", "$", '"'))]
    if words[0] == "eq":
        return values[0] in values[1:]
    if words[0] == "or":
        return any(values)
    return all(values) is not (words[0] == "not")


def _value(word: str, dot: Data, top: Data) -> Any:  # noqa: ANN401 - whatever the data holds
    if word.startswith('"'):
        return word[1:-1]
    found: Any = top if word.startswith("$") else dot
    for name in word.removeprefix("$").strip(".").split("."):
        if name:
            found = found.get(name) if isinstance(found, dict) else None
    return found
