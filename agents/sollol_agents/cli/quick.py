"""Reads a command line as people type it every day, without the library that explains and complains.

Whatever is not certain, a word for help or a wrong one, is left to the library, which reads the same declarations.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Union

from sollol_agents.cli.declared import Commands, Parameter

_INTEGER: Final = re.compile(r"-?[0-9]+")
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_JSON_OPENS: Final = ("[", "{")
"""The library takes lists apart that begin so."""


class Bound(NamedTuple):
    """What a command is called with."""

    args: list[Any]
    kwargs: dict[str, Any]


class _Unsure(Exception):
    """The library has to look at it."""


class _Flag(NamedTuple):
    parameter: inspect.Parameter
    kind: Any
    told: Parameter
    is_off: bool = False


def found(
    there: Callable[..., Any] | Commands, words: Sequence[str]
) -> tuple[Callable[..., Any] | None, Sequence[str]]:
    """The command that is meant, and the words behind its name; None when a word names none."""
    if not isinstance(there, Commands):
        return there, words
    return (there.find(words[0]), words[1:]) if words else (None, words)


def bound(command: Callable[..., Any], words: Sequence[str]) -> Bound | None:
    """The arguments that the words give; None when that is not certain."""
    try:
        return _bound(command, words)
    except _Unsure:
        return None


def _bound(command: Callable[..., Any], words: Sequence[str]) -> Bound:
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = list(inspect.signature(command).parameters.values())
    flags: dict[str, _Flag] = {}
    for parameter in parameters:
        flags |= _flags(parameter, hints[parameter.name])
    given: dict[str, Any] = {}
    placed: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            placed.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = flags.get(name)
        if flag is None:
            raise _Unsure
        if flag.kind is bool:
            if equals:
                raise _Unsure
            _put(given, flag.parameter.name, not flag.is_off)
            continue
        if not equals:
            value = _next(left)
        _take(given, flag, value)
    return _called(parameters, hints, given, placed)


def _flags(parameter: inspect.Parameter, hint: Any) -> dict[str, _Flag]:  # noqa: ANN401 a type form
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return {}
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise _Unsure
    kind, told = _plain(hint)
    names = told.names or (f"--{parameter.name.strip('_').replace('_', '-')}",)
    found = {name: _Flag(parameter, kind, told) for name in names if name.startswith("-")}
    if kind is bool and told.negative is None:
        found |= {f"--no-{name[2:]}": _Flag(parameter, kind, told, is_off=True) for name in found}
    elif kind is bool and told.negative:
        raise _Unsure
    return found


def _plain(hint: Any) -> tuple[Any, Parameter]:  # noqa: ANN401 a type form
    """The type without what is said about it and without None, and what is said."""
    told = Parameter()
    if typing.get_origin(hint) is Annotated:
        told = next((m for m in hint.__metadata__ if isinstance(m, Parameter)), told)
        hint = hint.__origin__
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [one for one in typing.get_args(hint) if one is not type(None)]
        if len(rest) != 1:
            raise _Unsure
        hint = rest[0]
    return hint, told


def _next(left: list[str]) -> str:
    if not left or (left[0].startswith("-") and _NUMBER.fullmatch(left[0]) is None):
        raise _Unsure
    return left.pop(0)


def _put(given: dict[str, Any], name: str, value: object) -> None:
    if name in given:
        raise _Unsure
    given[name] = value


def _take(given: dict[str, Any], flag: _Flag, word: str) -> None:
    name = flag.parameter.name
    if typing.get_origin(flag.kind) is list:
        given.setdefault(name, []).append(_item(flag.kind, word))
    else:
        _put(given, name, _value(flag.kind, word))


def _item(kind: Any, word: str) -> Any:  # noqa: ANN401 a type form
    if word.startswith(_JSON_OPENS):
        raise _Unsure
    return _value(typing.get_args(kind)[0], word)


def _value(kind: Any, word: str) -> Any:  # noqa: ANN401 one for each type
    if kind is str:
        return word
    if kind is Path:
        return Path(word)
    if kind is int and _INTEGER.fullmatch(word):
        return int(word)
    if kind is float and _NUMBER.fullmatch(word):
        return float(word)
    if typing.get_origin(kind) is Literal and word in typing.get_args(kind):
        return word
    if isinstance(kind, type) and issubclass(kind, Enum):
        for member in kind:
            if word == member.name.lower().replace("_", "-"):
                return member
    raise _Unsure


def _called(
    parameters: Sequence[inspect.Parameter], hints: dict[str, Any], given: dict[str, Any], placed: list[str]
) -> Bound:
    """The call that flags and arguments make."""
    args: list[Any] = []
    left = list(placed)
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            break
        kind, _ = _plain(hints[parameter.name])
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args += [_value(kind, word) for word in left]
            left = []
        elif parameter.name in given:
            raise _Unsure  # an argument given by its name
        elif left and typing.get_origin(kind) is list:
            args.append([_item(kind, word) for word in left])
            left = []
        elif left:
            args.append(_value(kind, left.pop(0)))
        elif parameter.default is inspect.Parameter.empty:
            raise _Unsure
        else:
            break
    needed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    if left or needed - set(given):
        raise _Unsure
    return Bound(args, given)
