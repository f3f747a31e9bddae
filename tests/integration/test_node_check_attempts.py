"""What holds agents to the protocol of nodes finds the one rule of attempts that an agent breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sollol_agents.lab.conformance import answering, speaking
from sollol_agents.lab.conformance.bus import PlayedBus
from sollol_agents.lab.conformance.check import PARTS
from sollol_agents.lab.conformance.findings import Kept
from sollol_agents.lab.testing.checked_node import Living, seen
from sollol_agents.lab.testing.played_node import PlayedNode, PlayedRun
from sollol_bus.transport.connection import Bus
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas.errors import ErrorCode


class ForeignInbox(PlayedNode):
    async def asked(self, run: PlayedRun, question: Any, within_s: float) -> bool | None:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        inbox = f"_INBOX_node.mine.{run.attempt_id}.{question['type']}"

        def on_answer(msg: Msg) -> None:
            if not answer.done():
                answer.set_result(b"true" in msg.data)

        self.bus.subscribe(inbox, on_answer)
        subject = f"sollol.v1.attempt.{self.node_id}.{run.attempt_id}"
        self.bus.publish(subject, encode({"attempt_id": run.attempt_id} | question), reply=inbox)
        try:
            return await asyncio.wait_for(answer, within_s)
        except TimeoutError:
            return None


class NoDecision(PlayedNode):
    def first(self, run: PlayedRun) -> dict[str, str]:
        return {} if run.exec.get("stream") else super().first(run)


class NoFigures(PlayedNode):
    def last(self, chunks: int) -> dict[str, str]:
        return super().last(chunks) if chunks == 1 else {}


class NoFirstToken(PlayedNode):
    token_s = 0.05  # what comes within some milliseconds may be one write, which needs no such report

    def report(self, run: PlayedRun, report: Any) -> None:
        if report["type"] != "attempt.first_token.v1":
            super().report(run, report)


class NeverDone(PlayedNode):
    def chunk(self, run: PlayedRun, text: str, *, is_last: bool) -> bytes:
        return super().chunk(run, text, is_last=is_last and not run.exec.get("stream"))


class OneMore(PlayedNode):
    async def answer(self, run: PlayedRun) -> None:
        await super().answer(run)
        if not run.exec.get("stream"):
            self.say(run, b"", {"Sollol-Chunks": "1"})


class AnyInstance(PlayedNode):
    def is_meant(self, run: PlayedRun) -> bool:
        return True


class Strict(PlayedNode):
    def is_meant(self, run: PlayedRun) -> bool:
        return super().is_meant(run) and "colour" not in run.exec


class NoDefaults(PlayedNode):
    def kind_of(self, run: PlayedRun) -> str:
        return str(run.decision.get("kind", "chat"))


class Forgetful(PlayedNode):
    def is_known(self, run: PlayedRun) -> bool:
        return False


class Lenient(PlayedNode):
    lets = ErrorCode.INTERNAL

    def refusal_of(self, run: PlayedRun) -> ErrorCode | None:
        code = super().refusal_of(run)
        return None if code is self.lets else code


class NeverBusy(Lenient):
    lets = ErrorCode.BUSY


class AnyTerm(Lenient):
    lets = ErrorCode.STALE_TERM


class AnyInbox(PlayedNode):
    def refusal_of(self, run: PlayedRun) -> ErrorCode | None:
        code = super().refusal_of(run)
        return None if code is ErrorCode.FORBIDDEN and "path" not in run.exec else code


class AnyPath(PlayedNode):
    def refusal_of(self, run: PlayedRun) -> ErrorCode | None:
        code = super().refusal_of(run)
        return None if code is ErrorCode.FORBIDDEN and "path" in run.exec else code


class NoContentType(PlayedNode):
    def first(self, run: PlayedRun) -> dict[str, str]:
        return {name: value for name, value in super().first(run).items() if name != "Content-Type"}


class InOnePiece(PlayedNode):
    def parts(self, chunk: bytes) -> list[bytes]:
        return [chunk]


class HearsNoNo(PlayedNode):
    async def asked(self, run: PlayedRun, question: Any, within_s: float) -> bool | None:
        answer = await super().asked(run, question, within_s)
        return True if question["type"] == "attempt.accepted.v1" and answer is False else answer


class NoClock(PlayedNode):
    async def permitted(self, run: PlayedRun) -> None:
        run.exec["go_s"] = 5.0
        await super().permitted(run)


class NeverStarts(PlayedNode):
    async def asked(self, run: PlayedRun, question: Any, within_s: float) -> bool | None:
        answer = await super().asked(run, question, within_s)
        return False if question["type"] == "attempt.start.v1" else answer


class NeverAlone(PlayedNode):
    may_speak_alone = False


class TellsFailures(PlayedNode):
    def conclude(self, run: PlayedRun, code: ErrorCode | None) -> None:
        if code is ErrorCode.UNKNOWN_MODEL:
            self.break_off(run, code)
        super().conclude(run, code)


class Deaf(PlayedNode):
    def on_cancel(self, msg: Msg) -> None:
        pass


class TellsCancels(PlayedNode):
    def on_cancel(self, msg: Msg) -> None:
        for run in list(self.runs.values()):
            if run.state == "running":
                self.break_off(run, ErrorCode.CANCELLED)
        super().on_cancel(msg)


class BreaksOffMutely(PlayedNode):
    def break_off(self, run: PlayedRun, code: ErrorCode) -> None:
        if code is not ErrorCode.CANCELLED:
            super().break_off(run, code)


class NoDeadline(PlayedNode):
    async def serve(self, run: PlayedRun) -> None:
        run.exec["deadline_s"] = 60.0
        await super().serve(run)


class NoProbe(PlayedNode):
    def on_probe(self, msg: Msg) -> None:
        pass


class NeverContent(PlayedNode):
    def status_of(self, code: ErrorCode | None) -> str:
        return "cancelled" if code is None else super().status_of(code)


class BlamesItself(PlayedNode):
    def status_of(self, code: ErrorCode | None) -> str:
        return "failed" if code is ErrorCode.UNKNOWN_MODEL else super().status_of(code)


class TellsOnce(PlayedNode):
    async def tell_outcome(self, run: PlayedRun, code: ErrorCode | None) -> None:
        self.outcome_retry_s = 10.0
        await super().tell_outcome(run, code)


BREAKING: dict[str, type[PlayedNode]] = {
    "exec.accepted": ForeignInbox,
    "stream.begin": NoDecision,
    "stream.end": NoFigures,
    "stream.reports": NoFirstToken,
    "answer.form": NeverDone,
    "reply.single": OneMore,
    "exec.instance": AnyInstance,
    "exec.unknown": Strict,
    "exec.defaults": NoDefaults,
    "exec.twice": Forgetful,
    "refuse.busy": NeverBusy,
    "refuse.stale": AnyTerm,
    "refuse.inbox": AnyInbox,
    "refuse.path": AnyPath,
    "passthrough": NoContentType,
    "stream.parts": InOnePiece,
    "fence.no": HearsNoNo,
    "fence.clock": NoClock,
    "fence.start": NeverStarts,
    "fence.alone": NeverAlone,
    "fail.silent": TellsFailures,
    "cancel": Deaf,
    "cancel.silent": TellsCancels,
    "fail.told": BreaksOffMutely,
    "deadline": NoDeadline,
    "caller.left": NoProbe,
    "outcome.told": NeverContent,
    "outcome.status": BlamesItself,
    "outcome.again": TellsOnce,
}


def test_each_rule_has_a_node_that_breaks_it() -> None:
    assert list(BREAKING) == [rule.name for part in (answering.RULES, speaking.RULES) for rule in part]


@pytest.mark.parametrize("rule", BREAKING)
async def test_a_node_that_breaks_a_rule_fails_that_one_alone(
    rule: str, checked_bus: PlayedBus, nodes_bus: Bus
) -> None:
    part = next(part for part in PARTS if rule in {one.name for one in part})
    kind = BREAKING[rule]
    found = await seen(checked_bus, Living(lambda life: kind(nodes_bus, f"i{life}")), part)
    failed = {name: what for name, (kept, what) in found.items() if kept is Kept.FAILED}
    assert list(failed) == [rule], failed or found[rule]
