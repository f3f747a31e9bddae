"""A scorer in office moves answers between scripted nodes: for whom, when, and when not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing.messages import MODEL, gpu, grant_request, loaded, model, outcome, running, telemetry
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import subjects
from sollol_schemas.continuation import Continuation, Cut, CutReason
from sollol_schemas.control import ControlCut, ControlReply, ControlRequest
from sollol_schemas.errors import ErrorBody, ErrorCode
from sollol_schemas.events import OutcomeStatus
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantReply
from sollol_schemas.telemetry import LearnedSpeed

FINGERPRINT = "ollama:0123456789ab"
SLOW_TPS, FAST_TPS = 5.0, 200.0


class Node:
    """Runs what it is granted until it is told to stop it."""

    def __init__(self, bus: Bus, node_id: str, *, tps: float, slots: int = 1, fingerprint: str = FINGERPRINT) -> None:
        self.bus, self.node_id, self.tps, self.slots, self.fingerprint = bus, node_id, tps, slots, fingerprint
        self.seq, self.tokens = 0, 20
        self.running: list[str] = []
        self.asked: list[ControlCut] = []
        self.refusal: ErrorBody | None = None
        self.is_frozen = False
        self.ends_later = False
        """Whether it does not tell yet how an attempt ended that it stopped."""
        bus.subscribe(subjects.NODE_CONTROL.of(node_id), self._on_control)

    def beat(self) -> None:
        self.seq += 1
        told = telemetry(
            self.node_id,
            instance=f"{self.node_id}-1",
            seq=self.seq,
            slots=self.slots,
            gpus=(gpu(),),
            installed=(model(fingerprint=self.fingerprint),),
            loaded=(loaded(),),
            in_flight=running(*self.running, output_tokens=self.tokens, has_first_token=True),
            speeds=(LearnedSpeed(model=MODEL, prompt_tps=1000.0, decode_tps=self.tps, samples=50),),
        )
        self.bus.publish(subjects.TELEMETRY.of(self.node_id), encode(told))

    def accept(self, attempt_id: str) -> None:
        self.running.append(attempt_id)
        self.beat()

    def end(self, attempt_id: str, code: ErrorCode | None = None) -> None:
        self.running.remove(attempt_id)
        status = OutcomeStatus.SUCCESS if code is None else OutcomeStatus.CANCELLED
        figures = Figures(prompt_tokens=100, output_tokens=self.tokens)
        ended = outcome(attempt_id, self.node_id, code=code, status=status, figures=figures, model=MODEL)
        self.bus.publish(subjects.OUTCOME_EVENT.of(self.node_id), encode(ended))

    def _on_control(self, msg: Msg) -> None:
        asked: Any = decode(msg.data, ControlRequest)  # type: ignore[arg-type]  # a union decodes too
        if not isinstance(asked, ControlCut) or self.is_frozen:
            return
        self.asked.append(asked)
        if self.refusal is not None:
            self.bus.respond_error(msg.reply, self.refusal)
            return
        self.bus.respond(msg, ControlReply(node_id=self.node_id, instance=f"{self.node_id}-1"))
        if not self.ends_later:
            self.end(asked.attempt_id, ErrorCode.MOVED)


class World:
    """A scorer in office, nodes, and a dispatcher whose callers go on."""

    def __init__(self, bus: Bus, scorer: Scorer) -> None:
        self.bus, self.scorer = bus, scorer
        self.nodes: dict[str, Node] = {}
        self.answers: list[Granted | GrantQueued | GrantRefused] = []
        self.cuts: list[Cut] = []
        self._inbox = bus.reply_inbox(self._on_reply)
        bus.subscribe(subjects.CUT_EVENT.all, lambda msg: self.cuts.append(decode(msg.data, Cut)))

    def _on_reply(self, reply: object) -> None:
        if isinstance(reply, Msg) and reply.data:
            answer: Any = decode(reply.data, GrantReply)  # type: ignore[arg-type]
            self.answers.append(answer)
            if isinstance(answer, Granted):
                self.nodes[answer.decision.node_id].accept(answer.decision.attempt_id)

    async def join(self, node_id: str, **more: Any) -> Node:
        node = self.nodes[node_id] = Node(self.bus, node_id, **more)
        await self.bus.flush()
        node.beat()
        await eventually(lambda: node_id in self.scorer.core.fleet.nodes)
        return node

    def ask(self, request_id: str, **more: Any) -> None:
        usual: dict[str, Any] = {"is_resumable": True, "dispatcher": "unknown"}
        request = grant_request(request_id, **(usual | more))
        self.bus.publish(subjects.GRANT, encode(request), reply=self._inbox.subject)

    def go_on(self, request_id: str, number: int, cuts: int) -> None:
        """The caller of an answer that was moved asks again."""
        said = Continuation(fingerprint=FINGERPRINT, said_tokens=20, resumed=cuts, cuts=cuts)
        self.ask(request_id, number=number, continuation=said, waited_s=5.0)

    def granted(self, attempt_id: str) -> str:
        """Where an attempt was granted; empty: nowhere yet."""
        granted = [one.decision for one in self.answers if isinstance(one, Granted)]
        return next((one.node_id for one in granted if one.attempt_id == attempt_id), "")

    def is_running(self, attempt_id: str) -> bool:
        """Whether the scorer knows that it runs."""
        attempt = self.scorer.core.fleet.attempt(attempt_id)
        return attempt is not None and attempt.is_confirmed


@pytest.fixture
async def world(nats_server: EmbeddedServer, bus: Bus) -> AsyncIterator[World]:
    config = msgspec.convert({"warm_up_s": 1.0, "seed": 1}, ScorerConfig)
    async with Scorer(config, BusConfig(url=nats_server.url, name="scorer"), tick_s=0.05) as scorer:
        await eventually(lambda: scorer.is_leader)
        await bus.flush()
        yield World(bus, scorer)


async def test_an_answer_moves_to_a_node_that_joins_and_ends_it_much_sooner(world: World) -> None:
    slow = await world.join("slow", tps=SLOW_TPS)
    world.ask("r1")
    await eventually(lambda: world.is_running("r1-1"))
    await world.join("fast", tps=FAST_TPS)
    await eventually(lambda: bool(world.cuts))
    (cut,) = world.cuts
    assert (cut.request_id, cut.node_id, cut.to, cut.reason) == ("r1", "slow", "fast", CutReason.REBALANCE)
    assert cut.left_s > cut.moved_s
    assert "saves" in cut.text
    assert (slow.asked[0].term, slow.asked[0].cause) == (world.scorer.core.term, "rebalance")
    world.go_on("r1", 11, 1)
    await eventually(lambda: bool(world.granted("r1-11")))
    assert world.granted("r1-11") == "fast"
    assert world.scorer.statistics().rebalance_cuts == 1


async def test_an_urgent_request_takes_the_slot_at_once_and_the_other_one_waits_with_its_age(world: World) -> None:
    node = await world.join("slow", tps=20.0)
    world.ask("low", priority=1)
    await eventually(lambda: world.is_running("low-1"))
    world.ask("urgent", priority=9)
    world.ask("other", priority=1)
    await eventually(lambda: world.granted("urgent-1") == "slow")
    assert [one.reason for one in world.cuts] == [CutReason.PRIORITY]
    assert (world.cuts[0].request_id, world.cuts[0].in_favour_of) == ("low", "urgent")
    assert node.running == ["urgent-1"]
    world.go_on("low", 11, 1)
    await eventually(lambda: "low" in world.scorer.core.waiting)
    node.end("urgent-1")
    await eventually(lambda: bool(world.granted("low-11")))
    assert not world.granted("other-1"), "what was moved is older than what came after it"


async def test_a_successor_lets_an_answer_go_on_that_was_cut_before_its_time(
    world: World, nats_server: EmbeddedServer
) -> None:
    slow = await world.join("slow", tps=SLOW_TPS)
    slow.ends_later = True
    world.ask("r1")
    await eventually(lambda: world.is_running("r1-1"))
    config, bus_config = world.scorer.config, BusConfig(url=nats_server.url, name="scorer")
    async with Scorer(config, bus_config, tick_s=0.05) as successor:
        slow.beat()
        await world.join("fast", tps=FAST_TPS)
        await eventually(lambda: bool(world.cuts) and len(successor.core.fleet.nodes) == 2)
        await world.scorer.close()
        world.scorer = successor
        await eventually(lambda: successor.is_leader)
        slow.end("r1-1", ErrorCode.MOVED)

        def is_granted() -> bool:
            for node in world.nodes.values():
                node.beat()
            world.go_on("r1", 11, 1)  # as often as it likes: the server may not know yet who answers
            return world.granted("r1-11") == "fast"

        await eventually(is_granted)
        await eventually(lambda: not successor.core.fleet.nodes["slow"].attempts)


async def test_what_does_not_go_on_elsewhere_is_left_where_it_is(world: World) -> None:
    await world.join("slow", tps=SLOW_TPS, slots=2)
    world.ask("stays", is_resumable=False)
    world.ask("goes")
    await eventually(lambda: world.is_running("stays-1") and world.is_running("goes-1"))
    await world.join("fast", tps=FAST_TPS, slots=2)
    await eventually(lambda: bool(world.cuts))
    assert [one.request_id for one in world.cuts] == ["goes"]
    assert world.nodes["slow"].running == ["stays-1"]


async def test_another_template_is_no_place_to_go(world: World) -> None:
    await world.join("slow", tps=SLOW_TPS)
    world.ask("r1")
    await eventually(lambda: world.is_running("r1-1"))
    await world.join("other", tps=FAST_TPS, fingerprint="ollama:ba9876543210")
    await world.join("fast", tps=FAST_TPS)
    await eventually(lambda: bool(world.cuts))
    assert world.cuts[0].to == "fast"


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_a_node_that_refuses_or_is_frozen_keeps_its_answer(world: World, is_frozen: bool) -> None:
    slow = await world.join("slow", tps=SLOW_TPS)
    world.ask("r1")
    await eventually(lambda: world.is_running("r1-1"))
    slow.is_frozen = is_frozen
    slow.refusal = ErrorBody(code=ErrorCode.CONFLICT, message="r1-1 is over")
    await world.join("fast", tps=FAST_TPS)
    await eventually(lambda: world.scorer.statistics().refused_cuts == 1)
    assert (world.cuts, slow.running) == ([], ["r1-1"])


async def test_nothing_is_moved_more_than_twice(world: World) -> None:
    await world.join("slow", tps=SLOW_TPS)
    world.go_on("r1", 21, 2)
    world.ask("r2", priority=5)
    await eventually(lambda: world.is_running("r1-21"))
    fast = await world.join("fast", tps=FAST_TPS)
    await eventually(lambda: world.granted("r2-1") == "fast")
    fast.end("r2-1")
    fast.beat()
    world.ask("r3")
    await eventually(lambda: world.granted("r3-1") == "fast")
    assert world.cuts == []
