"""What holds agents to the protocol of nodes: ours keeps it, and one that breaks a rule is found by that rule alone."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from sollol_agents.cli import exit_codes
from sollol_agents.lab.conformance.check import RULES, held_to
from sollol_agents.lab.conformance.findings import Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.played_node import PlayedNode, PlayedRun
from sollol_agents.lab.testing.processes import sollol
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas.errors import ErrorCode

QUICK = Pace(join_s=10.0, answer_s=1.5, quiet_s=0.06, beat_s=1.5, go_s=0.1, long=60)


async def seen(fleet: PlayedFleet) -> dict[str, tuple[Kept, str]]:
    return {one.rule: (one.kept, one.seen) async for one in held_to(fleet)}


async def seen_of(node: PlayedNode, bus: Bus) -> dict[str, tuple[Kept, str]]:
    """What is seen of each rule."""
    fleet = PlayedFleet(bus, QUICK, stop=node.leave)
    await fleet.listen()
    living = asyncio.get_running_loop().create_task(node.live())
    try:
        return await seen(fleet)
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


@pytest.fixture
async def nodes_bus(nats_server: EmbeddedServer) -> Any:
    connected = await Bus.connect(BusConfig(url=nats_server.url, inbox_prefix="_INBOX_node.double"))
    yield connected
    await connected.close()


async def test_our_own_node_keeps_every_rule(nats_server: EmbeddedServer, bus: Bus) -> None:
    config = EmulatorConfig(
        time_scale=20.0, model=("countdown=1", "nomic-embed-text"), preload=("countdown:latest",), parallel=4
    )
    async with EmulatedNode(config) as engine:
        settings = NodeConfig(node_id="ours", engine="ollama", url=engine.url, slots=2, heartbeat_s=0.2)
        monitor = NodeMonitor(settings, BusConfig(url=nats_server.url))
        pace = Pace(quiet_s=0.05, go_s=0.1, long=150)
        fleet = PlayedFleet(bus, pace, stop=monitor.close)
        await fleet.listen()
        async with monitor:
            found = await seen(fleet)
    assert {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK} == {}


async def test_a_node_written_after_the_document_keeps_every_rule(nodes_bus: Bus, bus: Bus) -> None:
    found = await seen_of(PlayedNode(nodes_bus), bus)
    assert {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK} == {}


async def test_an_agent_that_ends_at_once_is_told_of_at_once() -> None:
    done = await sollol("", "node-check", "--run", f"{sys.executable} -c pass", "--json")
    found = {one["rule"]: one["kept"] for one in done.json}
    assert done.code == exit_codes.NO_ANSWER
    assert [rule for rule, kept in found.items() if kept == "failed"] == ["claim.asked", "telemetry.form"]
    assert set(found) == {rule.name for rule in RULES}


async def test_a_command_that_cannot_be_started_is_wrong_usage() -> None:
    done = await sollol("", "node-check", "--run", "/nowhere/agent")
    assert done.code == exit_codes.USAGE
    assert "/nowhere/agent" in done.err


# -- nodes that break one rule each ----------------------------------------------------------------------------------


class IsNotStarting(PlayedNode):
    async def ask(self, subject: str, question: Any, *more: Any, **named: Any) -> Any:
        return await super().ask(subject, {k: v for k, v in question.items() if k != "is_starting"}, *more, **named)


class OtherRevision(PlayedNode):
    def tell_all(self, **more: Any) -> None:
        super().tell_all(revision=7)


class NoLoad(PlayedNode):
    def tell_load(self, **more: Any) -> None:
        if more:
            super().tell_load(**more)


class ForeignInbox(PlayedNode):
    async def asked(self, run: PlayedRun, question: Any, within_s: float) -> bool | None:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        inbox = f"_INBOX.mine.{run.attempt_id}.{question['type']}"

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
    def report(self, run: PlayedRun, report: Any) -> None:
        if report["type"] != "attempt.first_token.v1":
            super().report(run, report)


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


class AnyInbox(Lenient):
    lets = ErrorCode.FORBIDDEN


class NeverDraining(Lenient):
    lets = ErrorCode.DRAINING


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


class TellsFailures(PlayedNode):
    def conclude(self, run: PlayedRun, code: ErrorCode | None) -> None:
        if code is ErrorCode.UNKNOWN_MODEL:
            self.break_off(run, code)
        super().conclude(run, code)


class Deaf(PlayedNode):
    def on_cancel(self, msg: Msg) -> None:
        pass


class NoProbe(PlayedNode):
    def on_probe(self, msg: Msg) -> None:
        pass


class BreaksOffMutely(PlayedNode):
    def break_off(self, run: PlayedRun, code: ErrorCode) -> None:
        pass


class NeverContent(PlayedNode):
    async def tell_outcome(self, run: PlayedRun, code: ErrorCode | None) -> None:
        await super().tell_outcome(run, ErrorCode.CANCELLED)


class TellsOnce(PlayedNode):
    async def tell_outcome(self, run: PlayedRun, code: ErrorCode | None) -> None:
        self.outcome_retry_s = 10.0
        await super().tell_outcome(run, code)


class NoEmptyProbe(PlayedNode):
    def on_control(self, msg: Msg) -> None:
        if msg.data:
            super().on_control(msg)


class SaysNothingAgain(PlayedNode):
    def say_end(self, run: PlayedRun) -> None:
        if run.state != "ended_spoken":
            super().say_end(run)


class Mute(PlayedNode):
    def refuse_request(self, msg: Msg) -> None:
        pass


class DrainsForEver(PlayedNode):
    def drain(self, *, is_draining: bool) -> None:
        super().drain(is_draining=True)


class OtherName(PlayedNode):
    def tell_load(self, **more: Any) -> None:
        super().tell_load(node_id="another", **more)


class CountsApart(PlayedNode):
    def tell_load(self, **more: Any) -> None:
        super().tell_load(seq=0, **more)


class Slow(PlayedNode):
    beat_s = 5.0


class LeavesMutely(PlayedNode):
    async def leave(self) -> None:
        self.has_left = True


BREAKING: dict[str, type[PlayedNode]] = {
    "claim.asked": IsNotStarting,
    "claim.revision": OtherRevision,
    "load.told": NoLoad,
    "exec.accepted": ForeignInbox,
    "stream.begin": NoDecision,
    "stream.end": NoFigures,
    "stream.reports": NoFirstToken,
    "reply.single": OneMore,
    "exec.instance": AnyInstance,
    "exec.unknown": Strict,
    "exec.twice": Forgetful,
    "refuse.busy": NeverBusy,
    "refuse.stale": AnyTerm,
    "refuse.inbox": AnyInbox,
    "passthrough": NoContentType,
    "stream.parts": InOnePiece,
    "fence.no": HearsNoNo,
    "fence.clock": NoClock,
    "fence.start": NeverStarts,
    "fail.silent": TellsFailures,
    "cancel": Deaf,
    "fail.told": BreaksOffMutely,
    "caller.left": NoProbe,
    "outcome.told": NeverContent,
    "outcome.again": TellsOnce,
    "control.ping": NoEmptyProbe,
    "control.attempt": SaysNothingAgain,
    "control.unknown": Mute,
    "drain.refuses": NeverDraining,
    "drain.back": DrainsForEver,
    "telemetry.form": OtherName,
    "telemetry.seq": CountsApart,
    "telemetry.pace": Slow,
    "leave": LeavesMutely,
}


def test_each_rule_has_a_node_that_breaks_it() -> None:
    assert list(BREAKING) == [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", BREAKING)
async def test_a_node_that_breaks_a_rule_fails_that_one_alone(rule: str, nodes_bus: Bus, bus: Bus) -> None:
    found = await seen_of(BREAKING[rule](nodes_bus), bus)
    assert {name: what for name, (kept, what) in found.items() if kept is Kept.FAILED}.keys() == {rule}, found
