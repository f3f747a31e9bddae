"""The scorer on a real bus, between scripted nodes and dispatchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sollol_agents.lab.testing.messages import (
    MODEL,
    gpu,
    grant_request,
    load_update,
    loaded,
    model,
    outcome,
    running,
    telemetry,
)
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode, is_no_responders
from sollol_schemas import subjects
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import DecisionEvent, Decisions
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import NodeEvent, OfficeEvent, Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.grant import (
    Granted,
    GrantQueued,
    GrantRefused,
    GrantRelease,
    GrantReply,
    RouteRequest,
)
from sollol_schemas.queries import ModelsReply, NodesReply
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    InFlight,
    NodeState,
)

Start = Callable[..., Awaitable[Scorer]]


class FakeNode:
    """Says what a node would say, when the test wants it."""

    def __init__(self, bus: Bus, node_id: str, *, slots: int = 1) -> None:
        self.bus, self.node_id, self.slots = bus, node_id, slots
        self.seq = 0
        self.running: list[str] = []

    def beat(self, **changes: Any) -> None:
        self.seq += 1
        fields: dict[str, Any] = {
            "instance": f"{self.node_id}-1",
            "seq": self.seq,
            "slots": self.slots,
            "gpus": (gpu(),),
            "installed": (model(),),
            "loaded": (loaded(),),
            "in_flight": running(*self.running),
        }
        self.bus.publish(subjects.TELEMETRY.of(self.node_id), encode(telemetry(self.node_id, **(fields | changes))))

    def accept(self, attempt_id: str) -> None:
        self.running.append(attempt_id)
        self.tell_load()

    def tell_load(self) -> None:
        self.seq += 1
        update = load_update(
            self.node_id,
            instance=f"{self.node_id}-1",
            seq=self.seq,
            slots=self.slots,
            in_flight=running(*self.running),
        )
        self.bus.publish(subjects.LOAD.of(self.node_id), encode(update))

    def finish(self, attempt_id: str) -> None:
        self.running.remove(attempt_id)
        ended = outcome(attempt_id, self.node_id, model=MODEL)
        self.bus.publish(subjects.OUTCOME_EVENT.of(self.node_id), encode(ended))


class FakeDispatcher:
    """Asks for slots and collects the answers."""

    def __init__(self, bus: Bus, instance: str = "unknown") -> None:
        self.bus, self.instance = bus, instance
        self.answers: list[Granted | GrantQueued | GrantRefused] = []
        self.without_scorer = 0
        self._unanswered: dict[str, bytes] = {}
        self._inbox = bus.reply_inbox(self._on_reply)

    def _on_reply(self, reply: object) -> None:
        assert isinstance(reply, Msg)
        if is_no_responders(reply):
            self.without_scorer += 1  # the office was taken, but the server does not know who answers yet
            asyncio.get_running_loop().call_later(0.02, self._ask_again)
            return
        answer: Any = decode(reply.data, GrantReply)  # type: ignore[arg-type]
        self.answers.append(answer)
        about = getattr(answer, "decision", answer)
        self._unanswered.pop(about.request_id, None)

    def _ask_again(self) -> None:
        for request in self._unanswered.values():
            self.bus.publish(subjects.GRANT, request, reply=self._inbox.subject)

    def ask(self, request_id: str, **changes: Any) -> None:
        request = grant_request(request_id, **({"name": "Llama3:8B", "dispatcher": self.instance} | changes))
        self._unanswered[request_id] = encode(request)
        self.bus.publish(subjects.GRANT, encode(request), reply=self._inbox.subject)

    def granted(self) -> dict[str, Granted]:
        return {a.decision.request_id: a for a in self.answers if isinstance(a, Granted)}

    def refused(self) -> dict[str, GrantRefused]:
        return {a.request_id: a for a in self.answers if isinstance(a, GrantRefused)}

    def queued(self) -> list[str]:
        return [a.request_id for a in self.answers if isinstance(a, GrantQueued)]


@pytest.fixture
async def start(nats_server: EmbeddedServer) -> AsyncIterator[Start]:
    running: list[Scorer] = []

    async def make(**settings: Any) -> Scorer:
        config = ScorerConfig(**({"warm_up_s": 1.0, "seed": 1} | settings))
        scorer = Scorer(config, BusConfig(url=nats_server.url, name="scorer"), tick_s=0.02)
        await scorer.start()
        running.append(scorer)
        return scorer

    yield make
    for scorer in running:
        await scorer.close()


@pytest.fixture
async def scorer(start: Start) -> Scorer:
    scorer = await start()
    await eventually(lambda: scorer.is_leader)
    return scorer


@pytest.fixture
def dispatcher(bus: Bus) -> FakeDispatcher:
    return FakeDispatcher(bus)


def collect(bus: Bus, subject: str, kind: type[Any]) -> list[Any]:
    seen: list[Any] = []
    bus.subscribe(subject, lambda m: seen.append(decode(m.data, kind)))
    return seen


async def test_a_request_is_granted_at_once_when_a_slot_is_free(
    scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    decisions = collect(bus, subjects.ROUTING_EVENT.all, DecisionEvent)
    stored = collect(bus, subjects.DECISIONS_EVENT, Decisions)
    node = FakeNode(bus, "gpu1")
    node.beat()
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    granted = dispatcher.granted()["r1"]
    assert (granted.decision.node_id, granted.decision.instance, granted.decision.model) == (
        "gpu1",
        "gpu1-1",
        "llama3:8b",
    )
    assert granted.decision.attempt_id == "r1-1"
    assert granted.decision.term == scorer.core.term > 0
    assert dispatcher.queued() == []
    await eventually(lambda: len(decisions) == 1)
    assert decisions[0].candidates[0].node_id == "gpu1"
    await eventually(lambda: len(stored) == 1)
    assert stored[0].decisions == (decisions[0],)


async def test_a_request_waits_until_the_outcome_frees_a_slot(
    scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    node = FakeNode(bus, "gpu1")
    node.beat()
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    node.accept("r1-1")
    dispatcher.ask("r2")
    await eventually(lambda: dispatcher.queued() == ["r2"])
    node.finish("r1-1")
    await eventually(lambda: "r2" in dispatcher.granted())
    assert scorer.core.fleet.in_flight == 1


async def test_a_lost_outcome_is_repaired_by_the_next_load_message(
    scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    node = FakeNode(bus, "gpu1")
    node.beat()
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    node.accept("r1-1")
    dispatcher.ask("r2")
    node.running.clear()
    node.beat()
    await eventually(lambda: "r2" in dispatcher.granted())


async def test_a_waiting_request_is_told_so_again_and_again(
    scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    FakeNode(bus, "gpu1", slots=1).beat(in_flight=(InFlight(attempt_id="foreign-1", model="llama3:8b"),))
    dispatcher.ask("r1")
    await eventually(lambda: dispatcher.queued().count("r1") >= 2)


async def test_an_unknown_model_is_refused_with_what_exists(
    scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    FakeNode(bus, "gpu1").beat()
    dispatcher.ask("r1", context=TaskContext(kind=RequestKind.CHAT, model="nothing"))
    await eventually(lambda: "r1" in dispatcher.refused())
    error = dispatcher.refused()["r1"].error
    assert error.code is ErrorCode.UNKNOWN_MODEL
    assert error.details["models"] == ["llama3:8b"]


async def test_a_release_makes_room_for_the_next(scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher) -> None:
    FakeNode(bus, "gpu1").beat()
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    dispatcher.ask("r2")
    bus.publish(subjects.RELEASE, encode(GrantRelease(request_id="r1")))
    await eventually(lambda: "r2" in dispatcher.granted())


async def test_a_grant_that_no_node_takes_expires(scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher) -> None:
    node = FakeNode(bus, "gpu1")
    node.beat()
    dispatcher.ask("r1")
    dispatcher.ask("r2")

    def are_both_granted() -> bool:
        node.beat()  # a node that let a grant expire is suspect until it is heard of again
        return set(dispatcher.granted()) == {"r1", "r2"}

    await eventually(are_both_granted)


async def test_a_standby_takes_over_with_a_higher_term_and_knows_the_fleet(
    start: Start, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    offices = collect(bus, subjects.OFFICE_EVENT.all, OfficeEvent)
    first = await start()
    await eventually(lambda: first.is_leader)
    term = first.core.term
    second = await start()
    node = FakeNode(bus, "gpu1", slots=2)
    node.beat()
    node.accept("old-1")
    await eventually(lambda: second.core.fleet.in_flight == 1)
    first.stop()
    await first.close()
    await eventually(lambda: second.is_leader)
    assert second.core.term > term
    await eventually(lambda: any(o.is_leader and o.instance == second.instance for o in offices))
    dispatcher.ask("r1", waited_s=3.0)
    dispatcher.ask("r2", waited_s=2.0)
    await eventually(lambda: "r1" in dispatcher.granted() and "r2" in dispatcher.queued())
    assert dispatcher.granted()["r1"].decision.term == second.core.term


async def test_only_the_scorer_in_office_answers(start: Start, bus: Bus, dispatcher: FakeDispatcher) -> None:
    first = await start()
    await eventually(lambda: first.is_leader)
    second = await start()
    FakeNode(bus, "gpu1", slots=4).beat()
    await eventually(lambda: bool(first.core.fleet.nodes) and bool(second.core.fleet.nodes))
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    await bus.flush()
    assert not second.is_leader
    assert len(dispatcher.answers) == 1


async def test_a_silent_node_is_reported_suspect_and_then_down(
    start: Start, bus: Bus, dispatcher: FakeDispatcher
) -> None:
    events = collect(bus, subjects.NODE_EVENT.all, NodeEvent)
    scorer = await start(suspect_after_s=0.3, down_after_s=1.2)
    await eventually(lambda: scorer.is_leader)
    FakeNode(bus, "gpu1").beat()
    await eventually(lambda: [e.state for e in events] == [NodeState.UP, NodeState.SUSPECT, NodeState.DOWN])
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.refused())
    error = dispatcher.refused()["r1"].error
    assert error.code is ErrorCode.NO_ELIGIBLE_NODE
    assert error.details["nodes"]["gpu1"].startswith("down: silent for ")


async def test_attempts_whose_node_and_dispatcher_are_gone_are_reported_lost(start: Start, bus: Bus) -> None:
    outcomes = collect(bus, subjects.OUTCOME_EVENT.all, Outcome)
    scorer = await start(suspect_after_s=1.0, down_after_s=2.0)
    await eventually(lambda: scorer.is_leader)
    dispatcher = FakeDispatcher(bus, instance="dead1")
    node = FakeNode(bus, "gpu1")
    node.beat()
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    node.accept("r1-1")
    await eventually(lambda: len(outcomes) > 0)
    assert outcomes[0].status is OutcomeStatus.PRESUMED_LOST
    assert outcomes[0].reported_by is ReportedBy.SCORER
    await eventually(lambda: scorer.core.fleet.in_flight == 0)


async def test_requests_of_a_dead_dispatcher_leave_the_queue(scorer: Scorer, bus: Bus) -> None:
    FakeNode(bus, "gpu1").beat(in_flight=(InFlight(attempt_id="foreign-1", model="llama3:8b"),))
    living, dead = FakeDispatcher(bus, instance="living"), FakeDispatcher(bus, instance="dead")
    bus.subscribe(subjects.DISPATCHER_PROBE.of("living"), lambda m: bus.publish(m.reply, b"ok"))
    living.ask("r1")
    dead.ask("r2")
    await eventually(lambda: living.queued() == ["r1"] and dead.queued() == ["r2"])
    await eventually(lambda: "r2" not in scorer.core.waiting)
    assert "r1" in scorer.core.waiting


async def test_route_explains_without_granting(scorer: Scorer, bus: Bus) -> None:
    FakeNode(bus, "gpu1").beat()
    FakeNode(bus, "gpu2").beat(is_draining=True)
    await eventually(lambda: len(scorer.core.fleet.nodes) == 2)
    context = TaskContext(kind=RequestKind.CHAT, model="llama3:8b", prompt_tokens=100)
    asked = RouteRequest(request_id="q1", context=context, routing=Routing())
    decision = decode((await bus.request(subjects.SCORER_ROUTE, encode(asked))).data, DecisionEvent)
    assert decision.is_dry_run
    assert decision.decision.node_id == "gpu1"
    assert [r.reason.value for r in decision.rejections] == ["draining"]
    assert scorer.core.fleet.in_flight == 0


async def test_nodes_and_models_are_listed(scorer: Scorer, bus: Bus) -> None:
    FakeNode(bus, "gpu1").beat()
    await eventually(lambda: len(scorer.core.fleet.nodes) == 1)
    nodes = decode((await bus.request(subjects.NODES)).data, NodesReply)
    assert [(n.node_id, n.state) for n in nodes.nodes] == [("gpu1", NodeState.UP)]
    assert (nodes.scorer, nodes.term, nodes.strategy) == (scorer.instance, scorer.core.term, "plan")
    models = decode((await bus.request(subjects.MODELS)).data, ModelsReply)
    listed = [(m.name, m.installed_on, m.loaded_on, m.members) for m in models.models]
    assert listed == [
        ("llama3:8b", ("gpu1",), ("gpu1",), ()),
        ("auto", ("gpu1",), ("gpu1",), ("llama3:8b",)),
    ]


async def test_nonsense_on_the_bus_harms_nobody(scorer: Scorer, bus: Bus, dispatcher: FakeDispatcher) -> None:
    FakeNode(bus, "gpu1").beat()
    for data in (b"", b"{", b"\xff", b'{"type":"node.telemetry.v1"}', b"[" * 10_000):
        for subject in (
            subjects.TELEMETRY.of("gpu1"),
            subjects.LOAD.of("gpu1"),
            subjects.OUTCOME_EVENT.of("gpu1"),
            subjects.GRANT,
            subjects.RELEASE,
            subjects.SCORER_ROUTE,
        ):
            bus.publish(subject, data)
    bus.publish(subjects.TELEMETRY.of("gpu1"), encode(outcome("a-1", "gpu1", code=ErrorCode.ENGINE_FAILED)))
    dispatcher.ask("r1")
    await eventually(lambda: "r1" in dispatcher.granted())
    await asyncio.wait_for(bus.flush(), 5)
