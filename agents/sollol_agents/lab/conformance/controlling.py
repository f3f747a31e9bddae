"""Rules: what a node answers on its control subject, and how it leaves."""

from __future__ import annotations

from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule
from sollol_bus.errors import BusError
from sollol_bus.transport.messages import error_of
from sollol_schemas import subjects
from sollol_schemas.control import AttemptState, ControlAttempt, ControlDrain, ControlPing
from sollol_schemas.errors import ErrorCode


async def _answers_probes(fleet: PlayedFleet) -> None:
    for request in (ControlPing(), b""):
        told = await fleet.control(request)
        if (told.node_id, told.instance) != (fleet.node_id, fleet.state.instance):
            raise BrokenRule(f"the answer is of {told.node_id}, instance {told.instance}")


async def _remembers_attempts(fleet: PlayedFleet) -> None:
    attempt = await fleet.whole_stream()
    ends, heard = len(attempt.ends), len(attempt.heard)
    told = await fleet.control(ControlAttempt(attempt_id=attempt.attempt_id))
    if told.attempt_state is not AttemptState.ENDED_SPOKEN or told.chunks != heard - 1:
        raise BrokenRule(f"of a stream that ended after {heard - 1} it says {told.attempt_state}, chunks {told.chunks}")
    await fleet.must(lambda: len(attempt.ends) > ends, lambda: "it did not report the end again")
    await fleet.must(lambda: len(attempt.heard) > heard, lambda: "it did not tell the caller the end again")
    told = await fleet.control(ControlAttempt(attempt_id="never-heard-of"))
    if told.attempt_state is not AttemptState.UNKNOWN:
        raise BrokenRule(f"of an unknown attempt it says {told.attempt_state}")


async def _refuses_nonsense(fleet: PlayedFleet) -> None:
    subject = subjects.NODE_CONTROL.of(fleet.node_id)
    try:
        msg = await fleet.bus.request(subject, b'{"type":"control.nonsense.v1"}', timeout_s=fleet.pace.answer_s)
    except BusError as error:
        raise BrokenRule(f"no answer to an unknown request: {error}") from error
    told = error_of(msg)
    if told is None or told.code is not ErrorCode.BAD_REQUEST:
        raise BrokenRule(f"an unknown request was not answered with `bad_request`: {msg.data[:80]!r}")


async def _drains(fleet: PlayedFleet) -> None:
    running = fleet.long()
    await fleet.until(lambda: len(running.heard) > 1)
    before = len(running.heard)
    try:
        await fleet.control(ControlDrain())
        await fleet.must(lambda: fleet.told[-1].is_draining, lambda: "neither load nor telemetry tell `is_draining`")
        attempt = fleet.chat()
        await fleet.until(lambda: attempt.is_over or attempt.accepted)
        if attempt.code is not ErrorCode.DRAINING or attempt.accepted:
            raise BrokenRule(f"a draining node did not refuse with `draining`: {attempt.how}")
        if running.code is not None or not await fleet.until(lambda: len(running.heard) > before):
            raise BrokenRule(f"what ran did not go on: {running.how}")
    finally:
        await fleet.control(ControlDrain(is_draining=False))


async def _comes_back(fleet: PlayedFleet) -> None:
    await fleet.control(ControlDrain())
    await fleet.control(ControlDrain(is_draining=False))
    await fleet.until(lambda: fleet.told and not fleet.told[-1].is_draining)
    attempt = fleet.chat()
    await fleet.must(lambda: attempt.accepted, lambda: f"it does not take work again: {attempt.how}")


async def _leaves(fleet: PlayedFleet) -> None:
    if fleet.stop is None:
        raise NotTried("it was not started here: use --run")
    await fleet.stop()
    await fleet.until(lambda: fleet.loads and fleet.loads[-1].has_left)
    if not fleet.loads or not fleet.loads[-1].has_left:
        raise BrokenRule("its last load message does not say `has_left`")
    if fleet.told[-1] is not fleet.loads[-1]:
        raise BrokenRule("it went on telling after `has_left`")


RULES = (
    Rule("control.ping", "It answers a probe, and an empty message, with its id and instance.", _answers_probes),
    Rule("control.attempt", "It knows how attempts ended, and tells that again when asked.", _remembers_attempts),
    Rule("control.unknown", "It answers an unknown request with `bad_request`.", _refuses_nonsense),
    Rule("drain.refuses", "A draining node tells so, refuses new work, and finishes what it has.", _drains),
    Rule("drain.back", "It takes work again when draining is called off.", _comes_back),
)
LAST = (Rule("leave", "Asked to end, it says `has_left` as its last word.", _leaves),)
