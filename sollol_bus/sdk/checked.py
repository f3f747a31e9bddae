"""Answers that are checked before they are given: of the first model whose answer passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import msgspec

from sollol_bus.errors import BusError, SollolError
from sollol_bus.sdk.answer_texts import asked_form
from sollol_bus.sdk.call import Call
from sollol_bus.sdk.checks import Judge, check_in, judge_of
from sollol_bus.sdk.escalation import Escalation
from sollol_bus.sdk.results import Answer, AnswerStream
from sollol_bus.sdk.sending import MAX_RESENDS
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.escalation import Check
from sollol_schemas.execution import RequestNews
from sollol_schemas.feedback import FeedbackRequest
from sollol_schemas.routing import Routing

log = logging.getLogger(__name__)

AnswerCheck = Check | Mapping[str, object] | Callable[[Answer], bool | str | None]
"""What an answer must be: `{"json_schema": …}`, `{"regex": …}`, or a function that returns whether an answer will do,
or why it does not."""
AnswerJudge = Callable[[Answer], str]

_TOLD_S = 5.0
_NO_GOOD = "the caller's check says no"


def answer_judge(check: AnswerCheck | None, kind: RequestKind, fields: Mapping[str, object]) -> AnswerJudge | None:
    """Says why an answer fails, empty: it passes; None: nothing is asked of it.

    Raises:
        BadRequest: The check cannot be used.
    """
    if check is None:
        if fields.get("format") is None:
            return None
        form = asked_form(kind, "", {"format": msgspec.Raw(encode(fields.get("format")))})
        return None if form is None else _of_text(form)
    if isinstance(check, Check):
        return _of_text(judge_of(check_in(msgspec.to_builtins(check))))
    if isinstance(check, Mapping):
        return _of_text(judge_of(check_in(dict(check))))
    return _of_callers(check)


def _of_text(judge: Judge) -> AnswerJudge:
    return lambda answer: "" if answer.tool_calls and not answer.text else judge(answer.text)


def _of_callers(check: Callable[[Answer], bool | str | None]) -> AnswerJudge:
    def judge(answer: Answer) -> str:
        said = check(answer)
        if isinstance(said, str):
            return said
        return "" if said else _NO_GOOD

    return judge


async def whole(
    ask: Callable[[Routing, Call | None], Call],
    kind: RequestKind,
    fields: Mapping[str, object],
    routing: Routing,
    check: AnswerCheck | None,
) -> Answer:
    """The whole answer to a request: of the first model that passes where answers are checked, or of the last one.

    Args:
        ask: Makes the request with such a routing, in place of a call that was answered.
        kind: What is asked.
        fields: The request's body.
        routing: Its routing.
        check: What its caller wants of the answer.

    Raises:
        SollolError: What ended the request, when no model had answered before.
    """
    judge = answer_judge(check, kind, fields)
    if judge is None:
        return await AnswerStream(ask(routing, None)).whole()
    escalation = Escalation(is_explicit=check is not None, avoided=routing.avoid_models)
    last: Answer | None = None
    before: Call | None = None
    while True:
        avoiding = msgspec.structs.replace(routing, avoid_models=escalation.avoid_models)
        stream = AnswerStream(ask(avoiding, before))
        try:
            answer = await stream.whole()
        except SollolError as error:
            if last is None or error.body.code is ErrorCode.CANCELLED:
                raise
            escalation.give_last(error.body.code.value)
            return _marked(last, escalation)
        if not escalation.is_for(answer.decision):
            return answer
        why = judge(answer)
        tell_verdict(stream.call.bus, answer.decision, why)
        if not why or answer.decision is None or not escalation.has_next(answer.decision) or left_s(stream.call) <= 0:
            escalation.settle(why)
            return _marked(answer, escalation)
        escalation.note(answer.decision, answer.figures, why)
        last, before = answer, stream.call


def in_place_of(
    before: Call,
    subject: str,
    body: bytes,
    headers: dict[str, str] | None,
    *,
    on_news: Callable[[RequestNews], None] | None = None,
    max_resends: int = MAX_RESENDS,
) -> Call:
    """A call for the same request, under its id, with its age and what is left of its deadline.

    Args:
        before: The call that was answered.
        subject: Where it goes.
        body: The engine's body.
        headers: Its headers, with what is to be different now.
        on_news: As of `Call`.
        max_resends: So often it is sent again at most, the sendings before not counted.
    """
    return Call(
        before.bus,
        subject,
        body,
        headers=headers,
        deadline_s=max(0.0, left_s(before)),
        request_id=before.request_id,
        resends=before.resends + 1,
        max_resends=before.resends + 1 + max_resends,
        waited_s=before.age_s,
        secret=before.secret,
        resume_bytes=before.resume_bytes,
        is_joined=before.is_joined,
        on_news=on_news,
    )


def left_s(call: Call) -> float:
    """Seconds until its deadline."""
    return call.gives_up_mono_s - time.monotonic()


def _marked(answer: Answer, escalation: Escalation) -> Answer:
    return msgspec.structs.replace(answer, tried=escalation.tried, check_failure=escalation.failure)


def tell_verdict(bus: Bus, decision: Decision | None, why: str, headers: Mapping[str, str] | None = None) -> None:
    """Lets the fleet learn how often a model's answers pass; best effort, nobody waits for it.

    Args:
        bus: The caller's connection.
        decision: The answer's; only models of groups are learnt of.
        why: Why it failed; empty: it passed.
        headers: Who asked, where that stands in headers.
    """
    if decision is None or not decision.group:
        return
    feedback = FeedbackRequest(
        request_id=decision.request_id,
        attempt_id=decision.attempt_id,
        score=0.0 if why else 1.0,
        comment=f"check: {why or 'passed'}",
    )

    def on_reply(reply: Msg | BusError) -> None:
        if isinstance(reply, BusError):
            log.debug("the verdict on %s was not heard: %s", decision.attempt_id, reply)

    try:
        bus.ask(subjects.FEEDBACK, encode(feedback), on_reply, timeout_s=_TOLD_S, headers=dict(headers or {}) or None)
    except BusError as error:
        log.debug("the verdict on %s was not told: %s", decision.attempt_id, error)
