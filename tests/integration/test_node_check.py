"""What holds agents to the protocol of nodes: ours keeps it, and one that breaks a rule is found by that rule alone."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest

from sollol_agents.cli import exit_codes
from sollol_agents.lab.conformance import controlling, joining, lasting
from sollol_agents.lab.conformance.bus import PlayedBus
from sollol_agents.lab.conformance.check import PARTS, RULES
from sollol_agents.lab.conformance.findings import Kept, Pace
from sollol_agents.lab.emulator import EmulatedNode, EmulatorConfig
from sollol_agents.lab.testing.checked_node import Living, seen, unkept
from sollol_agents.lab.testing.played_member import TakenError
from sollol_agents.lab.testing.played_node import PlayedNode, PlayedRun
from sollol_agents.lab.testing.processes import sollol
from sollol_agents.node.actor import NodeMonitor
from sollol_agents.node.config import NodeConfig
from sollol_bus.errors import ConfigError
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg
from sollol_schemas.errors import ErrorCode


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


async def test_our_own_node_keeps_every_rule(checked_bus: PlayedBus) -> None:
    config = EmulatorConfig(
        time_scale=20.0, model=("countdown=1", "nomic-embed-text"), preload=("countdown:latest",), parallel=4
    )
    async with EmulatedNode(config) as engine:
        pace = Pace(quiet_s=0.05, go_s=0.1, deadline_s=0.1, long=150)
        found = await seen(checked_bus, Living(lambda _: OwnNode(checked_bus.url, engine.url)), pace=pace)
    assert unkept(found) == {}


async def test_a_node_written_after_the_document_keeps_every_rule(checked_bus: PlayedBus, nodes_bus: Bus) -> None:
    found = await seen(checked_bus, Living(lambda life: PlayedNode(nodes_bus, f"i{life}")))
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


# -- nodes that break one rule each of how they join, of what they are asked, and of what lasts ----------------------


class IsNotStarting(PlayedNode):
    async def claim(self, *, is_starting: bool = False) -> None:
        await super().claim()


class PatientClaimer(PlayedNode):
    claim_retry_s = 0.8


class OtherRevision(PlayedNode):
    def tell_all(self, **more: Any) -> None:
        super().tell_all(revision=7)


class TellsFirst(PlayedNode):
    async def live(self) -> None:
        self.tell_all()
        await super().live()


class NoLoad(PlayedNode):
    def load_changed(self) -> None:
        pass


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


class Lenient(PlayedNode):
    lets = ErrorCode.INTERNAL

    def refusal_of(self, run: PlayedRun) -> ErrorCode | None:
        code = super().refusal_of(run)
        return None if code is self.lets else code


class NeverDraining(Lenient):
    lets = ErrorCode.DRAINING


class DrainsForEver(PlayedNode):
    def drain(self, *, is_draining: bool) -> None:
        super().drain(is_draining=True)


class StaysQuiet(PlayedNode):
    def claim_soon(self) -> None:
        pass

    claim_s = 5.0


class CallsItCancelled(PlayedNode):
    def report(self, run: PlayedRun, report: Any) -> None:
        error = report.get("error", {})
        if error.get("code") == "connection_lost" and report["is_streaming"]:
            report = report | {"error": error | {"code": "cancelled"}}
        super().report(run, report)


class OtherTicket(PlayedNode):
    def leave_question(self, run: PlayedRun) -> Any:
        return {"inbox": run.inbox, "ticket": "another"}


class SpeaksLater(PlayedNode):
    def on_disconnect(self) -> None:
        self.is_back.clear()
        for run in list(self.runs.values()):
            if run.state == "streaming":
                self.end(run.attempt_id, ErrorCode.CONNECTION_LOST)


class StartsAgain(PlayedNode):
    async def claim(self, *, is_starting: bool = False) -> None:
        await super().claim(is_starting=True)


class TellsEachChange(PlayedNode):
    load_every_s = 0.0


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
    "control.ping": NoEmptyProbe,
    "control.attempt": SaysNothingAgain,
    "control.unknown": Mute,
    "control.set": KeepsLabels,
    "control.models": NeverEnds,
    "drain.refuses": NeverDraining,
    "drain.back": DrainsForEver,
    "reconnect.claim": StaysQuiet,
    "reconnect.stream": CallsItCancelled,
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
    assert list(BREAKING) == [
        rule.name
        for part in (joining.FIRST, controlling.RULES, lasting.RULES, joining.LAST, lasting.LAST)
        for rule in part
    ]


@pytest.mark.parametrize("rule", BREAKING)
async def test_a_node_that_breaks_a_rule_fails_that_one_alone(
    rule: str, checked_bus: PlayedBus, nodes_bus: Bus
) -> None:
    part = next(part for part in PARTS if rule in {one.name for one in part})
    kind = BREAKING[rule]
    found = await seen(checked_bus, Living(lambda life: kind(nodes_bus, f"i{life}")), part)
    failed = {name: what for name, (kept, what) in found.items() if kept is Kept.FAILED}
    assert list(failed) == [rule], failed or found[rule]
