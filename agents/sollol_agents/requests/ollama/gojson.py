"""JSON as Go's `encoding/json` reads and writes it.

Reading takes the first value of a body and ignores what follows, lets the last of equal keys win, and turns lone
surrogates and bad UTF-8 into U+FFFD; a value that is none is refused with the words of Go's scanner. Writing escapes
the characters that HTML knows. Bodies that are plain JSON, or nearly so, are read by msgspec; only short others pay for
the scanner.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

import msgspec

_encode = msgspec.json.Encoder().encode
_sorted = msgspec.json.Encoder(order="sorted").encode

EMPTY: Final = "EOF"
"""What is said of a body without a value."""
_BLANKS: Final = b" \t\r\n"
_ESCAPES: Final = {0x22: '"', 0x5C: "\\", 0x2F: "/", 0x62: "\b", 0x66: "\f", 0x6E: "\n", 0x72: "\r", 0x74: "\t"}
_LITERALS: Final = {0x74: (b"true", True), 0x66: (b"false", False), 0x6E: (b"null", None)}
_QUOTED: Final = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_MAX_DEPTH: Final = 500  # Go stops at 10,000; no request of anybody is half as deep
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_NOT_PLAIN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SURROGATE: Final = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?|\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_ESCAPE_BYTES: Final = 6
_TRAILING: Final = re.compile(r"trailing characters \(byte (\d+)\)")
SCANNED_BYTES: Final = 1 << 16
"""A longer body that is no plain JSON is not scanned byte by byte: that would keep everybody waiting."""
_TOO_DEEP: Final = "exceeded max depth"
_LONGEST_INTEGER: Final = 300
_SINGLE: Final = struct.Struct("<f")


class BodyError(ValueError):
    """A body is not what it must be; the first argument is what Ollama says about it."""


class JsonSyntaxError(BodyError):
    """The bytes are no JSON."""


class Number(str):
    """A number as it is written, for messages that name it."""

    __slots__ = ()


def read(body: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """Returns the first value of a body.

    Raises:
        JsonSyntaxError: with `EOF` for a body without a value.
    """
    try:
        return msgspec.json.decode(body)
    except _NOT_PLAIN:
        mended = _mended(body)
    try:
        return msgspec.json.decode(mended)
    except _NOT_PLAIN as error:
        if len(body) > SCANNED_BYTES:
            is_deep = isinstance(error, RecursionError)
            raise JsonSyntaxError(_TOO_DEEP if is_deep else str(error)) from error
        return _scanned(body, keeps_numbers=False)


def _scanned(body: bytes, *, keeps_numbers: bool) -> Any:  # noqa: ANN401 - JSON of any shape
    try:
        return _Scanner(body, keeps_numbers=keeps_numbers).first()
    except RecursionError as error:
        raise JsonSyntaxError(_TOO_DEEP) from error


def _mended(body: bytes) -> bytes:
    """Returns a body without lone surrogates and without what follows its first value."""
    mended = _SURROGATE.sub(_replaced, body) if b"\\u" in body else body
    try:
        msgspec.json.decode(mended, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        found = _TRAILING.search(str(error))
        return mended[: int(found[1])] if found else mended
    except RecursionError:
        pass
    return mended


def _replaced(found: re.Match[bytes]) -> bytes:
    return found[0] if found[0] == b"\\\\" or len(found[0]) > _ESCAPE_BYTES else b"\\ufffd"


def read_as_written(body: bytes) -> Any:  # noqa: ANN401 - JSON of any shape
    """Returns the first value of a body with every number as a `Number`."""
    return _scanned(body, keeps_numbers=True)


def write(value: object) -> bytes:
    """Returns a value as Go writes it."""
    return for_html(_encode(value))


def write_sorted(value: object) -> bytes:
    """Returns a value as Go writes a map: its keys in order."""
    return for_html(_sorted(value))


def for_html(data: bytes) -> bytes:
    """Returns JSON with what HTML knows escaped; inside JSON these characters occur in strings alone."""
    if b"<" in data:
        data = data.replace(b"<", b"\\u003c")
    if b">" in data:
        data = data.replace(b">", b"\\u003e")
    if b"&" in data:
        data = data.replace(b"&", b"\\u0026")
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def single(value: float) -> float:
    """Returns a number as it is written in 32 bits: the shortest text that reads back to the same."""
    narrow = _SINGLE.pack(value)
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if _SINGLE.pack(short) == narrow:
            return short
    return value


class _Scanner:
    """A recursive scanner that says what Go's says."""

    def __init__(self, body: bytes, *, keeps_numbers: bool) -> None:
        self._body = body
        self._at = 0
        self._depth = 0
        self._keeps_numbers = keeps_numbers

    def first(self) -> Any:  # noqa: ANN401 - JSON of any shape
        self._skip()
        if self._at >= len(self._body):
            raise JsonSyntaxError(EMPTY)
        return self._value()

    def _skip(self) -> None:
        while self._at < len(self._body) and self._body[self._at] in _BLANKS:
            self._at += 1

    def _next(self) -> int:
        """Returns the next byte after blanks, without taking it."""
        self._skip()
        return self._here()

    def _here(self) -> int:
        if self._at >= len(self._body):
            raise JsonSyntaxError("unexpected EOF")
        return self._body[self._at]

    def _wrong(self, where: str) -> JsonSyntaxError:
        return JsonSyntaxError(f"invalid character {_quoted(self._body[self._at])} {where}")

    def _value(self) -> Any:  # noqa: ANN401 - JSON of any shape
        byte = self._next()
        if byte in b"{[":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise JsonSyntaxError(_TOO_DEEP)
            value = self._object() if byte == 0x7B else self._array()
            self._depth -= 1
            return value
        if byte == 0x22:
            return self._string()
        if byte in _LITERALS:
            return self._literal(*_LITERALS[byte])
        if byte in b"-0123456789":
            return self._number()
        raise self._wrong("looking for beginning of value")

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._at += 1
        if self._next() == 0x7D:
            self._at += 1
            return found
        while True:
            if self._next() != 0x22:
                raise self._wrong("looking for beginning of object key string")
            key = self._string()
            if self._next() != 0x3A:
                raise self._wrong("after object key")
            self._at += 1
            found.pop(key, None)
            found[key] = self._value()
            byte = self._next()
            if byte not in b",}":
                raise self._wrong("after object key:value pair")
            self._at += 1
            if byte == 0x7D:
                return found

    def _array(self) -> list[Any]:
        found: list[Any] = []
        self._at += 1
        if self._next() == 0x5D:
            self._at += 1
            return found
        while True:
            found.append(self._value())
            byte = self._next()
            if byte not in b",]":
                raise self._wrong("after array element")
            self._at += 1
            if byte == 0x5D:
                return found

    def _literal(self, word: bytes, value: bool | None) -> bool | None:
        for wanted in word:
            if self._here() != wanted:
                raise self._wrong(f"in literal {word.decode()} (expecting {_quoted(wanted)})")
            self._at += 1
        return value

    def _number(self) -> int | float | Number:
        found = _NUMBER.match(self._body, self._at)
        if found is None:
            self._at += 1
            self._here()
            raise self._wrong("in numeric literal")
        self._at = found.end()
        if self._at < len(self._body) and self._body[self._at] in b".eE":
            where = (
                "after decimal point in numeric literal"
                if self._body[self._at] == 0x2E
                else "in exponent of numeric literal"
            )
            self._at += 1
            self._here()
            raise self._wrong(where)
        text = found[0].decode()
        if self._keeps_numbers:
            return Number(text)
        return int(text) if text.lstrip("-").isdigit() and len(text) < _LONGEST_INTEGER else float(text)

    def _string(self) -> str:
        self._at += 1
        parts: list[str] = []
        plain = bytearray()
        while (byte := self._here()) != 0x22:
            if byte == 0x5C:
                self._at += 1
                parts.append(plain.decode("utf-8", "replace"))
                plain.clear()
                parts.append(self._escape())
                continue
            if byte < 0x20:
                raise self._wrong("in string literal")
            plain.append(byte)
            self._at += 1
        self._at += 1
        return "".join([*parts, plain.decode("utf-8", "replace")])

    def _escape(self) -> str:
        byte = self._here()
        if byte != 0x75:
            if byte not in _ESCAPES:
                raise self._wrong("in string escape code")
            self._at += 1
            return _ESCAPES[byte]
        code = self._hex()
        if 0xD800 <= code < 0xDC00 and self._body[self._at : self._at + 2] == b"\\u":
            mark = self._at
            self._at += 1
            low = self._hex()
            if 0xDC00 <= low < 0xE000:
                return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))
            self._at = mark
        return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)

    def _hex(self) -> int:
        """Reads the four digits after a `u`, which is the present byte."""
        code = 0
        for _ in range(4):
            self._at += 1
            if self._here() not in b"0123456789abcdefABCDEF":
                raise self._wrong("in \\u hexadecimal character escape")
            code = code * 16 + int(chr(self._body[self._at]), 16)
        self._at += 1
        return code


def _quoted(byte: int) -> str:
    """Returns a byte as Go quotes it in a message."""
    character = chr(byte)
    if character in "'\\":
        return f"'\\{character}'"
    if character in _QUOTED:
        return f"'{_QUOTED[character]}'"
    return f"'{character}'" if character.isprintable() else f"'\\x{byte:02x}'"
