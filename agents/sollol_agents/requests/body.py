"""Bodies of requests: the few fields that routing needs, read without decoding the rest.

A body is taken apart into its top-level fields as raw JSON, so that a megabyte of prompt or images is scanned once
and never copied into Python objects; removing the routing fields puts the untouched pieces together again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sollol_schemas.routing import ROUTING_FIELDS

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


def read_native(body: bytes) -> tuple[Fields, bytes]:
    """The top-level fields of a body in Ollama's dialect under their names in lower case, and the body with these.

    Ollama takes names in any case and, of several, the last; whoever looks at the body after this need not know. The
    body is the very same unless a name had other letters.

    Raises:
        InvalidBody: The body is empty, not JSON, or not an object.
    """
    fields = read_fields(body)
    lowered = {name.lower(): raw for name, raw in fields.items()}
    return (fields, body) if lowered.keys() == fields.keys() else (lowered, _encoder.encode(lowered))


def field(fields: Fields, name: str, kind: type[Any]) -> Any:  # noqa: ANN401 the type asked for
    """The field as `kind`, or None when it is absent or null.

    Raises:
        InvalidBody: The field has another type.
    """
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidBody(f"field '{name}': {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(f"field '{name}' is not JSON: {error}") from error


def routing_fields(fields: Fields) -> dict[str, object]:
    """The routing fields that stand in the body, decoded."""
    return {name: field(fields, name, object) for name in fields.keys() & ROUTING_FIELDS}


def without_routing(body: bytes, fields: Fields) -> bytes:
    """The body for the engine: the very same bytes unless a routing field is present."""
    if not fields.keys() & ROUTING_FIELDS:
        return body
    return _encoder.encode({name: raw for name, raw in fields.items() if name not in ROUTING_FIELDS})
