"""Tables that fit a terminal: the least columns go first, long texts end in `…`, numbers stay whole. Pure.

Widths are columns of the terminal: a wide character takes two, a combining one none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

GAP: Final = "  "
CUT: Final = "…"
_COMFORT: Final = 14
"""A column of texts is not cut below so many characters; one less of the others goes rather."""
_KEY: Final = 40
"""The first column, which people type, is not cut below so many; a job's id has 36 and its number in a batch."""
_LEAST: Final = 6
"""The last columns that are left may be cut to so many."""
_FEW: Final = 2
"""Columns that are rather cut to the least than shown without each other."""
_WORD_KEPT: Final = 0.6
"""A text is cut between two words where that leaves so much of the room in use."""


class Place(NamedTuple):
    """A column that is shown, and how wide it is."""

    column: int
    width: int


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, width: int) -> str:
    """A text in at most `width` columns, 1 at least; if something is missing it ends in `…`, after a word if it can."""
    if width_of(text) <= width:
        return text
    room = width - 1
    end = taken = 0
    while end < len(text) and taken + width_of(text[end]) <= room:
        taken += width_of(text[end])
        end += 1
    kept = text[:end]
    if text[end] != " " and (space := kept.rfind(" ")) >= _WORD_KEPT * room:
        kept = kept[:space]
    return kept.rstrip(" ,;:·(") + CUT


def places(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None,
    whole: Collection[int] = (),
    first_to_go: Sequence[int] = (),
) -> list[Place]:
    """Which columns are shown, and how wide.

    Args:
        headings: Names of the columns.
        rows: A text for each column.
        width: Columns of the terminal; None: as many as it takes.
        whole: Columns that are never cut, such as numbers.
        first_to_go: Columns that go where there is no room, in this order; then the others, from the right. The
            first one stays.
    """
    natural = [max(map(width_of, column)) for column in zip(headings, *rows, strict=True)]
    shown = list(range(len(headings)))
    if width is None:
        return [Place(i, natural[i]) for i in shown]
    order = [*first_to_go, *(i for i in reversed(shown) if i not in first_to_go and i != 0)]
    comfort = [max(_COMFORT if i else _KEY, len(heading)) for i, heading in enumerate(headings)]
    least = [n if i in whole else min(n, comfort[i]) for i, n in enumerate(natural)]
    for gone in order:
        if _total(least[i] for i in shown) <= width:
            break
        if len(shown) == _FEW and 0 in shown:
            least = [n if i in whole else min(n, _LEAST) for i, n in enumerate(natural)]
            if _total(least[i] for i in shown) <= width:
                break
        shown.remove(gone)
    return _shared({i: natural[i] for i in shown}, least, width)


def _shared(natural: dict[int, int], least: Sequence[int], width: int) -> list[Place]:
    """The widest columns give, one character at a time, until all fit."""
    given = dict(natural)
    over = _total(given.values()) - width
    while over > 0:
        able = [i for i in given if given[i] > least[i]]
        if not able:
            break
        widest = max(able, key=lambda i: given[i])
        given[widest] -= 1
        over -= 1
    if over > 0:  # one column is left, and even that is wider than the terminal
        first = next(iter(given))
        given = {first: max(1, width)}
    return [Place(i, w) for i, w in given.items()]


def _total(widths: Iterable[int]) -> int:
    listed = list(widths)
    return sum(listed) + len(GAP) * (len(listed) - 1)


def cells(row: Sequence[str], shown: Sequence[Place], right: Collection[int]) -> list[str]:
    """A row's texts as they are shown, each filled up to its column's width, but the last where it is to the left."""
    made = []
    for number, (index, width) in enumerate(shown):
        text = cut(row[index], width)
        fill = " " * (width - width_of(text))
        is_last = number == len(shown) - 1
        made.append(fill + text if index in right else text if is_last else text + fill)
    return made
