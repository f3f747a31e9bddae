"""Decisions: which node serves a request, what each candidate costs, and why others were refused."""

from __future__ import annotations

from enum import StrEnum
from operator import attrgetter

import msgspec

from sollol_schemas.context import ComplexityClass, RequestKind
from sollol_schemas.prices import Currency
from sollol_schemas.routing import RoutingMode
from sollol_schemas.slim import rounded, slim
from sollol_schemas.units import Count, Instant, Money, Priority, Ratio, Seconds, SignedSeconds, Term, Tokens, ToldId

_CANDIDATES_TOLD = 3
_TERMS_TOLD_OF = 2
_REJECTIONS_TOLD = 4
_MODELS_TOLD = 4
_MINOR = 0.01
_DIGITS = 4
_SIMPLE = ComplexityClass.SIMPLE
_AT_ONCE = 0.0  # the very object is left out when it is encoded
_FORECAST = ("total_s", "first_token_s", "output_tokens")
"""What is published of a forecast's figures."""


class RejectionReason(StrEnum):
    """Why a node cannot serve a request."""

    ASLEEP = "asleep"  # it sleeps, and waking it failed lately
    EXCLUDED = "excluded"  # it already failed this request
    DOWN = "down"  # no heartbeat for too long
    SUSPECT = "suspect"  # heartbeats are late or an attempt just failed
    DRAINING = "draining"  # it takes no new work
    ENGINE_UNREACHABLE = "engine_unreachable"  # its engine does not answer
    BREAKER_OPEN = "breaker_open"  # too many failures; waiting to be tried again
    MODEL_MISSING = "model_missing"  # the model is not on its disk
    WRONG_CAPABILITY = "wrong_capability"  # the model there cannot do this kind of request
    CONTEXT_TOO_SMALL = "context_too_small"  # another node has more room for the prompt
    DOES_NOT_FIT = "does_not_fit"  # weights and cache exceed its memory
    TOO_LITTLE_VRAM = "too_little_vram"  # less free video memory than asked for
    NOT_RELIABLE_ENOUGH = "not_reliable_enough"  # proven success below the floor
    NOT_CPU = "not_cpu"  # the request insists on CPU nodes
    CANNOT_CONTINUE = "cannot_continue"  # an answer that another engine, model or template began
    WRONG_LABELS = "wrong_labels"  # it does not bear the labels that the request asks for
    NOT_CHOSEN_NODE = "not_chosen_node"  # the request insists on another node
    NO_SLOTS = "no_slots"  # it offers no slots for this model


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One node that was not eligible, with the reason and the figures behind it."""

    node_id: ToldId
    reason: RejectionReason
    detail: str = ""


class CandidateCost(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The predicted cost of running a request on one node, term by term, in seconds.

    `total_s` is what is compared; `completion_s` is when the answer would be complete, counted from now.
    """

    node_id: ToldId
    total_s: SignedSeconds
    completion_s: Seconds = 0.0
    wait_s: Seconds = 0.0
    """Until a slot is free and the model is ready to be loaded there."""
    overtaking_s: Seconds = 0.0
    """Extra wait expected because later requests of higher rank will overtake."""
    wake_s: Seconds = 0.0
    """Until a node that sleeps is there, and as much again by half for waking it."""
    load_s: Seconds = 0.0
    prefill_s: Seconds = 0.0
    decode_s: Seconds = 0.0
    slowdown_s: Seconds = 0.0
    """What running beside others costs this request, and once more as much for what it costs them."""
    evict_s: Seconds = 0.0
    """Expected reloads of what it pushes out of memory."""
    prefix_evict_s: Seconds = 0.0
    risk_s: Seconds = 0.0
    """Expected time lost to failure."""
    preference_s: SignedSeconds = 0.0
    """Mode, weight, locality and label preferences, as seconds."""
    rtt_s: Seconds = 0.0
    prefix_hit_tokens: Tokens = 0
    expense: Money | None = None
    """What it would cost in money, by the node's price; None: not known."""
    currency: Currency = ""
    is_busy: bool = False
    """Whether no slot is free there now."""

    @property
    def has_terms(self) -> bool:
        """Whether more is told than what it would cost in all."""
        return self.completion_s > 0

    def as_event(self, *, with_terms: bool) -> CandidateCost:
        """What is published of it: the cost, with the terms that make up a hundredth of it or more, or without any.

        Without the digits that nobody reads.
        """
        total_s = rounded(self.total_s, _DIGITS)
        if not with_terms:
            return CandidateCost(node_id=self.node_id, total_s=total_s)
        least = _MINOR * abs(self.total_s)
        terms = zip(_TERMS, _terms_of(self), strict=True)
        told = {name: kept for name, s in terms if s and abs(s) >= least and (kept := rounded(s, _DIGITS))}
        if completion_s := rounded(self.completion_s, _DIGITS):
            told["completion_s"] = completion_s
        return CandidateCost(
            node_id=self.node_id,
            total_s=total_s,
            prefix_hit_tokens=self.prefix_hit_tokens,
            is_busy=self.is_busy,
            expense=self.expense,
            currency=self.currency,
            **told,
        )


_TERMS = tuple(
    name for name in CandidateCost.__struct_fields__ if name.endswith("_s") and name not in ("total_s", "completion_s")
)
_terms_of = attrgetter(*_TERMS)


class ModelCandidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model of the group that a request named: its predicted cost on its best node, or why it fell out."""

    model: str
    total_s: SignedSeconds = 0.0
    """What is compared: seconds until a good answer may be expected, for the weight of the model."""
    completion_s: Seconds = 0.0
    """Until the answer is complete on its best node, waiting included."""
    quality: Ratio = 1.0
    """Share of good answers at requests of this category that counted for it."""
    node_id: str = ""
    """Its best node; empty for a model that fell out."""
    reason: str = ""
    """Why it fell out; empty: it could be chosen."""


class Forecast(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the scorer expects of an attempt, counted from its grant."""

    total_s: Seconds = 0.0
    """Until the answer is complete."""
    first_token_s: Seconds = 0.0
    """Until the first token."""
    needs_load: bool = False
    """Whether the model must be loaded first, or its load waited for."""
    load_s: Seconds = 0.0
    """What that load takes."""
    gap_s: Seconds = 0.0
    """Between two tokens."""
    co_runner_prefill_s: Seconds = 0.0
    """The longest prefill that may run beside it and hold its tokens back."""
    prompt_tokens: Tokens = 0
    """Estimated length of the prompt."""
    output_tokens: float = 0.0
    """Mean length of the answer."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who runs where, and why: what the scorer decided of one attempt, and what every caller is told.

    It is made once and travels as it is: in the grant, in the exec, in the `Sollol-Decision` header of the answer and
    in the outcome.
    """

    request_id: ToldId
    attempt_id: ToldId
    job_id: str = ""
    """The job that the request is a try of."""
    node_id: ToldId
    """`_none` in the outcome of a request that never reached a node."""
    node_url: str = ""
    host: str = ""
    """The machine of the node's engine, with the engine's port."""
    instance: str = ""
    """The node's instance that is meant; any other ignores the exec."""
    model: str = ""
    """The model's name on that node."""
    fingerprint: str = ""
    """Equal where another node would go on with the answer just as this one: engine, weights and template; empty: no
    other one can."""
    continued_tokens: Tokens = 0
    """About so many tokens of the answer had been said before."""
    group: str = ""
    """The group that the request named, of which the model is one; empty: it named the model."""
    alternatives: Count = 0
    """Further models of that group which could answer the request, and were not tried."""
    is_cheap_first: bool = False
    """Whether the group begins with its smallest model, so that answers are checked by whoever asked."""
    kind: RequestKind = RequestKind.GENERATE
    task_type: str = ""
    coding_category: str = ""
    """Of a request about code: coding, refactoring, testing, documentation, debugging or code_review."""
    complexity: ComplexityClass = ComplexityClass.SIMPLE
    mode: RoutingMode = RoutingMode.FAST
    strategy: str = "plan"
    priority: Priority = 5
    queue_s: Seconds = _AT_ONCE
    """Seconds from the request's arrival to the grant."""
    attempt: Count = 1
    reason: str = ""
    rejected: dict[str, int] = {}
    """How many nodes were refused for each `RejectionReason`; the full list comes with `why`."""
    term: Term = 0
    forecast: Forecast = Forecast()
    caller: str = ""
    """Who asked, as an opaque word; empty: nobody whose name is known."""

    @property
    def category(self) -> str:
        """What kind of work it was, by which models are told apart."""
        return self.coding_category or self.task_type

    def without_address(self) -> Decision:
        """The same, but for where the engine listens."""
        return msgspec.structs.replace(self, node_url="", host="")

    def as_event(self) -> Decision:
        """What is published of it, whose digits were cut when it was made: nothing that nobody but the node needs."""
        made = self.forecast
        figures = {name: s for name in _FORECAST if (s := getattr(made, name))}
        forecast = Forecast(needs_load=made.needs_load, prompt_tokens=made.prompt_tokens, **figures)
        return msgspec.structs.replace(
            self,
            node_url="",
            host="",
            instance="",
            task_type="",
            complexity=_SIMPLE,
            queue_s=self.queue_s or _AT_ONCE,
            term=0,
            forecast=forecast,
        )

    def as_outcomes(self) -> Decision:
        """What the outcome of the attempt says of it; the rest is in the decision's event."""
        forecast = Forecast(total_s=self.forecast.total_s)
        return msgspec.structs.replace(self, node_url="", host="", reason="", rejected={}, term=0, forecast=forecast)

    def with_rest_of(self, other: Decision) -> Decision:
        """The decision with what only another telling of it has."""
        blank = (field.name for field in msgspec.structs.fields(self) if getattr(self, field.name) == field.default)
        return msgspec.structs.replace(self, **{name: getattr(other, name) for name in blank})


class DecisionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="decision.event.v1"):
    """One decision with what explains it: the best candidates with every term, and who was refused.

    Its event is at most 4 KiB: the chosen candidate and the best other one with the terms that matter, a third one with
    its cost alone, and some of those refused.
    """

    decision: Decision
    candidates: tuple[CandidateCost, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    queued: Count = 0
    """Requests still waiting after this decision."""
    models: tuple[ModelCandidate, ...] = ()
    """Of a request that named a group: its models, the chosen one first."""
    decided_at: Instant = ""
    """Told by answers; the event itself is as old as its message."""
    is_dry_run: bool = False

    def as_event(self) -> DecisionEvent:
        """What is published of it: what nobody but the node needs is left out."""
        costs = self._chosen_and_best()
        return DecisionEvent(
            decision=self.decision.as_event(),
            candidates=tuple([cost.as_event(with_terms=place < _TERMS_TOLD_OF) for place, cost in enumerate(costs)]),
            rejections=self.rejections[:_REJECTIONS_TOLD],
            queued=self.queued,
            models=tuple([slim(model, _DIGITS) for model in self.models[:_MODELS_TOLD]]),
            is_dry_run=self.is_dry_run,
        )

    def _chosen_and_best(self) -> tuple[CandidateCost, ...]:
        """The chosen candidate, then the cheapest others."""
        if len(self.candidates) == 1:
            return self.candidates
        chosen = self.decision.node_id
        return tuple(sorted(self.candidates, key=lambda c: (c.node_id != chosen, c.total_s)))[:_CANDIDATES_TOLD]


class Decisions(msgspec.Struct, frozen=True, kw_only=True, tag="decisions.v1"):
    """The decisions of some milliseconds, in the order in which they were made: one message to store for all."""

    decisions: tuple[DecisionEvent, ...]
