"""The scorer's core: state in, grants and reasons out; no I/O, no clock and no entropy of its own.

The same code runs in the actor, in tests and in the benchmark in virtual time. Every method takes `now`
(monotonic seconds) and returns effects: replies to dispatchers and events to publish, in order.

A request passes four times: `enqueue` (its place in the queue), `_plan` (its grant), `release` when its caller
leaves, and `on_outcome` (what it taught).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from sollol_agents.scorer.choice.cost import CostRules
from sollol_agents.scorer.choice.horizon import LeftSeconds
from sollol_agents.scorer.choice.verdicts import Verdicts
from sollol_agents.scorer.choice.waiting import ClassKey, Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.fleet import Fleet, FleetChange
from sollol_agents.scorer.fleet.learning import Teacher
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand, Flow
from sollol_agents.scorer.knowledge.feedback import FeedbackLessons
from sollol_agents.scorer.knowledge.lengths import LengthTable
from sollol_agents.scorer.knowledge.quality import Qualities
from sollol_agents.scorer.knowledge.trial import Trials
from sollol_agents.scorer.queue import refusals, undo
from sollol_agents.scorer.queue.admission import Admission
from sollol_agents.scorer.queue.away import Away
from sollol_agents.scorer.queue.binding import Binder
from sollol_agents.scorer.queue.births import Births
from sollol_agents.scorer.queue.ceilings import Ceilings
from sollol_agents.scorer.queue.grants import Circumstances, made_decision, made_grant, occupy
from sollol_agents.scorer.queue.ledger import GrantLedger
from sollol_agents.scorer.queue.plan import TRIED_BEYOND, Planner
from sollol_agents.scorer.queue.queue import Queue
from sollol_agents.scorer.queue.refusals import Refusal
from sollol_agents.scorer.queue.sleepers import Sleepers
from sollol_agents.scorer.strategies import Strategy, strategy_named
from sollol_agents.scorer.strategies.base import Choice
from sollol_schemas.decision import DecisionEvent
from sollol_schemas.errors import ErrorBody
from sollol_schemas.events import BreakerEvent, BreakerState, NodeEvent, Outcome
from sollol_schemas.grant import Granted, GrantQueued, GrantRefused, GrantRequest, RouteRequest
from sollol_schemas.scaling import ScaleEvent, SleepEvent
from sollol_schemas.telemetry import LoadUpdate, Telemetry

Effect = Granted | GrantQueued | GrantRefused | DecisionEvent | NodeEvent | BreakerEvent | SleepEvent | ScaleEvent
"""A reply to the dispatcher of its request, or an event to publish."""

_WINDOW = 20  # waiting requests planned per eligibility class
_SMALLEST_WINDOW = 2
_PAIRS_PER_WALK = 1500  # pairs of request and node that one planning looks at


class SchedulerCore:
    """Fleet, queue and planner behind the few calls that an actor or a simulation needs."""

    def __init__(
        self,
        config: ScorerConfig,
        rng: random.Random,
        now: float,
        *,
        left_s: LeftSeconds = Attempt.base_lefts_s,
        here: str = "",
    ) -> None:
        """`here` is the host that `localhost` is where a caller does not tell its own."""
        self.here = here
        self.fleet = Fleet(config, patient_until=now + config.warm_up_s)
        self.waiting = Queue(ageing_s=config.ageing_s, limit=config.queue_limit)
        self.lengths = LengthTable()
        self.qualities = Qualities()
        self.trials = Trials()
        self.feedback = FeedbackLessons(self.qualities, self.trials)
        self.demand = Demand()
        self._flow = Flow()
        self.term = 0
        self.lost: list[Attempt] = []
        """Attempts of processes that are gone; the actor finds out who reports them, and empties the list."""
        self._rng = rng
        self._left_s = left_s
        self._teacher = Teacher(self.fleet, self.lengths, self.feedback)
        self._births = Births()
        self._away = Away(self.waiting)
        self._ledger = GrantLedger(self.fleet)
        self.binder = Binder(self.fleet, self.waiting, self.qualities, self.demand, rng)
        self.sleepers = Sleepers(self.fleet, self.waiting, self.demand)
        self.ceilings = Ceilings(lambda request_id: request_id in self.waiting or request_id in self._ledger)
        self._equip(config, strategy_named(config.strategy, hold=config.hold))

    def _equip(self, config: ScorerConfig, strategy: Strategy) -> None:
        """Makes what depends on the settings."""
        self.config = config
        self.planner = Planner(
            rules=CostRules.of(config),
            demand=self.demand,
            holders=self.fleet.holders,
            rng=self._rng,
            strategy=strategy,
            left_s=self._left_s,
        )
        self._verdicts = Verdicts(self.fleet, config.soft_success_floor, self.here)
        self.sleepers.equip(config, self._verdicts, self.planner)
        self.undo = undo.Undo(config, self.waiting, self._ledger, self._verdicts, self.planner)
        self._admission = Admission(
            config=config,
            fleet=self.fleet,
            queue=self.waiting,
            verdicts=self._verdicts,
            planner=self.planner,
            expected_output=self.expected_output,
            births=self._births,
            groups=self.binder.book,
        )
        self.binder.equip(self._admission, self._verdicts, self.planner)

    @property
    def strategy(self) -> str:
        """Name of the strategy in use."""
        return self.planner.strategy.name

    def set_strategy(self, name: str) -> None:
        """Picks nodes by another strategy from now on; what waits, waits on.

        Raises:
            UnknownStrategy: Nothing is known under this name.
        """
        if name != self.strategy:
            self.planner.strategy = strategy_named(name, hold=self.config.hold)

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
        strategy = self.planner.strategy
        self._equip(changed, strategy_named("plan", hold=changed.hold) if strategy.name == "plan" else strategy)

    # What dispatchers ask.

    def enqueue(self, request: GrantRequest, now: float) -> list[Effect]:
        """Takes a request for a slot: it is granted, queued or refused.

        Asking again with the same id gives the same grant while the node may still take it, or the same place
        in the queue, with the greater age and every excluded node.
        """
        held = self._ledger.held(request, now)
        if held is not None:
            return [held]
        before = self.waiting.remove(request.request_id) or self._away.back(request)
        over = self.ceilings.refusal(request, now, is_again=before is not None)
        self.fleet.note_busy(request.busy)
        waiting = self.binder.admitted(request, before, now)
        refusal = over or self._admission.refusal_at_once(waiting, now)
        if refusal is not None:
            return [self._refused(waiting.request_id, refusal)]
        if before is None and request.number == 1:
            self.demand.count(waiting.model, now)
            self._flow.came(now)
        at_once = self._start_at_once(waiting, now) if not len(self.waiting) else None
        if at_once is not None:
            return at_once
        self.waiting.add(waiting)
        self.binder.watch(waiting)
        effects = self._plan(now) if self._is_in_sight(waiting) else []
        if request.request_id not in self.waiting:
            return effects
        refusal = self._admission.refusal_by_deadline(waiting, now)
        if refusal is not None:
            self.waiting.remove(request.request_id)
            return [*effects, self._refused(waiting.request_id, refusal)]
        return [*effects, self._queued(waiting)]

    def expected_output(self, waiting: Waiting) -> float:
        """Expected median of a request's output tokens; benchmarks with perfect knowledge replace this."""
        context = waiting.request.context
        task = "embedding" if context.is_embedding else context.task_type
        return self.lengths.median_tokens(waiting.model, task, waiting.asked_tokens)

    def release(
        self, request_id: str, now: float, *, number: int | None = None, comes_again: bool = False
    ) -> list[Effect]:
        """The dispatcher wants no slot for this request any more; a grant that no node took is void.

        With `number`, a question for a later attempt stands, and so does its grant: the release may be handled
        after them. What `comes_again` keeps its place for a moment.
        """
        waiting = self.waiting.get(request_id)
        if waiting is not None and number is not None and waiting.request.number > number:
            return []
        if waiting is not None:
            self.ceilings.left(request_id, now)
        waiting = self._ledger.release(request_id, number, now) or waiting
        if comes_again and waiting is not None:
            self._away.keep(waiting, now)
        else:
            self.waiting.remove(request_id)
        return self._plan(now)

    def route(self, request: RouteRequest, now: float) -> DecisionEvent | ErrorBody:
        """Where the request would run if it came now, and why; grants nothing and changes nothing."""
        asked = GrantRequest(request_id=request.request_id, number=1, context=request.context, routing=request.routing)
        waiting = self.binder.admitted(asked, None, now, is_dry_run=True)
        verdict = self._verdicts.of(waiting, now)
        if not verdict.nodes or verdict.is_ambiguous:
            return self._admission.lack_of_nodes(waiting, now).error
        self.waiting.place(waiting)
        choice = self.planner.choose(waiting, verdict.nodes, now)
        return made_decision(waiting, choice, verdict, self._circumstances(now), is_dry_run=True)

    def positions(self) -> list[GrantQueued]:
        """What every waiting request's dispatcher is told again and again."""
        return [self._queued(w) for w in self.waiting]

    def forget_dispatcher(self, dispatcher: str, now: float) -> list[Effect]:
        """A dispatcher died: nobody waits for its requests any more."""
        for waiting in self.waiting:
            if waiting.request.dispatcher == dispatcher and not waiting.is_away:
                self.waiting.remove(waiting.request_id)
                self.ceilings.left(waiting.request_id, now)
        self._ledger.release_all_of(dispatcher, now)
        return self._plan(now)

    def forget_queue(self) -> None:
        """Out of office: dispatchers ask the successor; what runs is known from the nodes."""
        for waiting in self.waiting:
            self.waiting.remove(waiting.request_id)
        self._ledger.clear()
        self.ceilings.clear()

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
        self.planner.strategy.learn(outcome)
        self.binder.breakers.take(outcome, now)
        self.ceilings.take(outcome)
        effects: list[Effect] = [self._breaker_event(outcome.node_id, m) for m in lesson.breakers]
        if lesson.attempt is not None:
            self._ledger.forget(lesson.attempt)
            self._flow.went(now)
        if lesson.is_node_failing:
            return [*effects, *self._after(self.fleet.fail(outcome.node_id, now), now)]
        return [*effects, *self._plan(now)]

    def tick(self, now: float) -> list[Effect]:
        """Applies what the passing of time changes; call it a few times a second."""
        change = self.fleet.tick(now)
        self._admission.judge_anew(now)
        effects: list[Effect] = []
        for node in self.fleet.nodes.values():
            for model, breaker in node.breakers.by_model.items():
                if breaker.refresh(now):
                    change.has_room = True
                    effects.append(self._breaker_event(node.node_id, model))
        for waiting in self.waiting.overdue(now):
            self.waiting.remove(waiting.request_id)
            effects.append(self._refused(waiting.request_id, Refusal(refusals.expired(waiting, now))))
        self.binder.look_again(now)
        change.has_room = change.has_room or len(self.waiting) > 0
        self._verdicts.trim(is_stale=self.planner.keep(self.fleet.nodes.keys()))
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
        return [*effects, *self._plan(now)]

    def _after(self, change: FleetChange, now: float) -> list[Effect]:
        for attempt in (*change.expired, *change.vanished, *change.lost):
            self._ledger.drop(attempt)
        self.lost += [a for a in change.lost if a.is_confirmed]
        effects: list[Effect] = [*change.events]
        if change.has_room and len(self.waiting):
            effects += self._plan(now)
        return effects

    def _plan(self, now: float) -> list[Effect]:
        """Grants what may start now and refuses what has no node left."""
        if not len(self.waiting):
            return []
        effects: list[Effect] = []
        for waiting in self.waiting.one_of_each_class():
            if self._admission.is_hopeless(waiting, now):
                effects += self._refuse_class(waiting.class_key, now)

        def nodes_for(waiting: Waiting) -> Sequence[Node]:
            return self._verdicts.of(waiting, now).nodes

        lines = self.waiting.lines()
        ratio = self._flow.newcomers_ratio(len(self.waiting) + self.fleet.in_flight, now)
        is_withheld = False
        for waiting, choice in self.planner.walk(lines, self._window(len(lines)), nodes_for, now, ratio):
            if choice.cost.is_free and (waiting.is_away or self.undo.holds(waiting, choice.cost, now)):
                is_withheld |= waiting.is_away
            elif choice.cost.is_free:
                effects += self._grant(waiting, choice, now)
            else:
                self.sleepers.wish(choice.cost, waiting)
        if self._away.lose(now, is_withheld=is_withheld):
            effects += self._plan(now)
        return effects

    def _start_at_once(self, waiting: Waiting, now: float) -> list[Effect] | None:
        """Grants a request while nothing else waits, without the queue; None where it may have to wait."""
        self.waiting.place(waiting)
        waiting.newcomers_ratio = self._flow.newcomers_ratio(1 + self.fleet.in_flight, now)
        choice = self.planner.choose_alone(waiting, self._verdicts.of(waiting, now).nodes, now)
        if choice is None or not choice.cost.is_free or self.undo.holds(waiting, choice.cost, now):
            return None
        return self._grant(waiting, choice, now)

    def _is_in_sight(self, waiting: Waiting) -> bool:
        """Whether a walk would look at this request; those in front of it were looked at when something changed."""
        return self.waiting.is_among_first(waiting, self._window(len(self.waiting.lines())) + TRIED_BEYOND)

    def _window(self, classes: int) -> int:
        """Requests planned per class: fewer where nodes and classes are many, so that a walk stays short."""
        pairs = max(1, len(self.fleet.nodes) * classes)
        return max(_SMALLEST_WINDOW, min(_WINDOW, _PAIRS_PER_WALK // pairs))

    def _refuse_class(self, key: ClassKey, now: float) -> list[Effect]:
        members = [w for w in self.waiting.of_class(key) if not self.binder.moved(w, now)]
        for waiting in members:
            self.waiting.remove(waiting.request_id)
        return [self._refused(w.request_id, self._admission.lack_of_nodes(w, now)) for w in members]

    def _grant(self, waiting: Waiting, choice: Choice, now: float) -> list[Effect]:
        self.waiting.remove(waiting.request_id)
        cost = choice.cost
        event = made_decision(waiting, choice, self._verdicts.of(waiting, now), self._circumstances(now))
        attempt, granted = made_grant(waiting, cost, event.decision, self.keep_alive_s(waiting.model, now), now)
        node = cost.horizon.node
        attempt.is_trial = node.breakers.start(waiting.model, now)
        if attempt.is_trial:
            node.reshape()
        self.fleet.take(node, attempt)
        occupy(attempt, cost, now)
        node.work.count(attempt.arrival_rank, self.planner.node_seconds(cost), now)
        self._ledger.note(attempt, waiting)
        self.binder.count(waiting)
        return [granted, event]

    def keep_alive_s(self, model: str, now: float) -> float:
        """Long for models in steady demand, short for others: engines evict by this, not by use."""
        is_resident = self.demand.is_steady(model, now)
        return self.config.resident_keep_alive_s if is_resident else self.config.one_off_keep_alive_s

    def _refused(self, request_id: str, refusal: Refusal) -> GrantRefused:
        error, retry_after_s = refusal
        return GrantRefused(request_id=request_id, error=error, retry_after_s=retry_after_s, term=self.term)

    def _queued(self, waiting: Waiting) -> GrantQueued:
        return GrantQueued(
            request_id=waiting.request_id,
            position=self.waiting.position(waiting),
            term=self.term,
            is_blocked=self._verdicts.is_blocked(waiting),
        )

    def _circumstances(self, now: float) -> Circumstances:
        return Circumstances(term=self.term, now=now, queued=len(self.waiting), strategy=self.strategy)

    def _breaker_event(self, node_id: str, model: str) -> BreakerEvent:
        node = self.fleet.nodes[node_id]
        node.reshape()
        return BreakerEvent(node_id=node_id, state=node.breakers.of(model).state, model=model)
