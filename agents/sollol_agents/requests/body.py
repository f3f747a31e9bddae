"""Bodies of requests: the few fields that routing needs, read without decoding the rest.

A body is taken apart into its top-level fields as raw JSON, so that a megabyte of prompt or images is scanned once
and never copied into Python objects; removing the routing fields puts the untouched pieces together again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from sollol_agents.requests.ollama import gojson
from sollol_agents.requests.ollama.bodies import OF_PATH, read_body
from sollol_agents.requests.ollama.gojson import BodyError
from sollol_schemas.plain_words import in_plain_words
from sollol_schemas.routing import ROUTING_FIELDS

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


class InvalidBody(ValueError):
    """The body cannot be used; the message names the field."""


def read_fields(body: bytes) -> Fields:
    """The top-level fields of a JSON object, each as raw JSON.

    Raises:
        InvalidBody: The body is empty, not JSON, or not an object.
    """
    if not body:
        raise InvalidBody("missing request body")
    try:
        fields = _fields_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidBody(f"the body must be a JSON object: {error}") from error
    except RecursionError as error:
        raise InvalidBody("the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidBody(f"the body is not JSON: {error}") from error
    return fields


class _Model(msgspec.Struct):
    model: str = ""


_model_decoder = msgspec.json.Decoder(_Model)


def model_in(body: bytes) -> str:
    """The model that a body names at its top level; empty when it names none, or cannot be read."""
    try:
        return _model_decoder.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def with_model(body: bytes, model: str) -> bytes:
    """The body with another model's name at its top level, and every other field as it is."""
    try:
        fields = _fields_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # whoever reads it says what is wrong with it
    return _encoder.encode(fields | {"model": msgspec.Raw(_encoder.encode(model))})


def read_native(body: bytes) -> tuple[Fields, bytes]:
    """The top-level fields of a body in Ollama's dialect under their names in lower case, and the body with these.

    Ollama takes names in any case and, of several, the last; whoever looks at the body after this need not know. The
    body is the very same unless a name had other letters.

    Raises:
        InvalidBody: The body is empty, not JSON, or not an object.
    """
    fields = read_fields(body)
    names = "".join(fields)
    if names == names.lower():
        return fields, body
    lowered = {name.lower(): raw for name, raw in fields.items()}
    return lowered, _encoder.encode(lowered)


def read_known(path: str, body: bytes, use: Callable[[Fields], T]) -> tuple[T, bytes]:
    """What is made of a body as Ollama reads it, and the body as any engine can read it.

    A body that is plain JSON is the very same. Of any other the first value counts; what Ollama mends is mended.

    Args:
        path: One of Ollama's, without a query; any other's body is taken as it is.
        body: The body as it came.
        use: Makes something of the fields, under their names in lower case.

    Raises:
        InvalidBody: It is no JSON, or a field has another type, in Ollama's words; or `use` refuses it.
    """
    if path not in OF_PATH:
        return use(read_fields(body)), body
    try:
        fields, taken = read_native(body)
        return use(fields), taken
    except InvalidBody:
        value = read_object(path, body)
    fields, taken = read_native(json.dumps(value).encode())
    return use(fields), taken


def read_object(path: str, body: bytes) -> dict[str, Any]:
    """A body of one of Ollama's paths, whatever it looks like.

    Raises:
        InvalidBody: Ollama does not take it.
    """
    try:
        read_body(body, OF_PATH[path], is_openai=path.startswith("/v1/"))
        return gojson.read(body) or {}
    except BodyError as error:
        raise InvalidBody(str(error)) from error


@lru_cache(maxsize=64)
def _decoder_of(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 any type form
    return msgspec.json.Decoder(kind)


def field(fields: Fields, name: str, kind: type[Any]) -> Any:  # noqa: ANN401 the type asked for
    """The field as `kind`, or None when it is absent or null.

    Raises:
        InvalidBody: The field has another type.
    """
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        return _decoder_of(kind).decode(raw)  # type: ignore[arg-type]  # types are hashable; the stub forgets it
    except msgspec.ValidationError as error:
        raise InvalidBody(f"field '{name}': {in_plain_words(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(f"field '{name}' is not JSON: {error}") from error


def routing_fields(fields: Fields) -> dict[str, object]:
    """The routing fields that stand in the body, decoded."""
    if fields.keys().isdisjoint(ROUTING_FIELDS):
        return {}
    return {name: field(fields, name, object) for name in fields.keys() & ROUTING_FIELDS}


def without(body: bytes, fields: Fields, names: frozenset[str]) -> bytes:
    """The body without some of its fields: the very same bytes unless one is present."""
    if fields.keys().isdisjoint(names):
        return body
    return _encoder.encode({name: raw for name, raw in fields.items() if name not in names})
