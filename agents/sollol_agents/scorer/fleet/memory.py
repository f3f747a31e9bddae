"""What the scorer knew of nodes that it has not met yet, or not for a while, and how it is taken up again.

Three sources, the best first: what this process knows itself; the document that a former process left; outcomes
from the recorder's database, from which speeds and reliability are learnt once more. A worse source never replaces
a better one.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.priors import weight_bytes
from sollol_agents.scorer.knowledge.reliability import Record, strayed
from sollol_agents.scorer.knowledge.sleeper import Sleeper
from sollol_schemas.events import Outcome, OutcomeStatus
from sollol_schemas.learned import LearnedNode, LearnedPrefix, LearnedRecord
from sollol_schemas.telemetry import Telemetry

_NODES_MAX = 2048
_LESSONS_MAX = 4096
_RECOVERY_PER_S = 0.02


class _Kept(NamedTuple):
    learned: LearnedNode
    at: float
    """The instant at which its ages were right."""


class Memory:
    """Nodes that are not here, by id; bounded, and those go first that were kept longest ago."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, _Kept] = OrderedDict()
        self._lessons: dict[str, list[Outcome]] = {}

    def keep(self, node_id: str, learned: LearnedNode, at: float) -> None:
        """Remembers one node; `at` is when its ages were right."""
        self._nodes[node_id] = _Kept(learned, at)
        self._nodes.move_to_end(node_id)
        if len(self._nodes) > _NODES_MAX:
            self._nodes.popitem(last=False)

    def nodes(self, now: float) -> dict[str, LearnedNode]:
        """Everything remembered, with the ages of now."""
        return {node_id: aged(kept.learned, now - kept.at) for node_id, kept in self._nodes.items()}

    def recall(self, node: Node, telemetry: Telemetry, now: float) -> None:
        """Gives a node that just joined what is remembered of it."""
        kept = self._nodes.pop(node.node_id, None)
        if kept is not None:
            restore_node(node, aged(kept.learned, now - kept.at), telemetry, now)

    def forget_reliability(self, node_id: str, model: str) -> None:
        """Forgets counts of success, also those that recorded outcomes would teach; empty names mean all."""
        for name, kept in list(self._nodes.items()):
            if node_id in ("", name):
                records = {m: r for m, r in kept.learned.model_records.items() if model and m != model}
                record = kept.learned.record if model else LearnedRecord()
                learned = msgspec.structs.replace(kept.learned, record=record, model_records=records)
                self._nodes[name] = kept._replace(learned=learned)
        self._lessons.clear()

    def keep_lessons(self, outcomes: Iterable[Outcome]) -> None:
        """Remembers recorded outcomes, oldest first, for nodes that are still to come."""
        self._lessons = defaultdict(list)
        for outcome in list(outcomes)[-_LESSONS_MAX:]:
            self._lessons[outcome.node_id].append(outcome)

    def teach(self, node: Node) -> None:
        """Lets recorded outcomes teach a node about models of which nothing is known."""
        lessons = self._lessons.pop(node.node_id, None)
        if lessons:
            learn_again(node, lessons)


def aged(learned: LearnedNode, passed_s: float) -> LearnedNode:
    """What is left of what was known after so many seconds: the pace drifts to 1, breakers come closer to a trial."""
    passed_s = max(0.0, passed_s)
    drift = _RECOVERY_PER_S * passed_s
    pace = min(1.0, learned.pace + drift) if learned.pace < 1.0 else max(1.0, learned.pace - drift)
    opened_for_s = {model: age_s + passed_s for model, age_s in learned.opened_for_s.items()}
    return msgspec.structs.replace(learned, pace=pace, opened_for_s=opened_for_s)


def learned_of_node(node: Node, now: float) -> LearnedNode | None:
    """What is worth keeping of a node; None while nothing was learnt."""
    if node.record.attempts == 0 and not node.speeds.models():
        return None
    return LearnedNode(
        instance=node.instance,
        wake_s=round(node.sleeper.wake_s, 1) if node.sleeper is not None and node.sleeper.samples else 0.0,
        speeds=node.speeds.learned(),
        pace=round(node.pace.value, 3),
        record=node.record.learned(),
        model_records={model: record.learned() for model, record in node.model_records.items() if record.attempts},
        opened_for_s={
            model: round(breaker.opened_for_s(now), 1)
            for model, breaker in node.breakers.by_model.items()
            if not breaker.is_closed
        },
        prefixes={
            model: tuple(LearnedPrefix(key=key, tokens=tokens, hashes=hashes) for key, tokens, hashes in entries)
            for model, entries in node.mirror.entries().items()
        },
    )


def restore_node(node: Node, learned: LearnedNode, telemetry: Telemetry, now: float) -> None:
    """Gives a node what a former process knew of it; what it knows by itself stays."""
    node.speeds.restore(learned.speeds)
    node.record.restore(learned.record)
    if learned.wake_s and (node.sleeper is None or not node.sleeper.samples):
        node.sleeper = node.sleeper or Sleeper(now)
        node.sleeper.restore(learned.wake_s)
    for model, record in learned.model_records.items():
        node.model_records.setdefault(model, Record()).restore(record)
    if telemetry.instance == learned.instance:
        node.pace.value, node.pace.at = learned.pace, now
        for model, opened_for_s in learned.opened_for_s.items():
            node.breakers.of(model).reopen(now - opened_for_s)
        loaded = {canonical(m.name) for m in telemetry.loaded}
        for model in loaded & learned.prefixes.keys():
            for prefix in learned.prefixes[model]:
                node.mirror.remember(model, prefix.key, prefix.tokens, prefix.hashes, telemetry.slots)
    node.speed_version += 1
    node.reshape()


def learn_again(node: Node, outcomes: list[Outcome]) -> None:
    """Counts recorded outcomes, oldest first, for models of this node of which nothing was learnt yet."""
    unknown = {m for m in map(_model, outcomes) if m not in node.model_records}
    has_record = node.record.attempts > 0
    for outcome in outcomes:
        model = _model(outcome)
        is_success = outcome.status is OutcomeStatus.SUCCESS
        if model not in unknown or not (is_success or outcome.is_charged):
            continue
        records = [node.model_record(model)] if has_record else [node.model_record(model), node.record]
        for record in records:
            record.count(is_success=is_success)
            if is_success and outcome.figures is not None:
                record.compare(strayed(outcome.figures.actual_s, outcome.decision.forecast.total_s))
        if is_success and outcome.figures is not None and model in node.installed:
            node.speeds.learn(model, weight_bytes(node.installed[model]), outcome.figures, 1.0)
    node.speed_version += 1
    node.reshape()


def _model(outcome: Outcome) -> str:
    return canonical(outcome.decision.model)
