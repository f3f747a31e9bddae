"""What a command takes, read from its signature: its arguments in their places, and its flags."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Final, Literal, NamedTuple, Union

from sollol_agents.cli.declared import Parameter

REQUIRED: Final = inspect.Parameter.empty
"""The default of what must be given."""


class Argument(NamedTuple):
    """Something that a command takes."""

    name: str
    """How the function calls it."""
    kind: Any
    """The type of its value, of each value where it is a list."""
    told: Parameter
    default: Any
    flags: tuple[str, ...]
    """The flags that give it; the first one is its name for people."""
    off_flags: tuple[str, ...] = ()
    """Those that say no."""
    is_list: bool = False
    is_placed: bool = False
    """Whether it is given without a flag, too, by its place."""
    is_rest: bool = False
    """Whether it takes all the words that are left, as arguments of their own."""

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.kind is bool

    @property
    def is_required(self) -> bool:
        """Whether the command does nothing without it."""
        return self.default is REQUIRED and not self.is_rest

    @property
    def title(self) -> str:
        """What people call it: `NODE`, `--weight`."""
        return self.word if self.is_placed or self.is_rest else self.flags[0]

    @property
    def word(self) -> str:
        """What stands for it where its place is: `NODE`."""
        named = self.told.names[0] if self.told.names else self.name
        return named.strip("-_").replace("_", "-").upper()


def arguments_of(command: Callable[..., Any]) -> list[Argument]:
    """What a command takes, in the order of its signature."""
    hints = typing.get_type_hints(command, include_extras=True)
    return [_argument(parameter, hints[parameter.name]) for parameter in inspect.signature(command).parameters.values()]


def choices_of(kind: Any) -> tuple[str, ...]:  # noqa: ANN401 a type form
    """The words that a value may be; empty: any."""
    if typing.get_origin(kind) is Literal:
        return tuple(map(str, typing.get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(member.value) for member in kind)
    return ()


def _argument(parameter: inspect.Parameter, hint: Any) -> Argument:  # noqa: ANN401 a type form
    kind, told = _plain(hint)
    is_list = typing.get_origin(kind) is list
    if is_list:
        kind = typing.get_args(kind)[0]
    is_rest = parameter.kind is inspect.Parameter.VAR_POSITIONAL
    names = () if is_rest else told.names or (f"--{parameter.name.strip('_').replace('_', '-')}",)
    flags = tuple(name for name in names if name.startswith("-"))
    return Argument(
        name=parameter.name,
        kind=kind,
        told=told,
        default=parameter.default,
        flags=flags,
        off_flags=tuple(f"--no-{flag[2:]}" for flag in flags) if kind is bool and told.has_negative else (),
        is_list=is_list,
        is_placed=parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD,
        is_rest=is_rest,
    )


def _plain(hint: Any) -> tuple[Any, Parameter]:  # noqa: ANN401 a type form
    """The type without what is said about it and without None, and what is said."""
    told = Parameter()
    if typing.get_origin(hint) is Annotated:
        told = next((m for m in hint.__metadata__ if isinstance(m, Parameter)), told)
        hint = hint.__origin__
    if typing.get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    return hint, told
