"""One request that waits for a slot, and what its place in the queue depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

from sollol_agents.requests.names import canonical
from sollol_agents.scorer.choice.continuing import as_read, cached_on, is_broken_off, said_tokens
from sollol_agents.scorer.choice.groups import Binding
from sollol_agents.scorer.knowledge.lognormal import mean_rest
from sollol_schemas.grant import GrantRequest
from sollol_schemas.routing import RoutingMode

ClassKey = tuple[object, ...]
Key = tuple[float, float, int]
"""What requests are ordered by; smaller goes first."""
_MOVED = 1.5


class Belief(NamedTuple):
    """How long a kind of request takes."""

    median_tokens: float
    prompt_tps: float
    """Speeds of the node that is fastest for it; 0 while no node is eligible."""
    decode_tps: float

    def work_s(self, prompt_tokens: float, output_tokens: float) -> float:
        """Predicted work alone on the fastest node; 0 when not known."""
        if self.decode_tps <= 0:
            return 0.0
        return prompt_tokens / self.prompt_tps + output_tokens / self.decode_tps

    def has_moved(self, fresh: Belief, waiting: Waiting) -> bool:
        """Whether this one is so far from a fresh one, for a request of its kind, that it must be replaced."""
        prompt = waiting.request.context.prompt_tokens
        before = self.work_s(prompt, waiting.limited_mean(self.median_tokens))
        after = fresh.work_s(prompt, waiting.limited_mean(fresh.median_tokens))
        return _is_far(before, after) or _is_far(self.median_tokens, fresh.median_tokens)


UNKNOWN = Belief(0.0, 0.0, 0.0)


class Waiting:
    """One request that waits for a slot."""

    __slots__ = (
        "belief",
        "best_work_s",
        "bound",
        "cached_on",
        "came_at",
        "class_key",
        "deadline_at",
        "enqueued_at",
        "estimates",
        "excluded",
        "has_prefix",
        "held_ahead",
        "is_away",
        "is_broken_off",
        "is_cpu_only",
        "judged",
        "key",
        "kind_key",
        "mode",
        "model",
        "needs_tokens",
        "newcomers_ratio",
        "output_mean",
        "output_median",
        "priority",
        "request",
        "request_id",
        "said_tokens",
        "sequence",
        "size_levels",
    )

    def __init__(self, request: GrantRequest, now: float, sequence: int, *, born_at: float | None = None) -> None:
        self.said_tokens = said_tokens(request)
        """Tokens of its answer that attempts before have said."""
        self.is_broken_off = is_broken_off(request)
        """Whether somebody waits in the middle of its answer, which nobody moved on purpose."""
        self.cached_on = cached_on(request)
        """The node that may have its prompt, and what was said, in the cache; empty: nobody knows of one."""
        self.has_prefix = bool(
            request.context.prefix_hashes or self.cached_on or request.routing.session_id is not None
        )
        """Whether some node may have the beginning of its prompt in the cache."""
        self.request = request = as_read(request)
        """As its next attempt has it; see `as_read`."""
        self.request_id = request.request_id
        self.priority = request.routing.priority
        """The declared priority, 0 to 10."""
        mode = request.routing.routing_mode
        self.mode = RoutingMode.FAST if mode is RoutingMode.AUTO else mode
        """What the request optimises for; `auto` counts as FAST."""
        self.sequence = sequence
        self.model = canonical(request.context.model)
        self.enqueued_at = now - request.waited_s if born_at is None else born_at
        self.came_at = now
        """When this scorer heard of it."""
        self.deadline_at = now + request.deadline_s
        self.excluded = frozenset(request.excluded)
        self.belief = UNKNOWN
        """What it is ranked by."""
        self.size_levels = 0.0
        self.output_median = 0.0
        self.output_mean = 0.0
        self.held_ahead = 0
        """Requests of its class that the same walk lets wait although a node could start them at once, 0 to 3."""
        self.newcomers_ratio = 1.0
        """Requests to be expected for each that is answered, 0 to 1; set by the plan."""
        self.best_work_s = 0.0
        """Predicted work alone on the fastest eligible node; 0 when not known."""
        self.estimates: dict[str, Any] = {}
        self.judged: tuple[Any, int, Any] | None = None
        """The verdict on nodes for its class: where it is kept, for which version of the fleet, and the verdict."""
        self.is_away = False
        """Whether its dispatcher left: another one will ask for it, and until then it starts nowhere."""
        self.bound: Binding | None = None
        """How it came to its model, when it named a group."""
        self.is_cpu_only = False
        """Whether CPU nodes are mandatory: it prefers them, and one can do it before the deadline."""
        self.needs_tokens: tuple[int, ...] = ()
        """Room for its prompt that it would like, where some node has less; the largest first."""
        self.class_key = class_key_of(request, self.model, self.excluded, self.said_tokens)
        self.kind_key = self._kind_key()
        self.key: Key = (0.0, 0.0, 0)

    def expect(self, median_tokens: float) -> None:
        """Sets the expected output: its median, and the mean of what is left of it under the caller's limit."""
        self.output_median = median_tokens
        self.output_mean = self.limited_mean(median_tokens)
        self.estimates.clear()

    def limited_mean(self, median_tokens: float) -> float:
        """The mean of output tokens that are left under the caller's limit, given the median of all of them."""
        context = self.request.context
        mean = 0.0 if context.is_load_only else mean_rest(median_tokens, self.said_tokens)
        limit = context.max_output_tokens
        return mean if limit is None else min(mean, float(limit))

    def insist_on_cpu(self) -> None:
        """Makes CPU nodes mandatory."""
        self.is_cpu_only = True
        self.class_key, self.judged = (*self.class_key, "cpu"), None
        self.kind_key = self._kind_key()

    def look_for_room(self, needs_tokens: tuple[int, ...]) -> None:
        """Makes nodes with so much room for its prompt go first."""
        if needs_tokens:
            self.needs_tokens = needs_tokens
            self.class_key, self.judged = (*self.class_key, needs_tokens), None
            self.kind_key = self._kind_key()

    def _kind_key(self) -> tuple[object, ...]:
        context = self.request.context
        return (self.class_key, context.task_type, max(1, context.prompt_tokens).bit_length())

    def inherit(self, before: Waiting) -> None:
        """A request that asks again keeps its greater age and its place among equals."""
        self.enqueued_at = min(self.enqueued_at, before.enqueued_at)
        self.came_at = before.came_at
        self.sequence = before.sequence

    @property
    def asked_tokens(self) -> int:
        """Length of the prompt alone."""
        return self.request.context.prompt_tokens - self.said_tokens

    @property
    def wanted(self) -> str:
        """What the caller calls the node that it wants; empty: none in particular."""
        return self.request.routing.node_id or ""

    def arrival_rank(self) -> float:
        """The rank with which it came in."""
        return self.priority - self.size_levels

    def rank(self, now: float, ageing_s: float) -> float:
        """The rank it has reached; priority 0 stays where it is."""
        if self.priority == 0:
            return self.arrival_rank()
        return (now - self.key[0]) / ageing_s


def class_key_of(request: GrantRequest, model: str, excluded: frozenset[str], said: int) -> ClassKey:
    """Two requests with the same key may run on the same nodes; so many tokens of its answer were said before."""
    routing, context = request.routing, request.context
    return (
        model,
        context.kind,
        context.is_embedding,
        context.num_ctx,
        context.needs,
        routing.node_id,
        routing.strict,
        routing.where,
        routing.min_vram_gb,
        routing.min_success_rate,
        routing.routing_mode,
        routing.soft,
        excluded,
        request.continuation.fingerprint if said and request.continuation is not None else None,
    )


def _is_far(before: float, after: float) -> bool:
    low, high = sorted((before, after))
    return high > 0 and (low <= 0 or high / low > _MOVED)
