"""What holds agents to the protocol of nodes: ours keeps it, and one that breaks a rule is found by that rule alone."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sollol_agents.cli import exit_codes
from sollol_agents.lab.conformance.bus import PlayedBus, played_bus
from sollol_agents.lab.conformance.check import PARTS, RULES, held_to
from sollol_agents.lab.conformance.findings import Kept, Pace
from sollol_agents.lab.conformance.fleet import PlayedFleet
from sollol_agents.lab.conformance.rule import Rule
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.played_member import TakenError
from sollol_agents.lab.testing.played_node import PlayedNode, PlayedRun
from sollol_agents.lab.testing.processes import sollol
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, encode
from sollol_schemas.errors import ErrorCode

QUICK = Pace(
    join_s=10.0,
    answer_s=1.5,
    quiet_s=0.06,
    beat_s=1.5,
    go_s=0.1,
    deadline_s=0.1,
    unkept_s=0.5,
    claim_s=1.0,
    long=60,
    last=10,
)


class Living:
    """A node as a process would be: it lives, and can be started again.

    Args:
        live: One life, for a numbered instance.
        leave: Asks it to end.
    """

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._lives = 0
        self._node: Any = None
        self._task: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] = lambda: None

    async def start(self) -> None:
        self._lives += 1
        self._node = self._make(self._lives)
        self._task = asyncio.get_running_loop().create_task(self._node.live())
        self._task.add_done_callback(lambda _: self.on_end())

    async def end(self) -> None:
        assert self._task is not None
        leaving = asyncio.get_running_loop().create_task(self._node.leave())
        await asyncio.wait({leaving, self._task}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def seen(
    server: PlayedBus, process: Living, rules: tuple[Rule, ...] = RULES, pace: Pace = QUICK
) -> dict[str, tuple[Kept, str]]:
    """What is seen of each rule."""
    fleet = PlayedFleet(server, pace, process=process)
    process.on_end = fleet.gone
    await fleet.listen()
    await process.start()
    try:
        return {one.rule: (one.kept, one.seen) async for one in held_to(fleet, rules)}
    finally:
        await process.kill()


def unkept(found: dict[str, tuple[Kept, str]]) -> dict[str, str]:
    return {rule: what for rule, (kept, what) in found.items() if kept is not Kept.OK}


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    async with played_bus(tmp_path) as played:
        yield played


@pytest.fixture
async def nodes_bus(server: PlayedBus) -> Any:
    config = BusConfig(url=server.url, inbox_prefix="_INBOX_node.double")
    connected = await Bus.connect(config)
    yield connected
    await connected.close()


class OwnNode:
    """Our own, in one process with whoever checks it."""

    def __init__(self, url: str, engine_url: str) -> None:
        settings = NodeConfig(node_id="ours", engine="ollama", url=engine_url, slots=2, heartbeat_s=0.2)
        self._monitor = NodeMonitor(settings, BusConfig(url=url))

    async def live(self) -> None:
        with contextlib.suppress(ConfigError):
            async with self._monitor:
                await self._monitor.run_until_stopped()

    async def leave(self) -> None:
        await self._monitor.close()


async def test_our_own_node_keeps_every_rule(server: PlayedBus) -> None:
    config = EmulatorConfig(
        time_scale=20.0, model=("countdown=1", "nomic-embed-text"), preload=("countdown:latest",), parallel=4
    )
    async with EmulatedNode(config) as engine:
        pace = Pace(quiet_s=0.05, go_s=0.1, deadline_s=0.1, long=150)
        found = await seen(server, Living(lambda _: OwnNode(server.url, engine.url)), pace=pace)
    assert unkept(found) == {}


async def test_a_node_written_after_the_document_keeps_every_rule(server: PlayedBus, nodes_bus: Bus) -> None:
    found = await seen(server, Living(lambda life: PlayedNode(nodes_bus, f"i{life}")))
    assert unkept(found) == {}


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
    async def claim(self, *, is_starting: bool = False) -> None:
        await super().claim()


class PatientClaimer(PlayedNode):
    claim_retry_s = 0.8


class StartsAgain(PlayedNode):
    async def claim(self, *, is_starting: bool = False) -> None:
        await super().claim(is_starting=True)


class TellsFirst(PlayedNode):
    async def live(self) -> None:
        self.tell_all()
        await super().live()


class OtherRevision(PlayedNode):
    def tell_all(self, **more: Any) -> None:
        super().tell_all(revision=7)


class NoLoad(PlayedNode):
    def load_changed(self) -> None:
        pass


class TellsEachChange(PlayedNode):
    load_every_s = 0.0


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


class NoProbe(PlayedNode):
    def on_probe(self, msg: Msg) -> None:
        pass


class TellsCancels(PlayedNode):
    def conclude(self, run: PlayedRun, code: ErrorCode | None) -> None:
        if code is ErrorCode.CANCELLED and run.state == "running" and not run.exec.get("stream"):
            self.break_off(run, code)
        super().conclude(run, code)


class BreaksOffMutely(PlayedNode):
    def break_off(self, run: PlayedRun, code: ErrorCode) -> None:
        if code is not ErrorCode.CANCELLED:
            super().break_off(run, code)


class NoDeadline(PlayedNode):
    async def serve(self, run: PlayedRun) -> None:
        run.exec["deadline_s"] = 60.0
        await super().serve(run)


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


class NoEmptyProbe(PlayedNode):
    def on_control(self, msg: Msg) -> None:
        if msg.data:
            super().on_control(msg)


class SaysNothingAgain(PlayedNode):
    def say_end(self, run: PlayedRun) -> None:
        if run.state != "ended_spoken":
            super().say_end(run)


class Mute(PlayedNode):
    def refuse_request(self, msg: Msg, code: ErrorCode) -> None:
        if code is not ErrorCode.BAD_REQUEST:
            super().refuse_request(msg, code)


class KeepsLabels(PlayedNode):
    def set(self, asked: Any) -> None:
        self.weight = asked.get("weight", self.weight)
        self.tell_all()


class NeverEnds(PlayedNode):
    def refuse_operation(self, msg: Msg) -> None:
        self.refuse_request(msg, ErrorCode.FORBIDDEN)


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


class StaysQuiet(PlayedNode):
    def claim_soon(self) -> None:
        pass

    claim_s = 5.0


class GoesOn(PlayedNode):
    def on_disconnect(self) -> None:
        self.is_back.clear()
        for run in list(self.runs.values()):
            self.end(run.attempt_id, ErrorCode.CANCELLED if run.state == "streaming" else ErrorCode.CONNECTION_LOST)


class OtherTicket(PlayedNode):
    def leave_question(self, run: PlayedRun) -> Any:
        return {"inbox": run.inbox, "ticket": "another"}


class SpeaksLater(PlayedNode):
    def on_disconnect(self) -> None:
        self.is_back.clear()
        for run in list(self.runs.values()):
            if run.state == "streaming":
                self.end(run.attempt_id, ErrorCode.CONNECTION_LOST)


class LeavesMutely(PlayedNode):
    async def leave(self) -> None:
        self.has_left = True


class Stubborn(PlayedNode):
    """Hears `owner` when it joins, or later, and goes on."""

    at_start: bool

    async def claim(self, *, is_starting: bool = False) -> None:
        try:
            await super().claim(is_starting=is_starting)
        except TakenError:
            if self.at_start is not is_starting:
                raise


class TakesIt(Stubborn):
    at_start = True


class KeepsIt(Stubborn):
    at_start = False


class Curious(PlayedNode):
    async def live(self) -> None:
        self.bus.subscribe("sollol.v1.node.>", lambda _: None)
        await super().live()


BREAKING: dict[str, type[PlayedNode]] = {
    "claim.asked": IsNotStarting,
    "claim.unkept": PatientClaimer,
    "claim.revision": OtherRevision,
    "join.listens": TellsFirst,
    "load.told": NoLoad,
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
    "control.ping": NoEmptyProbe,
    "control.attempt": SaysNothingAgain,
    "control.unknown": Mute,
    "control.set": KeepsLabels,
    "control.models": NeverEnds,
    "drain.refuses": NeverDraining,
    "drain.back": DrainsForEver,
    "reconnect.claim": StaysQuiet,
    "reconnect.stream": GoesOn,
    "reconnect.leave": OtherTicket,
    "reconnect.silent": SpeaksLater,
    "claim.again": StartsAgain,
    "load.pace": TellsEachChange,
    "telemetry.form": OtherName,
    "telemetry.seq": CountsApart,
    "telemetry.pace": Slow,
    "leave": LeavesMutely,
    "claim.taken": TakesIt,
    "claim.lost": KeepsIt,
    "rights": Curious,
}


def test_each_rule_has_a_node_that_breaks_it() -> None:
    assert list(BREAKING) == [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", BREAKING)
async def test_a_node_that_breaks_a_rule_fails_that_one_alone(rule: str, server: PlayedBus, nodes_bus: Bus) -> None:
    part = next(part for part in PARTS if rule in {one.name for one in part})
    kind = BREAKING[rule]
    found = await seen(server, Living(lambda life: kind(nodes_bus, f"i{life}")), part)
    assert {name: what for name, (kept, what) in found.items() if kept is Kept.FAILED}.keys() == {rule}, found
