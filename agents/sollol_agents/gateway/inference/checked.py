"""Answers of a group that are checked: held back until one passes, or no model is left.

Nothing of an answer may be seen that is asked for anew afterwards. A stream is therefore given at once when it has
passed, and piece by piece only when it is the last model's, of which nothing can come but this answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import NamedTuple

from sollol_agents.gateway.inference.request import HttpRequest
from sollol_agents.requests.checking import Checking
from sollol_bus.errors import BackendBrokeProtocol
from sollol_bus.sdk.answers import joined
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.checked import left_s, tell_verdict
from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.results import decision_of, figures_of
from sollol_bus.transport.messages import Msg
from sollol_bus.transport.streaming import grown
from sollol_schemas import headers as h
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.routing import routing_header

_AVOID = routing_header("avoid_models")


class Escalated(Exception):
    """The answer failed, and another model is to be asked."""


class _Kept(NamedTuple):
    call: Call
    messages: list[Msg]


class CheckedAnswers:
    """The answers to one request.

    Args:
        request: The request.
        checking: What its answers are held against.
    """

    def __init__(self, request: HttpRequest, checking: Checking) -> None:
        self._request = request
        self._checking = checking
        self._kept: _Kept | None = None
        self.escalation = Escalation(is_explicit=checking.is_explicit, avoided=request.avoid_models)

    def headers(self) -> dict[str, str]:
        """The request's headers for its next model."""
        avoided = ",".join(self.escalation.avoid_models)
        kept = {name: text for name, text in self._request.headers.items() if name.lower() != _AVOID.lower()}
        return kept | ({_AVOID: avoided} if avoided else {})

    async def messages(self, call: Call) -> AsyncIterator[Msg]:
        """What may be given of an answer, as it may be given.

        Raises:
            Escalated: It failed, and another model is to be asked.
            SollolError: What ended the request.
        """
        coming = aiter(call)
        first = await anext(coming, None)
        if first is None:
            return
        decision, rules = decision_of(call.first), self.escalation
        is_free = not rules.is_for(decision) or (self._request.wants_stream and not rules.may_hold(decision))
        if is_free or decision is None:
            yield first
            async for msg in coming:
                yield msg
            return
        held: list[Msg] = []
        size = 0
        for msg in (first, *call.take_ready()):
            held.append(msg)
            size = grown(size, msg.data)
        async for msg in coming:
            for one in (msg, *call.take_ready()):
                held.append(one)
                size = grown(size, one.data)
        for msg in self._judged(call, decision, held):
            yield msg

    def _judged(self, call: Call, decision: Decision, held: list[Msg]) -> list[Msg]:
        """A whole answer, as it is given.

        Raises:
            Escalated: It is not.
        """
        why = self._failure_of([msg.data for msg in held])
        caller = self._request.headers.get(h.CALLER)
        tell_verdict(call.bus, decision, why, {h.CALLER: caller} if caller else None)
        if why and self.escalation.has_next(decision) and left_s(call) > 0:
            self._kept = _Kept(call, held)
            self.escalation.note(decision, figures_of(call.last), why)
            raise Escalated
        if why:
            self.escalation.settle(why)
        return self._given(held)

    def _failure_of(self, pieces: list[bytes]) -> str:
        if not self._request.is_native:
            return self._checking.failure_of(b"".join(pieces))
        try:
            return self._checking.failure_of(joined(self._request.kind, pieces))
        except BackendBrokeProtocol:
            return ""  # whoever gives the answer finds out too, and says so

    def _given(self, held: list[Msg]) -> list[Msg]:
        """Messages of a stream that has come as a whole; events are one piece, of whose end the last message tells."""
        if self._request.is_native:
            return held
        return [dataclasses.replace(held[0], data=b"".join(msg.data for msg in held))]

    def last_kept(self, code: ErrorCode) -> Call | None:
        """The call whose answer is given after all, since the next model brought none; None: there is no such."""
        if self._kept is None or code is ErrorCode.CANCELLED:
            return None
        self.escalation.give_last(code.value)
        return self._kept.call

    async def kept(self) -> AsyncIterator[Msg]:
        """The answer that is given after all."""
        assert self._kept is not None
        for msg in self._given(self._kept.messages):
            yield msg
