"""Rules: when a node may speak, how attempts end, and who is told."""

from __future__ import annotations

import time

from sollol_agents.lab.conformance.attempts import Go, PlayedAttempt
from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule
from sollol_bus.errors import DecodeFailed
from sollol_schemas import headers as h
from sollol_schemas.errors import ErrorCode, Owner
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import AttemptDone, AttemptFailed
from sollol_schemas.inboxes import is_node_inbox

_AT_ONCE_S = 0.05
_SOME = 5
_BEGUN = 2
_NOBODYS = (
    ErrorCode.CANCELLED,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.CONNECTION_LOST,
    ErrorCode.DRAINING,
    ErrorCode.ACTOR_STOPPED,
)
"""Codes of failures that are nobody's fault."""


async def _obeys_no(fleet: PlayedFleet) -> None:
    attempts = [fleet.chat(go=Go(accepted=False), stream=stream) for stream in (True, False)]
    await fleet.must(
        lambda: all(one.is_over or one.heard for one in attempts),
        lambda: f"their ends were not reported: {'; '.join(one.how for one in attempts)}",
    )
    await fleet.quiet()
    for one in attempts:
        _silent(one, "it spoke although it was told no")


async def _speaks_alone(fleet: PlayedFleet) -> None:
    with fleet.no_dispatcher():
        attempt = fleet.chat()
        await fleet.must(
            lambda: attempt.has_end, lambda: f"nobody heard its questions, and no whole answer came: {attempt.how}"
        )


async def _late(fleet: PlayedFleet) -> PlayedAttempt:
    """An attempt whose first permission came when it was worth nothing any more, and whose next question is open."""
    attempt = fleet.chat(go=Go(accepted=None, start=None), go_s=fleet.pace.go_s)
    await fleet.must(lambda: attempt.accepted, lambda: f"no question `attempt.accepted.v1`: {attempt.how}")
    await fleet.quiet(fleet.pace.go_s + _AT_ONCE_S)
    attempt.answer(attempt.accepted[0], go=True)
    await fleet.until(lambda: attempt.starts or attempt.heard or attempt.is_over)
    await fleet.quiet()
    _silent(attempt, f"it spoke on a `go` that came after {fleet.pace.go_s} s, and asked for none")
    if not attempt.starts:
        raise BrokenRule(f"it did not ask `attempt.start.v1` after its `go` ran out: {attempt.how}")
    return attempt


async def _obeys_the_clock(fleet: PlayedFleet) -> None:
    attempt = await _late(fleet)
    attempt.go = Go(accepted=False, start=False)
    attempt.answer(attempt.starts[-1], go=False)
    await fleet.must(lambda: attempt.is_over or attempt.heard, lambda: f"its end was not reported: {attempt.how}")
    await fleet.quiet()
    _silent(attempt, "it spoke although `start?` was answered with no")


async def _speaks_when_it_may(fleet: PlayedFleet) -> None:
    try:
        attempt = await _late(fleet)
    except BrokenRule as broken:
        raise NotTried(str(broken)) from broken
    attempt.go = Go()
    attempt.answer(attempt.starts[-1], go=True)
    await fleet.must(
        lambda: attempt.is_over and attempt.has_end,
        lambda: f"`start?` was answered with `go`, and no whole answer came: {attempt.how}",
    )


def _silent(attempt: PlayedAttempt, complaint: str) -> None:
    if attempt.heard:
        raise BrokenRule(f"{complaint}: the caller got {len(attempt.heard)} messages")


async def _fails_in_silence(fleet: PlayedFleet) -> None:
    attempt = fleet.chat(model="a-model-that-is-not-there:1b")
    await fleet.must(
        lambda: any(isinstance(one, AttemptFailed) for one in attempt.ends),
        lambda: f"an unknown model was not reported as a failure: {attempt.how}",
    )
    await fleet.quiet()
    _silent(attempt, "a failure before the first chunk is the dispatcher's to tell")
    if any(isinstance(one, AttemptFailed) and one.is_streaming for one in attempt.ends):
        raise BrokenRule("it says `is_streaming` of a failure before the first chunk")


async def _streaming(fleet: PlayedFleet) -> PlayedAttempt:
    attempt = fleet.long()
    await fleet.must(lambda: len(attempt.heard) >= _BEGUN, lambda: f"no stream: {attempt.how}")
    return attempt


async def _heeds_cancel(fleet: PlayedFleet) -> None:
    attempt = await _streaming(fleet)
    before = len(attempt.heard)
    fleet.cancel(attempt)
    await fleet.must(lambda: attempt.is_over, lambda: f"no end was reported after a cancel: {attempt.how}")
    after = len(attempt.heard) - before
    if attempt.code is not ErrorCode.CANCELLED:
        if after < _SOME:
            raise NotTried("its answers are too short to be cancelled")
        raise BrokenRule(f"it went on for {after} messages after a cancel: {attempt.how}")
    await fleet.must(lambda: attempt.attempt_id not in fleet.running, lambda: "the slot was not freed")


async def _tells_broken_streams(fleet: PlayedFleet) -> None:
    attempt = await _streaming(fleet)
    fleet.cancel(attempt)
    await fleet.until(lambda: attempt.is_over and attempt.has_end)
    if isinstance(attempt.ends[0] if attempt.ends else None, AttemptDone):
        raise NotTried("its answers are too short to be broken off")
    await fleet.quiet()
    if not attempt.is_broken_off:
        raise BrokenRule(f"the caller did not get an error and then an empty message: {attempt.how}")
    if attempt.header(-1, h.CHUNKS) != str(len(attempt.heard) - 1):
        raise BrokenRule(f"{h.CHUNKS} says {attempt.header(-1, h.CHUNKS)!r}, {len(attempt.heard) - 1} came before it")
    if not all(isinstance(one, AttemptFailed) and one.is_streaming for one in attempt.ends):
        raise BrokenRule("it does not report `is_streaming`")


async def _notices_leaving(fleet: PlayedFleet) -> None:
    attempt = await _streaming(fleet)
    if not all(is_node_inbox(msg.reply, fleet.node_id) for msg in attempt.heard):
        raise BrokenRule("messages to the caller have no reply subject in an inbox of the node's")
    assert attempt.inbox is not None
    attempt.inbox.unsubscribe()
    left_at = time.monotonic()
    await fleet.must(lambda: attempt.is_over, lambda: f"no end was reported after the caller left: {attempt.how}")
    if attempt.code is None and time.monotonic() - left_at < _AT_ONCE_S:
        raise NotTried("its answers are too short to be left")
    if attempt.code is not ErrorCode.CANCELLED:
        raise BrokenRule(f"it worked on for a caller that had left: {attempt.how}")


async def _cancels_in_silence(fleet: PlayedFleet) -> None:
    attempt = fleet.long(stream=False)
    await fleet.must(lambda: attempt.accepted, lambda: f"no question `attempt.accepted.v1`: {attempt.how}")
    await fleet.quiet(fleet.pace.quiet_s / 2)
    fleet.cancel(attempt)
    await fleet.must(lambda: attempt.is_over, lambda: f"no end was reported after a cancel: {attempt.how}")
    await fleet.quiet()
    if attempt.code is None:
        raise NotTried("its answers are too short to be cancelled")
    _silent(attempt, "a cancel before the first word is the dispatcher's to tell")


async def _heeds_deadlines(fleet: PlayedFleet) -> None:
    attempt = fleet.long(deadline_s=fleet.pace.deadline_s)
    await fleet.must(lambda: attempt.is_over, lambda: f"it went on after its deadline: {attempt.how}")
    if attempt.code is None and attempt.told_by_load:
        done = attempt.ends[0]
        if isinstance(done, AttemptDone) and 0 < done.figures.actual_s < fleet.pace.deadline_s:
            raise NotTried("its answers are too short for a deadline")
    if attempt.code is not ErrorCode.DEADLINE_EXCEEDED:
        raise BrokenRule(f"it did not end with `deadline_exceeded`: {attempt.how}")
    await fleet.must(
        lambda: not attempt.heard or attempt.is_broken_off, lambda: f"its caller was not told the end: {attempt.how}"
    )


async def _counts_outcomes(fleet: PlayedFleet) -> None:
    failed, cancelled = fleet.chat(model="a-model-that-is-not-there:1b"), fleet.long()
    await fleet.until(lambda: cancelled.heard)
    fleet.cancel(cancelled)
    await fleet.must(
        lambda: failed.outcomes and cancelled.outcomes,
        lambda: f"no outcome of one of these: {failed.how}; {cancelled.how}",
    )
    for one in (failed, cancelled):
        _is_outcome_of(one)


def _is_outcome_of(attempt: PlayedAttempt) -> None:
    try:
        outcome = attempt.outcome
    except DecodeFailed as broken:
        raise BrokenRule(str(broken)) from broken
    error = next((one.error for one in attempt.ends if isinstance(one, AttemptFailed)), None)
    if error is None:
        raise NotTried(f"it did not fail: {attempt.how}")
    status = OutcomeStatus.FAILED
    if error.blamed in (Owner.REQUEST, Owner.OUTPUT):
        status = OutcomeStatus.CLIENT_ERROR
    elif error.code in _NOBODYS:
        status = OutcomeStatus.CANCELLED
    if (outcome.status, outcome.code) != (status, error.code):
        raise BrokenRule(f"of {error.code} it says {outcome.status}, {outcome.code}; {status} is meant")


async def _tells_the_outcome(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    if not attempt.outcomes:
        raise BrokenRule(f"no outcome with {h.MSG_ID} {attempt.attempt_id} came on sollol.v1.outcome.{fleet.node_id}")
    told = attempt.outcomes[0]
    try:
        outcome = attempt.outcome
    except DecodeFailed as error:
        raise BrokenRule(str(error)) from error
    if outcome.attempt_id != attempt.attempt_id or outcome.node_id != fleet.node_id:
        raise BrokenRule(f"it is of attempt {outcome.attempt_id} on {outcome.node_id}")
    is_done = isinstance(attempt.ends[0], AttemptDone) if attempt.ends else False
    if is_done and outcome.status is not OutcomeStatus.SUCCESS:
        raise BrokenRule(f"the answer is whole, the outcome says {outcome.status}")
    if not is_node_inbox(told.reply, fleet.node_id):
        raise BrokenRule(f"the reply subject {told.reply!r} is not below _INBOX_node.{fleet.node_id}.")


async def _tells_it_until_acked(fleet: PlayedFleet) -> None:
    attempt = fleet.chat()
    attempt.is_outcome_acked = False
    await fleet.until(lambda: attempt.outcomes)
    if not attempt.outcomes:
        raise NotTried("no outcome came")
    attempt.is_outcome_acked = True
    await fleet.must(lambda: len(attempt.outcomes) > 1, lambda: "an outcome that was not acknowledged came once")
    told = len(attempt.outcomes)
    await fleet.quiet(2 * fleet.pace.quiet_s)
    if len(attempt.outcomes) > told:
        raise BrokenRule("an outcome came again although it was acknowledged")


RULES = (
    Rule("fence.no", "It does not speak when `accepted` is answered with no.", _obeys_no),
    Rule("fence.clock", "It does not speak after its `go` ran out, before `start?` is answered.", _obeys_the_clock),
    Rule("fence.start", "It speaks once `start?` is answered with `go`.", _speaks_when_it_may),
    Rule("fence.alone", "It speaks where no dispatcher is left to ask.", _speaks_alone),
    Rule("fail.silent", "A failure before the first chunk is reported, and not told to the caller.", _fails_in_silence),
    Rule("cancel", "A cancel ends an attempt and frees its slot.", _heeds_cancel),
    Rule("cancel.silent", "A cancel before the first word is not told to the caller.", _cancels_in_silence),
    Rule("fail.told", "A stream that is broken off ends with an error and an empty message.", _tells_broken_streams),
    Rule("deadline", "An attempt ends at its deadline.", _heeds_deadlines),
    Rule("caller.left", "An attempt whose caller left ends.", _notices_leaving),
    Rule("outcome.told", "It tells the outcome, under the attempt's id.", _tells_the_outcome),
    Rule("outcome.status", "The outcome says whose fault a failure was.", _counts_outcomes),
    Rule("outcome.again", "It tells an outcome again until that is acknowledged.", _tells_it_until_acked),
)
