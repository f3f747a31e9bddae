"""YAML of plain values, as `-o yaml` prints it: block style, texts quoted as JSON does it where they need it. Pure."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@+-]*")
"""Texts that mean themselves; what else YAML reads in plain words is in `_WORDS`."""
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ODD: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
"""What JSON leaves as it is and YAML takes for the end of a line, or refuses."""


def yaml_of(value: Any) -> str:  # noqa: ANN401 whatever JSON can say
    """A value made of dicts, lists, texts, numbers, booleans and None, without the last end of line."""
    return "\n".join(_lines(value))


def _lines(value: Any) -> list[str]:  # noqa: ANN401 as above
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _entry(f"{_scalar(str(key))}:", item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _item(item)]
    return [_scalar(value)]


def _entry(key: str, item: Any) -> list[str]:  # noqa: ANN401 as above
    if isinstance(item, (dict, list)) and item:
        return [key, *(f"  {line}" for line in _lines(item))]
    return [f"{key} {_scalar(item)}"]


def _item(item: Any) -> list[str]:  # noqa: ANN401 as above
    first, *rest = _lines(item)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _scalar(value: Any) -> str:  # noqa: ANN401 as above
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # YAML takes a number without a point for a text
    return _ODD.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
