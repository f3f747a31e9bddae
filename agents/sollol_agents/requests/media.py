"""Pictures and sounds in a prompt: found without decoding it, and kept out of its length. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MARK: Final = b'"type"'
"""No piece without it holds anything but text."""
_PICTURE: Final = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image|image)"')
_SOUND: Final = re.compile(rb'"type"\s*:\s*"input_audio"')
_DATA: Final = re.compile(rb"[A-Za-z0-9+/=_-]{512,}")
"""What no language has for a word: a file in base64."""


class Media(NamedTuple):
    """One piece of a prompt."""

    text: bytes
    """What is left of it without files."""
    pictures: int = 0
    sounds: int = 0


def media_in(piece: bytes) -> Media:
    """What a piece of raw JSON holds beside text, whatever the dialect calls it."""
    if MARK not in piece:
        return Media(piece)
    pictures, sounds = len(_PICTURE.findall(piece)), len(_SOUND.findall(piece))
    is_data = bool(pictures or sounds) or b"base64" in piece
    return Media(_DATA.sub(b"", piece) if is_data else piece, pictures, sounds)
