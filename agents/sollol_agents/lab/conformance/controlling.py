"""Rules: what a node answers on its control subject."""

from __future__ import annotations

from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule
from sollol_bus.errors import BusError
from sollol_bus.transport.messages import encode, error_of
from sollol_schemas import subjects
from sollol_schemas.control import (
    AttemptState,
    ControlAttempt,
    ControlDrain,
    ControlEngine,
    ControlLoad,
    ControlPing,
    ControlPull,
    ControlSet,
    ControlUnload,
    EngineOperation,
)
from sollol_schemas.errors import ErrorCode


async def _answers_probes(fleet: PlayedFleet) -> None:
    for request in (ControlPing(), b""):
        told = await fleet.control(request)
        if (told.node_id, told.instance) != (fleet.node_id, fleet.state.instance):
            raise BrokenRule(f"the answer is of {told.node_id}, instance {told.instance}")


async def _remembers_attempts(fleet: PlayedFleet) -> None:
    running = fleet.long()
    await fleet.until(lambda: running.heard)
    told = await fleet.control(ControlAttempt(attempt_id=running.attempt_id))
    if told.attempt_state is not AttemptState.STREAMING and not running.is_over:
        raise BrokenRule(f"of a stream that goes on it says {told.attempt_state}")
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


async def _obeys_settings(fleet: PlayedFleet) -> None:
    before = fleet.state
    told = await fleet.control(ControlSet(weight=before.weight / 2, labels={"check": "on"}))
    if told.error is not None and told.error.code is ErrorCode.FORBIDDEN:
        raise NotTried("it answers with `forbidden`")
    if told.error is not None:
        raise BrokenRule(f"it answers with {told.error.code}: {told.error.message}")
    await fleet.must(
        lambda: fleet.state.weight == before.weight / 2 and fleet.state.labels.get("check") == "on",
        lambda: f"telemetry has weight {fleet.state.weight:g} and labels {fleet.state.labels}",
    )
    await fleet.control(ControlSet(weight=before.weight, labels={"check": ""}))
    await fleet.must(
        lambda: fleet.state.labels == before.labels, lambda: "a label that was set to the empty string is still there"
    )


async def _ends_operations(fleet: PlayedFleet) -> None:
    unknown = "a-model-that-is-not-there:1b"
    for request in (ControlLoad(model=fleet.model), ControlUnload(model=unknown)):
        told = await fleet.control(request)
        if told.error is not None and told.error.code is ErrorCode.BAD_REQUEST:
            raise BrokenRule(
                f"{type(request).__name__} is no unknown request: `forbidden` is meant for what it cannot do"
            )
    for asked in (ControlEngine(operation=EngineOperation.TAGS), ControlPull(model=unknown)):
        heard = await fleet.objects(encode(asked))
        errors = [error.code for msg in heard if (error := error_of(msg)) is not None]
        if heard[-1].data or ErrorCode.BAD_REQUEST in errors:
            words = ", ".join(errors) or f"{len(heard)} messages"
            raise BrokenRule(
                f"{type(asked).__name__}: {words}; objects or `forbidden` are meant, and then an empty message"
            )


RULES = (
    Rule("control.ping", "It answers a probe, and an empty message, with its id and instance.", _answers_probes),
    Rule("control.attempt", "It knows how attempts ended, and tells that again when asked.", _remembers_attempts),
    Rule("control.unknown", "It answers an unknown request with `bad_request`.", _refuses_nonsense),
    Rule("control.set", "It tells the weight and the labels that it was given.", _obeys_settings),
    Rule("control.models", "It ends what it is asked about models, or answers with `forbidden`.", _ends_operations),
    Rule("drain.refuses", "A draining node tells so, refuses new work, and finishes what it has.", _drains),
    Rule("drain.back", "It takes work again when draining is called off.", _comes_back),
)
