"""Rules: answers that others go on with, and those that others began."""

from __future__ import annotations

import msgspec

from sollol_agents.lab.conformance.attempts import PlayedAttempt
from sollol_agents.lab.conformance.findings import BrokenRule, NotTried
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule
from sollol_schemas.continuation import ContinueFrom
from sollol_schemas.control import ControlCut
from sollol_schemas.errors import ErrorCode


class _Message(msgspec.Struct):
    content: str = ""


class _Chunk(msgspec.Struct):
    message: _Message | None = None
    done: bool = False
    eval_count: int | None = None


def _chunks_of(attempt: PlayedAttempt) -> list[_Chunk]:
    try:
        return [msgspec.json.decode(msg.data, type=_Chunk) for msg in attempt.heard if msg.data]
    except msgspec.DecodeError as error:
        raise BrokenRule(f"a chunk of the rest is no object of a chat: {error}") from error


def _texts_of(attempt: PlayedAttempt) -> list[str]:
    return [one.message.content for one in _chunks_of(attempt) if one.message is not None and one.message.content]


async def _goes_on(fleet: PlayedFleet) -> None:
    fingerprint = next((one.fingerprint for one in fleet.state.installed if one.name == fleet.model), "")
    if not fingerprint:
        raise NotTried("it tells no `fingerprint` of its model, so nobody asks it to go on with an answer")
    texts = _texts_of(await fleet.whole_stream())
    said = "".join(texts[: len(texts) // 2])
    if not said:
        raise NotTried("its answers come in one piece")
    attempt = fleet.chat(said=ContinueFrom(text=said, pieces=len(texts) // 2, fingerprint=fingerprint))
    await fleet.must(lambda: attempt.is_over, lambda: f"an answer that goes on did not end: {attempt.how}")
    if attempt.code is ErrorCode.NOT_CONTINUED and not attempt.heard:
        return
    await fleet.until(lambda: attempt.has_end)
    if attempt.code is not None:
        raise BrokenRule(f"`not_continued` is meant where it cannot go on: {attempt.how}")
    chunks, rest = _chunks_of(attempt), "".join(_texts_of(attempt))
    if rest.startswith(said):
        raise BrokenRule("the rest begins with what was said already")
    if not chunks or not chunks[-1].done or (chunks[-1].eval_count or 0) < len(texts) // 2:
        raise BrokenRule("the last object, with `done`, should have the tokens of the whole answer in `eval_count`")


async def _ends_with_moved(fleet: PlayedFleet) -> None:
    attempt = fleet.long(is_resumable=True)
    await fleet.until(lambda: len(attempt.heard) > 1)
    before = len(attempt.heard)
    told = await fleet.control(ControlCut(attempt_id=attempt.attempt_id, term=fleet.term, reason="it goes on there"))
    if told.error is None:
        await fleet.must(
            lambda: attempt.code is ErrorCode.MOVED and attempt.is_broken_off,
            lambda: f"it said that it stops the answer, which did not end with `moved`: {attempt.how}",
        )
        return
    if not await fleet.until(lambda: len(attempt.heard) > before) or attempt.code is not None:
        raise BrokenRule(f"it refused to stop the answer, which did not go on: {attempt.how}")
    raise NotTried(f"it answers with `{told.error.code}`")


async def _keeps_what_nobody_goes_on_with(fleet: PlayedFleet) -> None:
    attempt = fleet.long()
    await fleet.until(lambda: len(attempt.heard) > 1)
    before = len(attempt.heard)
    told = await fleet.control(ControlCut(attempt_id=attempt.attempt_id, term=fleet.term))
    if told.error is None:
        raise BrokenRule("it agreed to stop an answer whose caller does not go on")
    if not await fleet.until(lambda: len(attempt.heard) > before) or attempt.code is not None:
        raise BrokenRule(f"it refused to stop the answer, which did not go on: {attempt.how}")


RULES = (
    Rule("continue", "It says the rest of an answer that was begun, or `not_continued`.", _goes_on),
    Rule("cut", "Asked to, it ends an answer that goes on elsewhere with `moved`, or refuses.", _ends_with_moved),
    Rule("cut.refused", "It stops no answer with which nobody goes on.", _keeps_what_nobody_goes_on_with),
)
