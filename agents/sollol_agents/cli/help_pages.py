"""The pages that `--help` and `--help-all` print, made from what commands declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sollol_agents.cli.arguments import Argument, arguments_of, choices_of
from sollol_agents.cli.catalogue import EXIT_CODES
from sollol_agents.cli.declared import Commands
from sollol_agents.cli.examples import EXAMPLES
from sollol_agents.cli.layout import column_of, entries, paragraph

_ARGUMENTS: Final = ("Arguments", -1)
_FLAGS: Final = ("Flags", 0)


def page(path: Sequence[str], there: Callable[..., Any] | Commands, columns: int, *, is_all: bool = False) -> str:
    """What explains a command, or the commands below a word.

    Args:
        path: The words that name it: `["jobs", "list"]`.
        there: What they name.
        columns: How wide a line may be.
        is_all: Whether the flags are shown, too, that are seldom needed.
    """
    if isinstance(there, Commands):
        lines = _of_several(path, there, columns)
    else:
        lines = _of_one(path, there, columns, is_all=is_all)
    return "\n".join(lines) + "\n"


def _of_several(path: Sequence[str], there: Commands, columns: int) -> Iterator[str]:
    name = " ".join(path)
    yield from (f"Usage: sollol {name} COMMAND", "")
    yield from paragraph(there.help, columns)
    yield from ("", "Commands:")
    rows = [(below, _first_paragraph(run)) for below, run in there]
    yield from entries(rows, column_of(below for below, _ in rows), columns)
    yield ""
    yield from paragraph(f"`sollol {name} COMMAND --help` explains one.", columns)


def _of_one(path: Sequence[str], command: Callable[..., Any], columns: int, *, is_all: bool) -> Iterator[str]:
    name = " ".join(path)
    arguments = arguments_of(command)
    yield from paragraph(f"Usage: sollol {name}{_usage(arguments)}", columns)
    for text in _paragraphs(command):
        yield ""
        yield from paragraph(text, columns)
    shown = [argument for argument in arguments if is_all or argument.told.show]
    column = column_of(_names(argument) for argument in shown)
    for title, place in sorted({_group(argument) for argument in shown}, key=lambda group: group[1]):
        rows = [(_names(a), _meaning(a)) for a in shown if _group(a) == (title, place)]
        yield from ("", f"{title}:")
        yield from entries(rows, column, columns)
    yield ""
    yield from paragraph(EXIT_CODES, columns)
    examples = EXAMPLES.get(name, ())
    if examples:
        yield from ("", "Examples:")
        yield from (f"  {example}" for example in examples)
    if len(shown) < len(arguments):
        yield ""
        text = f"`sollol {name} --help-all` shows every flag, those of connection and logging too."
        yield from paragraph(text, columns)


def _usage(arguments: Sequence[Argument]) -> str:
    """What stands behind the command's name: ` NODE [MODEL] [FLAGS]`."""
    words = []
    for argument in arguments:
        if argument.is_placed or argument.is_rest:
            word = argument.word + ("..." if argument.is_rest or argument.is_list else "")
            words.append(word if argument.is_required else f"[{word}]")
        elif argument.is_required:
            words.append(_names(argument))
    return "".join(f" {word}" for word in (*words, "[FLAGS]"))


def _group(argument: Argument) -> tuple[str, int]:
    if argument.is_placed or argument.is_rest:
        return _ARGUMENTS
    return argument.told.group or _FLAGS


def _names(argument: Argument) -> str:
    if argument.is_placed or argument.is_rest:
        return argument.word
    if argument.is_switch:
        return ", ".join((*argument.flags, *argument.off_flags))
    return f"{', '.join(argument.flags)} VALUE"


def _meaning(argument: Argument) -> str:
    facts = [", ".join(choices_of(argument.kind))]
    is_telling = isinstance(argument.default, (int, float, str, Path)) and not isinstance(argument.default, bool)
    if argument.told.show_default and is_telling and str(argument.default):
        facts.append(f"default {argument.default}")
    said = "; ".join(filter(None, facts))
    text = argument.told.help or ""
    return f"{text} ({said})" if said else text


def _paragraphs(command: Callable[..., Any]) -> list[str]:
    """What the command says about itself, each paragraph as one line."""
    return [" ".join(part.split()) for part in (inspect.getdoc(command) or "").split("\n\n")]


def _first_paragraph(command: Callable[..., Any]) -> str:
    return _paragraphs(command)[0]
