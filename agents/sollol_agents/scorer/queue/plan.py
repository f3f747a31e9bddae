"""Late binding over the whole queue: who starts where now, and who waits for which node.

The queue is walked in order of rank. Each request takes its best candidate against the planned state of all
nodes, in which every earlier request of the walk already stands, granted or waiting. The walk looks at 20
requests of each eligibility class (a single window over all classes would let requests at the head that few
nodes can serve block everyone behind them) and ends when no node has a free slot. Nodes that are left open while
more of a class waits take what ends there before the nodes in use have drained the whole line: taking one request out
of a line of n spares the others n times the time between two answers, so that a slow server pays when it is done before
the line is (Lin and Kumar, 1984).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from sollol_agents.scorer.choice.bounds import PROFILE, START, TIGHT, Pool, Standing
from sollol_agents.scorer.choice.cost import Cost, CostRules, end_of, estimate, evaluate, latest_end
from sollol_agents.scorer.choice.horizon import Horizon, LeftSeconds
from sollol_agents.scorer.choice.profiles import Profile, Profiles, speed_up
from sollol_agents.scorer.choice.waiting import ClassKey, Key, Waiting
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import Demand, bucket_of
from sollol_agents.scorer.queue.queue import Line, merged
from sollol_agents.scorer.queue.walk import Walk
from sollol_agents.scorer.strategies.base import Choice, Strategy
from sollol_agents.scorer.strategies.cheapest import cheapest
from sollol_agents.scorer.strategies.least_cost import TIE_RATIO, TIE_S
from sollol_schemas.routing import RoutingMode

_EXPLAINED = 8  # candidates that a decision's explanation shows
_CHANGES_MAX = 4096  # changes of nodes that are remembered for standings
_STANDINGS_MAX = 128  # eligibility classes whose bounds are kept
_FEW_FREE = 8  # free nodes that are worked out first, whatever their bounds
TRIED_BEYOND = 8
"""Requests of a class behind the window that may start on nodes which the plan leaves open."""
_LOOK_AT_ALL = (RoutingMode.ASYNC, RoutingMode.CHEAP)  # modes that no bound on seconds speaks for
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
        left_s: LeftSeconds = Attempt.base_lefts_s,
    ) -> None:
        self.strategy = strategy
        self.profiles = Profiles()
        self._left_s = left_s
        self._rules = rules
        self._demand = demand
        self._holders = holders
        self._rng = rng
        self._horizons: dict[str, Horizon] = {}
        self._standings: dict[ClassKey, Standing] = {}
        self._changed: list[str] = []  # nodes whose horizon or figures were made anew, in order; standings follow

    def horizon(self, node: Node, now: float) -> Horizon:
        """The node's near future as it stands, without plans."""
        known = self._horizons.get(node.node_id)
        if known is None or known.node is not node or not known.is_fresh(now):
            known = self._horizons[node.node_id] = Horizon(node, now, self._demand, self._holders, self._left_s)
        elif known.figures_version != node.figures_version:
            known.figures_version = node.figures_version
        else:
            return known
        self._changed.append(node.node_id)
        return known

    def keep(self, node_ids: Collection[str]) -> bool:
        """Drops what is kept of nodes that are gone; returns whether there were any."""
        gone = self._horizons.keys() - node_ids
        for node_id in gone:
            del self._horizons[node_id]
        if gone:
            self.profiles.keep(node_ids)
            self._standings.clear()
            self._changed.clear()
        return bool(gone)

    def _forget_old_changes(self) -> None:
        """Keeps the latest changes of nodes, and the standings that know of all others."""
        cut = len(self._changed) // 2
        del self._changed[:cut]
        self._standings = {key: known for key, known in self._standings.items() if known.seen >= cut}
        for known in self._standings.values():
            known.seen -= cut

    def walk(
        self,
        lines: Sequence[Line],
        window: int,
        nodes_for: Callable[[Waiting], Sequence[Node]],
        now: float,
        newcomers_ratio: float,
    ) -> Iterator[tuple[Waiting, Choice]]:
        """Plans the queue in order; yields what each request gets, until no node has a free slot.

        A request starts now where `choice.cost.is_free`, and waits otherwise. The caller may carry a choice out
        before it asks for the next one: the planned state holds it.

        Args:
            lines: What waits, one line for each class.
            window: So many requests of each class are planned one by one.
            nodes_for: The nodes that may serve a request.
            now: The present instant.
            newcomers_ratio: Requests to be expected for each that is answered, 0 to 1.
        """
        if len(self._changed) > _CHANGES_MAX:
            self._forget_old_changes()
        nodes_of = _nodes_of_classes(lines, window, nodes_for)
        walk = Walk(self._near_future(nodes_of.values(), now), now)
        if not walk.open_ids:
            return
        line_of = {line.first.class_key: line for line in lines}
        ahead = merged(lines, window)
        later = [(line, line.beyond(window, TRIED_BEYOND)) for line in lines if len(line) > window]
        pools: dict[ClassKey, Pool] = {}
        for waiting in ahead:
            if not walk.open_ids:
                return
            key = waiting.class_key
            nodes = nodes_of[key]
            if not nodes:
                continue
            pool = pools.get(key)
            if pool is None:
                line = line_of.get(key)
                pool = pools[key] = self._pool(waiting, nodes, (line or lines[0]).head(window + TRIED_BEYOND), walk)
                if line is not None:
                    pool.left = len(line) + line.behind
            pool.left -= 1.0
            waiting.held_ahead = min(_MOST_HELD, pool.held)
            waiting.newcomers_ratio = newcomers_ratio
            choice = self._best(waiting, pool, nodes, walk.open_ids, now)
            yield waiting, choice
            if waiting is ahead[-1] and not later:
                return
            if not choice.cost.is_free and pool.could_start(walk.open_ids):
                pool.held += 1
            pool.prompt_tokens += waiting.request.context.prompt_tokens
            pool.hit_tokens += choice.cost.estimate.hit_tokens
            walk.commit(choice.cost, waiting.model)
        for line, candidates in later:
            pool = pools.get(candidates[0].class_key)
            if pool is not None:
                yield from self._beyond(line, candidates, pool, walk)

    def _pool(self, waiting: Waiting, nodes: Sequence[Node], ahead: Sequence[tuple[Key, Waiting]], walk: Walk) -> Pool:
        """The candidates of a class, for it and what of its line is looked at."""
        largest = max(w.request.context.prompt_tokens for _, w in ahead), max(w.output_mean for _, w in ahead)
        standing = self.standing(waiting, nodes, largest)
        return Pool(waiting, standing, walk.planned, walk.now, self._rules, changed=walk.changed)

    def standing(self, waiting: Waiting, nodes: Sequence[Node], largest: tuple[float, float]) -> Standing:
        """The bounds of a class, as they follow from horizons and figures now."""
        known = self._standings.get(waiting.class_key)
        if known is None or not known.suits(nodes, largest):
            self._standings.pop(waiting.class_key, None)
            if len(self._standings) >= _STANDINGS_MAX:
                del self._standings[next(iter(self._standings))]
            profiles = self._profiles(waiting, nodes)
            known = Standing(waiting.model, nodes, profiles, self._horizons, largest)
            self._standings[waiting.class_key] = known
        elif known.seen < len(self._changed):
            places = known.places
            changed = [nodes[places[i]] for i in set(self._changed[known.seen :]) if i in places]
            known.renew(self._profiles(waiting, changed), self._horizons)
        known.seen = len(self._changed)
        return known

    def _beyond(
        self, line: Line, candidates: Sequence[Waiting], pool: Pool, walk: Walk
    ) -> Iterator[tuple[Waiting, Choice]]:
        """Starts more of a long line on nodes that are left open, where they end before the whole line would."""
        drained_at = walk.drained_at(line, pool)
        pool.count_reloads()
        if pool.soonest_late_end(candidates) >= drained_at:
            return
        free = pool.free_now(walk.open_ids)
        for waiting in candidates:
            if not free or waiting.mode is RoutingMode.CHEAP or pool.soonest_late_end((waiting,)) >= drained_at:
                continue
            cost = self._first_to_end(waiting, free, pool, walk.now)
            if latest_end(cost) >= drained_at:
                continue
            pool.left -= 1.0
            reason = f"starts at once: {pool.left:.0f} more would take {drained_at - walk.now:.1f} s"
            bucket = self._bucket(waiting, walk.now)
            costs = [self._cost(waiting, pool.rows[place][PROFILE], pool, walk.now, bucket) for place in free]
            yield waiting, Choice(cost, reason, costs)
            walk.commit(cost, waiting.model)
            free = pool.free_now(walk.open_ids)
            drained_at = walk.drained_at(line, pool)

    def _first_to_end(self, waiting: Waiting, free: Sequence[int], pool: Pool, now: float) -> Cost:
        """The candidate that ends a request soonest, out of at least one; of equal ones, the first by place."""
        bucket = self._bucket(waiting, now)
        first: tuple[float, int, Cost] | None = None
        for ends_after, place in pool.by_end(waiting, free):
            if first is not None and ends_after > first[0]:
                break
            cost = self._cost(waiting, pool.rows[place][PROFILE], pool, now, bucket)
            ends_at = end_of(cost)
            if first is None or (ends_at, place) < first[:2]:
                first = (ends_at, place, cost)
        assert first is not None
        return first[2]

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
        if ratio is None or waiting.mode in _LOOK_AT_ALL or waiting.is_broken_off:
            return self.choose(waiting, nodes, now, pool.planned)
        bucket, rules, planned, rows = self._bucket(waiting, now), self._rules, pool.planned, pool.rows
        least = pool.least_s(waiting)
        order = sorted(range(len(rows)), key=least.__getitem__)
        best = best_free = limit = math.inf
        costs = []
        if len(open_ids) <= _FEW_FREE:
            free = [place for place in order if rows[place][PROFILE].node.node_id in open_ids]
            costs = [self._cost(waiting, rows[place][PROFILE], pool, now, bucket) for place in free]
            best = min((c.total_s for c in costs), default=math.inf)
            best_free = min((c.total_s for c in costs if c.is_free), default=math.inf)
            order = [place for place in order if place not in free]
            limit, ratio = best_free, 1.0
        else:
            ratio **= 1 + waiting.held_ahead
        seen = 0
        for place in order:
            least_s = least[place]
            if least_s > limit or least_s > best_free + TIE_S + TIE_RATIO * least_s or least_s > ratio * best:
                break
            seen += 1
            row = rows[place]
            profile, total_s, may_be_free = row[PROFILE], least_s, row[START] <= now
            if not row[TIGHT]:
                load = pool.load_plan(profile)
                total_s += load.evict_s
                may_be_free &= load.begins_at <= now
            if total_s > best_free + TIE_S + TIE_RATIO * total_s or total_s > (ratio if may_be_free else 1.0) * best:
                continue
            cost = evaluate(waiting, estimate(waiting, profile, rules), planned[profile.node.node_id], now, bucket)
            costs.append(cost)
            best = min(best, cost.total_s)
            if cost.is_free:
                best_free = min(best_free, cost.total_s)
        choice = self.strategy.choose(waiting, costs, now, self._rng)
        if choice.cost.is_free:
            missing = order[seen : seen + max(0, _EXPLAINED - len(costs))]
            costs += [self._cost(waiting, rows[place][PROFILE], pool, now, bucket) for place in missing]
        return choice._replace(costs=costs)

    def _bucket(self, waiting: Waiting, now: float) -> int:
        return bucket_of(waiting.rank(now, self._rules.ageing_s))

    def _profile(self, waiting: Waiting, node: Node) -> Profile:
        return self._profiles(waiting, (node,))[0]

    def _profiles(self, waiting: Waiting, nodes: Sequence[Node]) -> list[Profile]:
        return self.profiles.of_all(nodes, waiting.model, waiting.request.context.num_ctx)

    def _cost(self, waiting: Waiting, profile: Profile, pool: Pool, now: float, bucket: int) -> Cost:
        e = estimate(waiting, profile, self._rules)
        return evaluate(waiting, e, pool.planned[profile.node.node_id], now, bucket)

    def choose_alone(self, waiting: Waiting, nodes: Sequence[Node], now: float) -> Choice | None:
        """What `walk` gives a request while nothing else waits; None where many nodes, or none, have a free slot."""
        if not 0 < len(nodes) <= _FEW_FREE:
            return None
        planned = {node.node_id: self.horizon(node, now) for node in nodes}
        is_open = any(horizon.has_free_slot() for horizon in planned.values())
        return self.choose(waiting, nodes, now, planned) if is_open else None

    def choose(
        self, waiting: Waiting, nodes: Sequence[Node], now: float, planned: Mapping[str, Horizon] | None = None
    ) -> Choice:
        """The strategy's choice among all candidates, against the planned state if one is given."""
        costs = self.costs(waiting, nodes, now, planned)
        if waiting.mode is RoutingMode.CHEAP:
            choice = cheapest(
                waiting,
                costs,
                now,
                self._rules.cheap_patience_s,
                lambda some: self.strategy.choose(waiting, some, now, self._rng),
            )
        else:
            choice = self.strategy.choose(waiting, costs, now, self._rng)
        return choice if choice.costs is costs else Choice(choice.cost, choice.reason, costs, choice.note)

    def costs(
        self, waiting: Waiting, nodes: Sequence[Node], now: float, planned: Mapping[str, Horizon] | None = None
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

    def cost_on(self, waiting: Waiting, node: Node, horizon: Horizon, now: float) -> Cost:
        """The cost of one candidate against a planned state of it."""
        e = estimate(waiting, self._profile(waiting, node), self._rules)
        return evaluate(waiting, e, horizon, now, self._bucket(waiting, now))

    def base_left_s(self, attempt: Attempt, now: float, speed_ratio: float) -> float:
        """Base seconds of work that an attempt still needs."""
        (left_s,) = self._left_s((attempt,), now, speed_ratio)
        return left_s

    def fastest(self, waiting: Waiting, nodes: Sequence[Node]) -> Profile:
        """The node that has the least work with a request alone; prefixes do not count."""
        prompt, output = waiting.request.context.prompt_tokens, waiting.output_mean
        profiles = self._profiles(waiting, nodes)
        if len(profiles) == 1:
            return profiles[0]
        return min(profiles, key=lambda p: prompt / p.prompt_tps + output / p.decode_tps)

    def work_s(self, waiting: Waiting, node: Node) -> float:
        """Predicted work of a request alone on a node."""
        return estimate(waiting, self._profile(waiting, node), self._rules).work_s

    def prospects(self, waiting: Waiting, nodes: Sequence[Node], now: float) -> Iterator[tuple[float, float]]:
        """For each node, when a request could start, and how many such it works off while the fastest does one."""
        bucket = self._bucket(waiting, now)
        has_cpu_rival = waiting.mode is RoutingMode.ASYNC and self._has_cpu_rival(waiting, nodes, now)
        for profile in self._profiles(waiting, nodes):
            node, e = profile.node, estimate(waiting, profile, self._rules, has_cpu_rival=has_cpu_rival)
            cost = evaluate(waiting, e, self.horizon(node, now), now, bucket)
            share = max(1e-6, waiting.best_work_s) / max(1e-6, e.work_s)
            yield cost.start, share * speed_up(node.slots, node.speeds.beta)

    @staticmethod
    def node_seconds(cost: Cost) -> float:
        """Seconds of a whole node that a request takes, when the node's slots are in use."""
        node = cost.horizon.node
        return cost.estimate.work_s / cost.horizon.pace / speed_up(node.slots, node.speeds.beta)

    def _has_cpu_rival(self, waiting: Waiting, nodes: Sequence[Node], now: float) -> bool:
        """Whether a CPU node could finish the work before the deadline."""
        left_s = waiting.deadline_at - now
        for node in nodes:
            if not node.has_gpu:
                e = estimate(waiting, self._profile(waiting, node), self._rules)
                if e.profile.load_s + e.work_s < left_s:
                    return True
        return False


def _nodes_of_classes(
    lines: Sequence[Line], window: int, nodes_for: Callable[[Waiting], Sequence[Node]]
) -> dict[ClassKey, Sequence[Node]]:
    """The candidates of every class that is planned; only the line of priority 0 holds several."""
    found: dict[ClassKey, Sequence[Node]] = {}
    for line in lines:
        for _, waiting in line.head(1 if line.first.priority else window):
            if waiting.class_key not in found:
                found[waiting.class_key] = nodes_for(waiting)
    return found
