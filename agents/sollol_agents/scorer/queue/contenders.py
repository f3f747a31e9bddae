"""The models of a group for one request: what each would cost, and why others cannot serve it.

What a model costs is what its best node costs plus the work that stands before the request on the model's nodes, in
whatever line.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.choice import model_choice
from sollol_agents.scorer.choice.abilities import lacking
from sollol_agents.scorer.choice.contexts import room_tokens, wanted_room
from sollol_agents.scorer.choice.cost import Cost
from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.groups import Fallen
from sollol_agents.scorer.choice.model_choice import Contender
from sollol_agents.scorer.choice.profiles import speed_up
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.knowledge.model_breakers import ModelBreakers
from sollol_agents.scorer.knowledge.quality import PRIOR, Qualities
from sollol_agents.scorer.queue.admission import Admission
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue
from sollol_schemas.context import Ability, TaskContext
from sollol_schemas.decision import RejectionReason
from sollol_schemas.grant import GrantRequest
from sollol_schemas.groups import MEMBERS_MAX, Group, GroupMember, GroupStrategy
from sollol_schemas.refused import grouped
from sollol_schemas.telemetry import InstalledModel

_NODES_MAX = 16  # nodes of a model that are worked out
_COUNTS_LOAD = (GroupStrategy.LEAST_LOADED, GroupStrategy.HYBRID)
_EMBEDDERS = ("embed", "bge-", "e5-", "gte-", "minilm")
"""What stands in the names of models that make vectors and no text, where their engine does not tell."""


class _Entry(NamedTuple):
    """A model of a group with the request as if it had named that."""

    member: GroupMember
    waiting: Waiting
    verdict: EligibilityClass

    @property
    def installed(self) -> InstalledModel:
        """The model on the first of its nodes."""
        return self.verdict.nodes[0].installed[self.waiting.model]


class Found(NamedTuple):
    """The models of a group, for one request."""

    contenders: list[Contender]
    waitings: dict[str, Waiting]
    """The request for each of the contenders, by model."""
    fallen: list[Fallen]
    later: list[Waiting]
    """The request for models that cannot serve it now but may by themselves."""


class Contenders:
    """Finds the models that could serve a request.

    Args:
        fleet: Who has them.
        queue: What waits before it.
        qualities: What is expected of models.
        breakers: Which models fail everywhere.
        demand: Which are asked for.
        admission: Makes the request for a model.
        verdicts: Which nodes may serve that.
        planner: What it costs there.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        queue: Queue,
        qualities: Qualities,
        breakers: ModelBreakers,
        demand: Demand,
        admission: Admission,
        verdicts: Verdicts,
        planner: Planner,
    ) -> None:
        self._fleet = fleet
        self._queue = queue
        self._qualities = qualities
        self._breakers = breakers
        self._demand = demand
        self._admission = admission
        self._verdicts = verdicts
        self._planner = planner

    def find(self, group: Group, request: GrantRequest, before: Waiting | None, now: float) -> Found:
        """What each model of the group would cost now, or why it falls out.

        Args:
            group: The group.
            request: As its dispatcher asked.
            before: It as it waited so far; what comes of it keeps its age and its deadline.
            now: The present instant.
        """
        fallen: list[Fallen] = []
        later: list[Waiting] = []
        able: list[_Entry] = []
        failed = {canonical(name) for name in request.failed_models}
        avoided = {canonical(name) for name in request.routing.avoid_models}
        for member in self.members(group, request.context, now):
            if canonical(member.model) in failed:
                fallen.append(Fallen(member.model, "it failed this request before"))
                continue
            if canonical(member.model) in avoided:
                fallen.append(Fallen(member.model, "it is to be avoided: its answer was no good"))
                continue
            waiting = self.request_for(member.model, request, before, now)
            entry = _Entry(member, waiting, self._verdicts.of(waiting, now))
            why = self._why_unable(entry)
            if why is None:
                able.append(entry)
                continue
            fallen.append(why)
            if entry.verdict.is_transient or now < self._fleet.patient_until:
                later.append(waiting)
        if avoided and group.strategy is GroupStrategy.CHEAP_FIRST:
            able = _without(able, fallen, self._smaller(able, avoided), "a larger one was asked before")
        able = _without(able, fallen, _small_rooms(able), "too little context for the prompt")
        for compromised in (
            {e.waiting.model for e in able if e.verdict.is_stopgap},
            {e.waiting.model for e in able if e.verdict.fallback},
        ):
            able = _without(able, fallen, compromised, "others suit it better")
        broken = {e.waiting.model for e in able if self._breakers.opens_in_s(e.waiting.model, now) > 0}
        able = _without(able, fallen, broken, "it failed lately, on whatever node")
        sizes = [e.installed.size_bytes for e in able]
        contenders = [self._contender(group, e, sizes, now) for e in able]
        return Found(contenders, {e.waiting.model: e.waiting for e in able}, fallen, later)

    def request_for(self, model: str, request: GrantRequest, before: Waiting | None, now: float) -> Waiting:
        """The request as if it had named a model."""
        named = msgspec.structs.replace(request, context=msgspec.structs.replace(request.context, model=model))
        waiting = self._admission.admitted(named, now)
        if before is not None:
            waiting.inherit(before)
            waiting.deadline_at = min(waiting.deadline_at, before.deadline_at)
        self._queue.place(waiting)
        return waiting

    def members(self, group: Group, context: TaskContext, now: float) -> list[GroupMember]:
        """The models of a group, the candidate on trial among them; of `auto` those of the fleet that do such work."""
        if not group.members:
            return self._fleets_models(context, now)
        members = {canonical(member.model): member for member in group.members}
        if group.candidate is not None:
            members.setdefault(canonical(group.candidate.model), GroupMember(model=group.candidate.model))
        return list(members.values())

    def _smaller(self, able: Iterable[_Entry], avoided: Iterable[str]) -> set[str]:
        """Those that are smaller than one of these models."""
        nodes = self._fleet.nodes.values()
        sizes = [node.installed[name].size_bytes for node in nodes for name in avoided if name in node.installed]
        return {e.waiting.model for e in able if e.installed.size_bytes < max(sizes, default=0)}

    def _fleets_models(self, context: TaskContext, now: float) -> list[GroupMember]:
        """So many of the fleet's models as a group may have: those in memory first, then those asked for most.

        Of those that make vectors, those that most nodes have: which comes first must not change from day to day.
        """
        names: dict[str, str] = {}
        holders: Counter[str] = Counter()
        warm: set[str] = set()
        for node in self._fleet.nodes.values():
            for key, model in node.installed.items():
                if is_embedder(model) is context.is_embedding:
                    names.setdefault(key, model.name)
                    holders[key] += 1
                    if node.resident(key) is not None:
                        warm.add(key)

        def reluctance(key: str) -> tuple[bool, float, str]:
            if context.is_embedding:
                return False, -holders[key], key
            return key not in warm, -self._demand.rate(key, now), key

        return [GroupMember(model=names[key]) for key in heapq.nsmallest(MEMBERS_MAX, names, key=reluctance)]

    def _why_unable(self, entry: _Entry) -> Fallen | None:
        """Why no node can serve the request with a model, or None."""
        name, context, model = entry.member.model, entry.waiting.request.context, entry.waiting.model
        rejections = entry.verdict.rejections
        if not entry.verdict.nodes:
            there = [r for r in rejections if r.reason is not RejectionReason.MODEL_MISSING]
            if not there:
                return Fallen(name, "no node has it", is_missing=True)
            is_unable = all(r.reason is RejectionReason.WRONG_CAPABILITY for r in there)
            lacks = self._lacks(model, context, (r.node_id for r in there)) if is_unable else None
            return Fallen(name, f"it has no {lacks.value}" if lacks is not None else grouped(there), lacks)
        lacks = self._lacks(model, context, (node.node_id for node in entry.verdict.nodes))
        return Fallen(name, f"it has no {lacks.value}", lacks) if lacks is not None else None

    def _lacks(self, model: str, context: TaskContext, node_ids: Iterable[str]) -> Ability | None:
        """What a model cannot do on any of these nodes, or None."""
        lacks = None
        for node in (self._fleet.nodes[node_id] for node_id in node_ids if node_id in self._fleet.nodes):
            there = node.installed.get(model)
            lacks = lacking(there, node.telemetry.engine.kind, context) if there is not None else None
            if lacks is None:
                return None
        return lacks

    def _contender(self, group: Group, entry: _Entry, sizes: Sequence[float], now: float) -> Contender:
        member, waiting, verdict = entry
        costs = self._planner.costs(waiting, self._most_likely(verdict.nodes, waiting.model, now), now)
        best = min(costs, key=lambda cost: cost.total_s)
        size, context = entry.installed.size_bytes, waiting.request.context
        prior = PRIOR if group.members else model_choice.size_prior(size, sizes)
        return Contender(
            model=waiting.model,
            name=member.model,
            weight=member.weight,
            seconds=max(0.0, best.total_s) + self._ahead_s(waiting, costs, verdict.nodes, now),
            node_id=best.horizon.node.node_id,
            size_bytes=size,
            load=self._load(waiting.model) if group.strategy in _COUNTS_LOAD else 0,
            quality=model_choice.hopeful(self._qualities.expected(waiting.model, context.category, prior=prior)),
        )

    def _most_likely(self, nodes: Sequence[Node], model: str, now: float) -> Sequence[Node]:
        """The nodes among which the best one is looked for: of many, those that are free and have it in memory."""
        if len(nodes) <= _NODES_MAX:
            return nodes

        def reluctance(node: Node) -> tuple[bool, bool]:
            return node.resident(model) is None, not self._planner.horizon(node, now).has_free_slot()

        return heapq.nsmallest(_NODES_MAX, nodes, key=reluctance)

    def _ahead_s(self, waiting: Waiting, costs: Sequence[Cost], nodes: Sequence[Node], now: float) -> float:
        """Seconds that the model's nodes need for what stands before the request, as far as it goes there."""
        if not len(self._queue):
            return 0.0
        own = {node.node_id for node in nodes}
        work_s = 0.0
        for line in self._queue.lines():
            ahead = line.place_of(waiting)
            theirs = self._verdicts.of(line.first, now).nodes if ahead else ()
            if theirs:
                shared = sum(node.node_id in own for node in theirs) / len(theirs)
                work_s += shared * ahead * line.work_s / len(line)
        if work_s <= 0.0:
            return 0.0
        fastest_s = max(1e-6, min(cost.estimate.work_s for cost in costs))
        speed = 0.0
        for cost in costs:
            node = cost.horizon.node
            speed += fastest_s / max(1e-6, cost.estimate.work_s) * speed_up(node.slots, node.speeds.beta)
        return work_s / max(1e-6, speed * len(nodes) / len(costs))

    def _load(self, model: str) -> int:
        running = sum(a.model == model for node in self._fleet.nodes.values() for a in node.attempts.values())
        return running + sum(len(line) for line in self._queue.lines() if line.first.model == model)


def is_embedder(model: InstalledModel) -> bool:
    """Whether a model makes vectors and no text: by its abilities, or else by its name."""
    if model.capabilities:
        return Ability.EMBEDDING.value in model.capabilities and Ability.COMPLETION.value not in model.capabilities
    name = model.name.lower()
    return "bert" in model.family.lower() or any(part in name for part in _EMBEDDERS)


def _without(able: list[_Entry], fallen: list[Fallen], models: set[str], why: str) -> list[_Entry]:
    """Lets some models fall out, unless that leaves none."""
    left = [e for e in able if e.waiting.model not in models]
    if not left or len(left) == len(able):
        return able
    fallen += [Fallen(e.member.model, why) for e in able if e.waiting.model in models]
    return left


def _small_rooms(able: Iterable[_Entry]) -> set[str]:
    """Models that nowhere have room for the prompt, as far as that is known."""
    small = set()
    for entry in able:
        context = entry.waiting.request.context
        needs = wanted_room(context)
        rooms = [room_tokens(node, entry.waiting.model, context) for node in entry.verdict.nodes]
        if needs and all(0 < room < needs[-1] for room in rooms):
            small.add(entry.waiting.model)
    return small
