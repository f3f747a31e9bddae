"""Answers that begin anew since nothing was said of them: their openings are known, and so are their ids."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from sollol_bus.sdk.resume.events import DONE, Cutter, Event

_INVALID: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode
_NAMES: Final = frozenset({"id", "item_id", "model", "system_fingerprint"})
_INSTANTS: Final = frozenset({"created", "created_at"})
_NAME: Final = re.compile(rb'"(id|item_id|model|system_fingerprint)"(\s*:\s*)("(?:[^"\\]|\\.)*")')
_INSTANT: Final = re.compile(rb'"(created|created_at)"(\s*:\s*)(\d+)')
_SEQUENCE: Final = re.compile(rb'"(sequence_number)"(\s*:\s*)(\d+)')


class Anew:
    """An answer that begins anew, beside the openings of the one before: its ids and instants are put in place.

    Quotes within a text are escaped, so that a field's name in quotes is never a part of one.

    Args:
        openings: The data of the events that were handed out.
    """

    def __init__(self, openings: list[bytes]) -> None:
        self._openings = [_decoded(one) for one in openings]
        self._names: dict[bytes, bytes] = {}
        self._instants: dict[bytes, bytes] = {}
        self._sequence = _last_sequence(openings)
        self._cutter = Cutter()

    def feed(self, data: bytes, is_opening: Callable[[bytes], bool]) -> bytes:
        """What is handed out of it."""
        return b"".join([self._told(event, is_opening) for event in self._cutter.feed(data)])

    def _told(self, event: Event, is_opening: Callable[[bytes], bool]) -> bytes:
        if not event.data or event.data == DONE:
            return event.raw
        if self._openings and is_opening(event.data):
            self._pair(self._openings.pop(0), _decoded(event.data))
            return b""
        self._openings = []
        return self._renamed(event.raw)

    def _pair(self, old: object, new: object) -> None:
        """Notes what the two call the same."""
        if isinstance(old, list) and isinstance(new, list):
            for one, other in zip(old, new, strict=False):
                self._pair(one, other)
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return
        for name in old.keys() & new.keys():
            one, other = old[name], new[name]
            if name in _NAMES and one and isinstance(one, str):
                self._names[_encode(other)] = _encode(one)
            elif name in _INSTANTS and one and isinstance(one, int):
                self._instants[name.encode()] = _encode(one)
            else:
                self._pair(one, other)

    def _renamed(self, raw: bytes) -> bytes:
        raw = _NAME.sub(lambda found: _field(found, self._names.get(found[3], found[3])), raw)
        raw = _INSTANT.sub(lambda found: _field(found, self._instants.get(found[1], found[3])), raw)
        return raw if self._sequence is None else _SEQUENCE.sub(self._numbered, raw)

    def _numbered(self, found: re.Match[bytes]) -> bytes:
        assert self._sequence is not None
        self._sequence += 1
        return _field(found, b"%d" % self._sequence)


def _field(found: re.Match[bytes], value: bytes) -> bytes:
    return b'"%b"%b%b' % (found[1], found[2], value)


def _decoded(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except _INVALID:
        return None


def _last_sequence(openings: list[bytes]) -> int | None:
    found = [int(match[3]) for one in openings for match in _SEQUENCE.finditer(one)]
    return max(found, default=None)
