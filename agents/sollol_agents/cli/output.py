"""What commands print: tables as wide as the terminal, whole ones elsewhere, JSON or YAML on request."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, NamedTuple, TextIO, TypeAlias

import msgspec

from sollol_agents.cli.table import GAP, cells, places, width_of
from sollol_agents.cli.yaml_text import yaml_of
from sollol_bus.observe.harmless import in_line, in_text

_MIB_PER_GIB: Final = 1024
_BYTES_PER_GIB: Final = 1024**3
_LEAST_WIDTH: Final = 20
_USUAL_COLUMNS: Final = 80
_NOTE_INDENT: Final = "  "
_ESCAPE: Final = "\x1b["
_BOLD: Final = 1
_COLOURS: Final = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}


class Form(StrEnum):
    """How a command prints its answer."""

    TABLE = "table"  # the columns that the terminal has room for
    WIDE = "wide"  # every column, however wide
    JSON = "json"
    YAML = "yaml"


class Screen(NamedTuple):
    """Where a command prints, and how."""

    form: Form = Form.TABLE
    width: int | None = None
    """Columns at most, as a test wants them; None: those of the terminal, without end where there is none."""


_USUAL: Final = Screen()
_SCREEN: ContextVar[Screen] = ContextVar("screen", default=_USUAL)

STYLES: Final = {
    "up": "green",
    "no engine": "red",
    "suspect": "yellow",
    "draining": "yellow",
    "down": "red",
    "success": "green",
    "failed": "red",
    "presumed_lost": "red",
    "cancelled": "yellow",
    "queued": "yellow",
    "running": "cyan",
    "done": "green",
    "dead": "red",
    "client_error": "yellow",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
}
"""Colours of words that are states."""

Row: TypeAlias = Sequence[str]


def is_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()


@contextlib.contextmanager
def on_screen(form: Form = Form.TABLE, width: int | None = None) -> Iterator[None]:
    """Prints in this form, and as if the terminal had so many columns, until it is left."""
    token = _SCREEN.set(Screen(form, width))
    try:
        yield
    finally:
        _SCREEN.reset(token)


def is_wide() -> bool:
    """Whether everything is wanted, however wide."""
    return _SCREEN.get().form is Form.WIDE


def room() -> int | None:
    """Columns that a line may have; None: any number."""
    screen = _SCREEN.get()
    if screen.form is Form.WIDE:
        return None
    if screen.width is not None:
        return screen.width
    return max(_LEAST_WIDTH, shutil.get_terminal_size().columns) if is_terminal() else None


def say(text: str = "") -> None:
    """A text on stdout, at once; nothing in it steers a terminal."""
    print(in_text(text), flush=True)


def tell(text: str, *, indent: str = "") -> None:
    """Sentences on stdout; on a terminal in lines that end between two words, all but the first of each indented."""
    say(_folded(text, room(), indent))


def clear() -> None:
    """Begins at the top of an empty terminal."""
    sys.stdout.write(f"{_ESCAPE}H{_ESCAPE}2J")


def note(text: str) -> None:
    """A text on stderr: for people, never part of the result; on a terminal in lines that end between two words."""
    width = _SCREEN.get().width or _columns_of(sys.stderr)
    print(_folded(in_text(text), width, _NOTE_INDENT), file=sys.stderr, flush=True)


def _columns_of(stream: TextIO) -> int | None:
    try:
        return max(_LEAST_WIDTH, os.get_terminal_size(stream.fileno()).columns or _USUAL_COLUMNS)
    except (OSError, ValueError):  # no terminal, or a stream that only looks like one
        return None


def _folded(text: str, width: int | None, indent: str) -> str:
    """Lines as more of at most `width` columns, what one goes on in is indented."""
    if width is None:
        return text
    return "\n".join(line if width_of(line) <= width else _broken(line, width, indent) for line in text.split("\n"))


def _broken(line: str, width: int, indent: str) -> str:
    indent = indent if len(indent) <= width // 2 else _NOTE_INDENT
    return "\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False))


def show_json(value: object) -> None:
    """A value as one readable JSON document, or as YAML where that is asked for."""
    if _SCREEN.get().form is Form.YAML:
        print(yaml_of(msgspec.to_builtins(value)), flush=True)
    else:
        print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def show_json_line(value: object) -> None:
    """A value as one line of JSON, or as a document of YAML where that is asked for."""
    if _SCREEN.get().form is Form.YAML:
        print(f"---\n{yaml_of(msgspec.to_builtins(value))}", flush=True)
        return
    print(msgspec.json.encode(value).decode(), flush=True)


def show_table(
    headings: Row,
    rows: Iterable[Row],
    *,
    numbers: Iterable[str] = (),
    first_to_go: Sequence[str] = (),
    is_last_wrapped: bool = False,
    empty: str = "",
) -> None:
    """A table as wide as the terminal; states are coloured there.

    Args:
        headings: Names of the columns.
        rows: A text for each column.
        numbers: Headings of the columns that are set to the right and never cut.
        first_to_go: Headings of the columns that go where there is no room, in this order; then the others, from the
            right. The first column stays.
        is_last_wrapped: Whether a text in the last column goes on in the next line instead of being cut.
        empty: A note below a table without rows: how to get the first.
    """
    right = {headings.index(name) for name in numbers if name in headings}
    listed = [tuple(map(in_line, row)) for row in rows]
    order = [headings.index(name) for name in first_to_go if name in headings]
    shown = places(headings, listed, width=room(), whole=right, first_to_go=order)
    colours = has_colours()
    heading = GAP.join(cells(headings, shown, right)).rstrip()
    print(_painted(heading, _BOLD) if colours else heading, flush=True)
    last = shown[-1] if is_last_wrapped and shown[-1].column == len(headings) - 1 else None
    for row in listed:
        first, *further = [row] if last is None else _wrapped(row, last.width)
        made = cells(first, shown, right)
        if colours:
            styles = (STYLES.get(row[i], "") for i, _ in shown)
            made = [_painted(text, _COLOURS.get(style)) for text, style in zip(made, styles, strict=True)]
        print(GAP.join(made).rstrip(), flush=True)
        for more in further:
            say(GAP.join(cells(more, shown, right)).rstrip())
    if not listed and empty:
        note(empty)


def _wrapped(row: Row, width: int) -> list[Row]:
    """A row with as many below it, empty but for the last column, as that one's text needs."""
    lines = textwrap.wrap(row[-1], width, break_on_hyphens=False) or [""]
    return [(*row[:-1], lines[0]), *((*([""] * (len(row) - 1)), line) for line in lines[1:])]


def has_colours() -> bool:
    """Whether colours are seen: on a terminal that has some, unless the environment names `NO_COLOR`."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _painted(text: str, code: int | None) -> str:
    return text if code is None else f"{_ESCAPE}{code}m{text}{_ESCAPE}0m"


def seconds(value: float | None) -> str:
    """A duration, readable at any size."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def gib(mib: float) -> str:
    """A memory size given in MiB, in GiB without the unit."""
    return f"{mib / _MIB_PER_GIB:.1f}"


def gib_of_bytes(size_bytes: float) -> str:
    """A file's size in GiB; the unit stands in it, and small ones are not nothing."""
    if not size_bytes:
        return "-"
    return f"{size_bytes / _BYTES_PER_GIB:.1f} GiB" if size_bytes >= _BYTES_PER_GIB / 20 else "<0.1 GiB"


def percent(ratio: float | None) -> str:
    """A share."""
    return "-" if ratio is None else f"{ratio * 100:.1f} %"


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things: `1 node`, `2 nodes`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
