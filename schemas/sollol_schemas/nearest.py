"""What somebody may have meant who wrote a name that nobody knows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_ALIKE: Final = 0.6
_LOOKED_AT: Final = 500


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is most like `word`, a model's with or without its tag; empty when none is like it."""
    import difflib  # noqa: PLC0415 for those who erred

    names = {name.lower(): name for name in list(known)[:_LOOKED_AT]}
    whole = {name.partition(":")[0]: name for name in names}
    asked = word.lower()[:200]
    for candidates, wanted in ((names, asked), (whole, asked.partition(":")[0])):
        found = difflib.get_close_matches(wanted, candidates, 1, _ALIKE)
        if found:
            name = found[0] if candidates is names else whole[found[0]]
            return names[name]
    return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'desk'?`, or nothing."""
    name = nearest(word, known)
    return f"; did you mean {name!r}?" if name else ""
