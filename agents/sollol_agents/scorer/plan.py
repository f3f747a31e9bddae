"""Late binding over the whole queue: who starts where now, and who waits for which node.

The queue is walked in order of rank. Each request takes its best candidate against the planned state of all
nodes, in which every earlier request of the walk already stands, granted or waiting. The walk looks at 20
requests of each eligibility class (a single window over all classes would let requests at the head that few
nodes can serve block everyone behind them) and ends when no node has a free slot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from sollol_agents.scorer.attempts import Attempt
from sollol_agents.scorer.cost import Cost, CostRules, end_of, estimate, evaluate
from sollol_agents.scorer.demand import Demand
from sollol_agents.scorer.horizon import Horizon, LeftSeconds
from sollol_agents.scorer.nodes import Node
from sollol_agents.scorer.profiles import Profile
from sollol_agents.scorer.profiles import profile as profile_of
from sollol_agents.scorer.strategies.base import Choice, Strategy
from sollol_agents.scorer.strategies.least_cost import TIE_RATIO, TIE_S
from sollol_agents.scorer.waiting import ClassKey, Waiting
from sollol_schemas.routing import RoutingMode

_EXPLAINED = 8  # candidates that a decision's explanation shows
_FEW_FREE = 8  # free nodes that are worked out first, whatever their bounds
_MOST_HELD = 3  # requests held ahead that count; by more, slow nodes would take what they only delay
_FAST = RoutingMode.FAST


class Assignment(NamedTuple):
    """What the plan says about one request: it starts now (`choice.cost.is_free`) or waits."""

    waiting: Waiting
    choice: Choice
    costs: Sequence[Cost]


class Pool:
    """The candidates of one eligibility class during one walk, with factors for a lower bound of their cost."""

    __slots__ = ("_factors", "_profiles", "held", "ids", "nodes", "planned")

    def __init__(self, waiting: Waiting, nodes: Sequence[Node], planned: dict[str, Horizon], now: float) -> None:
        self.nodes = nodes
        self.ids = frozenset(n.node_id for n in nodes)
        self.held = 0
        """Requests that wait although a node could start them at once."""
        self.planned = planned
        self._profiles = _profiles(waiting, nodes)
        self._factors = [_factors(p, planned[p.node.node_id], waiting.model, now) for p in self._profiles]

    def could_start(self, model: str, open_ids: set[str]) -> bool:
        """Whether a free node has the model in memory, or is loading it."""
        return any(model in self.planned[node_id].ready for node_id in open_ids & self.ids)

    def by_lower_bound(self, waiting: Waiting, rules: CostRules) -> list[tuple[float, Profile]]:
        """Every candidate with seconds that its cost cannot fall below, cheapest first."""
        context = waiting.request.context
        if context.prefix_hashes or waiting.request.routing.session_id is not None or waiting.mode is not _FAST:
            bounds = []
            for profile, (prompt_s, _, fixed_s) in zip(self._profiles, self._factors, strict=True):
                e = estimate(waiting, profile, rules)
                bounds.append(e.work_s * prompt_s * profile.prompt_tps + e.fixed_s + fixed_s)
        else:
            prompt, output = context.prompt_tokens, waiting.output_mean
            bounds = [prompt * a + output * b + c for a, b, c in self._factors]
        order = sorted(range(len(bounds)), key=bounds.__getitem__)
        return [(bounds[i], self._profiles[i]) for i in order]


def _factors(profile: Profile, horizon: Horizon, model: str, now: float) -> tuple[float, float, float]:
    """Seconds per prompt token, per output token, and at any rate."""
    share = 1.0 / horizon.pace + (profile.weight_ratio if profile.weight_ratio < 0 else 0.0)
    load_s = 0.0
    start = horizon.ready.get(model)
    if start is None:
        load_s = profile.load_s
        start = horizon.load_ends_at
    start = max(start, horizon.free_at)
    wait_s = start - now if start > now else 0.0
    return share / profile.prompt_tps, share / profile.decode_tps, load_s + wait_s


def _profiles(waiting: Waiting, nodes: Sequence[Node]) -> list[Profile]:
    """The request's profile on every node; spares a call per node that did not change."""
    model, num_ctx = waiting.model, waiting.request.context.num_ctx
    key = (model, num_ctx)
    profiles = []
    for node in nodes:
        known = node.profiles.get(key)
        if known is None or known.version != node.figures_version:
            known = profile_of(node, model, num_ctx)
        profiles.append(known)
    return profiles


def _profile(waiting: Waiting, node: Node) -> Profile:
    return profile_of(node, waiting.model, waiting.request.context.num_ctx)


class Planner:
    """Works out costs against horizons that it keeps while nodes do not change."""

    def __init__(
        self,
        *,
        rules: CostRules,
        demand: Demand,
        holders: Callable[[str], int],
        rng: random.Random,
        strategy: Strategy,
        left_s: LeftSeconds = Attempt.base_left_s,
    ) -> None:
        self.strategy = strategy
        self._left_s = left_s
        self._rules = rules
        self._demand = demand
        self._holders = holders
        self._rng = rng
        self._horizons: dict[str, Horizon] = {}

    def horizon(self, node: Node, now: float) -> Horizon:
        """The node's near future as it stands, without plans."""
        known = self._horizons.get(node.node_id)
        if known is None or known.node is not node or not known.is_fresh(now):
            known = self._horizons[node.node_id] = Horizon(node, now, self._demand, self._holders, self._left_s)
        return known

    def forget(self, keep: Iterable[str]) -> None:
        """Drops horizons of nodes that are gone."""
        kept = set(keep)
        for node_id in [n for n in self._horizons if n not in kept]:
            del self._horizons[node_id]

    def walk(
        self,
        queue: Iterable[Waiting],
        nodes_for: Callable[[Waiting], Sequence[Node]],
        now: float,
    ) -> Iterator[Assignment]:
        """Plans the queue in order; yields what each request gets, until no node has a free slot.

        The caller may carry out an assignment before it asks for the next one: the planned state holds it.
        """
        ahead = [(waiting, nodes_for(waiting)) for waiting in queue]
        planned = {n.node_id: self.horizon(n, now) for nodes in {id(x): x for _, x in ahead}.values() for n in nodes}
        private: set[str] = set()
        open_ids = {node_id for node_id, h in planned.items() if h.free_at == 0.0}
        pools: dict[ClassKey, Pool] = {}
        for waiting, nodes in ahead:
            if not open_ids:
                return
            if not nodes:
                continue
            pool = pools.get(waiting.class_key)
            if pool is None:
                pool = pools[waiting.class_key] = Pool(waiting, nodes, planned, now)
            waiting.held_ahead = min(_MOST_HELD, pool.held)
            costs, choice = self._best(waiting, pool, open_ids, now)
            yield Assignment(waiting, choice, costs)
            if waiting is ahead[-1][0]:
                return
            if not choice.cost.is_free and pool.could_start(waiting.model, open_ids):
                pool.held += 1
            node_id = choice.cost.horizon.node.node_id
            if node_id not in private:
                planned[node_id] = planned[node_id].copy()
                private.add(node_id)
            _commit(choice.cost, planned[node_id], waiting.model)
            if not planned[node_id].has_free_slot():
                open_ids.discard(node_id)

    def _best(self, waiting: Waiting, pool: Pool, open_ids: set[str], now: float) -> tuple[list[Cost], Choice]:
        """The strategy's choice and the candidates that were worked out for it.

        Candidates are taken in the order of a lower bound of their cost, until no further one can be chosen.
        Where few nodes are free, these come first, so that of the busy ones only the best is looked for.
        """
        ratio = self.strategy.prune_ratio
        if ratio is None or waiting.mode is RoutingMode.ASYNC:
            costs = self.costs(waiting, pool.nodes, now, pool.planned)
            return costs, self.strategy.choose(waiting, costs, now, self._rng)
        order = pool.by_lower_bound(waiting, self._rules)
        rank = waiting.rank(now, self._rules.ageing_s)
        best = best_free = math.inf
        costs = []
        if len(open_ids) <= _FEW_FREE:
            free = [profile for _, profile in order if profile.node.node_id in open_ids]
            costs = [self._cost(waiting, profile, pool.planned, now, rank) for profile in free]
            best = min((c.total_s for c in costs), default=math.inf)
            best_free = min((c.total_s for c in costs if c.is_free), default=math.inf)
            order = [x for x in order if x[1].node.node_id not in open_ids]
            ratio = 1.0
        else:
            ratio **= 1 + waiting.held_ahead
        rest = iter(order)
        for bound, profile in rest:
            if bound > best_free + TIE_S + TIE_RATIO * bound or bound > ratio * best:
                rest = chain(((bound, profile),), rest)
                break
            cost = self._cost(waiting, profile, pool.planned, now, rank)
            costs.append(cost)
            best = min(best, cost.total_s)
            if cost.is_free:
                best_free = min(best_free, cost.total_s)
        choice = self.strategy.choose(waiting, costs, now, self._rng)
        if choice.cost.is_free:
            missing = islice(rest, max(0, _EXPLAINED - len(costs)))
            costs += [self._cost(waiting, profile, pool.planned, now, rank) for _, profile in missing]
        return costs, choice

    def _cost(self, waiting: Waiting, profile: Profile, planned: dict[str, Horizon], now: float, rank: float) -> Cost:
        e = estimate(waiting, profile, self._rules)
        return evaluate(waiting, e, planned[profile.node.node_id], now, rank)

    def costs(
        self, waiting: Waiting, nodes: Sequence[Node], now: float, planned: dict[str, Horizon] | None = None
    ) -> list[Cost]:
        """The cost of every candidate, against the planned state if one is given."""
        rules = self._rules
        rank = waiting.rank(now, rules.ageing_s)
        has_cpu_rival = waiting.mode is RoutingMode.ASYNC and self._has_cpu_rival(waiting, nodes, now)
        costs = []
        for node in nodes:
            e = estimate(waiting, _profile(waiting, node), rules, has_cpu_rival=has_cpu_rival)
            horizon = planned[node.node_id] if planned is not None else self.horizon(node, now)
            costs.append(evaluate(waiting, e, horizon, now, rank))
        return costs

    @staticmethod
    def best_work_s(waiting: Waiting, nodes: Sequence[Node]) -> float:
        """Predicted work of a request alone on the node that is fastest for it; prefixes do not count."""
        prompt, output = waiting.request.context.prompt_tokens, waiting.output_mean
        return min([prompt / p.prompt_tps + output / p.decode_tps for p in _profiles(waiting, nodes)])

    def work_s(self, waiting: Waiting, node: Node) -> float:
        """Predicted work of a request alone on a node."""
        return estimate(waiting, _profile(waiting, node), self._rules).work_s

    def parallelism(self, waiting: Waiting, nodes: Sequence[Node]) -> float:
        """How many requests like this one the nodes work off in the time the fastest needs for one; > 0."""
        total = 0.0
        for node in nodes:
            work_s = max(1e-6, self.work_s(waiting, node))
            total += max(1e-6, waiting.best_work_s) / work_s * _speed_up(node.slots, node.speeds.beta)
        return max(total, 1e-6)

    @staticmethod
    def node_seconds(cost: Cost) -> float:
        """Seconds of a whole node that a request takes, when the node's slots are in use."""
        node = cost.horizon.node
        return cost.estimate.work_s / cost.horizon.pace / _speed_up(node.slots, node.speeds.beta)

    def _has_cpu_rival(self, waiting: Waiting, nodes: Sequence[Node], now: float) -> bool:
        """Whether a CPU node could finish the work before the deadline."""
        left_s = waiting.deadline_at - now
        for node in nodes:
            if not node.has_gpu:
                e = estimate(waiting, _profile(waiting, node), self._rules)
                if e.profile.load_s + e.work_s < left_s:
                    return True
        return False


def _speed_up(slots: int, beta: float) -> float:
    """Throughput of a full node in units of one attempt alone; > 0."""
    return slots / (1.0 + beta * (slots - 1)) if slots > 0 else 1e-6


def _commit(cost: Cost, horizon: Horizon, model: str) -> None:
    """Plans one more attempt into the horizon."""
    ready_at = cost.start + cost.estimate.profile.load_s
    horizon.commit(model, end_of(cost), load=cost.load, ready_at=ready_at)
