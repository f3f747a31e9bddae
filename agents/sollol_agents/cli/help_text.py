"""What `--help` and `--help-all` print beside what the command line's library knows."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final

from sollol_agents.cli.declared import Parameter
from sollol_agents.cli.examples import EXAMPLES
from sollol_agents.cli.output import room, say, tell

_LEAST_TEXT: Final = 30


def show_examples(path: Sequence[str]) -> None:
    """The examples of a command: `["jobs", "list"]`."""
    for number, example in enumerate(EXAMPLES.get(" ".join(path), ())):
        if not number:
            say("\nExamples:")
        say(f"  {example}")


def show_further_flags(command: Callable[..., Any]) -> None:
    """Every flag that `--help` leaves out: connection, logging, and what is seldom turned."""
    rows = list(_hidden(command))
    if not rows:
        return
    say("\nFurther flags:")
    width = room()
    column = max(len(name) for name, _ in rows) + 4
    for name, text in rows:
        if width is not None and width - column < _LEAST_TEXT:
            say(f"  {name}")
            tell(f"      {text}", indent="      ")
        else:
            tell(f"  {name:<{column - 2}}{text}", indent=" " * column)


def has_hidden_flags(command: Callable[..., Any]) -> bool:
    """Whether `--help` leaves some out."""
    return any(True for _ in _hidden(command))


def _hidden(command: Callable[..., Any]) -> typing.Iterator[tuple[str, str]]:
    for parameter in inspect.signature(command).parameters.values():
        for told in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(told, Parameter) and told.show is False:
                name = told.names[0] if told.names else f"--{parameter.name.strip('_').replace('_', '-')}"
                yield name, str(told.help or "")
