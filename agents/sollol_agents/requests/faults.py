"""Whose fault it is when an engine refuses: one table from what engines answer to owner and code. Pure.

Engines answer many a wrong request with 500, and many a failure of their own with a text that might be the request's
doing. So a status proves little: what is known by its words is told apart here, and the rest stays `unclear` until a
second node, or a question of the node's own to its engine, tells. The first row that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sollol_schemas.errors import ErrorBody, ErrorCode, Lack, Owner

_TEXT_MAX: Final = 2_000
_LIKENESS_MAX: Final = 200
_DEPTH_MAX: Final = 3  # an engine's own JSON may stand as a text in the JSON of the one before it


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What a refusal of an engine means."""

    owner: Owner
    code: ErrorCode
    lack: Lack | None = None


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One row: which answers it is about, and what they mean."""

    what: str
    """In words, for people."""
    statuses: tuple[int, int] = (500, 599)
    """The first and the last status."""
    words: str = ""
    """A regular expression that the text contains, in lower case; empty: any text."""
    fault: Fault

    def fits(self, status: int, text: str) -> bool:
        """Whether an answer is of this row."""
        first, last = self.statuses
        return first <= status <= last and (not self.words or re.search(self.words, text) is not None)


def _refused(lack: Lack | None = None) -> Fault:
    return Fault(owner=Owner.REQUEST, code=ErrorCode.ENGINE_REJECTED, lack=lack)


_ANY_ERROR: Final = (400, 599)

RULES: Final = (
    Rule(
        what="a redirection: the path was not written as the engine has it",
        statuses=(300, 399),
        fault=Fault(owner=Owner.PATH, code=ErrorCode.ENGINE_PROTOCOL, lack=Lack.PATH),
    ),
    Rule(
        what="the request came round: what stands in place of an engine leads back to a gateway where it was",
        statuses=(508, 508),
        fault=Fault(owner=Owner.NODE, code=ErrorCode.ENGINE_FAILED),
    ),
    Rule(
        what="the credentials or the Host header of the node are refused",
        statuses=(401, 401),
        fault=Fault(owner=Owner.NODE, code=ErrorCode.ENGINE_FAILED),
    ),
    Rule(
        what="refused without a word, as for a Host header",
        statuses=(403, 403),
        words=r"^$",
        fault=Fault(owner=Owner.NODE, code=ErrorCode.ENGINE_FAILED),
    ),
    Rule(
        what="a proxy before the engine wants credentials, or waited too long for the request",
        statuses=(407, 408),
        fault=Fault(owner=Owner.UNCLEAR, code=ErrorCode.ENGINE_FAILED),
    ),
    Rule(
        what="the model is not there",
        statuses=(404, 404),
        words=r"model",
        fault=Fault(owner=Owner.REQUEST, code=ErrorCode.UNKNOWN_MODEL, lack=Lack.MODEL),
    ),
    Rule(what="the engine has no such path", statuses=(404, 405), fault=_refused(Lack.PATH)),
    Rule(
        what="too many requests at a time",
        statuses=(429, 429),
        fault=Fault(owner=Owner.PATH, code=ErrorCode.BUSY),
    ),
    Rule(
        what="busy, or still loading",
        statuses=(503, 503),
        words=r"busy|loading|slot|overloaded|unavailable_error|capacity",
        fault=Fault(owner=Owner.PATH, code=ErrorCode.BUSY),
    ),
    Rule(
        what="the prompt or the input is longer than the context or the batch there",
        statuses=_ANY_ERROR,
        words=r"context (size|length|window)|maximum (model|context|sequence) length|too large to process"
        r"|exceed_context_size",
        fault=_refused(Lack.CONTEXT),
    ),
    Rule(
        what="the model or the engine there cannot do this: images, audio, tools, thinking, embeddings",
        statuses=_ANY_ERROR,
        words=r"do(es)? not support|is not supported|not support(ing)? |multimodal"
        r"|requires? --|not_supported_error|no such capability",
        fault=_refused(Lack.CAPABILITY),
    ),
    Rule(what="the engine cannot do this", statuses=(501, 501), fault=_refused(Lack.CAPABILITY)),
    Rule(
        what="any other 4xx",
        statuses=(400, 499),
        fault=_refused(),
    ),
    Rule(
        what="an option, a field or an input of the wrong type, or out of its range",
        words=r"must be (of |a |an |one of |set|between|greater|less|at (least|most)|positive|non)"
        r"|elements must be|must not be|expected .{0,40}(array|object|string|number|integer|boolean)"
        r"|is required|unsupported value|cannot unmarshal|invalid (type|value|option)",
        fault=_refused(),
    ),
    Rule(
        what="a format, a schema or a grammar that is none",
        words=r"invalid format|json schema|cannot use both|failed to parse grammar|invalid grammar",
        fault=_refused(),
    ),
    Rule(
        what="tools, messages or arguments that cannot be read",
        words=r"failed to parse (tools|messages|tool call|input|request)|unsupported tool|invalid (tool|message|role)"
        r"|missing '?(role|content|messages)|unable to generate parser",
        fault=_refused(),
    ),
    Rule(
        what="a body that is no JSON, or not UTF-8",
        words=r"json\.exception\.|parse error at line|syntax error while parsing|ill-formed utf-8|invalid utf-?8"
        r"|unexpected end of json|invalid character",
        fault=_refused(),
    ),
    Rule(
        what="a template of the request that is none",
        words=r"^(template: |failed to (apply|parse|render) (chat )?template)|chat template request",
        fault=_refused(),
    ),
    Rule(
        what="a load option with which no engine can run",
        words=r"ggml_assert\(n_tokens_all <= cparams\.n_batch\)",
        fault=_refused(),
    ),
    Rule(
        what="the model as it was asked for needs more memory than there is",
        words=r"more system memory|out of memory|failed to allocate|cudamalloc failed|insufficient memory",
        fault=Fault(owner=Owner.UNCLEAR, code=ErrorCode.LOAD_FAILED, lack=Lack.MEMORY),
    ),
    Rule(
        what="the process that runs the model ended while it was loading, or the model cannot be loaded",
        words=r"failed to load|unable to load|error loading model|process has terminated|timed out waiting for",
        fault=Fault(owner=Owner.UNCLEAR, code=ErrorCode.LOAD_FAILED),
    ),
    Rule(
        what="no word of whose fault it is, from the engine or from a proxy before it",
        statuses=(503, 503),
        fault=Fault(owner=Owner.ENGINE, code=ErrorCode.ENGINE_UNAVAILABLE),
    ),
    Rule(
        what="any other 5xx, and any other error in the middle of an answer",
        fault=Fault(owner=Owner.UNCLEAR, code=ErrorCode.ENGINE_FAILED),
    ),
)
"""The table; `docs/faults.md` shows it."""

_GONE: Final = re.compile(
    r"process has terminated: (signal|exit)|no longer running|unexpected eof|connection (reset|refused)|server closed"
)


def fault_of(status: int, text: str) -> Fault:
    """What a refusal means.

    Args:
        status: The engine's status; 500 for an error in the middle of an answer.
        text: What the engine said, as `said` gives it.
    """
    lowered = text.lower()
    return next(rule.fault for rule in RULES if rule.fits(status, lowered))


def is_gone(text: str) -> bool:
    """Whether an engine says that what ran the model is gone: the next request starts it anew."""
    return _GONE.search(text.lower()) is not None


def said(body: bytes) -> str:
    """What an engine's error body says, as text: the innermost one, where JSON stands in JSON; empty for none."""
    text = body[:_TEXT_MAX].decode("utf-8", "replace").strip()
    for _ in range(_DEPTH_MAX):
        try:
            parsed = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            break
        text = _text_in(parsed)
        body = text.encode()
    if text.startswith("<") or not text.replace("\n", " ").replace("\t", " ").isprintable():
        return ""
    return text[:_TEXT_MAX]


def _text_in(parsed: Any) -> str:  # noqa: ANN401 whatever an engine put there
    """The message in a decoded error, wherever the known engines put it."""
    if isinstance(parsed, str):
        return parsed
    if not isinstance(parsed, Mapping):
        return ""
    for name in ("error", "message", "detail"):
        found = parsed.get(name)
        if isinstance(found, Mapping):
            return _text_in(found) or str(found)
        if found:
            return found if isinstance(found, str) else str(found)
    return ""


def is_alike(one: ErrorBody, other: ErrorBody) -> bool:
    """Whether two nodes refused in the same way: numbers, names and quoted words may differ."""
    return _likeness(one) == _likeness(other)


def _likeness(error: ErrorBody) -> tuple[ErrorCode, int, str]:
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", error.message.lower())
    return error.code, error.engine_status, " ".join(plain.split())[:_LIKENESS_MAX]
