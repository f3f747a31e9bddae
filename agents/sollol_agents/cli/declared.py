"""How commands declare their flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec

Run = TypeVar("Run", bound=Callable[..., Any])


class Parameter(msgspec.Struct, frozen=True):
    """What an annotation says about a flag or an argument."""

    name: str | tuple[str, ...] | None = None
    help: str | None = None
    show: bool = True
    """Whether `--help` shows it; `--help-all` does."""
    show_default: bool = True
    has_negative: bool = True
    """Whether `--no-NAME` switches it off."""
    group: tuple[str, int] | None = None
    """Heading in the help, and its place among the others."""
    allow_leading_hyphen: bool = False
    """Whether its value may look like a flag that the command does not have, as a secret may."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it was given; empty: it is called like the argument of the function."""
        return (self.name,) if isinstance(self.name, str) else self.name or ()


class Commands:
    """Commands below a word: `sollol jobs list`."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002 what a parameter's is called, too
        self.name: Final = name
        self.help: Final = help
        self._runs: dict[str, Callable[..., Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        yield from self._runs.items()

    def find(self, name: str) -> Callable[..., Any] | None:
        """What a command runs; None when there is no such command."""
        return self._runs.get(name)

    def command(self, name: str) -> Callable[[Run], Run]:
        """Decorates what a command runs."""

        def add(run: Run) -> Run:
            self._runs[name] = run
            return run

        return add
