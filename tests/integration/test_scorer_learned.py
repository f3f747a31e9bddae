"""Who may write what was learnt, what becomes of a bucket that vanishes, and what reaches the standbys."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from sollol_agents.lab.testing.messages import MODEL, model, outcome, telemetry
from sollol_agents.lab.testing.waiting import eventually
from sollol_agents.scorer.actor import Scorer
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.office.saved_knowledge import SavedKnowledge
from sollol_bus.jetstream.api import api
from sollol_bus.jetstream.buckets import Bucket
from sollol_bus.jetstream.streams import provision
from sollol_bus.server.server import EmbeddedServer
from sollol_bus.transport.connection import Bus, BusConfig
from sollol_bus.transport.messages import Msg, decode, encode
from sollol_schemas import stores, subjects
from sollol_schemas.control import ControlLoad, ControlReply
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerState, Outcome, PreloadEvent
from sollol_schemas.execution import Figures
from sollol_schemas.learned import Learned
from sollol_schemas.queries import RecentReply, RecentRequest
from sollol_schemas.steering import BreakerRequest, BreakersReply, ResetEvent, ResetKind
from sollol_schemas.telemetry import Telemetry


class Candidate:
    """A keeper with a core of its own, in office or not as the test says."""

    def __init__(self, bus: Bus, term: int) -> None:
        self.is_leader = True
        self.core = SchedulerCore(ScorerConfig(), random.Random(1), 0.0)
        self.core.term = term
        self.keeper = SavedKnowledge(bus, self.core, every_s=5.0, is_leader=lambda: self.is_leader)

    def learn(self, tokens: int) -> None:
        self.core.lengths.learn(MODEL, "generation", 100, tokens)

    def knows(self) -> float:
        return self.core.lengths.median_tokens(MODEL, "generation", 100)


async def written(bucket: Bucket) -> Learned:
    value = (await bucket.get(stores.LEARNED)).value
    assert value is not None
    return decode(value, Learned)


@pytest.fixture
async def bucket(bus: Bus) -> Bucket:
    await provision(bus)
    return Bucket(bus, stores.LEARNED_BUCKET)


async def test_a_scorer_out_of_office_never_overwrites_its_successor(bus: Bus, bucket: Bucket) -> None:
    old, new = Candidate(bus, 4), Candidate(bus, 9)
    old.learn(20)
    await old.keeper.save()
    assert (await written(bucket)).term == 4
    await new.keeper.start()
    assert new.knows() == pytest.approx(old.knows(), rel=1e-3)
    new.learn(200)
    await new.keeper.save()
    old.learn(3000)  # it does not know yet that it is out of office
    await old.keeper.save()
    kept = await written(bucket)
    assert kept.term == 9
    third = Candidate(bus, 12)
    await third.keeper.start()
    assert third.knows() == pytest.approx(new.knows(), rel=1e-3)


async def test_nothing_new_is_not_written_again(bus: Bus, bucket: Bucket) -> None:
    candidate = Candidate(bus, 4)
    await candidate.keeper.save()
    assert (await bucket.get(stores.LEARNED)).revision == 0, "nothing was learnt yet"
    candidate.learn(20)
    await candidate.keeper.save()
    revision = (await bucket.get(stores.LEARNED)).revision
    await candidate.keeper.save()
    candidate.is_leader = False
    candidate.learn(20)
    await candidate.keeper.save()
    assert (await bucket.get(stores.LEARNED)).revision == revision


async def test_a_bucket_that_vanished_is_made_again(bus: Bus, bucket: Bucket) -> None:
    candidate = Candidate(bus, 4)
    candidate.learn(20)
    await candidate.keeper.save()
    await api(bus, f"STREAM.DELETE.KV_{stores.LEARNED_BUCKET}")
    candidate.learn(30)
    await candidate.keeper.save()
    await candidate.keeper.save()
    assert (await written(bucket)).lengths[0].samples == 2


@pytest.mark.parametrize("left", [b"{", b'{"type":"scorer.learned.v9"}', b'{"type":"scorer.learned.v1","term":-1}'])
async def test_what_cannot_be_read_is_ignored_and_replaced(bus: Bus, bucket: Bucket, left: bytes) -> None:
    await bucket.put(stores.LEARNED, left)
    candidate = Candidate(bus, 4)
    await candidate.keeper.start()
    candidate.learn(20)
    await candidate.keeper.save()
    assert (await written(bucket)).term == 4


async def test_a_recorder_that_hangs_or_answers_nonsense_does_not_delay_a_start(bus: Bus, bucket: Bucket) -> None:
    asked: list[RecentRequest] = []
    subscription = bus.subscribe(subjects.RECENT, lambda m: asked.append(decode(m.data, RecentRequest)))
    await Candidate(bus, 4).keeper.start()
    assert asked[0].per_model > 0
    subscription.unsubscribe()
    bus.subscribe(subjects.RECENT, lambda m: bus.publish(m.reply, b"}{"))
    candidate = Candidate(bus, 5)
    await candidate.keeper.start()
    assert candidate.core.lengths.cells() == []


async def test_what_the_bucket_lacks_is_learnt_from_recorded_outcomes(bus: Bus, bucket: Bucket) -> None:
    outcomes = tuple(ended(f"q{n}-1") for n in range(5))

    def answer(msg: Msg) -> None:
        bus.respond(msg, RecentReply(outcomes=outcomes))

    bus.subscribe(subjects.RECENT, answer)
    candidate = Candidate(bus, 4)
    await candidate.keeper.start()
    assert candidate.core.lengths.cells()
    candidate.core.on_telemetry(heartbeat(), 1.0)
    node = candidate.core.fleet.nodes["gpu1"]
    assert node.record.attempts > 4
    assert node.speeds.decode_tps(MODEL, 4.9e9) == pytest.approx(20.0, rel=0.02)


# -- standbys --------------------------------------------------------------------------------------------------


@pytest.fixture
async def scorers(nats_server: EmbeddedServer) -> AsyncIterator[list[Scorer]]:
    """The first one is in office."""
    running: list[Scorer] = []
    for number in (1, 2):
        scorer = Scorer(
            ScorerConfig(warm_up_s=0.0, snapshot_every_s=0.1),
            BusConfig(url=nats_server.url, name=f"scorer-{number}"),
            tick_s=0.02,
        )
        await scorer.start()
        running.append(scorer)
        if number == 1:
            await eventually(lambda leader: leader.is_leader, scorer)
    yield running
    for scorer in reversed(running):
        await scorer.close()


async def test_a_forced_recovery_reaches_the_standbys(scorers: list[Scorer], bus: Bus) -> None:
    bus.publish(subjects.TELEMETRY.of("gpu1"), encode(heartbeat()))
    await eventually(lambda: all("gpu1" in s.core.fleet.nodes for s in scorers))
    for number in range(5):
        bus.publish(subjects.OUTCOME_EVENT.of("gpu1"), encode(ended(f"f{number}-1", ErrorCode.ENGINE_FAILED)))
    await eventually(lambda: all(state_of(s) is BreakerState.OPEN for s in scorers))
    request = BreakerRequest(reset=True, node_id="gpu1", model=MODEL)
    reply = decode((await bus.request(subjects.ADMIN_BREAKER, encode(request))).data, BreakersReply)
    assert reply.breakers == ()
    await eventually(lambda: all(state_of(s) is BreakerState.CLOSED for s in scorers))
    leader, standby = scorers
    await leader.close()
    scorers.remove(leader)
    await eventually(lambda: standby.is_leader)
    await standby.bus.flush()
    reply = decode((await bus.request(subjects.ADMIN_BREAKER, encode(BreakerRequest()))).data, BreakersReply)
    assert reply.breakers == ()


async def test_forgotten_reliability_is_forgotten_by_every_scorer_and_stays_so(scorers: list[Scorer], bus: Bus) -> None:
    bucket = Bucket(bus, stores.LEARNED_BUCKET)
    bus.publish(subjects.TELEMETRY.of("gpu1"), encode(heartbeat()))
    await eventually(lambda: all("gpu1" in s.core.fleet.nodes for s in scorers))
    bus.publish(subjects.OUTCOME_EVENT.of("gpu1"), encode(ended("q1-1")))

    async def kept_attempts() -> float:
        value = (await bucket.get(stores.LEARNED)).value
        node = decode(value, Learned).nodes.get("gpu1") if value else None
        return node.record.attempts if node is not None else -1.0

    async def has_saved() -> bool:
        return await kept_attempts() == 1.0

    async def has_forgotten() -> bool:
        return await kept_attempts() == 0.0

    await eventually(has_saved)
    bus.publish(subjects.RESET_EVENT, encode(ResetEvent(kind=ResetKind.RELIABILITY, node_id="gpu1")))
    await eventually(lambda: all(s.core.fleet.nodes["gpu1"].record.attempts == 0 for s in scorers))
    await eventually(has_forgotten)


async def test_a_node_is_told_to_load_what_will_be_needed_and_everybody_may_know(
    scorers: list[Scorer], bus: Bus
) -> None:
    asked: list[ControlLoad] = []
    told: list[PreloadEvent] = []
    bus.subscribe(subjects.PRELOAD_EVENT.of("gpu1"), lambda m: told.append(decode(m.data, PreloadEvent)))

    def on_control(msg: Msg) -> None:
        if msg.data:
            asked.append(decode(msg.data, ControlLoad))
            bus.respond(msg, ControlReply(node_id="gpu1", instance="gpu1-1"))

    bus.subscribe(subjects.NODE_CONTROL.of("gpu1"), on_control)
    await bus.flush()
    for scorer in scorers:
        scorer.core.demand.restore(MODEL, 1.0, time.monotonic())
    memory = {"ram_total_mib": 64_000.0, "ram_available_mib": 60_000.0}
    bus.publish(subjects.TELEMETRY.of("gpu1"), encode(heartbeat(**memory)))
    await eventually(lambda: len(told) == 1)
    assert [(a.model, a.keep_alive_s) for a in asked] == [(MODEL, ScorerConfig().resident_keep_alive_s)]
    assert (told[0].model, told[0].error) == (MODEL, "")
    assert "steady demand" in told[0].reason


def state_of(scorer: Scorer) -> BreakerState:
    return scorer.core.fleet.nodes["gpu1"].breakers.of(MODEL).state


def heartbeat(**more: Any) -> Telemetry:
    return telemetry("gpu1", installed=(model(),), **more)


def ended(attempt_id: str, code: ErrorCode | None = None) -> Outcome:
    figures = Figures(actual_s=3.0, prompt_tokens=100, prompt_s=1.0, output_tokens=40, decode_s=2.0)
    return outcome(attempt_id, "gpu1", code=code, figures=None if code else figures, model=MODEL)


def test_the_document_of_this_version_is_read_by_this_version() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Learned(term=3)), type=Learned) == Learned(term=3)
