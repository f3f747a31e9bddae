"""The scorer's core: state in, assignments and reasons out; no I/O, no clock and no entropy of its own.

The same code runs in the actor, in tests and in the benchmark in virtual time. Every method takes `now`
(monotonic seconds) and returns effects: replies to dispatchers and events to publish, in order.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence

import msgspec

from sollol_agents.scorer.choice.cost import Cost, CostRules
from sollol_agents.scorer.choice.eligibility import EligibilityClass
from sollol_agents.scorer.choice.horizon import LeftSeconds
from sollol_agents.scorer.choice.waiting import ClassKey, Waiting, WaitingRoom
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.fleet import Fleet, FleetChange
from sollol_agents.scorer.fleet.learning import Teacher
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand
from sollol_agents.scorer.knowledge.lengths import LengthTable
from sollol_agents.scorer.knowledge.reliability import CEILING
from sollol_agents.scorer.queue import refusals
from sollol_agents.scorer.queue.grants import Circumstances, made_decision, made_grant
from sollol_agents.scorer.queue.plan import Assignment, Planner
from sollol_agents.scorer.strategies import Strategy, strategy_named
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorBody
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, Outcome
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRequest, RouteRequest
from sollol_schemas.ids import attempt_id
from sollol_schemas.routing import RoutingMode
from sollol_schemas.telemetry import LoadUpdate, Telemetry

log = logging.getLogger(__name__)

Effect = Granted | GrantQueued | GrantRefused | DecisionEvent | NodeEvent | BreakerEvent
"""A reply to the dispatcher of its request, or an event to publish."""

_SIZE_PIVOT_S = 4.0  # work that neither gains nor loses rank
_CLASSES_LIMIT = 512
_SMALLEST_WINDOW = 2
_QUIET_WARM_UPS = 3.0  # so long without a new node, and none more is on its way
_RETRY_AFTER_MAX_S = 120.0


class SchedulerCore:
    """Fleet, queue and planner behind the few calls that an actor or a simulation needs."""

    def __init__(
        self,
        config: ScorerConfig,
        rng: random.Random,
        now: float,
        *,
        left_s: LeftSeconds = Attempt.base_left_s,
    ) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.waiting = WaitingRoom(ageing_s=config.ageing_s, limit=config.queue_limit)
        self.lengths = LengthTable()
        self.demand = Demand()
        self.term = 0
        self.lost: list[Attempt] = []
        """Attempts of processes that are gone; the actor finds out who reports them, and empties the list."""
        self._rng = rng
        self._left_s = left_s
        self._planner = self._made_planner(strategy_named(config.strategy, hold=config.hold))
        self._teacher = Teacher(self.fleet, self.lengths)
        self._classes: dict[ClassKey, tuple[int, EligibilityClass]] = {}
        self._sequence = 0
        self._granted: dict[str, str] = {}
        self._patient_until = now + config.warm_up_s

    @property
    def strategy(self) -> str:
        """Name of the strategy in use."""
        return self._planner.strategy.name

    def set_strategy(self, name: str) -> None:
        """Picks nodes by another strategy from now on; what waits, waits on.

        Raises:
            UnknownStrategy: Nothing is known under this name.
        """
        if name != self.strategy:
            self._planner.strategy = strategy_named(name, hold=self.config.hold)

    def config_with(self, settings: Mapping[str, float]) -> ScorerConfig:
        """The configuration with some settings changed.

        Raises:
            msgspec.ValidationError: A setting is unknown or outside its range.
        """
        return msgspec.convert(msgspec.structs.asdict(self.config) | dict(settings), ScorerConfig)

    def change_settings(self, settings: Mapping[str, float]) -> None:
        """Changes weights and thresholds; requests that wait keep their place, and are costed anew.

        Raises:
            msgspec.ValidationError: A setting is unknown or outside its range; nothing was changed.
        """
        changed = self.config_with(settings)
        if changed == self.config:
            return
        self.config = changed
        strategy = self._planner.strategy
        if strategy.name == "plan":
            strategy = strategy_named("plan", hold=changed.hold)
        self._planner = self._made_planner(strategy)
        self._classes.clear()
        for node in self.fleet.nodes.values():
            node.speed_version += 1
            node.reshape()

    def _made_planner(self, strategy: Strategy) -> Planner:
        config = self.config
        return Planner(
            rules=CostRules(config.risk_overhead_s, config.async_gpu_factor, config.ageing_s),
            demand=self.demand,
            holders=self._holders,
            rng=self._rng,
            strategy=strategy,
            left_s=self._left_s,
        )

    # What dispatchers ask.

    def enqueue(self, request: GrantRequest, now: float) -> list[Effect]:
        """Takes a request for a slot: it is granted, queued or refused.

        Asking again with the same id gives the same grant while the node may still take it, or the same place
        in the queue, with the greater age and every excluded node.
        """
        held = self._held_grant(request, now)
        if held is not None:
            return [held]
        before = self.waiting.remove(request.request_id)
        for node_id in request.busy:
            node = self.fleet.nodes.get(node_id)
            if node is not None:
                node.is_full = True
        waiting = self._admitted(request, now)
        if before is not None:
            _inherit(waiting, before)
        refusal = self._refusal_at_once(waiting, now)
        if refusal is not None:
            return [refusal]
        if before is None and request.number == 1:
            self.demand.count(waiting.model, now)
        self.waiting.add(waiting)
        effects = self._plan(now)
        if request.request_id not in self.waiting:
            return effects
        late = self._refusal_by_deadline(waiting, now)
        if late is not None:
            self.waiting.remove(request.request_id)
            return [*effects, late]
        return [*effects, self._queued(waiting)]

    def release(self, request_id: str, now: float, *, number: int | None = None) -> list[Effect]:
        """The dispatcher wants no slot for this request any more; a grant that no node took is void.

        With `number`, a question for a later attempt stands, and so does its grant: the release may be handled
        after them.
        """
        waiting = self.waiting.get(request_id)
        if waiting is not None and number is not None and waiting.request.number > number:
            return []
        self.waiting.remove(request_id)
        attempt = self.fleet.attempt(self._granted.get(request_id, ""))
        is_later = number is not None and attempt is not None and attempt.number > number
        if attempt is not None and not attempt.is_confirmed and not is_later:
            self._void(attempt, now)
        return self._plan(now)

    def route(self, request: RouteRequest, now: float) -> DecisionEvent | ErrorBody:
        """Where the request would run if it came now, and why; grants nothing and changes nothing."""
        asked = GrantRequest(request_id=request.request_id, number=1, context=request.context, routing=request.routing)
        waiting = self._admitted(asked, now)
        verdict = self._class(waiting, now)
        if not verdict.nodes:
            return refusals.no_place(waiting, verdict, self.fleet.nodes.values())
        self.waiting.place(waiting)
        costs = self._planner.costs(waiting, verdict.nodes, now)
        choice = self._planner.strategy.choose(waiting, costs, now, self._rng)
        return made_decision(Assignment(waiting, choice, costs), verdict, self._circumstances(now), is_dry_run=True)

    def positions(self) -> list[GrantQueued]:
        """What every waiting request's dispatcher is told again and again."""
        return [self._queued(w) for w in self.waiting]

    def forget_dispatcher(self, dispatcher: str, now: float) -> list[Effect]:
        """A dispatcher died: nobody waits for its requests any more."""
        for waiting in self.waiting:
            if waiting.request.dispatcher == dispatcher:
                self.waiting.remove(waiting.request_id)
        for node in self.fleet.nodes.values():
            for attempt in list(node.attempts.values()):
                if attempt.dispatcher == dispatcher and not attempt.is_confirmed:
                    self._void(attempt, now)
        return self._plan(now)

    def forget_queue(self) -> None:
        """Out of office: dispatchers ask the successor; what runs is known from the nodes."""
        for waiting in self.waiting:
            self.waiting.remove(waiting.request_id)
        self._granted.clear()

    # What nodes tell.

    def on_telemetry(self, telemetry: Telemetry, now: float) -> list[Effect]:
        """Takes a full heartbeat."""
        return self._after(self.fleet.on_telemetry(telemetry, now), now)

    def on_load(self, update: LoadUpdate, now: float) -> list[Effect]:
        """Takes a change of load."""
        return self._after(self.fleet.on_load(update, now), now)

    def on_outcome(self, outcome: Outcome, now: float) -> list[Effect]:
        """Takes how an attempt ended: frees its slot, learns, and grants what may start now."""
        lesson = self._teacher.learn(outcome, now)
        self._planner.strategy.learn(outcome)
        effects: list[Effect] = [self._breaker_event(outcome.node_id, m) for m in lesson.breakers]
        if lesson.attempt is not None:
            self._forget_grant(lesson.attempt)
        change = self.fleet.fail(outcome.node_id, now) if lesson.is_node_failing else FleetChange()
        change.has_room = True
        return [*effects, *self._after(change, now)]

    def tick(self, now: float) -> list[Effect]:
        """Applies what the passing of time changes; call it a few times a second."""
        change = self.fleet.tick(now)
        effects: list[Effect] = []
        for node in self.fleet.nodes.values():
            for model, breaker in node.breakers.by_model.items():
                if breaker.refresh(now):
                    node.reshape()
                    change.has_room = True
                    effects.append(self._breaker_event(node.node_id, model))
        for waiting in self.waiting.overdue(now):
            self.waiting.remove(waiting.request_id)
            effects.append(refusals.refused(waiting, refusals.expired(waiting, now), self.term))
        change.has_room = change.has_room or len(self.waiting) > 0
        if len(self._classes) > _CLASSES_LIMIT:
            self._classes.clear()
        return [*effects, *self._after(change, now)]

    def reset_breaker(self, node_id: str, model: str, now: float) -> list[Effect]:
        """Closes a breaker by force; an empty `model` closes all of the node's."""
        node = self.fleet.nodes.get(node_id)
        if node is None:
            return []
        effects: list[Effect] = []
        for name, breaker in node.breakers.by_model.items():
            if (not model or name in (model, "")) and breaker.state is not BreakerState.CLOSED:
                breaker.close()
                effects.append(self._breaker_event(node_id, name))
        node.reshape()
        return [*effects, *self._plan(now)]

    def settle(self, now: float, seconds: float) -> None:
        """Our own connection was away: for a while nobody is judged by silence, and nobody refused for it."""
        self.fleet.freeze(now + seconds)
        self._patient_until = max(self._patient_until, now + seconds)

    # Inside.

    def _after(self, change: FleetChange, now: float) -> list[Effect]:
        effects: list[Effect] = [*change.events]
        for attempt in (*change.expired, *change.vanished, *change.lost):
            self._forget_grant(attempt)
            if not attempt.is_confirmed:
                self._return_trial(attempt)
        self.lost += [a for a in change.lost if a.is_confirmed]
        if change.has_room and len(self.waiting):
            effects += self._plan(now)
        return effects

    def _admitted(self, request: GrantRequest, now: float) -> Waiting:
        """The request with everything that its place in the queue depends on."""
        self._sequence += 1
        waiting = Waiting(request, now, self._sequence)
        waiting.expect(self.expected_output(waiting))
        if request.routing.prefer_cpu:
            self._insist_on_cpu(waiting, now)
        nodes = self._class(waiting, now).nodes
        if nodes:
            waiting.best_work_s = self._planner.best_work_s(waiting, nodes)
            if waiting.mode is not RoutingMode.ASYNC and waiting.best_work_s > 0 and self.config.theta > 0:
                waiting.size_levels = self._size_levels(waiting.best_work_s)
        return waiting

    def expected_output(self, waiting: Waiting) -> float:
        """Expected median of a request's output tokens; benchmarks with perfect knowledge replace this."""
        context = waiting.request.context
        task = "embedding" if context.is_embedding else context.task_type
        return self.lengths.median_tokens(waiting.model, task, context.prompt_tokens)

    def _size_levels(self, work_s: float) -> float:
        """Levels that a large request loses, or a small one gains (negative)."""
        levels = self.config.theta * math.log2(work_s / _SIZE_PIVOT_S)
        return max(-self.config.size_clamp, min(self.config.size_clamp, levels))

    def _insist_on_cpu(self, waiting: Waiting, now: float) -> None:
        left_s = waiting.deadline_at - now
        nodes = self._class(waiting, now).nodes
        if any(not n.has_gpu and self._planner.work_s(waiting, n) < left_s for n in nodes):
            waiting.insist_on_cpu()

    def _held_grant(self, request: GrantRequest, now: float) -> Granted | None:
        """The grant that this request holds already; one that cannot be used any more is void."""
        attempt = self.fleet.attempt(self._granted.get(request.request_id, ""))
        if attempt is None:
            return None
        is_same = attempt.attempt_id == attempt_id(request.request_id, request.number)
        is_refused = attempt.node_id in request.busy or attempt.node_id in request.excluded
        if is_same and not is_refused:
            return attempt.grant
        if is_refused or not attempt.is_confirmed:
            self._void(attempt, now)
        return None

    def _void(self, attempt: Attempt, now: float) -> None:
        self.fleet.release(attempt.attempt_id, now, is_loaded=False)
        self._return_trial(attempt)
        self._forget_grant(attempt)

    def _return_trial(self, attempt: Attempt) -> None:
        node = self.fleet.nodes.get(attempt.node_id)
        if node is not None and attempt.is_trial:
            node.breakers.cancel(attempt.model, is_trial=True)
            node.reshape()

    def _forget_grant(self, attempt: Attempt) -> None:
        if self._granted.get(attempt.request_id) == attempt.attempt_id:
            del self._granted[attempt.request_id]

    def _refusal_at_once(self, waiting: Waiting, now: float) -> GrantRefused | None:
        """Why the request cannot be served at all, or None."""
        floor = waiting.request.routing.min_success_rate
        if floor is not None and floor > CEILING and waiting.mode is RoutingMode.RELIABLE:
            return refusals.refused(waiting, refusals.unprovable(floor, CEILING), self.term)
        if self._is_hopeless(waiting, now):
            return self._refused_for_lack_of_nodes(waiting, now)
        if waiting.request.number <= 1 and self.waiting.is_full(waiting.priority):
            error = refusals.queue_full(waiting, self.config.queue_limit)
            return refusals.refused(waiting, error, self.term, self._retry_after_s(waiting, now))
        return None

    def _is_hopeless(self, waiting: Waiting, now: float) -> bool:
        """Whether no node is eligible and none is worth waiting for."""
        verdict = self._class(waiting, now)
        if verdict.nodes or now < self._patient_until:
            return False
        return not (waiting.mode is RoutingMode.ASYNC and verdict.is_transient)

    def _is_settled(self, verdict: EligibilityClass, now: float) -> bool:
        """Whether every node is known that can be expected: none joined lately, and none that counts is away."""
        quiet_since = max([self._patient_until, *(node.joined_at for node in self.fleet.nodes.values())])
        return now >= quiet_since + _QUIET_WARM_UPS * self.config.warm_up_s and not verdict.is_transient

    def _refused_for_lack_of_nodes(self, waiting: Waiting, now: float) -> GrantRefused:
        verdict = self._class(waiting, now)
        error = refusals.no_place(
            waiting, verdict, self.fleet.nodes.values(), is_settled=self._is_settled(verdict, now)
        )
        retry_after_s = self.config.down_after_s if verdict.is_transient else 0.0
        return refusals.refused(waiting, error, self.term, retry_after_s)

    def _refusal_by_deadline(self, waiting: Waiting, now: float) -> GrantRefused | None:
        left_s = waiting.deadline_at - now
        wait_s = self._predicted_wait_s(waiting, now)
        if wait_s <= left_s:
            return None
        error = refusals.unreachable(wait_s, left_s)
        return refusals.refused(waiting, error, self.term, min(_RETRY_AFTER_MAX_S, wait_s - left_s))

    def _predicted_wait_s(self, waiting: Waiting, now: float) -> float:
        """Seconds until a slot: the soonest start, and the work ahead spread over the class's nodes."""
        nodes = self._class(waiting, now).nodes
        if not nodes:
            return 0.0
        soonest_s = min(c.start for c in self._planner.costs(waiting, nodes, now)) - now
        ahead_s = self.waiting.work_ahead_s(waiting)
        if ahead_s <= 0:
            return soonest_s
        return soonest_s + ahead_s / self._planner.parallelism(waiting, nodes)

    def _retry_after_s(self, waiting: Waiting, now: float) -> float:
        return max(1.0, min(_RETRY_AFTER_MAX_S, 0.1 * self._predicted_wait_s(waiting, now)))

    def _class(self, waiting: Waiting, now: float) -> EligibilityClass:
        """The verdict on every node for requests like this one, up to date."""
        version = self.fleet.shape_version
        known = self._classes.get(waiting.class_key)
        if known is not None and known[0] == version:
            return known[1]
        verdict = known[1] if known is not None else EligibilityClass(waiting, self.config.soft_success_floor)
        verdict.refresh(self.fleet.nodes.values(), now)
        self._classes[waiting.class_key] = (version, verdict)
        return verdict

    def _plan(self, now: float) -> list[Effect]:
        """Grants what may start now and refuses what has no node left."""
        if not len(self.waiting):
            return []
        effects: list[Effect] = []
        for waiting in self.waiting.one_of_each_class():
            if self._is_hopeless(waiting, now):
                effects += self._refuse_class(waiting.class_key, now)

        def nodes_for(waiting: Waiting) -> Sequence[Node]:
            return self._class(waiting, now).nodes

        for assignment in self._planner.walk(self.waiting.ordered(self._window()), nodes_for, now):
            if assignment.choice.cost.is_free:
                effects += self._grant(assignment, now)
        return effects

    def _window(self) -> int:
        """Requests planned per class: fewer where nodes and classes are many, so that a walk stays short."""
        pairs = max(1, len(self.fleet.nodes) * self.waiting.class_count)
        return max(_SMALLEST_WINDOW, min(self.config.window, self.config.pairs_per_walk // pairs))

    def _refuse_class(self, key: ClassKey, now: float) -> list[Effect]:
        members = self.waiting.of_class(key)
        for waiting in members:
            self.waiting.remove(waiting.request_id)
        return [self._refused_for_lack_of_nodes(w, now) for w in members]

    def _grant(self, assignment: Assignment, now: float) -> list[Effect]:
        waiting, choice = assignment.waiting, assignment.choice
        self.waiting.remove(waiting.request_id)
        node = choice.cost.horizon.node
        verdict = self._class(waiting, now)
        event = made_decision(assignment, verdict, self._circumstances(now))
        attempt, granted = made_grant(assignment, event.decision, self.demand, self.config, now)
        attempt.is_trial = node.breakers.start(waiting.model, now)
        if attempt.is_trial:
            node.reshape()
        self._occupy(attempt, choice.cost, node, now)
        self._granted[waiting.request_id] = attempt.attempt_id
        return [granted, event]

    def _occupy(self, attempt: Attempt, cost: Cost, node: Node, now: float) -> None:
        self.fleet.take(node, attempt)
        if cost.load is not None:
            attempt.evicts = cost.load.victims
            for victim in cost.load.victims:
                node.mirror.forget(victim)
            node.residents.begin_load(
                attempt.model,
                cost.estimate.profile.need_bytes,
                loader=attempt.attempt_id,
                ready_at=now + cost.estimate.profile.load_s,
                evicts=cost.load.victims,
            )
        node.work.count(attempt.arrival_rank, self._planner.node_seconds(cost), now)

    def _circumstances(self, now: float) -> Circumstances:
        return Circumstances(term=self.term, now=now, queued=len(self.waiting), strategy=self.strategy)

    def _queued(self, waiting: Waiting) -> GrantQueued:
        known = self._classes.get(waiting.class_key)
        return GrantQueued(
            request_id=waiting.request_id,
            position=self.waiting.position(waiting),
            term=self.term,
            is_blocked=known is not None and not known[1].nodes,
        )

    def _holders(self, model: str) -> int:
        return sum(1 for n in self.fleet.nodes.values() if model in n.residents.by_name)

    def _breaker_event(self, node_id: str, model: str) -> BreakerEvent:
        node = self.fleet.nodes[node_id]
        node.reshape()
        breaker = node.breakers.of(model)
        return BreakerEvent(node_id=node_id, state=breaker.state, model=model)


def _inherit(waiting: Waiting, before: Waiting) -> None:
    """A request that asks again keeps its greater age and its place among equals."""
    waiting.enqueued_at = min(waiting.enqueued_at, before.enqueued_at)
    waiting.sequence = before.sequence
