"""The bounds by which candidates are left out: no cost may lie below its bound, or the best could be missed."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sollol_agents.scorer.choice.bounds import Pool
from sollol_agents.scorer.choice.cost import CostRules
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.strategies import strategy_named
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.grant import GrantRequest
from sollol_schemas.routing import Routing
from sollol_schemas.telemetry import EngineInfo, EngineKind, Gpu, InstalledModel, LoadedModel, Telemetry

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
        bus_rtt_s=rng.uniform(0.0, 0.1),
    )


def _occupied(fleet: Fleet, rng: random.Random) -> None:
    for node in fleet.nodes.values():
        node.pace.value = rng.uniform(0.3, 1.2)
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


def _waiting(rng: random.Random, sequence: int) -> Waiting:
    context = TaskContext(
        kind=RequestKind.CHAT, model=_MODELS[0], task_type="generation", prompt_tokens=rng.randrange(1, 6000)
    )
    session = rng.choice([None, "talk"])
    request = GrantRequest(
        request_id=f"r{sequence}", number=1, context=context, routing=Routing(priority=5, session_id=session)
    )
    waiting = Waiting(request, 1.5, sequence)
    waiting.expect(rng.uniform(1.0, 1000.0))
    waiting.key = (1.5 - 300.0, 1.5, sequence)
    return waiting


@given(st.integers(0, 2**32))
def test_no_candidate_costs_less_than_its_bound(seed: int) -> None:
    rng = random.Random(seed)
    now = 1.5
    fleet, demand = Fleet(ScorerConfig()), Demand()
    for number in range(4):
        fleet.on_telemetry(_telemetry(number, rng), 1.0)
    _occupied(fleet, rng)
    for model in _MODELS:
        demand.count(model, 1.0)
    rules = CostRules(2.0, 1.1, 60.0)
    planner = Planner(
        rules=rules, demand=demand, holders=lambda _: 1, rng=rng, strategy=strategy_named("plan", hold=0.3)
    )
    nodes: list[Node] = list(fleet.nodes.values())
    waiting = _waiting(rng, 1)
    planned = {n.node_id: planner.horizon(n, now) for n in nodes}
    pool = Pool(waiting, planner.profiles.of_all(nodes, waiting.model, None), planned, now, rules)
    costs = {c.horizon.node.node_id: c for c in planner.costs(waiting, nodes, now, pool)}
    for least_s, (_, _, _, profile, may_be_free, is_tight) in pool.bounded(waiting):
        cost = costs[profile.node.node_id]
        if not is_tight:
            least_s += pool.load_plan(profile).evict_s  # noqa: PLW2901 the bound that the plan looks at next
        assert least_s <= cost.total_s + 1e-9 * (1.0 + abs(cost.total_s))
        assert may_be_free or not cost.is_free
