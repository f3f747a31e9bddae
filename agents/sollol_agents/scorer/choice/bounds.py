"""Lower bounds of costs, so that of many candidates only those that can be chosen are worked out.

A bound leaves out what takes long to find out and can only add to a cost: slow-down by company and, until somebody
asks for them, the reloads that a load causes. Bounds follow from a node's horizon and figures alone, so that they are
kept from walk to walk until one of these is made anew; waits, which shrink as time passes, are added by each walk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from sollol_agents.scorer.choice.cost import LATE, TASK_PREFERENCE_SHARE, CostRules, estimate, is_free_for, late_share
from sollol_agents.scorer.choice.horizon import MAX_AGE_S, Horizon, LoadPlan
from sollol_agents.scorer.choice.profiles import Profile
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.knowledge.demand import HIGHEST_BUCKET, bucket_of
from sollol_schemas.routing import RoutingMode

_FAST = RoutingMode.FAST
_SOON_S = 0.02
_EXACT = 1.0 - 1e-9  # sums in another order differ by less
_MOST_ROOM = 2.0  # bounds for requests that are so much larger are too low


Row = tuple[float, float, float, float, float, float, float, bool, bool, bool, Profile]
"""One candidate: the seconds per prompt token, per output token, and at any rate, that a request costs at least; the
instant at which it could start at the soonest; the first two again for the time until an answer ends; the seconds per
output token alone, of which `late_share` adds a part; whether the model is in memory or on its way; whether the reloads
that its load causes are counted, and a slow-down by company; the candidate. A plain tuple, because every decision runs
through many of them."""
START: Final = 3
_LATE: Final = 6
_HELD: Final = 7
TIGHT: Final = 8
_SLOWED: Final = 9
PROFILE: Final = 10


class Standing:
    """The bounds of one eligibility class on all its candidates, without plans and waits; kept from walk to walk.

    They hold for requests of at most `largest` prompt and output tokens: a slow-down grows less than the work.
    """

    __slots__ = ("_factors", "_factors_of", "_unstretched", "largest", "model", "nodes", "places", "rows", "seen")

    def __init__(
        self,
        model: str,
        nodes: Sequence[Node],
        profiles: Sequence[Profile],
        horizons: Mapping[str, Horizon],
        largest: tuple[float, float],
    ) -> None:
        self.model = model
        self.nodes = nodes
        self.largest = largest
        self.places = {node.node_id: i for i, node in enumerate(nodes)}
        """Where each node stands among the candidates."""
        self.rows = [row_of(p, horizons[p.node.node_id], model, self.largest) for p in profiles]
        self.seen = 0
        """How many changes of nodes the rows know of; see `Planner`."""
        self._factors: list[float] = []
        self._factors_of = (-1, -1)  # the rank and the second for which they were worked out
        self._unstretched: list[int] = []

    def suits(self, nodes: Sequence[Node], largest: tuple[float, float]) -> bool:
        """Whether it is about these candidates, and its bounds hold for such requests without being too low."""
        return (self.nodes is nodes or self.nodes == nodes) and all(map(_is_roomy, self.largest, largest))

    def renew(self, profiles: Sequence[Profile], horizons: Mapping[str, Horizon]) -> None:
        """Makes the rows of candidates anew whose horizon or figures were."""
        for profile in profiles:
            place = self.places[profile.node.node_id]
            self.rows[place] = row_of(profile, horizons[profile.node.node_id], self.model, self.largest)
            self._unstretched.append(place)

    def factors(self, bucket: int, now: float) -> list[float]:
        """By how much waits stretch on each candidate, for work of this rank."""
        if self._factors_of != (bucket, int(now)):
            self._factors_of = (bucket, int(now))
            self._factors = [row[PROFILE].node.work.overtaking_factor(bucket, now) for row in self.rows]
        else:
            for place in self._unstretched:
                self._factors[place] = self.rows[place][PROFILE].node.work.overtaking_factor(bucket, now)
        self._unstretched.clear()
        return self._factors


def _is_roomy(room: float, asked: float) -> bool:
    return asked <= room <= _MOST_ROOM * max(1.0, asked)


def row_of(profile: Profile, horizon: Horizon, model: str, largest: tuple[float, float]) -> Row:
    """One candidate's bounds, for requests of at most so many prompt and output tokens."""
    load_s = evict_s = slowness = 0.0
    is_tight = True
    start = horizon.free_at
    ready_at = horizon.ready.get(model)
    is_held = ready_at is not None
    if ready_at is None:
        load_s, ready_at = profile.load_s, horizon.load_ends_at
        load = horizon.plans.get(profile.need_bytes)
        if load is None:
            is_tight = False
        else:
            evict_s, ready_at = load.evict_s, load.begins_at
    if ready_at > start:  # noqa: PLR1730 a call costs more
        start = ready_at
    if is_tight and horizon.finishes and profile.model_slots >= horizon.slots:
        latest = max(start, horizon.built_at + MAX_AGE_S) + load_s + _SOON_S
        slowness = _EXACT * _slowness(profile, horizon, model, latest, largest)
    late = (1.0 + slowness) / horizon.pace
    share = late + slowness / horizon.pace
    if profile.weight_ratio < 0:
        share += profile.weight_ratio
    if profile.node.telemetry.preferred_task_types:
        share -= TASK_PREFERENCE_SHARE
    prompt_tps, decode_tps, load_s = profile.prompt_tps, profile.decode_tps, load_s + evict_s
    alone = 1.0 / (horizon.pace * decode_tps)
    seconds = (share / prompt_tps, share / decode_tps, load_s, start, late / prompt_tps, late / decode_tps, alone)
    return (*seconds, is_held, is_tight, slowness > 0.0, profile)


def _slowness(profile: Profile, horizon: Horizon, model: str, begin: float, largest: tuple[float, float]) -> float:
    """Seconds that the largest request loses beside what runs from `begin` on, for each second of its work."""
    work_s = (largest[0] / profile.prompt_tps + largest[1] / profile.decode_tps) / horizon.pace
    finishes, beta, slowdown_s = horizon.finishes, horizon.beta, 0.0
    company = 1.0 + beta * (min(horizon.slots, len(finishes)) - 1)
    for end, other in reversed(finishes):
        overlap = (end - begin) / company
        if overlap <= 0.0:
            break
        slowdown_s += (beta if other == model else horizon.beta_other) * (overlap if overlap < work_s else work_s)  # noqa: FURB136
    return slowdown_s / max(work_s, 1e-9)


class Pool:
    """The candidates of one eligibility class during one walk.

    Its bounds hold for the whole walk: later requests of the class have no higher rank, so that as much work or
    more overtakes them, and what is planned on a node without a load makes it no cheaper for others, slow-down apart.
    """

    __slots__ = (
        "_bucket",
        "_changed",
        "_fixed",
        "_now",
        "_rules",
        "_seen",
        "_standing",
        "held",
        "hit_tokens",
        "left",
        "model",
        "planned",
        "prompt_tokens",
        "rows",
    )

    def __init__(
        self,
        waiting: Waiting,
        standing: Standing,
        planned: dict[str, Horizon],
        now: float,
        rules: CostRules,
        *,
        changed: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.held = 0
        """Requests that wait although a node could start them at once."""
        self.left = 1.0
        """Requests of the class that are not planned yet, those behind the window included."""
        self.prompt_tokens = self.hit_tokens = 0
        """Prompts of those that are planned, and what of them lies in caches where they go."""
        self.model = standing.model
        self.planned = planned
        self._changed = changed  # see `Walk.changed`; bounds know of the first `_seen`
        self._seen = 0
        self._now = now
        self._rules = rules
        is_ranked = waiting.priority > 0  # the others are not in order of rank
        self._bucket = bucket_of(waiting.rank(now, rules.ageing_s)) if is_ranked else HIGHEST_BUCKET
        self._standing = standing
        self.rows = standing.rows.copy()
        factors = standing.factors(self._bucket, now)
        self._fixed = [
            row[2] + ((row[3] - now) * factor if row[3] > now else 0.0)
            for row, factor in zip(self.rows, factors, strict=True)
        ]

    def _catch_up(self) -> None:
        """Takes note of what was planned."""
        for node_id, model in set(self._changed[self._seen :]):
            place = self._standing.places.get(node_id)
            if place is not None and (self.rows[place][_SLOWED] or model in ("", self.model)):
                self._renew(place)
        self._seen = len(self._changed)

    def _renew(self, place: int) -> None:
        """Makes a row anew."""
        now, profile = self._now, self.rows[place][PROFILE]
        node = profile.node
        row = self.rows[place] = row_of(profile, self.planned[node.node_id], self.model, self._standing.largest)
        wait_s = row[START] - now
        factor = node.work.overtaking_factor(self._bucket, now) if wait_s > 0.0 else 0.0
        self._fixed[place] = row[2] + max(0.0, wait_s) * factor

    def count_reloads(self) -> None:
        """Finds out what loads would push out where a request of the class could start at once."""
        changed = {node_id for node_id, _ in self._changed}
        for place, row in enumerate(self.rows):
            if row[START] <= self._now and not row[TIGHT]:
                self.load_plan(row[PROFILE])
                self._renew(place)
                if row[PROFILE].node.node_id not in changed:  # no plan of this walk: it holds for the next ones too
                    self._standing.rows[place] = self.rows[place]

    def could_start(self, open_ids: set[str]) -> bool:
        """Whether a free node has the model in memory, or is loading it."""
        if self._seen < len(self._changed):
            self._catch_up()
        return any(row[PROFILE].node.node_id in open_ids for row in self.rows if row[_HELD])

    def in_use(self) -> list[Profile]:
        """The candidates that have the model in memory or on its way, and something to do."""
        if self._seen < len(self._changed):
            self._catch_up()
        held = [row[PROFILE] for row in self.rows if row[_HELD]]
        return [profile for profile in held if self.planned[profile.node.node_id].finishes]

    def soonest_late_end(self, requests: Sequence[Waiting]) -> float:
        """An instant before which no `latest_end` lies of these requests on candidates where they could start."""
        contexts = [w.request.context for w in requests]
        if any(w.has_prefix for w in requests):
            return self._now
        if self._seen < len(self._changed):
            self._catch_up()
        now, prompt = self._now, min(c.prompt_tokens for c in contexts)
        output = LATE * min(w.output_mean for w in requests)
        ends_s = [prompt * row[4] + output * row[5] + row[2] for row in self.rows if row[START] <= now]
        return now + min(ends_s, default=math.inf) * _EXACT

    def free_now(self, open_ids: set[str]) -> list[int]:
        """The places of the candidates on which a request of the class could start at once."""
        if self._seen < len(self._changed):
            self._catch_up()
        now, model, planned = self._now, self.model, self.planned
        found = []
        for place, row in enumerate(self.rows):
            if row[START] <= now:
                profile = row[PROFILE]
                node_id = profile.node.node_id
                if node_id in open_ids and is_free_for(model, profile, planned[node_id], now):
                    found.append(place)
        return found

    def by_end(self, waiting: Waiting, free: Sequence[int]) -> list[tuple[float, int]]:
        """Where a request could start at once, in order of an instant before which it does not end there."""
        now, rows, context, output = self._now, self.rows, waiting.request.context, waiting.output_mean
        prompt = 0 if waiting.has_prefix else context.prompt_tokens
        found = []
        for place in free:
            row = rows[place]
            load_s = 0.0 if row[_HELD] else row[PROFILE].load_s
            found.append((now + (prompt * row[4] + output * row[5] + load_s) * _EXACT, place))
        found.sort()
        return found

    def load_plan(self, profile: Profile) -> LoadPlan:
        """What loading the model on this candidate takes."""
        return self.planned[profile.node.node_id].load_plan(profile.need_bytes)

    def least_s(self, waiting: Waiting) -> list[float]:
        """The seconds that the cost of each candidate cannot fall below, in their order."""
        context = waiting.request.context
        if self._seen < len(self._changed):
            self._catch_up()
        if waiting.has_prefix or waiting.mode is not _FAST:
            return [self._with_prefix(waiting, row, fixed) for row, fixed in zip(self.rows, self._fixed, strict=True)]
        prompt, output, late = context.prompt_tokens, waiting.output_mean, waiting.output_mean * late_share(waiting)
        return [
            prompt * row[0] + output * row[1] + late * row[_LATE] + fixed
            for row, fixed in zip(self.rows, self._fixed, strict=True)
        ]

    def _with_prefix(self, waiting: Waiting, row: Row, fixed_s: float) -> float:
        profile = row[PROFILE]
        e = estimate(waiting, profile, self._rules)
        late_s = late_share(waiting) * waiting.output_mean * row[_LATE]
        return e.work_s * row[0] * profile.prompt_tps + late_s + e.fixed_s + fixed_s
