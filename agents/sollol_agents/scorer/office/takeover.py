"""The whole of what a scorer learnt: told to its successors, and taken up by them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.core import SchedulerCore
from sollol_agents.scorer.fleet.memory import learn_again, learned_of_node
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.instants import instant
from sollol_schemas.learned import NAME_MAX, Learned, LearnedLength

_DEMAND_FADES_S = 120.0
_SMALLEST_RATE = 1e-4


def everything_learned(core: SchedulerCore, now: float, unix_s: float) -> Learned:
    """What is worth keeping, with the instant by the server's clock, from which a later process tells its age."""
    nodes = core.fleet.memory.nodes(now)
    for node in core.fleet.nodes.values():
        learned = learned_of_node(node, now)
        if learned is not None:
            nodes[node.node_id] = learned
    rates = {model: round(core.demand.rate(model, now), 4) for model, _, _ in core.demand.rates()}
    return Learned(
        term=core.term,
        saved_at=instant(unix_s),
        nodes=nodes,
        lengths=tuple(LearnedLength(key=key, samples=n, mean_log=round(mu, 5)) for key, n, mu in core.lengths.cells()),
        demand={m: rate for m, rate in rates.items() if rate >= _SMALLEST_RATE and len(m) <= NAME_MAX},
        qualities=core.qualities.snapshot(now),
        trials=core.trials.snapshot(),
        heard=core.feedback.heard,
    )


def take_up(core: SchedulerCore, learned: Learned, now: float, age_s: float) -> None:
    """Goes on from what a former process knew `age_s` seconds ago; what this one learnt itself stays."""
    for node_id, told in learned.nodes.items():
        core.fleet.memory.keep(node_id, told, now - age_s)
        node = core.fleet.nodes.get(node_id)
        if node is not None:
            core.fleet.memory.recall(node, node.telemetry, now)
    for cell in learned.lengths:
        core.lengths.restore(cell.key, cell.samples, cell.mean_log)
    core.qualities.restore(learned.qualities, now - age_s)
    core.trials.restore(learned.trials)
    core.feedback.heard = learned.heard
    _take_up_demand(core, learned, now, age_s)


def overhear(core: SchedulerCore, learned: Learned, now: float) -> None:
    """Takes from the scorer in office what a standby cannot learn from the fleet: what is asked for, and caches."""
    _take_up_demand(core, learned, now, 0.0)
    for node_id, told in learned.nodes.items():
        node = core.fleet.nodes.get(node_id)
        if node is not None and node.instance == told.instance:
            node.mirror.replace(
                {model: [(p.key, p.tokens, p.hashes) for p in prefixes] for model, prefixes in told.prefixes.items()}
            )
            node.speed_version += 1


def learn_from_record(core: SchedulerCore, outcomes: Iterable[Outcome]) -> int:
    """Learns from recorded outcomes, oldest first, what nobody told; returns how many there were.

    A slow phase of a node cannot be told from its usual pace in the records, and whether a limit cut an answer is
    not recorded: speeds and lengths learnt so are coarser, and the next answers correct them.
    """
    lessons = list(outcomes)
    known = {key for key, _, _ in core.lengths.cells()}
    for outcome in lessons:
        figures = outcome.figures
        if figures is None or outcome.status is not OutcomeStatus.SUCCESS or not figures.output_tokens:
            continue
        task = outcome.decision.task_type or "generation"
        model = canonical(outcome.decision.model)
        if (model, task) not in known:
            core.lengths.learn(model, task, figures.prompt_tokens or 0, figures.output_tokens)
    by_node: dict[str, list[Outcome]] = {}
    for outcome in lessons:
        by_node.setdefault(outcome.node_id, []).append(outcome)
    for node_id in by_node.keys() & core.fleet.nodes.keys():
        learn_again(core.fleet.nodes[node_id], by_node.pop(node_id))
    core.fleet.memory.keep_lessons(o for lessons_of_node in by_node.values() for o in lessons_of_node)
    return len(lessons)


def forget_reliability(core: SchedulerCore, node_id: str, model: str) -> None:
    """Begins the counts of success anew: of one node, of one model, or of everything (empty names)."""
    for node in core.fleet.nodes.values():
        if node_id not in ("", node.node_id):
            continue
        for name, record in node.model_records.items():
            if model in ("", name):
                record.forget()
        if not model:
            node.record.forget()
        node.speed_version += 1
        node.reshape()
    core.fleet.memory.forget_reliability(node_id, model)


def forget_quality(core: SchedulerCore, model: str) -> None:
    """Begins anew with what feedback taught of one model, or of every model (empty name)."""
    core.qualities.reset(model or None)
    core.trials.reset(model or None)


def _take_up_demand(core: SchedulerCore, learned: Learned, now: float, age_s: float) -> None:
    fade = math.exp(-max(0.0, age_s) / _DEMAND_FADES_S)
    for model, rate in learned.demand.items():
        core.demand.restore(model, rate * fade, now)
