"""Requests that name a group: bound to a model when they come, and bound again while they wait.

A bound request is a request for its model in every respect: class, line, rank and cost are the model's, so that nothing
of the queue and the plan knows of groups. While it waits the models are compared again every half second; it goes over
to another only when that is clearly better, or when its own can serve it no more, and keeps its age. A request that was
granted is never touched; one that comes again after a failure is bound anew, without the models that failed it.
"""

from __future__ import annotations

import copy
import heapq
import random

import msgspec

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.choice import model_choice
from sollol_agents.scorer.choice.groups import Binding, GroupBook
from sollol_agents.scorer.choice.model_choice import Contender, Picked, Turns
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.fleet import Fleet
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.knowledge.model_breakers import ModelBreakers
from sollol_agents.scorer.knowledge.quality import Qualities
from sollol_agents.scorer.queue.admission import Admission
from sollol_agents.scorer.queue.contenders import Contenders, Found
from sollol_agents.scorer.queue.plan import Planner
from sollol_agents.scorer.queue.queue import Queue
from sollol_schemas.decision import ModelCandidate
from sollol_schemas.grant import GrantRequest
from sollol_schemas.groups import Group, GroupStrategy

_LOOK_EVERY_S = 0.5
_COMPARED_MAX = 24  # models of waiting requests that are compared again in one tick
_COUNTS_MAX = 4096
_NOT_BEGUN = "another one began the answer"
_FIRST = "the first that can do it: vectors of different models cannot be compared"


class Binder:
    """Chooses models for requests that name groups.

    Args:
        fleet: Which models there are.
        queue: What waits.
        qualities: What is expected of models.
        demand: Which models are asked for.
        rng: For exploring.
    """

    def __init__(self, fleet: Fleet, queue: Queue, qualities: Qualities, demand: Demand, rng: random.Random) -> None:
        self.book = GroupBook()
        self.breakers = ModelBreakers(fleet.breaker_rules)
        self._fleet = fleet
        self._queue = queue
        self._qualities = qualities
        self._demand = demand
        self._rng = rng
        self._turns = Turns()
        self._waiting: dict[str, Waiting] = {}
        self._granted: dict[tuple[str, str], int] = {}

    def equip(self, admission: Admission, verdicts: Verdicts, planner: Planner) -> None:
        """Works by these from now on; they depend on settings."""
        self._admission, self._verdicts = admission, verdicts
        self.contenders = Contenders(
            fleet=self._fleet,
            queue=self._queue,
            qualities=self._qualities,
            breakers=self.breakers,
            demand=self._demand,
            admission=admission,
            verdicts=verdicts,
            planner=planner,
        )

    def admitted(
        self, request: GrantRequest, before: Waiting | None, now: float, *, is_dry_run: bool = False
    ) -> Waiting:
        """The request with everything that its place in the queue depends on, for a model when it names a group.

        Args:
            request: As its dispatcher asked.
            before: It as it waited so far, when it comes again.
            now: The present instant.
            is_dry_run: Whether it is only asked where it would run: nobody's turn is over for that.
        """
        group = self.book.named(request.context.model)
        if group is not None and not self._is_hidden(group):
            said = request.continuation
            if said is not None and said.said_tokens and said.model:
                return self._as_it_began(group, request, said.model, before, now)
            return self._bound(group, request, before, now, is_dry_run=is_dry_run)
        waiting = self._admission.admitted(request, now)
        if before is not None:
            waiting.inherit(before)
        return waiting

    def _is_hidden(self, group: Group) -> bool:
        """Whether a model bears the name of a group that nobody set."""
        if not self.book.is_built_in(group):
            return False
        name = canonical(group.name)
        return any(name in node.installed for node in self._fleet.nodes.values())

    def _bound(
        self, group: Group, request: GrantRequest, before: Waiting | None, now: float, *, is_dry_run: bool = False
    ) -> Waiting:
        """The request for a model of the group: the one that it waits for already, as long as that can serve it."""
        kept = before.bound if before is not None else None
        is_same = before is not None and before.request.number == request.number
        if before is not None and kept is not None and is_same and kept.group == group:
            same = self.contenders.request_for(before.request.context.model, request, before, now)
            if self._verdicts.of(same, now).nodes:
                kept.asked = request
                same.bound = kept
                return same
        return self._choose(group, request, before, now, is_dry_run=is_dry_run)

    def _as_it_began(
        self, group: Group, request: GrantRequest, model: str, before: Waiting | None, now: float
    ) -> Waiting:
        """The request for the model of the group that began its answer, which others may give anew if it is no good."""
        waiting = self.contenders.request_for(model, request, before, now)
        anew = self.contenders.find(group, msgspec.structs.replace(request, continuation=None), before, now)
        others = (one.model for one in anew.contenders if one.model != waiting.model)
        models = [ModelCandidate(model=model), *(ModelCandidate(model=one, reason=_NOT_BEGUN) for one in others)]
        reason = "it began the answer"
        waiting.bound = Binding(group, request, models, (), reason=reason, drawn={}, now=now, is_fixed=True)
        return waiting

    def watch(self, waiting: Waiting) -> None:
        """Compares the models of a request that waits again and again, if another one may serve it."""
        if waiting.bound is not None and not waiting.bound.is_fixed:
            self._waiting[waiting.request_id] = waiting

    def look_again(self, now: float) -> bool:
        """Binds anew what waits and is clearly better off with another model; returns whether anything was."""
        if not self._waiting:
            return False
        self._waiting = {k: w for k, w in self._waiting.items() if self._queue.get(k) is w}
        due = [(w.bound.looked_at, w.sequence, w) for w in self._waiting.values() if w.bound is not None]
        compared, has_moved = 0, False
        for looked_at, _, waiting in heapq.nsmallest(_COMPARED_MAX, due, key=lambda row: row[:2]):
            if now < looked_at + _LOOK_EVERY_S or compared >= _COMPARED_MAX:
                break
            compared += max(1, len(waiting.bound.candidates()) if waiting.bound is not None else 1)
            has_moved |= self._compare_again(waiting, now)
        return has_moved

    def moved(self, waiting: Waiting, now: float) -> bool:
        """Lets a request for which its own model can do nothing wait for another one; False where none can."""
        if waiting.bound is None or waiting.bound.is_fixed:
            return False
        fresh = self._choose(waiting.bound.group, waiting.bound.asked, waiting, now)
        if not self._verdicts.of(fresh, now).nodes:
            return False
        self._replace(waiting, fresh)
        return True

    def _replace(self, waiting: Waiting, fresh: Waiting) -> None:
        self._queue.remove(waiting.request_id)
        self._queue.add(fresh)
        self.watch(fresh)

    def count(self, waiting: Waiting) -> None:
        """A request was granted."""
        if waiting.bound is not None:
            key = (canonical(waiting.bound.group.name), waiting.model)
            if key in self._granted or len(self._granted) < _COUNTS_MAX:
                self._granted[key] = self._granted.get(key, 0) + 1

    def granted(self, group: Group, model: str) -> int:
        """How many requests were granted a slot with a model for a group."""
        return self._granted.get((canonical(group.name), model), 0)

    def keep(self) -> None:
        """Forgets what is kept of groups that are no more."""
        names = [group.name for group in self.book.all()]
        self._turns.keep(names)
        known = {canonical(name) for name in names}
        self._granted = {key: n for key, n in self._granted.items() if key[0] in known}

    def _compare_again(self, waiting: Waiting, now: float) -> bool:
        bound = waiting.bound
        assert bound is not None
        bound.looked_at = now
        group = bound.group
        if waiting.is_away:
            return False
        if not self._verdicts.of(waiting, now).nodes:
            return self.moved(waiting, now)
        context = bound.asked.context
        if group.strategy is not GroupStrategy.COST or context.is_embedding or _is_on_trial(group, bound.asked):
            return False
        found = self.contenders.find(group, bound.asked, waiting, now)
        contenders, _ = _on_its_arm(group, bound.asked, found.contenders)
        costs = {
            c.model: model_choice.total_s(c.seconds, bound.drawn.get(c.model, c.quality), group.patience_s, c.weight)
            for c in contenders
        }
        if waiting.model not in costs:
            return self.moved(waiting, now)
        best = min(contenders, key=lambda c: costs[c.model])
        saved_s = costs[waiting.model] - costs[best.model]
        if not model_choice.is_clear(saved_s, next(c.seconds for c in contenders if c.model == waiting.model)):
            return False
        reason = f"by now {saved_s:.2g} s before {waiting.request.context.model}"
        self._replace(waiting, self._as_bound(group, bound.asked, found, Picked(best, reason, bound.drawn), now))
        return True

    def _choose(
        self, group: Group, request: GrantRequest, before: Waiting | None, now: float, *, is_dry_run: bool = False
    ) -> Waiting:
        found = self.contenders.find(group, request, before, now)
        if not found.contenders:
            return self._unable(group, request, found, before, now)
        if request.context.is_embedding:
            return self._as_bound(group, request, found, Picked(found.contenders[0], _FIRST, {}), now)
        contenders, is_on_trial = _on_its_arm(group, request, found.contenders)
        category = request.context.category
        picked = model_choice.pick(
            group,
            contenders,
            draw=lambda c: self._qualities.sample(c.model, category, self._rng),
            turns=copy.deepcopy(self._turns) if is_dry_run else self._turns,
            rng=None if is_dry_run else self._rng,
            category=category,
        )
        if is_on_trial:
            picked = picked._replace(reason="on trial beside the others of the group")
        if not is_dry_run:
            self.breakers.tried(picked.contender.model, now)
        return self._as_bound(group, request, found, picked, now)

    @staticmethod
    def _as_bound(group: Group, request: GrantRequest, found: Found, picked: Picked, now: float) -> Waiting:
        waiting = found.waitings[picked.contender.model]
        models = model_choice.told(group, picked, found.contenders)
        waiting.bound = Binding(group, request, models, found.fallen, reason=picked.reason, drawn=picked.drawn, now=now)
        return waiting

    def _unable(self, group: Group, request: GrantRequest, found: Found, before: Waiting | None, now: float) -> Waiting:
        """The request for a model that may serve it later, or for none."""
        name = request.context.model
        waiting = found.later[0] if found.later else self.contenders.request_for(name, request, before, now)
        waiting.bound = Binding(group, request, (), found.fallen, reason="may serve it later", drawn={}, now=now)
        return waiting


def _is_on_trial(group: Group, request: GrantRequest) -> bool:
    key = request.routing.session_id or request.context.job_id or request.request_id
    return model_choice.is_tried(group.candidate, key)


def _on_its_arm(group: Group, request: GrantRequest, contenders: list[Contender]) -> tuple[list[Contender], bool]:
    """The contenders of the arm of a trial that the request belongs to, and whether that is the candidate's.

    Where nobody of its arm can serve it the others do: a trial never refuses a request.
    """
    if group.candidate is None:
        return contenders, False
    name = canonical(group.candidate.model)
    is_on_trial = _is_on_trial(group, request)
    arm = [c for c in contenders if (c.model == name) == is_on_trial]
    return arm or contenders, is_on_trial and bool(arm)
