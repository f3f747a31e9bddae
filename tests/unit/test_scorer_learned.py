"""What a scorer learnt outlives it: the document, what is done with its age, and what the recorder's outcomes teach."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.lab.testing.messages import MODEL, gpu, loaded, model, outcome, telemetry
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.knowledge.breaker import BreakerRules
from sollol_agents.scorer.knowledge.learned import bytes_of
from sollol_agents.scorer.office.takeover import (
    everything_learned,
    forget_reliability,
    learn_from_record,
    overhear,
    take_up,
)
from sollol_bus.errors import DecodeFailed
from sollol_bus.transport.messages import decode
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import BreakerState, Outcome, OutcomeStatus
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantRequest
from sollol_schemas.learned import Learned
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    NodeState,
)

SIZE = 4.9e9


class Scorer:
    """A core with one node, which does what it is granted at a speed of its own."""

    def __init__(self, *, now: float = 100.0, instance: str = "gpu1-a", **settings: Any) -> None:
        self.now = now
        self.core = SchedulerCore(ScorerConfig(**({"warm_up_s": 0.0} | settings)), random.Random(3), now)
        self.core.term = 5
        self.instance = instance
        self.seq = 0
        self.count = 0

    def beat(self, *, card: str = "RTX 3090") -> None:
        self.seq += 1
        told = telemetry(
            "gpu1",
            instance=self.instance,
            seq=self.seq,
            slots=2,
            gpus=(gpu(card, free_gb=19.5),),
            ram_total_mib=64_000,
            ram_available_mib=60_000,
            installed=(model(),),
            loaded=(loaded(size_gb=4.9),),
        )
        self.core.on_telemetry(told, self.now)

    def run(self, *, decode_tps: float = 33.0, output: int = 66, status: OutcomeStatus = OutcomeStatus.SUCCESS) -> None:
        """One request from question to outcome."""
        self.count += 1
        context = TaskContext(
            kind=RequestKind.CHAT, model=MODEL, prompt_tokens=400, prefix_hashes=("aa", "bb"), prefix_tokens=(100, 200)
        )
        asked = GrantRequest(
            request_id=f"r{self.count}", number=1, context=context, routing=Routing(session_id="talk"), dispatcher="d1"
        )
        granted = next(e for e in self.core.enqueue(asked, self.now) if isinstance(e, Granted))
        self.now += output / decode_tps + 1.0
        self.core.on_outcome(outcome_of(granted.decision.attempt_id, decode_tps, output, status), self.now)
        self.beat()

    @property
    def node(self) -> Any:
        return self.core.fleet.nodes["gpu1"]

    def learned(self) -> Learned:
        return decode(bytes_of(everything_learned(self.core, self.now, 1_700_000_000.0), 1 << 20), Learned)


def outcome_of(attempt_id: str, decode_tps: float, tokens: int, status: OutcomeStatus) -> Outcome:
    figures = Figures(
        actual_s=tokens / decode_tps + 1.0,
        prompt_tokens=400,
        prompt_s=1.0,
        output_tokens=tokens,
        decode_s=tokens / decode_tps,
        load_s=7.0,
    )
    is_success = status is OutcomeStatus.SUCCESS
    return outcome(
        attempt_id,
        "gpu1",
        code=None if is_success else ErrorCode.ENGINE_FAILED,
        figures=figures if is_success else None,
        model=MODEL,
        task_type="generation",
        predicted_s=3.0,
    )


@pytest.fixture
def experienced() -> Scorer:
    scorer = Scorer()
    scorer.beat()
    for _ in range(10):
        scorer.run()
    return scorer


def speeds(scorer: Scorer) -> tuple[float, float, float]:
    s = scorer.node.speeds
    return s.prompt_tps(MODEL, SIZE), s.decode_tps(MODEL, SIZE), s.load_s(MODEL, SIZE)


def test_a_new_scorer_predicts_as_the_former_one_did(experienced: Scorer) -> None:
    fresh = Scorer(now=5.0)
    fresh.beat()
    assert speeds(fresh)[1] > 2 * 33.0, "the prior is far from what this node does"
    successor = Scorer(now=5.0)
    take_up(successor.core, experienced.learned(), successor.now, age_s=3.0)
    successor.beat()
    assert speeds(successor) == pytest.approx(speeds(experienced), rel=1e-3)
    assert successor.node.record.bound == pytest.approx(experienced.node.record.bound, abs=1e-4)
    assert successor.core.lengths.median_tokens(MODEL, "generation", 400) == pytest.approx(
        experienced.core.lengths.median_tokens(MODEL, "generation", 400), rel=1e-3
    )
    assert successor.core.demand.rate(MODEL, successor.now) == pytest.approx(
        experienced.core.demand.rate(MODEL, experienced.now) * 2.718281828 ** (-3 / 120), rel=1e-2
    )


def test_the_document_can_come_after_the_first_heartbeat(experienced: Scorer) -> None:
    successor = Scorer()
    successor.beat()
    take_up(successor.core, experienced.learned(), successor.now, age_s=0.0)
    assert speeds(successor) == pytest.approx(speeds(experienced), rel=1e-3)


def test_own_samples_are_worth_more_than_the_document(experienced: Scorer) -> None:
    successor = Scorer()
    successor.beat()
    successor.run(decode_tps=80.0)
    own = successor.node.speeds.decode_tps(MODEL, SIZE)
    attempts = successor.node.record.attempts
    take_up(successor.core, experienced.learned(), successor.now, age_s=0.0)
    assert successor.node.speeds.decode_tps(MODEL, SIZE) == own
    assert successor.node.record.attempts == attempts


def test_speeds_of_other_hardware_are_not_used(experienced: Scorer) -> None:
    successor = Scorer()
    take_up(successor.core, experienced.learned(), successor.now, age_s=0.0)
    successor.beat(card="RTX 4090")
    unknown = Scorer()
    unknown.beat(card="RTX 4090")
    assert speeds(successor) == speeds(unknown)


def test_caches_and_breakers_are_those_of_one_process(experienced: Scorer) -> None:
    for _ in range(5):
        experienced.run(status=OutcomeStatus.FAILED)
    experienced.node.mirror.remember(MODEL, "talk", 500, ("aa", "bb"), 2)
    assert experienced.node.breakers.of(MODEL).state is BreakerState.OPEN
    same, other = Scorer(), Scorer(instance="gpu1-b")
    for scorer in (same, other):
        take_up(scorer.core, experienced.learned(), scorer.now, age_s=2.0)
        scorer.beat()
    assert same.node.breakers.of(MODEL).state is BreakerState.OPEN
    wait_s = BreakerRules().open_s
    left_s = same.node.breakers.of(MODEL).opens_in_s(same.now)
    assert left_s == pytest.approx(experienced.node.breakers.of(MODEL).opens_in_s(experienced.now) - 2.0, abs=0.1)
    assert left_s < wait_s
    assert same.node.mirror.hit_tokens(MODEL, "talk", ("aa", "bb"), (100, 200)) == 200
    assert other.node.breakers.of(MODEL).state is BreakerState.CLOSED
    assert other.node.mirror.hit_tokens(MODEL, "talk", ("aa", "bb"), (100, 200)) == 0


def test_a_slow_phase_fades_with_its_age(experienced: Scorer) -> None:
    experienced.node.pace.value = 0.4
    for age_s, pace in ((0.0, 0.4), (10.0, 0.6), (60.0, 1.0)):
        successor = Scorer()
        take_up(successor.core, experienced.learned(), successor.now, age_s=age_s)
        successor.beat()
        assert successor.node.pace.value == pytest.approx(pace)


def test_a_node_that_was_forgotten_and_returns_is_known_again(experienced: Scorer) -> None:
    before = speeds(experienced)
    experienced.now += 1000.0
    experienced.core.tick(experienced.now)
    assert not experienced.core.fleet.nodes
    assert "gpu1" in experienced.learned().nodes
    experienced.beat()
    assert experienced.node.state is NodeState.UP
    assert speeds(experienced) == pytest.approx(before, rel=1e-3)


def test_recorded_outcomes_teach_what_nobody_left() -> None:
    outcomes = [outcome_of(f"q{n}-1", 33.0, 66, OutcomeStatus.SUCCESS) for n in range(12)]
    outcomes.append(outcome_of("q99-1", 33.0, 66, OutcomeStatus.FAILED))
    early, late = Scorer(), Scorer()
    early.beat()
    for scorer in (early, late):
        learn_from_record(scorer.core, outcomes)
    late.beat()
    for scorer in (early, late):
        assert speeds(scorer)[1] == pytest.approx(33.0, rel=0.02)
        assert speeds(scorer)[2] == pytest.approx(7.0, rel=0.02)
        assert 0 < scorer.node.record.bound < 0.95
        assert scorer.core.lengths.median_tokens(MODEL, "generation", 400) < 120


def test_recorded_outcomes_do_not_count_twice(experienced: Scorer) -> None:
    before = experienced.learned()
    learn_from_record(experienced.core, [outcome_of(f"r{n}-1", 5.0, 66, OutcomeStatus.SUCCESS) for n in range(5)])
    after = experienced.learned()
    assert after.nodes["gpu1"] == before.nodes["gpu1"]
    assert after.lengths == before.lengths


def test_a_standby_overhears_demand_and_caches(experienced: Scorer) -> None:
    standby = Scorer()
    standby.beat()
    overhear(standby.core, experienced.learned(), standby.now)
    assert standby.core.demand.rate(MODEL, standby.now) > 0
    assert standby.node.mirror.hit_tokens(MODEL, "talk", ("aa", "bb"), (100, 200)) == 200
    assert standby.node.record.attempts == 0, "outcomes are its own to hear"


def test_reliability_is_forgotten_on_demand_for_nodes_here_and_away(experienced: Scorer) -> None:
    away = Scorer()
    take_up(away.core, experienced.learned(), away.now, age_s=0.0)
    for scorer in (experienced, away):
        forget_reliability(scorer.core, "gpu1", "")
    away.beat()
    for scorer in (experienced, away):
        assert scorer.node.record.bound == 0.0
        assert scorer.node.model_record(MODEL).bound == 0.0
    assert speeds(away) == pytest.approx(speeds(experienced), rel=1e-3), "speeds stay"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"{",
        b"null",
        b'{"type":"scorer.learned.v2","nodes":{}}',
        b'{"type":"scorer.learned.v1","term":-1}',
        b'{"type":"scorer.learned.v1","nodes":{"gpu1":{"instance":"a"}}}',
        b'{"type":"scorer.learned.v1","demand":{"m":-1}}',
        b'{"type":"scorer.learned.v1","demand":{"m":1e999}}',
        b'{"type":"scorer.learned.v1","demand":{"m":NaN}}',
        b'{"type":"scorer.learned.v1","lengths":[{"key":[],"samples":1,"mean_log":1}]}',
        (
            b'{"type":"scorer.learned.v1","nodes":{"gpu1":{"instance":"a","speeds":{"machine":[1,1],"beta":0.3},'
            b'"record":{"attempts":1,"successes":2}}}}'
        ),
    ],
)
def test_a_document_that_no_scorer_writes_is_refused_as_a_whole(broken: bytes) -> None:
    with pytest.raises(DecodeFailed):
        decode(broken, Learned)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeFailed):
        assert isinstance(decode(data, Learned), Learned)


def test_the_document_is_canonical_and_bounded(experienced: Scorer) -> None:
    for number in range(500):
        experienced.core.lengths.learn(f"m{number}", "generation", 100, 50)
    learned = everything_learned(experienced.core, experienced.now, 0.0)
    whole = bytes_of(learned, 1 << 20)
    assert whole == bytes_of(everything_learned(experienced.core, experienced.now, 0.0), 1 << 20)
    assert bytes_of(decode(whole, Learned), 1 << 20) == whole
    small = bytes_of(learned, 20_000)
    assert len(small) <= 20_000
    assert decode(small, Learned).lengths[-1].key[0] == "m499", "what was learnt last is kept"
    assert len(bytes_of(learned, 200)) <= 200


def test_a_model_with_an_absurd_name_does_not_make_the_document_unreadable() -> None:
    scorer = Scorer(warm_up_s=60.0)
    scorer.beat()
    context = TaskContext(kind=RequestKind.CHAT, model="m" * 2000)
    asked = GrantRequest(request_id="r1", number=1, context=context, routing=Routing(), dispatcher="d1")
    scorer.core.enqueue(asked, scorer.now)
    assert max(len(model) for model, _, _ in scorer.core.demand.rates()) >= 2000
    learned = everything_learned(scorer.core, scorer.now, 0.0)
    assert decode(bytes_of(learned, 10**6), Learned) == learned
