"""A form with a file in it, read piece by piece as it is uploaded."""

from __future__ import annotations

from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sollol_bus.errors import BadRequest

_FIELDS_MAX: Final = 32
_FIELD_BYTES_MAX: Final = 4096
_FILE: Final = "file"


class Form:
    """A multipart form with one file named `file`; the other fields are small texts.

    Args:
        content_type: The request's Content-Type.

    Raises:
        BadRequest: It is no such form.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise BadRequest("the body must be multipart/form-data, with a boundary")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """None while no file has come."""
        self._pieces: list[bytes] = []
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._header = bytearray()
        self._header_value = bytearray()
        self._is_over = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the file in these bytes of the form.

        Raises:
            BadRequest: They are no part of a form.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise BadRequest(f"the form cannot be read: {error}") from error
        pieces, self._pieces = self._pieces, []
        return pieces

    def check_end(self) -> None:
        """Passes a form that is whole.

        Raises:
            BadRequest: It is cut short, or has no file.
        """
        if not self._is_over:
            raise BadRequest("the form is cut short")
        if self.filename is None:
            raise BadRequest("the form has no file")

    def _begin(self) -> None:
        self._name, self._is_file = "", False
        self._value.clear()
        self._header.clear()
        self._header_value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            self._is_file = self._name == _FILE
            if self._is_file and self.filename is not None:
                raise BadRequest("the form has several files")
            if self._is_file:
                self.filename = options.get(b"filename", b"").decode("utf-8", "replace")[:255]
        self._header.clear()
        self._header_value.clear()

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._pieces.append(data[start:end])
        elif len(self._value) + end - start <= _FIELD_BYTES_MAX:
            self._value += data[start:end]
        else:
            raise BadRequest(f"the field {self._name[:80]!r} is too long")

    def _on_part_end(self) -> None:
        if self._is_file:
            return
        if len(self.fields) >= _FIELDS_MAX:
            raise BadRequest("the form has too many fields")
        self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._is_over = True
