"""Text of strangers on its way to a terminal or into a log: nothing in it moves the cursor or ends a line.

Names of models, labels and versions come from engines and callers. What could steer a terminal is shown as its number:
controls (C0, C1), marks of direction, and separators of lines.
"""

from __future__ import annotations

import re
from typing import Final

_CONTROLS: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_TURNS: Final = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_IN_TEXT: Final = re.compile(f"[{_CONTROLS}]")
_IN_LINE: Final = re.compile(f"[\\t\\n{_CONTROLS}{_TURNS}]")


def in_text(text: str) -> str:
    """The text; tabs and line breaks stay, and marks of direction, which Arabic and Hebrew need."""
    return _IN_TEXT.sub(_shown, text)


def in_line(text: str, *, limit: int = 0) -> str:
    """The text on one line, its first `limit` characters where there is one."""
    if limit and len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} characters more)"
    return text if text.isascii() and text.isprintable() else _IN_LINE.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
