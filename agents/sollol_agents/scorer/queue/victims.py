"""Running answers that may be cut, and what is left of each. Pure."""

from __future__ import annotations

import msgspec

from sollol_agents.scorer.choice.horizon import Horizon
from sollol_agents.scorer.choice.waiting import Waiting
from sollol_agents.scorer.config import ScorerConfig
from sollol_agents.scorer.fleet.attempts import Attempt
from sollol_agents.scorer.fleet.nodes import Node
from sollol_agents.scorer.queue.admission import size_levels
from sollol_agents.scorer.queue.queue import key_of
from sollol_schemas.context import RequestKind, TaskContext
from sollol_schemas.continuation import Continuation
from sollol_schemas.grant import GrantRequest
from sollol_schemas.routing import Routing

SOON_OVER_S = 2.0
"""An answer that is predicted to end within this time is left alone."""
STAY_S = 1.0
STAY_AGAIN_S = 10.0
"""So long an answer that has begun stays at least where it is, at first and after it was moved."""
_FAR_S = 86_400.0


class Victim:
    """One running answer that may go on elsewhere.

    Args:
        attempt: What runs.
        node: Where.
        waiting: The request as it was granted.
        cuts: How often it was moved before.
        left: The node that it was moved off a short while ago; empty: none.
    """

    __slots__ = (
        "_base_left_s",
        "_config",
        "_now",
        "_rest",
        "attempt",
        "cuts",
        "end",
        "granted_rank",
        "left",
        "left_s",
        "node",
        "waiting",
    )

    def __init__(self, attempt: Attempt, node: Node, waiting: Waiting, cuts: int, *, left: str = "") -> None:
        self.attempt = attempt
        self.node = node
        self.waiting = waiting
        self.cuts = cuts
        self.left = left
        self.left_s = self.end = 0.0
        """Seconds until it is complete where it runs, and that instant."""
        self.granted_rank = 0.0
        """The rank that the whole of it has reached."""
        self._rest: Waiting | None = None

    def judge(self, base_left_s: float, horizon: Horizon, config: ScorerConfig, now: float) -> None:
        """Works out what is left of it, given its base seconds of work and its node's near future."""
        self._base_left_s, self._config, self._now = base_left_s, config, now
        self.beside(horizon)
        self.end = now + self.left_s
        self.granted_rank = self.waiting.rank(now, config.ageing_s)

    def beside(self, horizon: Horizon) -> None:
        """Works out what is left of it beside what is planned on its node by now; its `end` stays as first judged."""
        model = self.attempt.model
        names = [name for _, name in horizon.finishes]
        if model in names:
            names.remove(model)
        self.left_s = min(_FAR_S, self._base_left_s * slowness(horizon, model, names))

    @property
    def read_share(self) -> float:
        """How much of what it would read again it has read where it is."""
        attempt = self.attempt
        if attempt.has_first_token:
            return 1.0
        whole_s = attempt.load_s + attempt.prefill_s + self.waiting.output_mean / max(1e-6, attempt.decode_tps)
        done_s = whole_s - self._base_left_s - attempt.load_s
        return max(0.0, min(1.0, done_s / max(1e-6, attempt.prefill_s)))

    @property
    def rest(self) -> Waiting:
        """The request for what is left of it."""
        if self._rest is None:
            self._rest = _rest_of(self, self._base_left_s, self._config, self._now)
        return self._rest

    @property
    def rank(self) -> float:
        """What its rest would queue with, or what the whole would where that is higher."""
        return max(self.granted_rank, self.rest.rank(self._now, self._config.ageing_s))


def taken_over(attempt: Attempt, ageing_s: float, now: float) -> Waiting | None:
    """The request of an attempt that another scorer granted, as far as it is known; None: it is not to be moved."""
    if not attempt.is_resumable:
        return None
    context = TaskContext(kind=RequestKind.CHAT, model=attempt.wire_model, prompt_tokens=attempt.prompt_tokens)
    request = GrantRequest(
        request_id=attempt.request_id,
        number=1,
        context=context,
        routing=Routing(priority=attempt.priority),
        deadline_s=max(0.0, attempt.deadline_at - now),
        is_resumable=True,
    )
    waiting = Waiting(request, now, 0, born_at=attempt.granted_at)
    waiting.expect(attempt.output_median)
    waiting.key = key_of(waiting, ageing_s)
    return waiting


def slowness(horizon: Horizon, model: str, others: list[str]) -> float:
    """Seconds for one base second of work of this model on a node, beside others."""
    beside = sum(horizon.beta if name == model else horizon.beta_other for name in others[-(horizon.slots - 1) :])
    return (1.0 + (beside if horizon.slots > 1 else 0.0)) / horizon.pace


def may_be_cut(attempt: Attempt, cuts: int, now: float) -> bool:
    """Whether its caller would go on with it, and it was there for long enough."""
    if not attempt.is_resumable or not attempt.is_confirmed or not attempt.fingerprint:
        return False
    if attempt.is_trial:
        return False
    stay_s = STAY_AGAIN_S if cuts else STAY_S if attempt.has_first_token else 0.0
    return now - attempt.granted_at - attempt.load_s >= stay_s


def _rest_of(victim: Victim, base_left_s: float, config: ScorerConfig, now: float) -> Waiting:
    """The request with which what is left would come back, as old as it is."""
    attempt, before = victim.attempt, victim.waiting
    context = before.request.context
    limit = context.max_output_tokens
    said = attempt.continued_tokens + attempt.tokens
    context = msgspec.structs.replace(
        context,
        prompt_tokens=before.asked_tokens,
        max_output_tokens=None if limit is None else limit + before.said_tokens,
    )
    going_on = Continuation(fingerprint=attempt.fingerprint, said_tokens=said, cuts=victim.cuts + 1)
    request = msgspec.structs.replace(before.request, context=context, continuation=going_on)
    rest = Waiting(request, now, before.sequence, born_at=before.enqueued_at)
    rest.expect(attempt.output_median)
    if attempt.has_first_token and attempt.decode_tps > 0:
        rest.output_mean = base_left_s * attempt.decode_tps
    if before.is_cpu_only:
        rest.insist_on_cpu()
    rest.look_for_room(before.needs_tokens)
    rest.deadline_at = before.deadline_at
    rest.belief = before.belief
    work_s = before.belief.work_s(rest.request.context.prompt_tokens, rest.output_mean)
    if before.size_levels and work_s > 0:
        rest.size_levels = size_levels(work_s, config)
    rest.key = key_of(rest, config.ageing_s)
    return rest
