"""Fields that read themselves: durations, levels of thinking, images, arguments of calls."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from sollol_agents.requests.ollama.gojson import BodyError, Number
from sollol_agents.requests.ollama.shapes import MismatchError, kind_of

Json = Any

LEVELS: Final = ("high", "medium", "low", "max")
_LEVELS_TOLD: Final = '"high", "medium", "low", "max", true, or false'
_PART: Final = re.compile(r"(\d*)(\.\d*)?")
_UNIT: Final = re.compile(r"[^\d.]*")
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S: Final = float(1 << 63) / 1e9  # what 64 bits of nanoseconds hold
_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_IMAGE_KINDS: Final = ("jpeg", "jpg", "png", "webp")
_NO_REMOTE_IMAGES: Final = "image URLs are not currently supported, please use base64 encoded data instead"
_GO_TYPES: Final = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}


def read_keep_alive(value: Json) -> float:
    """Returns a keep_alive in seconds, infinite for ever.

    Raises:
        BodyError: it is no number of seconds and no duration of Go.
    """
    if isinstance(value, Number) or type(value) in {int, float}:
        number = float(value)
        if number < 0:
            return math.inf
        # a whole number of nanoseconds in 64 bits: what is beyond them wraps to nothing
        return 0.0 if number >= _LONGEST_S else float(int(number))
    if isinstance(value, str):
        return duration_s(value)
    raise BodyError(f"Unsupported type: '{_GO_TYPES[type(value)]}'")


def duration_s(text: str) -> float:
    """Returns a Go duration in seconds; a negative one is infinite.

    Raises:
        BodyError: it is none, with the text that Go gives.
    """
    body = text[1:] if text[:1] in {"+", "-"} else text
    if body == "0":
        return 0.0
    seconds = 0.0
    if not body:
        raise BodyError(f'time: invalid duration "{text}"')
    while body:
        number = _PART.match(body)
        if number is None or not (number[1] or (number[2] or "")[1:]):
            raise BodyError(f'time: invalid duration "{text}"')
        body = body[number.end() :]
        unit = _UNIT.match(body)
        assert unit is not None  # it may be empty
        if not unit[0]:
            raise BodyError(f'time: missing unit in duration "{text}"')
        if unit[0] not in _UNITS_S:
            raise BodyError(f'time: unknown unit "{unit[0]}" in duration "{text}"')
        body = body[unit.end() :]
        seconds += float(number[0]) * _UNITS_S[unit[0]]
        if seconds >= _LONGEST_S:
            raise BodyError(f'time: invalid duration "{text}"')
    return math.inf if text.startswith("-") else seconds


def read_think(value: Json) -> bool | str:
    """Returns whether, or how much, a model shall think.

    Raises:
        BodyError: it is neither a truth value nor a level.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or isinstance(value, Number):
        raise BodyError(f"think must be a boolean or string ({_LEVELS_TOLD})")
    if value not in LEVELS:
        raise BodyError(f'invalid think value: "{value}" (must be {_LEVELS_TOLD})')
    return value


def read_image(value: Json) -> str:
    """Returns an image as it was sent.

    Raises:
        MismatchError: it is no text.
        BodyError: the text is no base64.
    """
    if not isinstance(value, str) or isinstance(value, Number):
        raise MismatchError(kind_of(value), "api.ImageData")
    wrong = first_wrong_base64(value)
    if wrong is not None:
        raise BodyError(f"illegal base64 data at input byte {wrong}")
    return value


def read_image_url(url: str) -> str:
    """Returns the base64 in a data: URI, as the dialects of others have images.

    Raises:
        BodyError: it is the address of an image elsewhere, of another kind, or no base64.
    """
    if url.startswith(("http://", "https://")):
        raise BodyError(_NO_REMOTE_IMAGES)
    for kind in _IMAGE_KINDS:
        prefix = f"data:image/{kind};base64,"
        if url.startswith(prefix) and first_wrong_base64(url.removeprefix(prefix)) is None:
            return url.removeprefix(prefix)
    raise BodyError("invalid image input")


def first_wrong_base64(text: str) -> int | None:
    """Returns the place at which a text stops being base64, None when it is all base64."""
    core = text.rstrip("=")
    for place, character in enumerate(core):
        if character not in _ALPHABET and character not in "\r\n":
            return place
    sixes = len(core.replace("\r", "").replace("\n", ""))
    padding = len(text) - len(core)
    if sixes % 4 == 1 or padding != -sixes % 4:
        return len(text) - len(text) % 4 if sixes % 4 else len(core)
    return None


def read_arguments(value: Json) -> dict[str, Json]:
    """Returns the arguments of a call.

    Raises:
        BodyError: they are no object.
    """
    if isinstance(value, dict):
        return value
    raise BodyError("Value looks like object, but can't find closing '}' symbol")
