"""Conditions on the labels of nodes, as callers write them: `site=office`, `site!=cloud`, `gpu=a100,h100`, `site=*`."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, NamedTuple

from msgspec import Meta

_LENGTH_MAX: Final = 512
_NAME_MAX: Final = 64
_SHOWN_MAX: Final = 64
_ANY: Final = "*"
_HOW: Final = (
    "write site=office, site!=cloud, gpu=a100,h100 for one of several, or site=* for any value; "
    "commas stand between conditions too"
)

LabelTerms = Annotated[str, Meta(max_length=_LENGTH_MAX)]


class InvalidLabelTerms(ValueError):
    """A text states no conditions on labels; the message says how to write them."""


class LabelTerm(NamedTuple):
    """One condition on the labels of a node."""

    name: str
    values: tuple[str, ...]
    """Any of them; `*` is any value at all."""
    is_negated: bool = False
    """Whether it must be none of them; a node without the label has none."""

    def is_met(self, labels: dict[str, str]) -> bool:
        """Whether a node with these labels meets it."""
        value = labels.get(self.name)
        is_found = value is not None and (value in self.values or _ANY in self.values)
        return is_found is not self.is_negated

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.name}{'!=' if self.is_negated else '='}{','.join(self.values)}"


@lru_cache(maxsize=512)
def label_terms(text: str) -> tuple[LabelTerm, ...]:
    """The conditions that a text states; all of them must be met.

    A piece between commas without `=` is one more value of the condition before it.

    Raises:
        InvalidLabelTerms: It states none.
    """
    if len(text) > _LENGTH_MAX:
        raise InvalidLabelTerms(f"conditions on labels are at most {_LENGTH_MAX} characters together")
    terms: list[LabelTerm] = []
    for piece in text.split(","):
        left, sign, right = piece.partition("=")
        value = (right if sign else left).strip()
        if not _is_plain(value):
            raise _unreadable(piece)
        if sign:
            is_negated = left.endswith("!")
            name = left.removesuffix("!").strip()
            if not _is_plain(name) or _ANY in name or " " in name or len(name) > _NAME_MAX:
                raise _unreadable(piece)
            terms.append(LabelTerm(name, (value,), is_negated))
        elif terms:
            terms[-1] = terms[-1]._replace(values=(*terms[-1].values, value))
        else:
            raise _unreadable(piece)
    return tuple(terms)


def unmet(text: str, labels: dict[str, str]) -> tuple[LabelTerm, ...]:
    """The conditions of a text that a node with these labels does not meet.

    Raises:
        InvalidLabelTerms: The text states none.
    """
    return tuple(term for term in label_terms(text) if not term.is_met(labels))


def _is_plain(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(sign in text for sign in "=!<>\"'")


def _unreadable(piece: str) -> InvalidLabelTerms:
    return InvalidLabelTerms(f"{piece.strip()[:_SHOWN_MAX]!r} is no condition on a label; {_HOW}")
