"""How pages of help are laid out: as wide as the terminal, names on the left, what they mean on the right."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

_USUAL: Final = 80
_LEAST: Final = 20
_LEAST_TEXT: Final = 30
_GAP: Final = 2
_INDENT: Final = "  "
_BELOW: Final = "      "


def width() -> int:
    """Columns of a page: those of the terminal, or what `COLUMNS` says; 80 where there is none."""
    told = os.environ.get("COLUMNS", "")
    try:
        found = int(told) if told.isdecimal() else os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # no terminal, or a stream that only looks like one
        return _USUAL
    return max(_LEAST, found) if found else _USUAL


def paragraph(text: str, columns: int) -> list[str]:
    """The lines of a text, broken between two words."""
    return textwrap.wrap(text, columns, break_on_hyphens=False, break_long_words=False)


def column_of(names: Iterable[str]) -> int:
    """Where the meanings begin beside the longest name."""
    return max((len(name) for name in names), default=0) + len(_INDENT) + _GAP


def entries(rows: Sequence[tuple[str, str]], column: int, columns: int) -> list[str]:
    """Names with their meanings, which begin at `column`; below the name where there is no room beside it."""
    lines: list[str] = []
    is_narrow = columns - column < _LEAST_TEXT
    for name, text in rows:
        lead = _INDENT + name
        if not text:
            lines.append(lead)
        elif is_narrow:
            lines += [lead, *_indented(text, columns, _BELOW, _BELOW)]
        else:
            lines += _indented(text, columns, lead.ljust(column), " " * column)
    return lines


def _indented(text: str, columns: int, first: str, further: str) -> list[str]:
    return textwrap.wrap(
        text, columns, initial_indent=first, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )
