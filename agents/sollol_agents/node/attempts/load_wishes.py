"""What a body says about loading its model, read without decoding its prompt. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.node.engines.ollama_wire import RUNNER_OPTIONS

CONTEXT: Final = "num_ctx"
SHIFT: Final = "shift"
"""The one load option that stands beside the others, at the top level."""
Fields = dict[str, msgspec.Raw]
_fields: Final = msgspec.json.Decoder(Fields)

_TOUCHY: Final = re.compile(rb'"(?:keep_alive|options|shift)"\s*:')
_IMAGES: Final = re.compile(rb'"images"\s*:')
_BOOLEANS: Final = frozenset({"use_mmap", SHIFT})
SHORT_BYTES: Final = 512
"""What is longer is not kept to be found again."""
_ANSWER_TOKENS: Final = 512  # room for an answer whose length nobody limited
_TEMPLATE_TOKENS: Final = 256  # room for what a template adds, at least


class UnreadableWish(Exception):
    """The body is not what it should be; its engine says best why."""


class Wish(NamedTuple):
    """What a caller asks of the way in which its model is held."""

    fields: Fields
    """The body's fields when any of them matters here, else none."""
    given: Mapping[str, Any] = {}
    """The options, as they are."""
    num_ctx: int = 0
    """0: it does not say."""
    others: Mapping[str, Any] = {}
    """The other load options, `shift` among them."""
    room_tokens: int = _ANSWER_TOKENS
    """Tokens of the context that template and answer take."""
    key: tuple[bytes, bytes] | None = None
    """What it was read from by `read_often`; None: it was not."""

    @property
    def all(self) -> dict[str, Any]:
        """Every load option that it asks for."""
        return ({CONTEXT: self.num_ctx} if self.num_ctx else {}) | dict(self.others)


def wish_of(body: bytes) -> Wish:
    """What the body says.

    Raises:
        UnreadableWish: It is not what the engine takes.
    """
    if _TOUCHY.search(body) is None:
        return _NOTHING
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableWish from error
    options = bytes(fields["options"]) if "options" in fields else b"null"
    shift = bytes(fields[SHIFT]) if SHIFT in fields else b"null"
    if len(options) < SHORT_BYTES and len(shift) < SHORT_BYTES:
        return Wish(fields, *read_often(options, shift), (options, shift))
    return Wish(fields, *_read(options, shift))


def _read(options: bytes, shift: bytes) -> tuple[Mapping[str, Any], int, Mapping[str, Any], int]:
    """Of the options: all, the context, the other load options, and the room for the answer."""
    try:
        told = msgspec.json.decode(options, type=dict[str, Any] | None) or {}
        shifts = msgspec.json.decode(shift, type=bool | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableWish from error
    given = {name: value for name, value in told.items() if value is not None}
    asked: dict[str, Any] = {name: _sound(name, given[name]) for name in RUNNER_OPTIONS if name in given}
    if shifts is not None:
        asked[SHIFT] = shifts
    num_ctx = max(0, asked.pop(CONTEXT, 0))  # of none and less the engine makes four, which nobody means
    return MappingProxyType(given), num_ctx, MappingProxyType(asked), _room(given.get("num_predict"))


read_often = lru_cache(maxsize=256)(_read)
"""Callers send the same few options again and again."""
_NOTHING: Final = Wish({}, key=(b"null", b"null"))


def most_tokens(body: bytes, prompt_tokens: int) -> int:
    """More tokens than a prompt can have: a token is at least a byte, and pictures are estimated.

    Args:
        body: The whole body.
        prompt_tokens: The estimate, at four bytes a token.
    """
    return 4 * prompt_tokens if prompt_tokens and _IMAGES.search(body) else len(body)


def _sound(name: str, value: Any) -> Any:  # noqa: ANN401 whatever the caller wrote
    """The value as the engine takes it."""
    if name in _BOOLEANS:
        if not isinstance(value, bool):
            raise UnreadableWish
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnreadableWish
    return int(value)


def _room(num_predict: object) -> int:
    is_limit = isinstance(num_predict, (int, float)) and num_predict > 0
    return max(_TEMPLATE_TOKENS, int(num_predict) if is_limit else _ANSWER_TOKENS)  # type: ignore[call-overload]
