"""What commands print: tables on a terminal, aligned plain text elsewhere, JSON on request."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from sollol_bus.observe.harmless import in_line, in_text

_GAP: Final = "  "
_MIB_PER_GIB: Final = 1024
_BYTES_PER_GB: Final = 1e9

STYLES: Final = {
    "up": "green",
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


def say(text: str = "") -> None:
    """A text on stdout, at once; nothing in it steers a terminal."""
    print(in_text(text), flush=True)


def note(text: str) -> None:
    """One line on stderr: for people, never part of the result."""
    print(in_text(text), file=sys.stderr, flush=True)


def show_json(value: object) -> None:
    """A value as one readable JSON document."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def show_json_line(value: object) -> None:
    """A value as one line of JSON."""
    print(msgspec.json.encode(value).decode(), flush=True)


def show_table(headings: Row, rows: Iterable[Row], *, numbers: Iterable[str] = ()) -> None:
    """A table.

    Args:
        headings: Names of the columns.
        rows: A text for each column.
        numbers: Headings of the columns that are set to the right.
    """
    right = {headings.index(name) for name in numbers}
    listed = [tuple(map(in_line, row)) for row in rows]
    if is_terminal():
        _show_rich(headings, listed, right)
    else:
        for line in plain_table(headings, listed, right):
            say(line)


def plain_table(headings: Row, rows: Sequence[Row], right: set[int]) -> list[str]:
    """The lines of a table of aligned columns without colours, for scripts and logs."""
    table = [tuple(headings), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    return [
        _GAP.join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _show_rich(headings: Row, rows: Sequence[Row], right: set[int]) -> None:
    # 25 ms of imports that plain output need not pay
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, name in enumerate(headings):
        table.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


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
    """A memory size given in MiB."""
    return f"{mib / _MIB_PER_GIB:.1f}"


def gigabytes(size_bytes: float) -> str:
    """A file's size."""
    return f"{size_bytes / _BYTES_PER_GB:.1f} GB" if size_bytes else "-"


def percent(ratio: float | None) -> str:
    """A share."""
    return "-" if ratio is None else f"{ratio * 100:.1f} %"
