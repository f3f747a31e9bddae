"""The whole command line as cyclopts has it: what explains commands, and says what is wrong with a line."""

from __future__ import annotations

import functools
import inspect
import itertools
import typing
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import cyclopts  # noqa: TID251 here and nowhere else
from cyclopts import App, CycloptsError, Group  # noqa: TID251

from sollol_agents.cli import exit_codes, help_text, usage_errors
from sollol_agents.cli.catalogue import ABOUT, COMMANDS, EXIT_CODES, GROUPS
from sollol_agents.cli.declared import Commands, Parameter
from sollol_bus.version import VERSION


def build_app() -> App:
    """The command line with every command, none of them imported yet."""
    app = App(name="sollol", help=ABOUT, help_epilogue=EXIT_CODES, help_format="plaintext", version=VERSION)
    for name, command in COMMANDS.items():
        group = _group(command.group, GROUPS.index(command.group))
        app.command(f"{__name__}:{command.place}", name=name, group=group, help=command.summary)
    return app


def __getattr__(place: str) -> Any:  # noqa: ANN401 a command, or several
    """A command as cyclopts reads it, by its place; this is how it imports them, one at a time."""
    module, _, name = place.partition(".")
    if not name:
        raise AttributeError(place)
    return for_cyclopts(getattr(import_module(f"sollol_agents.cli.commands.{module}"), name))


def for_cyclopts(command: Callable[..., Any] | Commands) -> Any:  # noqa: ANN401 a function, or an App
    """A command, or all below a word, with declarations in cyclopts' classes."""
    if isinstance(command, Commands):
        app = App(name=command.name, help=command.help)
        for name, below in command:
            app.command(for_cyclopts(below), name=name)
        return app
    hints = typing.get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    parameters = [p.replace(annotation=_told(hints[p.name])) for p in signature.parameters.values()]

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 whatever the command takes
        return command(*args, **kwargs)

    # cyclopts reads the signature, and the wrapped command's own must not shine through
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__
    return run


def _told(hint: Any) -> Any:  # noqa: ANN401 a type form
    if typing.get_origin(hint) is not Annotated:
        return hint
    return Annotated[(hint.__origin__, *(_its(m) if isinstance(m, Parameter) else m for m in hint.__metadata__))]


def _its(parameter: Parameter) -> cyclopts.Parameter:
    fields: dict[str, Any] = {
        name: value
        for name in ("name", "help", "show_default", "negative", "negative_iterable")
        if (value := getattr(parameter, name)) is not None
    }
    if parameter.group is not None:
        fields["group"] = _group(*parameter.group)
    if not parameter.show:
        fields["show"] = False
    if parameter.allow_leading_hyphen:
        fields["allow_leading_hyphen"] = True
    return cyclopts.Parameter(**fields)


@functools.cache
def _group(title: str, place: int) -> Group:
    return Group(title, sort_key=place)


def run(argv: Sequence[str]) -> tuple[int, str]:
    """Runs one command line; its exit code, and what was wrong with the line, if anything was.

    Raises:
        SollolError: The command ended so.
    """
    is_all = "--help-all" in argv
    words = ["--help" if word == "--help-all" else word for word in argv]
    app = build_app()
    try:
        code = app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return exit_codes.USAGE, usage_errors.line_of(error, words[0])
    if {"--help", "-h"} & set(words):
        _show_more(words, is_all=is_all)
    return (code if isinstance(code, int) else exit_codes.OK), ""


def _show_more(words: Sequence[str], *, is_all: bool) -> None:
    """The examples of a command, and the flags that its help leaves out."""
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    path, command = _found(names)
    help_text.show_examples(path)
    if command is None:
        return
    if is_all:
        help_text.show_further_flags(command)
    elif help_text.has_hidden_flags(command):
        print(f"\n`sollol {' '.join(path)} --help-all` shows the flags of connection, logging and all others too.")


def _found(names: Sequence[str]) -> tuple[list[str], Callable[..., Any] | None]:
    """The words that name a command, and what it runs."""
    if not names or names[0] not in COMMANDS:
        return [], None
    there = COMMANDS[names[0]].load()
    if not isinstance(there, Commands):
        return [names[0]], there
    below = there.find(names[1]) if len(names) > 1 else None
    return [*names[: 2 if below else 1]], below
