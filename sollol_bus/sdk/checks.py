"""What an answer must be: a JSON schema or a regular expression, and the text of an answer to hold against it. Pure.

A check is somebody else's input and the answer is a model's, so neither may keep a process busy: expressions, those in
schemas too, are matched by automata in linear time; a schema whose references multiply, recur, or lead elsewhere is
refused; texts above a megabyte fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from sollol_bus.errors import BadRequest
from sollol_schemas.escalation import CHECK_MAX_BYTES, Check
from sollol_schemas.plain_words import in_plain_words

_TEXT_MAX: Final = 1 << 20
_UNFOLDED_MAX: Final = 10_000
_DEPTH_MAX: Final = 64
_AUTOMATON_MAX_BYTES: Final = 1 << 20
_PLACE_MAX: Final = 80
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_EXPRESSION: Final = "it must be a regular expression without look-around and back references, and not grow too large"


class Judge(Protocol):
    """Says what is wrong with the text of an answer."""

    def __call__(self, text: str) -> str:
        """Why the text fails; empty: it passes. Nothing of the text is quoted."""


def check_in(value: object) -> Check:
    """The check in a field or a header; a text is read as JSON.

    Raises:
        BadRequest: It is none; the message says what is wrong.
    """
    try:
        if isinstance(value, str):
            value = msgspec.json.decode(value)
        if len(msgspec.json.encode(value)) > CHECK_MAX_BYTES:
            raise BadRequest(f"check is larger than {CHECK_MAX_BYTES} bytes")
        check = msgspec.convert(value, Check)
    except msgspec.ValidationError as error:
        raise BadRequest(f"check: {in_plain_words(str(error))}; it has json_schema or regex") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError) as error:
        raise BadRequest(f"check is not JSON: {str(error)[:_PLACE_MAX]}") from error
    if (check.json_schema is None) is (check.regex is None):
        raise BadRequest("check needs either json_schema or regex")
    return check


def judge_of(check: Check) -> Judge:
    """Holds texts against a check.

    Raises:
        BadRequest: The schema or the expression cannot be used.
    """
    if check.regex is not None:
        return _expression(check.regex)
    assert check.json_schema is not None
    return schema_judge(check.json_schema)


def json_judge(text: str) -> str:
    """Passes every text that is JSON."""
    if len(text) > _TEXT_MAX:
        return f"it is longer than {_TEXT_MAX} characters"
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "it is not JSON"
    return ""


def schema_judge(schema: Mapping[str, Any]) -> Judge:
    """Holds texts against a JSON schema.

    Raises:
        BadRequest: The schema cannot be used.
    """
    import jsonschema_rs  # noqa: PLC0415 megabytes, for requests that bring a check

    _refuse_growth(schema)
    options = jsonschema_rs.RegexOptions(size_limit=_AUTOMATON_MAX_BYTES, dfa_size_limit=_AUTOMATON_MAX_BYTES)
    try:
        validator = jsonschema_rs.validator_for(dict(schema), pattern_options=options, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise BadRequest(f"the JSON schema of the check cannot be used: {_place_of(error)}") from error

    def judge(text: str) -> str:
        if why := json_judge(text):
            return why
        error = next(iter(validator.iter_errors(msgspec.json.decode(text))), None)
        return "" if error is None else f"it breaks the schema: {_place_of(error)}"

    return judge


def _expression(pattern: str) -> Judge:
    import jsonschema_rs  # noqa: PLC0415 megabytes, for requests that bring a check

    options = jsonschema_rs.RegexOptions(size_limit=_AUTOMATON_MAX_BYTES, dfa_size_limit=_AUTOMATON_MAX_BYTES)
    schema = {"type": "string", "pattern": pattern}
    try:
        validator = jsonschema_rs.validator_for(schema, pattern_options=options, offline=True)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        raise BadRequest(f"regex of the check cannot be used: {_EXPRESSION}") from error

    def judge(text: str) -> str:
        if len(text) > _TEXT_MAX:
            return f"it is longer than {_TEXT_MAX} characters"
        return "" if validator.is_valid(text) else "nothing in it matches the expression"

    return judge


def _place_of(error: Exception) -> str:
    """Which rule is broken where, without a word of the text."""
    rule = str(next(reversed(getattr(error, "schema_path", ())), "")) or type(error).__name__
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in getattr(error, "instance_path", ())
    )
    return f"{rule} at ${place[:_PLACE_MAX]}"


def _refuse_growth(schema: Mapping[str, Any]) -> None:
    """Passes schemas that stay small with every reference in its place.

    Raises:
        BadRequest: This one does not.
    """
    left = _UNFOLDED_MAX

    def look(value: object, behind: tuple[str, ...], depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEPTH_MAX:
            raise BadRequest("the JSON schema of the check is nested too deeply, or its references multiply")
        if isinstance(value, list):
            for one in value:
                look(one, behind, depth + 1)
        if not isinstance(value, dict):
            return
        for name, one in value.items():
            if name in _REFERENCES and isinstance(one, str):
                if one in behind:
                    raise BadRequest(f"the JSON schema of the check refers to itself at {one[:_PLACE_MAX]}")
                look(_referred(schema, one), (*behind, one), depth + 1)
            elif name not in ("$defs", "definitions"):
                look(one, behind, depth + 1)

    look(schema, ("#",), 0)


def _referred(schema: Mapping[str, Any], reference: str) -> object:
    found: object = schema
    if not reference.startswith("#/"):
        raise BadRequest(
            f"the JSON schema of the check may refer to its own parts alone, not to {reference[:_PLACE_MAX]}"
        )
    for part in reference[2:].split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            raise BadRequest(f"the JSON schema of the check has nothing at {reference[:_PLACE_MAX]}")
        found = found[name]
    return found
