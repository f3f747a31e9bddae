"""What a request wants its answer to be, read out of its body and head; the body without it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from sollol_agents.requests.body import Fields
from sollol_bus.errors import BadRequest
from sollol_bus.sdk.answer_texts import asked_form, text_of
from sollol_bus.sdk.checks import Judge, check_in, judge_of
from sollol_schemas.context import RequestKind
from sollol_schemas.continuation import RESUME
from sollol_schemas.escalation import CHECK

_FORMS: Final = ("format", "response_format", "text")
"""Fields in which some dialect says what form the engine is to give its answer."""
_OWN: Final = frozenset({CHECK, RESUME})
_encode = msgspec.json.Encoder().encode


class Checking:
    """Holds the answers to one request against what it wants.

    Args:
        kind: What it is on the bus.
        path: The engine's path, without a query; not looked at for an answer in Ollama's words.
        fields: Its body's top level.
        check: The judge of the check that it names; None: the form that it asks its engine for.
    """

    def __init__(self, kind: RequestKind, path: str, fields: Mapping[str, msgspec.Raw], check: Judge | None) -> None:
        self.is_explicit = check is not None
        self._kind = kind
        self._path = path
        self._forms = {name: fields[name] for name in _FORMS if name in fields}
        self._judge = check

    def failure_of(self, answer: bytes) -> str:
        """Why an answer fails; empty: it passes. One without a text, which calls tools, does.

        Args:
            answer: The whole of it, one JSON value or the events of a stream.
        """
        if self._judge is None:
            self._judge = asked_form(self._kind, self._path, self._forms)
        text = text_of(self._path if self._kind is RequestKind.PASSTHROUGH else "", answer)
        return "" if self._judge is None or text is None else self._judge(text)


def checking_of(kind: RequestKind, path: str, fields: Fields, header: str | None) -> Checking | None:
    """What the answer is held against; None: nothing.

    Args:
        kind: What the request is on the bus.
        path: Its path, without a query.
        fields: The top level of its body, in which a native one may name its check.
        header: The check in its head, which wins.

    Raises:
        BadRequest: The check cannot be used, or is for an answer without a text.
    """
    raw = fields.get(CHECK) if kind is not RequestKind.PASSTHROUGH else None
    named = header if header is not None else msgspec.json.decode(raw) if raw is not None else None
    if named is not None:
        if kind is RequestKind.EMBED:
            raise BadRequest("check is for answers of text, not for embeddings")
        return Checking(kind, path, fields, judge_of(check_in(named)))
    return Checking(kind, path, fields, None) if not fields.keys().isdisjoint(_FORMS) else None


def without_own(kind: RequestKind, body: bytes, fields: Fields) -> bytes:
    """The body as dispatchers and engines get it: the very same bytes unless it says what is for its caller's side."""
    if kind is RequestKind.PASSTHROUGH or fields.keys().isdisjoint(_OWN):
        return body
    return _encode({name: raw for name, raw in fields.items() if name not in _OWN})
