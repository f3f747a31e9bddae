"""The bounds by which candidates are left out: no cost may lie below its bound, or the best could be missed."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from sollol_agents.scorer.choice.bounds import PROFILE, START, TIGHT, Pool, Standing, row_of
from sollol_agents.scorer.choice.cost import CostRules, end_of, latest_end
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.core import Effect, SchedulerCore
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Line
from sollol_agents.scorer.queue.walk import Walk
from sollol_agents.scorer.strategies import strategy_named
from sollol_agents.scorer.strategies.least_cost import TIE_RATIO, TIE_S
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.decision import Decision
from sollol_schemas.errors import ErrorCode
from sollol_schemas.events import Outcome, OutcomeStatus, ReportedBy
from sollol_schemas.execution import Figures
from sollol_schemas.grant import Granted, GrantRequest
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import (
    EngineInfo,
    EngineKind,
    Gpu,
    InFlight,
    InstalledModel,
    LoadedModel,
    LoadUpdate,
    Telemetry,
)

_GIB = 1024**3
_MODELS = ("a:8b", "b:8b", "c:8b", "d:8b")


def _telemetry(number: int, rng: random.Random) -> Telemetry:
    total_mib = rng.choice([8, 12, 16, 24]) * 1024.0
    loaded = rng.sample(_MODELS, rng.randrange(3))
    return Telemetry(
        node_id=f"n{number}",
        instance=f"i{number}",
        revision=1,
        seq=0,
        engine=EngineInfo(kind=EngineKind.OLLAMA, url="http://node"),
        slots=rng.randrange(1, 5),
        gpus=(Gpu(index=0, name="RTX 3090", memory_total_mib=total_mib, memory_free_mib=rng.uniform(500, total_mib)),),
        installed=tuple(InstalledModel(name=m, size_bytes=5 * _GIB) for m in _MODELS),
        loaded=tuple(LoadedModel(name=m, size_bytes=6 * _GIB, vram_bytes=6 * _GIB) for m in loaded),
        weight=rng.choice([0.5, 1.0, 1.0, 3.0]),
        preferred_task_types=rng.choice([(), (), ("generation",)]),
        bus_rtt_s=rng.choice([0.0, 0.0, 0.1]),
    )


def _occupied(fleet: Fleet, rng: random.Random) -> None:
    for node in fleet.nodes.values():
        node.pace.value = rng.uniform(0.3, 1.2)
        for _ in range(rng.choice([0, 200])):
            node.record.count(is_success=True)
        for _ in range(rng.randrange(20)):
            node.work.count(rng.uniform(-1.0, 10.0), rng.uniform(0.0, 20.0), 1.0)
        for k in range(rng.randrange(node.slots + 1)):
            model = rng.choice(_MODELS)
            attempt = Attempt(
                attempt_id=f"{node.node_id}-{k}",
                request_id=f"{node.node_id}{k}",
                node_id=node.node_id,
                instance=node.instance,
                model=model,
                wire_model=model,
                granted_at=rng.uniform(0.0, 1.0),
            )
            attempt.prefill_s, attempt.decode_tps, attempt.output_median = rng.uniform(0, 3), 40.0, rng.uniform(1, 900)
            fleet.take(node, attempt)


def _waiting(rng: random.Random, sequence: int, *, model: str = _MODELS[0]) -> Waiting:
    context = TaskContext(
        kind=RequestKind.CHAT, model=model, task_type="generation", prompt_tokens=rng.randrange(1, 6000)
    )
    session = rng.choice([None, "talk"])
    request = GrantRequest(
        request_id=f"r{sequence}", number=1, context=context, routing=Routing(priority=5, session_id=session)
    )
    waiting = Waiting(request, 1.5, sequence)
    waiting.expect(rng.uniform(1.0, 1000.0))
    waiting.key = (1.5 - 300.0, 1.5, sequence)
    waiting.newcomers_ratio = rng.choice([0.0, 0.5, 1.0])
    return waiting


@given(st.integers(0, 2**32))
@example(17)  # company that is gone when bounds are still kept
@example(1097)  # company that slows less when there is more of it
def test_no_candidate_costs_less_than_its_bound(seed: int) -> None:
    rng = random.Random(seed)
    now = 1.5
    fleet, demand = Fleet(ScorerConfig()), Demand()
    for number in range(4):
        fleet.on_telemetry(_telemetry(number, rng), 1.0)
    _occupied(fleet, rng)
    for model in _MODELS:
        demand.count(model, 1.0)
    rules = CostRules(0.0, 1.1, 60.0)
    planner = Planner(
        rules=rules, demand=demand, holders=lambda _: 1, rng=rng, strategy=strategy_named("plan", hold=0.3)
    )
    nodes: list[Node] = list(fleet.nodes.values())
    waiting = _waiting(rng, 1)
    planned = {n.node_id: planner.horizon(n, now) for n in nodes}
    asked = waiting.request.context.prompt_tokens, waiting.output_mean
    largest = asked[0] * rng.uniform(1.0, 2.0), asked[1] * rng.uniform(1.0, 2.0)
    standing = planner.standing(waiting, nodes, largest)
    later = now + rng.choice([0.0, 0.1, 0.24])  # bounds are kept as long as the horizon that they follow from
    walk = Walk(planned, later)
    pool = Pool(waiting, standing, planned, later, rules, changed=walk.changed)
    for _ in range(rng.randrange(4)):
        other = _waiting(rng, 2, model=rng.choice(_MODELS))
        walk.commit(rng.choice(planner.costs(other, nodes, later, pool.planned)), other.model)
    least = pool.least_s(waiting)
    costs = planner.costs(waiting, nodes, later, pool.planned)
    late = pool.soonest_late_end((waiting,))
    for cost, least_s, row in zip(costs, least, pool.rows, strict=True):
        if not row[TIGHT]:
            least_s += pool.load_plan(row[PROFILE]).evict_s  # noqa: PLW2901 the bound that the plan looks at next
        assert least_s <= cost.total_s + 1e-9 * (1.0 + abs(cost.total_s))
        assert row[START] <= later or not cost.is_free
        assert late <= latest_end(cost) or not cost.is_free
    free = pool.free_now(walk.open_ids)
    assert {costs[place].is_free for place in free} <= {True}
    for ends_after, place in pool.by_end(waiting, free):
        assert ends_after <= end_of(costs[place])


@given(st.integers(0, 2**32))
def test_a_request_that_comes_while_nothing_waits_gets_what_a_walk_would_give_it(seed: int) -> None:
    rng = random.Random(seed)
    now = 1.5
    fleet, demand = Fleet(ScorerConfig()), Demand()
    for number in range(rng.randrange(1, 9)):
        fleet.on_telemetry(_telemetry(number, rng), 1.0)
    _occupied(fleet, rng)
    planner = Planner(
        rules=CostRules(0.0, 1.1, 60.0),
        demand=demand,
        holders=lambda _: 1,
        rng=rng,
        strategy=strategy_named("plan", hold=0.3),
    )
    waiting, line, nodes = _waiting(rng, 1), Line(), list(fleet.nodes.values())
    line.insert(waiting)
    alone = planner.choose_alone(waiting, nodes, now)
    walked = [choice for _, choice in planner.walk([line], 20, lambda _: nodes, now, waiting.newcomers_ratio)]
    assert (alone is None) is (not walked)
    if alone is not None:
        assert alone.cost.is_free is walked[0].cost.is_free
        tie = TIE_S + TIE_RATIO * abs(alone.cost.total_s)
        assert abs(alone.cost.total_s - walked[0].cost.total_s) <= tie
        assert alone.reason.split(",")[0] == walked[0].reason.split(",")[0]


@given(st.integers(0, 2**32))
def test_bounds_that_are_kept_are_those_that_would_be_made_now(seed: int) -> None:
    rng = random.Random(seed)
    core = SchedulerCore(ScorerConfig(warm_up_s=0.0), rng, 0.0)
    now = 1.0
    running: list[Decision] = []
    for number in range(4):
        core.on_telemetry(_telemetry(number, rng), now)
    for step in range(40):
        now += rng.choice([0.0, 0.01, 0.1, 0.4])
        running += [e.decision for e in _event(core, running, rng, step, now) if isinstance(e, Granted)]
        for waiting in core.waiting.one_of_each_class():
            nodes = [n for n in core.fleet.nodes.values() if waiting.model in n.installed]
            horizons = {n.node_id: core.planner.horizon(n, now) for n in nodes}
            kept = core.planner.standing(waiting, nodes, (6000.0, 2000.0))
            profiles = core.planner.profiles.of_all(nodes, waiting.model, None)
            for row, profile in zip(kept.rows, profiles, strict=True):
                horizon = horizons[profile.node.node_id]
                if not row[TIGHT]:
                    horizon = horizon.copy()
                    horizon.plans.clear()
                assert row == row_of(profile, horizon, waiting.model, kept.largest)
            bucket = rng.randrange(4, 8)
            fresh = Standing(waiting.model, nodes, profiles, horizons, kept.largest)
            assert kept.factors(bucket, now) == fresh.factors(bucket, now)


def _event(core: SchedulerCore, running: list[Decision], rng: random.Random, step: int, now: float) -> list[Effect]:
    """Something that may change a node, or what waits."""
    match rng.randrange(6):
        case 0 if running:
            decision = running.pop(rng.randrange(len(running)))
            return core.on_outcome(_outcome(decision, rng), now)
        case 1:
            return core.on_telemetry(structs.replace(_telemetry(rng.randrange(4), rng), seq=step + 1), now)
        case 2 if running:
            return core.release(running.pop(rng.randrange(len(running))).request_id, now)
        case 3:
            return core.tick(now)
        case 4 if running:
            node_id = rng.choice(running).node_id
            there = tuple(
                InFlight(attempt_id=d.attempt_id, model=d.model, has_first_token=rng.random() < 0.5, output_tokens=step)
                for d in running
                if d.node_id == node_id
            )
            return core.on_load(
                LoadUpdate(node_id=node_id, instance=f"i{node_id[1:]}", seq=step + 1, slots=4, in_flight=there), now
            )
    context = TaskContext(kind=RequestKind.CHAT, model=rng.choice(_MODELS), prompt_tokens=rng.randrange(1, 6000))
    request = GrantRequest(request_id=f"r{step}", number=1, context=context, routing=Routing(priority=5))
    return core.enqueue(request, now)


def _outcome(decision: Decision, rng: random.Random) -> Outcome:
    if rng.random() < 0.2:
        code = rng.choice([ErrorCode.ENGINE_FAILED, ErrorCode.BUSY])
        return Outcome(decision=decision, status=OutcomeStatus.FAILED, reported_by=ReportedBy.NODE, code=code)
    figures = Figures(
        actual_s=3.0, load_s=rng.choice([0.0, 4.0]), prompt_tokens=900, output_tokens=150, prompt_s=0.5, decode_s=2.0
    )
    return Outcome(decision=decision, status=OutcomeStatus.SUCCESS, reported_by=ReportedBy.NODE, figures=figures)
