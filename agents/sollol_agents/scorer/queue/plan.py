"""Late binding over the whole queue: who starts where now, and who waits for which node.

The queue is walked in order of rank. Each request takes its best candidate against the planned state of all
nodes, in which every earlier request of the walk already stands, granted or waiting. The walk looks at 20
requests of each eligibility class (a single window over all classes would let requests at the head that few
nodes can serve block everyone behind them) and ends when no node has a free slot.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from sollol_agents.scorer.choice.bounds import Pool
from sollol_agents.scorer.choice.cost import Cost, CostRules, end_of, estimate, evaluate
from sollol_agents.scorer.choice.horizon import Horizon, LeftSeconds
from sollol_agents.scorer.choice.profiles import Profile, Profiles
from sollol_agents.scorer.choice.waiting import ClassKey, Waiting
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand, bucket_of
from sollol_agents.scorer.strategies.base import Choice, Strategy
from sollol_agents.scorer.strategies.least_cost import TIE_RATIO, TIE_S
from sollol_schemas.routing import RoutingMode

_EXPLAINED = 8  # candidates that a decision's explanation shows
_FEW_FREE = 8  # free nodes that are worked out first, whatever their bounds
_MOST_HELD = 3  # requests held ahead that count; by more, slow nodes would take what they only delay


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
        self.profiles = Profiles()
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

    def keep(self, node_ids: Collection[str]) -> bool:
        """Drops what is kept of nodes that are gone; returns whether there were any."""
        gone = self._horizons.keys() - node_ids
        for node_id in gone:
            del self._horizons[node_id]
        if gone:
            self.profiles.keep(node_ids)
        return bool(gone)

    def walk(
        self,
        queue: Iterable[Waiting],
        nodes_for: Callable[[Waiting], Sequence[Node]],
        now: float,
    ) -> Iterator[tuple[Waiting, Choice]]:
        """Plans the queue in order; yields what each request gets, until no node has a free slot.

        A request starts now where `choice.cost.is_free`, and waits otherwise. The caller may carry a choice out
        before it asks for the next one: the planned state holds it.
        """
        ahead = [(waiting, nodes_for(waiting)) for waiting in queue]
        planned = self._near_future([nodes for _, nodes in ahead], now)
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
                profiles = self._profiles(waiting, nodes)
                pool = pools[waiting.class_key] = Pool(waiting, profiles, planned, now, self._rules)
            waiting.held_ahead = min(_MOST_HELD, pool.held)
            choice = self._best(waiting, pool, nodes, open_ids, now)
            yield waiting, choice
            if waiting is ahead[-1][0]:
                return
            if not choice.cost.is_free and pool.could_start(open_ids):
                pool.held += 1
            node_id = choice.cost.horizon.node.node_id
            if node_id not in private:
                planned[node_id] = planned[node_id].copy()
                private.add(node_id)
            _commit(choice.cost, planned[node_id], waiting.model)
            for known in pools.values():
                known.replan(node_id)
            if not planned[node_id].has_free_slot():
                open_ids.discard(node_id)

    def _near_future(self, candidates: Iterable[Sequence[Node]], now: float) -> dict[str, Horizon]:
        """The horizons of all candidates, by node id."""
        planned: dict[str, Horizon] = {}
        for nodes in {id(x): x for x in candidates}.values():
            for node in nodes:
                if node.node_id not in planned:
                    planned[node.node_id] = self.horizon(node, now)
        return planned

    def _best(self, waiting: Waiting, pool: Pool, nodes: Sequence[Node], open_ids: set[str], now: float) -> Choice:
        """The strategy's choice, with the candidates that were worked out for it.

        Candidates are taken in the order of a lower bound of their cost, until no further one can be chosen.
        Where few nodes are free, these come first, so that of the busy ones only the best is looked for.
        """
        ratio = self.strategy.prune_ratio
        if ratio is None or waiting.mode is RoutingMode.ASYNC:
            return self.choose(waiting, nodes, now, pool.planned)
        bucket = self._bucket(waiting, now)
        order = pool.bounded(waiting)
        best = best_free = limit = math.inf
        costs = []
        if len(open_ids) <= _FEW_FREE:
            free = [bound[3] for _, bound in order if bound[3].node.node_id in open_ids]
            costs = [self._cost(waiting, profile, pool.planned, now, bucket) for profile in free]
            best = min((c.total_s for c in costs), default=math.inf)
            best_free = min((c.total_s for c in costs if c.is_free), default=math.inf)
            order = [x for x in order if x[1][3].node.node_id not in open_ids]
            limit, ratio = best_free / ratio, 1.0
        else:
            ratio **= 1 + waiting.held_ahead
        seen = 0
        for least_s, (_, _, _, profile, may_be_free, is_tight) in order:
            if least_s > limit or least_s > best_free + TIE_S + TIE_RATIO * least_s or least_s > ratio * best:
                break
            seen += 1
            total_s = least_s if is_tight else least_s + pool.evict_s(profile)
            if total_s > best_free + TIE_S + TIE_RATIO * total_s or total_s > (ratio if may_be_free else 1.0) * best:
                continue
            cost = self._cost(waiting, profile, pool.planned, now, bucket)
            costs.append(cost)
            best = min(best, cost.total_s)
            if cost.is_free:
                best_free = min(best_free, cost.total_s)
        choice = self.strategy.choose(waiting, costs, now, self._rng)
        if choice.cost.is_free:
            missing = order[seen : seen + max(0, _EXPLAINED - len(costs))]
            costs += [self._cost(waiting, bound[3], pool.planned, now, bucket) for _, bound in missing]
        return choice._replace(costs=costs)

    def _bucket(self, waiting: Waiting, now: float) -> int:
        return bucket_of(waiting.rank(now, self._rules.ageing_s))

    def _profile(self, waiting: Waiting, node: Node) -> Profile:
        return self._profiles(waiting, (node,))[0]

    def _profiles(self, waiting: Waiting, nodes: Sequence[Node]) -> list[Profile]:
        return self.profiles.of_all(nodes, waiting.model, waiting.request.context.num_ctx)

    def _cost(self, waiting: Waiting, profile: Profile, planned: dict[str, Horizon], now: float, bucket: int) -> Cost:
        e = estimate(waiting, profile, self._rules)
        return evaluate(waiting, e, planned[profile.node.node_id], now, bucket)

    def choose(
        self, waiting: Waiting, nodes: Sequence[Node], now: float, planned: dict[str, Horizon] | None = None
    ) -> Choice:
        """The strategy's choice among all candidates, against the planned state if one is given."""
        costs = self.costs(waiting, nodes, now, planned)
        return self.strategy.choose(waiting, costs, now, self._rng)._replace(costs=costs)

    def costs(
        self, waiting: Waiting, nodes: Sequence[Node], now: float, planned: dict[str, Horizon] | None = None
    ) -> list[Cost]:
        """The cost of every candidate, against the planned state if one is given."""
        rules = self._rules
        bucket = self._bucket(waiting, now)
        has_cpu_rival = waiting.mode is RoutingMode.ASYNC and self._has_cpu_rival(waiting, nodes, now)
        costs = []
        for profile in self._profiles(waiting, nodes):
            e = estimate(waiting, profile, rules, has_cpu_rival=has_cpu_rival)
            node = profile.node
            horizon = planned[node.node_id] if planned is not None else self.horizon(node, now)
            costs.append(evaluate(waiting, e, horizon, now, bucket))
        return costs

    def best_work_s(self, waiting: Waiting, nodes: Sequence[Node]) -> float:
        """Predicted work of a request alone on the node that is fastest for it; prefixes do not count."""
        prompt, output = waiting.request.context.prompt_tokens, waiting.output_mean
        return min([prompt / p.prompt_tps + output / p.decode_tps for p in self._profiles(waiting, nodes)])

    def work_s(self, waiting: Waiting, node: Node) -> float:
        """Predicted work of a request alone on a node."""
        return estimate(waiting, self._profile(waiting, node), self._rules).work_s

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
                e = estimate(waiting, self._profile(waiting, node), self._rules)
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
