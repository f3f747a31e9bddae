"""Keeps callers' bodies from making an engine load a model anew.

Ollama loads a model again when one of seven runner options changes, and forgets it when a `keep_alive` says so:
seconds to minutes in which every other caller of the model waits. So a node runs each model with one canonical
set of options, the engine's own, and with the `keep_alive` that the scorer chose. What a caller asks beyond
that is left out and said in the figures, or refused, or allowed, as the operator decides.

A `num_ctx` stays when the prompt would not fit without it: leaving it out would cut the prompt in silence, and
a load is the lesser evil.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.node.engines.ollama_wire import RUNNER_OPTIONS
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

_KINDS: Final = frozenset({RequestKind.GENERATE, RequestKind.CHAT, RequestKind.EMBED})
_TOUCHY: Final = re.compile(rb'"(?:keep_alive|' + b"|".join(name.encode() for name in RUNNER_OPTIONS) + rb')"\s*:')
_DURATION: Final = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NOTHING: Final = (b"", b'""', b"[]", b"null")
_ANSWER_TOKENS: Final = 512  # room for an answer whose length nobody limited


class RunnerOptions(StrEnum):
    """What happens to options that would make the engine load a model anew."""

    KEEP = "keep"  # the canonical options are kept: the caller's are left out, and the figures say so
    ERROR = "error"  # the request is refused with a message that names the option
    ALLOW = "allow"  # the engine gets the body as it came


class Spared(NamedTuple):
    """A body that causes no needless load."""

    body: bytes
    left_out: tuple[str, ...] = ()
    """Fields of the caller's that the engine does not get."""


def without_load_options(
    kind: RequestKind,
    body: bytes,
    rule: RunnerOptions,
    *,
    keep_alive_s: float | None,
    context_tokens: int,
    prompt_tokens: int,
) -> Spared:
    """The body for the engine.

    Args:
        kind: What is asked.
        body: The caller's body; it is searched, and decoded only when it holds a touchy field.
        rule: What the operator decided.
        keep_alive_s: How long the scorer wants the model kept; negative: for ever; None leaves it alone.
        context_tokens: Context the model is loaded with; 0 when it is not known.
        prompt_tokens: Estimated length of the prompt.

    Raises:
        SollolError: `unsupported_field` under the rule `error`.
    """
    if rule is RunnerOptions.ALLOW or kind not in _KINDS or body[:1] != b"{":
        return Spared(body)
    if _TOUCHY.search(body) is None:
        return Spared(_with_keep_alive(body, keep_alive_s))
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Spared(body)  # the engine says what is wrong with it
    if _is_load_or_unload(fields):
        return Spared(body)
    left_out = _strip_options(fields, rule, context_tokens, prompt_tokens)
    left_out += _settle_keep_alive(fields, keep_alive_s)
    return Spared(msgspec.json.encode(fields), tuple(left_out))


def _with_keep_alive(body: bytes, keep_alive_s: float | None) -> bytes:
    """The body with one more field in front, without decoding it."""
    rest = body[1:].lstrip()
    if keep_alive_s is None or rest[:1] != b'"':
        return body
    return b'{"keep_alive":%s,' % _seconds(keep_alive_s) + rest


def _seconds(value: float) -> bytes:
    return b"-1" if value < 0 else b"%d" % round(value)


def _is_load_or_unload(fields: dict[str, msgspec.Raw]) -> bool:
    """Whether this is the engine's idiom to load or unload a model: then its `keep_alive` is the point of it."""
    return all(bytes(fields.get(name, b"")) in _NOTHING for name in ("prompt", "messages", "input"))


def _strip_options(
    fields: dict[str, msgspec.Raw], rule: RunnerOptions, context_tokens: int, prompt_tokens: int
) -> list[str]:
    """Leaves out the runner options, and returns their names."""
    options = _value(fields, "options")
    if not isinstance(options, dict):
        return []
    touchy = [name for name in RUNNER_OPTIONS if options.get(name) is not None]
    if "num_ctx" in touchy and _needs_context(options, context_tokens, prompt_tokens):
        touchy.remove("num_ctx")
    if touchy and rule is RunnerOptions.ERROR:
        raise _refused(touchy[0])
    for name in touchy:
        del options[name]
    fields["options"] = msgspec.Raw(msgspec.json.encode(options))
    return [f"options.{name}" for name in touchy]


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:  # noqa: ANN401 whatever the caller wrote
    raw = fields.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def _needs_context(options: dict[str, Any], context_tokens: int, prompt_tokens: int) -> bool:
    """Whether the request fits the wanted context and not the one that the model is loaded with."""
    wanted, limit = options["num_ctx"], options.get("num_predict")
    answer = limit if isinstance(limit, int) and limit > 0 else _ANSWER_TOKENS
    return isinstance(wanted, int) and 0 < context_tokens < min(wanted, prompt_tokens + answer)


def _settle_keep_alive(fields: dict[str, msgspec.Raw], keep_alive_s: float | None) -> list[str]:
    """The longer of what the caller and the scorer want; returns the field's name when the caller's was changed."""
    asked = _value(fields, "keep_alive")
    asked_s = duration_s(asked)
    if keep_alive_s is None or (asked is not None and asked_s is None):
        return []  # nothing to say, or nonsense that the engine names better
    if asked_s is not None and (asked_s < 0 or 0 <= keep_alive_s <= asked_s):
        return []
    fields["keep_alive"] = msgspec.Raw(_seconds(keep_alive_s))
    return [] if asked is None else ["keep_alive"]


def duration_s(value: object) -> float | None:
    """Seconds of a `keep_alive`: a number, or a text such as "1h30m"; negative is for ever, None is unreadable."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.removeprefix("-")
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        return None
    try:
        total = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    except ValueError:
        return None
    return -total if value.startswith("-") else total


def _refused(name: str) -> SollolError:
    message = f"options.{name} would make the engine load the model anew; this node keeps one set of options per model"
    details = {"field": f"options.{name}"}
    return error_from(ErrorBody(code=ErrorCode.UNSUPPORTED_FIELD, message=message, details=details))
