"""What is wrong with a value, as a person says it rather than as a decoder does. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "int | float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
    "bytes": "bytes",
}
_RANGES: Final = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}
_QUOTES: Final = "'\""
_SIGNS: Final = re.compile(r"\^\[(?P<signs>[^]]+)\](?:\*|\{(?P<least>\d+),(?P<most>\d+)\})\$")
_CLASSES: Final = {
    "A-Za-z0-9_-": "letters, digits, _ or -",
    "A-Za-z0-9": "letters or digits",
    "!-~": "printable characters without blanks",
    "0-9a-f": "hexadecimal digits",
}
_PLACE: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


def in_plain_words(reason: str) -> str:
    """`priority must be a whole number, at most 10` for a decoder's "Expected `int` <= 10 - at `$.priority`".

    What is put otherwise stays as it is.
    """
    place = _PLACE.search(reason)
    what = (place[1] if place else "") or "it"
    said = _PLACE.sub("", reason)
    for pattern, words in _WORDS:
        if found := pattern.match(said):
            return words(what, found)
    return f"{what}: {said}" if place else said


def signs_of(pattern: str) -> str:
    """What a text may be made of, in words: `1 to 64 letters, digits, _ or -`; an odd expression stays one."""
    shown = pattern.partition("(?!")[0]
    found = _SIGNS.fullmatch(shown)
    if found is None or found["signs"] not in _CLASSES:
        return f"text matching {shown}"
    least, most, signs = found["least"], found["most"], _CLASSES[found["signs"]]
    if most is None:
        return signs
    return f"at most {most} {signs}" if least == "0" else f"{least} to {most} {signs}"


def _ranged(what: str, found: re.Match[str]) -> str:
    kind, is_length, relation, bound = found.groups()
    limit = f"{_RANGES[relation]} {bound.removesuffix('.0')}"
    if is_length:
        return f"{what} must be {_kind(kind)} of {limit} {'characters' if kind == 'str' else 'entries'}"
    return f"{what} must be {_kind(kind)}, {limit}"


def _kind(name: str) -> str:
    if name in _KINDS:
        return _KINDS[name]
    return " or ".join(_KINDS.get(one, one) for one in name.split(" | ") if one != "null")  # it is left out then


def _inside(what: str) -> str:
    return "" if what == "it" else f"{what}."


_WORDS: Final[tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], str]], ...]] = (
    (
        re.compile(r"^Expected `([^`]+)`, got `([^`]+)`$"),
        lambda what, found: f"{what} must be {_kind(found[1])}, not {_kind(found[2])}",
    ),
    (re.compile(r"^Expected `([^`]+)` (of length )?(<=|>=|<|>) ([-\d.e+]+)$"), _ranged),
    (
        re.compile(r"^Expected `str` matching regex (.*)$", re.DOTALL),
        lambda what, found: f"{what} must be {signs_of(found[1].strip(_QUOTES))}",
    ),
    (
        re.compile(r"^Object missing required field `([^`]+)`$"),
        lambda what, found: f"{_inside(what)}{found[1]} is missing",
    ),
    (
        re.compile(r"^Object contains unknown field `([^`]+)`$"),
        lambda what, found: f"{_inside(what)}{found[1]} is not known",
    ),
    (
        re.compile(r"^Invalid (?:enum )?value ?(.*)$", re.DOTALL),
        lambda what, found: f"{what} cannot be {found[1] or 'used'}",
    ),
)
