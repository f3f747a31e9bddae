"""Lower bounds of costs, so that of many candidates only those that can be chosen are worked out.

A bound leaves out what takes long to find out and can only add to a cost: slow-down by company and, until somebody
asks for them, the reloads that a load causes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

from sollol_agents.scorer.choice.cost import LATE, TASK_PREFERENCE_SHARE, CostRules, estimate, is_free_for
from sollol_agents.scorer.choice.horizon import Horizon, LoadPlan
from sollol_agents.scorer.choice.profiles import Profile
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.knowledge.demand import HIGHEST_BUCKET, bucket_of
from sollol_schemas.routing import RoutingMode

_FAST = RoutingMode.FAST
_by_seconds = itemgetter(0)
_SOON_S = 0.02
_EXACT = 1.0 - 1e-9  # sums in another order differ by less


Bound = tuple[float, float, float, Profile, bool, bool]
"""A candidate costs at least so many seconds per prompt token, per output token, and at any rate; then the candidate,
whether it could start at once, and whether the reloads that a load causes are counted. A plain tuple, because every
decision makes one for every node."""


class Pool:
    """The candidates of one eligibility class during one walk.

    Its bounds hold for the whole walk: later requests of the class have no higher rank, so that as much work or
    more overtakes them.
    """

    __slots__ = (
        "_bounds",
        "_bucket",
        "_changed",
        "_largest",
        "_now",
        "_place",
        "_rules",
        "_seen",
        "held",
        "hit_tokens",
        "left",
        "model",
        "planned",
        "profiles",
        "prompt_tokens",
    )

    def __init__(
        self,
        waiting: Waiting,
        profiles: Sequence[Profile],
        planned: dict[str, Horizon],
        now: float,
        rules: CostRules,
        *,
        changed: Sequence[str] = (),
        largest: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.held = 0
        """Requests that wait although a node could start them at once."""
        self.left = 1.0
        """Requests of the class that are not planned yet, those behind the window included."""
        self.prompt_tokens = self.hit_tokens = 0
        """Prompts of those that are planned, and what of them lies in caches where they go."""
        self.profiles = profiles
        self.planned = planned
        self._changed = changed  # nodes that plans changed, in order; bounds know of the first `_seen` of them
        self._seen = len(changed)
        self._largest = largest  # prompt and output tokens up to which the bounds hold
        self._now = now
        self._rules = rules
        is_ranked = waiting.priority > 0  # the others are not in order of rank
        self._bucket = bucket_of(waiting.rank(now, rules.ageing_s)) if is_ranked else HIGHEST_BUCKET
        self.model = waiting.model
        self._place: dict[str, int] = {}
        self._bounds: list[Bound] = []

    def _make_room_for(self, prompt_tokens: int, output_tokens: float) -> None:
        """Sees to it that the bounds hold for a request of this size, because a slow-down grows less than the work."""
        prompt, output = self._largest
        if not self._bounds or prompt_tokens > prompt or output_tokens > output:
            self._largest = (max(prompt, prompt_tokens), max(output, output_tokens))
            self._bounds, self._seen = self._bounds_of(self.profiles), len(self._changed)

    def could_start(self, open_ids: set[str]) -> bool:
        """Whether a free node has the model in memory, or is loading it."""
        places = self._places()
        return any(self.model in self.planned[i].ready for i in open_ids if i in places)

    def free_now(self, open_ids: set[str]) -> list[Profile]:
        """The candidates on which a request of the class could start at once, in their order."""
        now, model, planned = self._now, self.model, self.planned
        self._make_room_for(0, 0.0)
        if self._seen < len(self._changed):
            self._catch_up()
        found = []
        for _, _, _, profile, may_be_free, _ in self._bounds:
            node_id = profile.node.node_id
            if may_be_free and node_id in open_ids and is_free_for(model, profile, planned[node_id], now):
                found.append(profile)
        return found

    def soonest_late_end(self, requests: Sequence[Waiting], free: Sequence[Profile]) -> float:
        """An instant before which no `latest_end` lies of these requests on candidates where they could start."""
        contexts = [w.request.context for w in requests]
        if any(c.prefix_hashes for c in contexts) or any(w.request.routing.session_id for w in requests):
            return self._now
        prompt, output = min(c.prompt_tokens for c in contexts), LATE * min(w.output_mean for w in requests)
        least_s = math.inf
        for profile in free:
            horizon = self.planned[profile.node.node_id]
            seconds = (prompt / profile.prompt_tps + output / profile.decode_tps) / horizon.pace
            if self.model not in horizon.ready:
                seconds += profile.load_s + self.load_plan(profile).evict_s
            if seconds < least_s:  # noqa: PLR1730 a call costs more
                least_s = seconds
        return self._now + least_s * _EXACT

    def _catch_up(self) -> None:
        """Takes note of the nodes that plans have changed."""
        for node_id in set(self._changed[self._seen :]):
            place = self._places().get(node_id)
            if place is not None:
                self._bounds[place] = self._bounds_of((self.profiles[place],))[0]
        self._seen = len(self._changed)

    def _places(self) -> dict[str, int]:
        """Where each node stands among the candidates; not needed by a request that is alone."""
        if not self._place:
            self._place = {p.node.node_id: i for i, p in enumerate(self.profiles)}
        return self._place

    def load_plan(self, profile: Profile) -> LoadPlan:
        """What loading the model on this candidate takes."""
        return self.planned[profile.node.node_id].load_plan(profile.need_bytes)

    def bounded(self, waiting: Waiting) -> list[tuple[float, Bound]]:
        """Every candidate with the seconds that its cost cannot fall below, cheapest first."""
        context = waiting.request.context
        self._make_room_for(context.prompt_tokens, waiting.output_mean)
        if self._seen < len(self._changed):
            self._catch_up()
        if context.prefix_hashes or waiting.request.routing.session_id is not None or waiting.mode is not _FAST:
            bounded = [(self._with_prefix(waiting, b), b) for b in self._bounds]
        else:
            prompt, output = context.prompt_tokens, waiting.output_mean
            bounded = [(prompt * b[0] + output * b[1] + b[2], b) for b in self._bounds]
        bounded.sort(key=_by_seconds)
        return bounded

    def _with_prefix(self, waiting: Waiting, bound: Bound) -> float:
        prompt_s, _, fixed_s, profile, _, _ = bound
        e = estimate(waiting, profile, self._rules)
        return e.work_s * prompt_s * profile.prompt_tps + e.fixed_s + fixed_s

    def _bounds_of(self, profiles: Sequence[Profile]) -> list[Bound]:
        """The bounds of some candidates. Every decision runs through all of them, so no call is made without need."""
        now, bucket, model, planned = self._now, self._bucket, self.model, self.planned
        bounds = []
        for profile in profiles:
            node = profile.node
            horizon = planned[node.node_id]
            share = 1.0 / horizon.pace
            if profile.weight_ratio < 0:
                share += profile.weight_ratio
            if node.telemetry.preferred_task_types:
                share -= TASK_PREFERENCE_SHARE
            seconds = load_s = 0.0
            is_tight = is_free = True
            start = horizon.free_at
            ready_at = horizon.ready.get(model)
            if ready_at is None:
                seconds = load_s = profile.load_s
                ready_at = horizon.load_ends_at
                load = horizon.plans.get(profile.need_bytes)
                if load is None:
                    is_tight = False
                else:
                    seconds += load.evict_s
                    ready_at = load.begins_at
            if ready_at > start:  # noqa: PLR1730 a call costs more
                start = ready_at
            if start > now:
                is_free = False
                seconds += (start - now) * node.work.overtaking_factor(bucket, now)
            else:
                start = now
            if is_tight and horizon.finishes and profile.model_slots >= horizon.slots:
                share += 2.0 * _EXACT * self._slowness(profile, horizon, start + load_s) / horizon.pace
            bounds.append((share / profile.prompt_tps, share / profile.decode_tps, seconds, profile, is_free, is_tight))
        return bounds

    def _slowness(self, profile: Profile, horizon: Horizon, begin: float) -> float:
        """Seconds that the largest request loses beside what runs from `begin` on, for each second of its work."""
        prompt, output = self._largest
        work_s = (prompt / profile.prompt_tps + output / profile.decode_tps) / horizon.pace
        finishes, model, beta, slowdown_s = horizon.finishes, self.model, horizon.beta, 0.0
        company = 1.0 + beta * (min(horizon.slots, len(finishes)) - 1)
        latest = begin + _SOON_S  # a wait is taken to last that long at least
        for end, other in reversed(finishes):
            overlap = (end - latest) / company
            if overlap <= 0.0:
                break
            slowdown_s += (beta if other == model else horizon.beta_other) * (overlap if overlap < work_s else work_s)  # noqa: FURB136
        return slowdown_s / max(work_s, 1e-9)
