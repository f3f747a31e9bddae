"""Reads a command line as its command declares it, and says in one sentence what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from sollol_agents.cli.arguments import Argument, arguments_of, choices_of
from sollol_agents.cli.declared import Commands

HELP: Final = ("--help", "-h", "--help-all")
"""The flags that every command has."""
_INTEGER: Final = re.compile(r"-?[0-9]+")
_NUMBER: Final = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", re.IGNORECASE)
_FLAG: Final = re.compile(r"-[^\s=]+(=.*)?", re.DOTALL)
_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ONLY_PLACES: Final = "--"
"""Behind it no word is a flag."""


class WrongLine(Exception):
    """A command line that its command does not take; the text says why, without a full stop."""


class Found(NamedTuple):
    """What the first words of a command line name."""

    path: tuple[str, ...]
    """Those words."""
    there: Callable[..., Any] | Commands
    words: Sequence[str]
    """The words behind them."""


class Bound(NamedTuple):
    """What a command is called with."""

    args: list[Any]
    kwargs: dict[str, Any]


def found(name: str, there: Callable[..., Any] | Commands, words: Sequence[str]) -> Found:
    """The command that is meant; several where their word stands alone, or help is asked about them.

    Raises:
        WrongLine: There is no such command below the word.
    """
    if not isinstance(there, Commands) or not words or words[0] in HELP:
        return Found((name,), there, words)
    command = there.find(words[0])
    if command is None:
        raise WrongLine(_no_command(there, words[0]))
    return Found((name, words[0]), command, words[1:])


def asked_help(words: Sequence[str]) -> str:
    """The flag that asks for help; empty for none."""
    before = words[: words.index(_ONLY_PLACES)] if _ONLY_PLACES in words else words
    asked = [word for word in before if word in HELP]
    return "--help-all" if "--help-all" in asked else "".join(asked[:1])


def bound(command: Callable[..., Any], words: Sequence[str]) -> Bound:
    """What the words give the command.

    Raises:
        WrongLine: It does not take them.
    """
    arguments = arguments_of(command)
    flags = {flag: argument for argument in arguments for flag in (*argument.flags, *argument.off_flags)}
    given: dict[str, Any] = {}
    placed: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == _ONLY_PLACES:
            placed += left
            break
        if not _is_flag(word):
            placed.append(word)
            continue
        flag, value = _parted(word, flags)
        argument = flags.get(flag)
        if argument is None:
            raise WrongLine(_no_flag(flag, arguments))
        if not argument.is_switch and value is None:
            value = _next(left, flag, argument, flags)
        _take(given, flag, argument, value)
    return _called(arguments, given, placed)


def _is_flag(word: str) -> bool:
    """Whether a word is meant as a flag: no number, no text of several words that begins with a hyphen, no `-`."""
    return _FLAG.fullmatch(word) is not None and _NUMBER.fullmatch(word) is None


def _parted(word: str, flags: Mapping[str, Argument]) -> tuple[str, str | None]:
    """A flag and its value, if that is in the same word: `--output=json`, `-ojson`."""
    flag, equals, value = word.partition("=")
    short = flags.get(word[:2])
    if not word.startswith("--") and short is not None and not short.is_switch and word[2:]:
        return word[:2], word[2:].removeprefix("=")
    return flag, value if equals else None


def _next(left: list[str], flag: str, argument: Argument, flags: Mapping[str, Argument]) -> str:
    if left and _is_flag(left[0]):
        is_known = left[0] == _ONLY_PLACES or _parted(left[0], flags)[0] in flags
        if is_known or not argument.told.allow_leading_hyphen:
            raise WrongLine(f"{flag} needs a value")
    if not left:
        raise WrongLine(f"{flag} needs a value")
    return left.pop(0)


def _take(given: dict[str, Any], flag: str, argument: Argument, word: str | None) -> None:
    if argument.is_list:
        given.setdefault(argument.name, []).append(value_of(argument, flag, word or ""))
        return
    if argument.name in given:
        raise WrongLine(f"{argument.flags[0]} is given more than once")
    given[argument.name] = (
        _switched(flag, argument, word) if argument.is_switch else value_of(argument, flag, word or "")
    )


def _switched(flag: str, argument: Argument, word: str | None) -> bool:
    is_on = flag not in argument.off_flags
    if word is None:
        return is_on
    if word.lower() not in _TRUTHS:
        raise WrongLine(f"{flag}: {word!r} cannot be used; allowed: true, false, or no value")
    return _TRUTHS[word.lower()] is is_on


def value_of(argument: Argument, title: str, word: str) -> Any:  # noqa: ANN401 one for each type
    """The value that a word gives; `title` is what the argument is called where it is no such value.

    Raises:
        WrongLine: It is none.
    """
    kind = argument.kind
    if kind is str or kind is Path:
        return kind(word)
    if kind is int and _INTEGER.fullmatch(word):
        return int(word)
    if kind is float and _NUMBER.fullmatch(word):
        return float(word)
    choices = choices_of(kind)
    plain = word.lower().replace("-", "_")  # flags are written with hyphens, and so are these
    if chosen := next((choice for choice in choices if plain == choice.lower().replace("-", "_")), ""):
        return kind(chosen) if isinstance(kind, type) and issubclass(kind, Enum) else chosen
    allowed = ", ".join(choices) or ("an integer" if kind is int else "a number")
    raise WrongLine(f"{title}: {word!r} cannot be used; allowed: {allowed}{_meant(word, choices)}")


def _called(arguments: Sequence[Argument], given: dict[str, Any], placed: Sequence[str]) -> Bound:
    """The call that flags and words in their places make."""
    args: list[Any] = []
    left = list(placed)
    for argument in arguments:
        if argument.is_rest:
            args += [value_of(argument, argument.title, word) for word in left]
            left = []
        elif argument.name in given:
            if argument.is_placed and left:
                args.append(given.pop(argument.name))
        elif argument.is_placed and left:
            args.append(_placed(argument, left))
        elif argument.is_required:
            raise WrongLine(f"{argument.title} is missing")
    if left:
        raise WrongLine(f"it takes nothing more, and there is {' '.join(left)!r}")
    return Bound(args, given)


def _placed(argument: Argument, left: list[str]) -> Any:  # noqa: ANN401 what its type says
    if not argument.is_list:
        return value_of(argument, argument.title, left.pop(0))
    values = [value_of(argument, argument.title, word) for word in left]
    left.clear()
    return values


def _meant(word: str, known: Sequence[str], quote: str = "") -> str:
    from sollol_schemas.nearest import nearest  # noqa: PLC0415 for those who erred

    name = nearest(word, known)
    return f"; did you mean {quote}{name}{quote}?" if name else ""


def _no_flag(flag: str, arguments: Sequence[Argument]) -> str:
    flags = [*(one for argument in arguments for one in (*argument.flags, *argument.off_flags)), *HELP]
    longer = [known for known in flags if known.endswith(f"-{flag.lstrip('-')}")]  # --mode: --routing-mode
    meant = f"; did you mean {longer[0]}?" if longer else _meant(flag, flags)
    behind = [argument for argument in arguments if argument.is_rest and argument.told.allow_leading_hyphen]
    if behind and not meant:
        meant = f"; flags among {behind[0].word} stand behind `{_ONLY_PLACES}`"
    return f"there is no flag {flag}{meant}"


def _no_command(there: Commands, word: str) -> str:
    names = [name for name, _ in there]
    meant = _meant(word, names, "'") or f"; there are {', '.join(names)}"
    return f"`sollol {there.name}` has no command {word!r}{meant}"
