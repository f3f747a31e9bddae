"""Values checked against the types of Go, and the words in which Go refuses one.

A shape reads a decoded value and returns it as Ollama takes it: objects by the names of their
fields whatever the case of the keys, unknown fields left out, null as though it had not been sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sollol_agents.requests.ollama.gojson import Number

Json = Any

_INTEGER_DIGITS: Final = frozenset("-0123456789")


class Shape(Protocol):
    """What a value must be like."""

    def read(self, value: Json) -> Json:
        """Returns the value as Ollama takes it; None for null.

        Raises:
            MismatchError: it is of another type.
        """


class MismatchError(Exception):
    """A value has another type than the field it is for."""

    def __init__(self, found: str, go_type: str) -> None:
        super().__init__(found, go_type)
        self._found = found
        self._go_type = go_type
        self._owner = ""
        self._path: list[str] = []

    def within(self, field: str, owner: str) -> None:
        """Notes that the value lies in this field; the innermost owner is told, but no further in than a named type.

        A type that reads itself has no name to tell, and hides those inside it.
        """
        self._path.insert(0, field)
        self._owner = (self._owner or owner) if owner else ""

    def __str__(self) -> str:
        where = f"struct field {self._owner}.{'.'.join(self._path)} of type" if self._path else "value of type"
        return f"json: cannot unmarshal {self._found} into Go {where} {self._go_type}"


def kind_of(value: Json, *, names_number: bool = False) -> str:
    """Returns what Go calls a value; a number is told as it is written where that is what is wrong with it."""
    if isinstance(value, Number):
        return f"number {value}" if names_number else "number"
    names = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    return names[type(value)]


class Text:
    """A string."""

    def __init__(self, go_type: str = "string") -> None:
        self._go_type = go_type

    def read(self, value: Json) -> str | None:
        """Returns the text."""
        if value is None or type(value) is str:
            return value
        raise MismatchError(kind_of(value), self._go_type)


class Bool:
    """A truth value."""

    def read(self, value: Json) -> bool | None:
        """Returns it."""
        if value is None or value is True or value is False:
            return value
        raise MismatchError(kind_of(value), "bool")


class Int:
    """A whole number; 3.0 is none."""

    def read(self, value: Json) -> int | None:
        """Returns it."""
        if value is None or type(value) is int:
            return value
        if isinstance(value, Number) and set(value) <= _INTEGER_DIGITS:
            return int(value)
        raise MismatchError(kind_of(value, names_number=True), "int")


class Float:
    """A number."""

    def __init__(self, go_type: str = "float64") -> None:
        self._go_type = go_type

    def read(self, value: Json) -> float | None:
        """Returns it."""
        if value is None:
            return None
        if isinstance(value, Number | int | float) and not isinstance(value, bool):
            return float(value)
        raise MismatchError(kind_of(value), self._go_type)


class Anything:
    """Any value that Go can hold."""

    def read(self, value: Json) -> Json:
        """Returns it."""
        if isinstance(value, float) and math.isinf(value):
            raise MismatchError("number", "float64")
        if isinstance(value, Number) and math.isinf(float(value)):
            raise MismatchError(kind_of(value, names_number=True), "float64")
        return value


class Map:
    """An object with any keys."""

    go_type: Final = "map[string]interface {}"

    def read(self, value: Json) -> dict[str, Json] | None:
        """Returns the object."""
        if value is None:
            return None
        if type(value) is not dict:
            raise MismatchError(kind_of(value), self.go_type)
        return {key: ANY.read(one) for key, one in value.items()}


class List:
    """A list of values of one shape; a null among them is their empty value."""

    def __init__(self, go_type: str, of: Shape, empty: Callable[[], Json] = str) -> None:
        self._go_type = go_type
        self._of = of
        self._empty = empty

    def read(self, value: Json) -> list[Json] | None:
        """Returns the list."""
        if value is None:
            return None
        if type(value) is not list:
            raise MismatchError(kind_of(value), self._go_type)
        return [self._empty() if one is None else self._of.read(one) for one in value]


class Struct:
    """An object with named fields.

    Args:
        go_type: name of the type, such as `api.ChatRequest`.
        fields: shape of each field.
        is_told: False for a type that reads itself; its errors name the type around it.
    """

    def __init__(self, go_type: str, fields: Mapping[str, Shape], *, is_told: bool = True) -> None:
        self._go_type = go_type
        self._fields = dict(fields)
        self._owner = go_type.rpartition(".")[2] if is_told else ""

    def read(self, value: Json) -> dict[str, Json] | None:
        """Returns the fields that were given and are not null."""
        if value is None:
            return None
        if type(value) is not dict:
            raise MismatchError(kind_of(value), self._go_type)
        found: dict[str, Json] = {}
        fields = self._fields
        for key, item in value.items():
            name = key if key in fields else key.lower()
            shape = fields.get(name)
            if shape is None or item is None:
                continue
            try:
                found[name] = shape.read(item)
            except MismatchError as error:
                error.within(name, self._owner)
                raise
        return found


class Custom:
    """A value that a function reads; it raises what is to be said."""

    def __init__(self, function: Callable[[Json], Json]) -> None:
        self._function = function

    def read(self, value: Json) -> Json:
        """Returns what the function makes of the value."""
        return None if value is None else self._function(value)


STRING: Final = Text()
BOOL: Final = Bool()
INT: Final = Int()
FLOAT64: Final = Float()
FLOAT32: Final = Float("float32")
ANY: Final = Anything()
MAP: Final = Map()
STRINGS: Final = List("[]string", STRING)
