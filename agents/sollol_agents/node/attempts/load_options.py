"""Keeps callers' bodies from making an engine load a model anew, or from being cut because it would not.

Ollama loads a model again when the effective value of a load option differs from the one in force, and an option that
is not sent stands for its automatic value: a request without `num_ctx` after one with it shrinks the model. So every
request that can carry options names those in force. What a caller asks beyond them is left out and said in the
figures, or refused, or allowed, as the operator decides.

The context alone may grow: when a caller asks for more than is loaded, and the prompt is not sure to fit, the model is
loaded once more with what is asked. While it is in memory it never shrinks, and neither does the time that callers,
or the engine's own setting, want it kept. Decision 13 tells why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from sollol_agents.node.attempts.durations import duration_s
from sollol_agents.node.attempts.load_wishes import (
    CONTEXT,
    SHIFT,
    SHORT_BYTES,
    UnreadableWish,
    Wish,
    most_tokens,
    read_often,
    wish_of,
)
from sollol_agents.node.engines.base import EngineRequest
from sollol_agents.node.engines.ollama_wire import is_load_only
from sollol_agents.node.engines.runners import InForce
from sollol_agents.requests.dialects import OLD_EMBED_PATH
from sollol_bus.errors import SollolError, error_from
from sollol_schemas.context import RequestKind
from sollol_schemas.errors import ErrorBody, ErrorCode

_KINDS: Final = frozenset({RequestKind.GENERATE, RequestKind.CHAT, RequestKind.EMBED})
_encode = msgspec.json.Encoder().encode


class RunnerOptions(StrEnum):
    """What happens to options that would make the engine load a model anew."""

    KEEP = "keep"  # those in force are kept: the caller's are left out, and the figures say so
    ERROR = "error"  # the request is refused with a message that names the option
    ALLOW = "allow"  # the engine gets the body as it came


class Settled(NamedTuple):
    """A body that causes no load by itself, and the load that must come before it."""

    body: bytes
    load: Mapping[str, Any] | None = None
    """Options to load the model with first; None: as it is loaded, it serves the request."""
    options: Mapping[str, Any] = MappingProxyType({})
    """The load options that the body names."""
    left_out: tuple[str, ...] = ()
    """Fields of the caller's that the engine does not get."""
    sent_s: float = 0.0
    """How long the engine is told to keep the model; infinite for ever, 0 when it is not told."""
    asked_s: float = 0.0
    """What of this is the caller's own wish."""
    is_order: bool = False
    """Whether it holds no prompt: Ollama's idiom to load, keep or unload a model."""
    is_unload: bool = False


def settled(
    request: EngineRequest, rule: RunnerOptions, in_force: InForce, *, prompt_tokens: int = 0, is_last: bool = False
) -> Settled:
    """What the engine gets, and what must be loaded before.

    Args:
        request: Its body is searched, and decoded only when it holds a touchy field.
        rule: What the operator decided.
        in_force: How the model is loaded.
        prompt_tokens: Estimated length of the prompt; counts for bodies that carry images.
        is_last: Nothing more will be loaded: the request makes do with what there is.

    Raises:
        SollolError: `unsupported_field` under the rule `error`.
    """
    if not is_native(request):
        return Settled(request.body, None if is_last else _load_for_plain(in_force))
    cold: dict[str, Any] | None = None if in_force.is_loaded or is_last else {}
    try:
        wish = wish_of(request.body)
    except UnreadableWish:
        return Settled(request.body, cold)
    is_order = not _has_prompt(wish) and is_load_only(request)
    if is_order and duration_s(_value(wish, "keep_alive")) == 0:
        return Settled(request.body, is_order=True, is_unload=True)
    if rule is RunnerOptions.ALLOW:
        return Settled(request.body, None if cold is None else wish.all)
    most = math.inf if is_order else most_tokens(request.body, prompt_tokens) + wish.room_tokens
    load = None if is_last else _load(wish, in_force, most)
    change = _change_of(wish, in_force, request.keep_alive_s, is_order=is_order)
    options, left_out, stay = change.options, change.left_out, change.stay
    if rule is RunnerOptions.ERROR and in_force.is_loaded and (left_out or (load is not None and wish.num_ctx)):
        raise _refused(left_out[0] if left_out else f"options.{CONTEXT}")
    left_out += ("keep_alive",) if stay.is_shortened else ()
    return Settled(
        _with(request.body, wish, change.pieces), load, options, left_out, stay.sent_s, stay.asked_s, is_order=is_order
    )


def _has_prompt(wish: Wish) -> bool:
    """Whether there is a prompt for sure; without the fields of the body nobody knows."""
    prompt, messages = bytes(wish.fields.get("prompt", b"")), bytes(wish.fields.get("messages", b""))
    return (prompt[:1] == b'"' and prompt != b'""') or messages[:2] == b"[{"


class _Stay(NamedTuple):
    """For how long the engine keeps the model."""

    sent_s: float = 0.0
    """What the engine is told; 0: nothing."""
    asked_s: float = 0.0
    """What of it is the caller's wish."""
    told: int | None = None
    """The value that stands in place of the caller's; None: the caller's stays."""
    is_shortened: bool = False
    """Whether the caller's was another."""


class _Change(NamedTuple):
    """What becomes of the fields of a body that say how its model is held."""

    options: Mapping[str, Any]
    left_out: tuple[str, ...]
    stay: _Stay
    pieces: Mapping[str, msgspec.Raw]
    """The fields that are replaced."""


def _change_of(wish: Wish, in_force: InForce, keep_alive_s: float | None, *, is_order: bool) -> _Change:
    keep_alive = bytes(wish.fields.get("keep_alive", b"")) if wish.fields else b""
    if wish.key is None or in_force.options or len(keep_alive) >= SHORT_BYTES:
        return _change(wish, in_force, keep_alive_s, is_order=is_order)
    held = in_force.is_loaded, in_force.context_tokens, in_force.automatic_tokens, in_force.trained_tokens
    return _change_often(wish.key, keep_alive, (*held, in_force.floor_s), keep_alive_s, is_order)


@lru_cache(maxsize=256)
def _change_often(
    key: tuple[bytes, bytes],
    keep_alive: bytes,
    held: tuple[bool, int, int, int, float],
    keep_alive_s: float | None,
    is_order: bool,
) -> _Change:
    """As `_change`; callers send the same few options again and again, to models that were loaded without any."""
    wish = Wish({"keep_alive": msgspec.Raw(keep_alive)} if keep_alive else {}, *read_often(*key))
    is_loaded, context, automatic, trained, floor_s = held
    in_force = InForce(is_loaded, context, {}, automatic, trained, floor_s)
    return _change(wish, in_force, keep_alive_s, is_order=is_order)


def _change(wish: Wish, in_force: InForce, keep_alive_s: float | None, *, is_order: bool) -> _Change:
    options, left_out = _options(wish, in_force)
    stay = _stay_of(keep_alive_s, wish, in_force.floor_s, is_order=is_order)
    pieces = _load_fields(wish, options) | ({} if stay.told is None else {"keep_alive": stay.told})
    raws = {name: msgspec.Raw(_encode(value)) for name, value in pieces.items()}
    return _Change(MappingProxyType(options), left_out, stay, raws)


def is_native(request: EngineRequest) -> bool:
    """Whether the body can carry options."""
    return (request.kind in _KINDS or request.path == OLD_EMBED_PATH) and request.body[:1] == b"{"


def _load_for_plain(in_force: InForce) -> dict[str, Any] | None:
    """For a request that cannot carry options: it gets the automatic ones, and loads the model anew for others."""
    if not in_force.is_loaded:
        return {}
    is_automatic = not in_force.options and in_force.context_tokens in (0, in_force.automatic_tokens)
    return None if is_automatic else {}


def _load(wish: Wish, in_force: InForce, most: float) -> dict[str, Any] | None:
    """Options to load the model with before the request; None when it is loaded well enough."""
    if not in_force.is_loaded:
        return wish.all
    has = in_force.context_tokens
    wanted = _clamped(wish.num_ctx, in_force) or in_force.automatic_tokens
    if wanted <= has or most <= has:
        return None
    return ({CONTEXT: wish.num_ctx} if wish.num_ctx else {}) | dict(in_force.options)


def _clamped(num_ctx: int, in_force: InForce) -> int:
    return min(num_ctx, in_force.trained_tokens) if in_force.trained_tokens else num_ctx


def _options(wish: Wish, in_force: InForce) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The load options of the body, and which of the caller's are not among them."""
    if not in_force.is_loaded:
        return wish.all, ()
    has = in_force.context_tokens
    options = ({CONTEXT: has} if has else {}) | dict(in_force.options)
    left_out = [CONTEXT] if wish.num_ctx and _clamped(wish.num_ctx, in_force) != has else []
    left_out += [name for name, value in wish.others.items() if in_force.options.get(name, _usual(name)) != value]
    return options, tuple(name if name == SHIFT else f"options.{name}" for name in left_out)


def _usual(name: str) -> object:
    """The value that stands for one that was not given, where there is such a value."""
    return {SHIFT: True, "num_gpu": -1}.get(name)


def _stay_of(keep_alive_s: float | None, wish: Wish, floor_s: float, *, is_order: bool) -> _Stay:
    """The longest stay that anybody wants; an order's own is the point of it, and nonsense the engine names better."""
    raw = _value(wish, "keep_alive")
    asked_s = duration_s(raw)
    if is_order or keep_alive_s is None or (raw is not None and asked_s is None):
        return _Stay(asked_s or 0.0, asked_s or 0.0)
    longest_s = max(_seconds(keep_alive_s), floor_s, asked_s or 0.0)
    if longest_s == asked_s:
        return _Stay(asked_s, asked_s)
    told = -1 if math.isinf(longest_s) else round(longest_s)
    return _Stay(longest_s, 0.0, told, is_shortened=raw is not None)


def _seconds(keep_alive_s: float) -> float:
    return math.inf if keep_alive_s < 0 else keep_alive_s


def _value(wish: Wish, name: str) -> Any:  # noqa: ANN401 whatever the caller wrote
    raw = wish.fields.get(name)
    return None if raw is None else msgspec.json.decode(raw)


def _load_fields(wish: Wish, options: dict[str, Any]) -> dict[str, Any]:
    """The top-level fields that must be replaced so that the body names these load options."""
    own = {name: value for name, value in options.items() if name != SHIFT}
    kept = {name: value for name, value in wish.given.items() if name != CONTEXT and name not in wish.others}
    pieces: dict[str, Any] = {}
    if kept | own != wish.given:
        pieces["options"] = kept | own
    shift = options.get(SHIFT)
    if shift is not None or SHIFT in wish.others:
        pieces[SHIFT] = True if shift is None else shift
    return pieces


def _with(body: bytes, wish: Wish, pieces: Mapping[str, msgspec.Raw]) -> bytes:
    """The body with some fields replaced; they are put in front of one that had none of them, without decoding it."""
    if not pieces:
        return body
    if wish.fields:
        return _encode({**wish.fields, **pieces})
    rest = body[1:].lstrip()
    return body if rest[:1] != b'"' else _encode(pieces)[:-1] + b"," + rest


def _refused(field: str) -> SollolError:
    message = f"{field} would make the engine load the model anew; this node keeps one set of options per model"
    return error_from(ErrorBody(code=ErrorCode.UNSUPPORTED_FIELD, message=message, details={"field": field}))
