"""The way that a request came: the marks in `Sollol-Via`, so that one that comes round again is recognised. Pure.

A gateway marks what it passes on with its instance, a node what it asks of its engine with `<node id>.<instance>`.
"""

from __future__ import annotations

from typing import Final

from sollol_schemas.ids import is_bus_id

MOST_HOPS: Final = 16
"""A request with more marks goes in a circle that nobody recognises."""


def marks_in(text: str) -> tuple[str, ...]:
    """The marks in a header, one more than `MOST_HOPS` at most; what is none is left out."""
    if not text:
        return ()
    marks = (mark.strip() for mark in text.split(",", 4 * MOST_HOPS))
    return tuple(mark for mark in marks if all(map(is_bus_id, mark.split(".", 1))))[: MOST_HOPS + 1]


def header_of(*marks: str) -> str:
    """The header with these marks."""
    return ", ".join(marks)
